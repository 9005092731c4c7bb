//! Sends pod statuses to the API: only the latest status of each pod, with limited concurrency, and with retries until the API accepts it. The
//! last status of a terminating pod is followed by the pod's deletion.

use crate::{
    pod,
    resize::{IN_PROGRESS, PENDING},
    returning::{FirstReports, Signs},
    status,
};
use client::{Client, DeleteOptions, Patch};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Most concurrent calls.
const MAX_PARALLEL: usize = 16;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const MAX_RETRY: Duration = Duration::from_secs(30);
/// How long a status that only shows the progress of a starting pod waits for a newer one. A pod whose image is present starts within
/// milliseconds, a thousand of them within seconds, and each status costs a write to the store and an event for each watch. After a restart
/// of the process, a status that shows a pod as not ready since its containers are just being started again waits as long as others return;
/// so does one that shows a pod as ready, as the API does all the time: pods that do not run yet go first.
const DEBOUNCE_DELAY: Duration = Duration::from_secs(1);
/// It is longer by as much for each so many statuses that wait: of many pods that start at a time each takes longer.
const DEBOUNCE_PODS: usize = 64;
/// The longest.
const MAX_DEBOUNCE_DELAY: Duration = Duration::from_secs(5);

/// A status to send, optionally followed by the deletion of the pod.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The status.
    pub status: Arc<PodStatus>,
    /// Whether the pod is being set up or one of its containers is being started.
    pub starting: bool,
    /// Whether to delete the pod afterwards, without a grace period.
    pub delete: bool,
}

impl Report {
    /// Whether it only shows the progress of a pod that is `Pending` in the API and whose containers wait for nothing but their turn: controllers
    /// act on ready and finished pods, users on running ones and on reasons.
    fn shows_start(&self) -> bool {
        self.status.phase.as_deref() == Some("Pending")
            && pod::phase(&self.pod) == "Pending"
            && self.waits_for_its_turn()
    }

    /// Whether it only shows that a running pod's containers are being started again.
    fn shows_return(&self) -> bool {
        self.starting && self.status.phase.as_deref() == Some("Running") && self.waits_for_its_turn()
    }

    /// Whether it shows a pod as ready that stays.
    fn shows_ready(&self) -> bool {
        let ready = |condition: &PodCondition| condition.type_ == "Ready" && condition.status == "True";
        !self.delete && !pod::is_deleting(&self.pod) && self.status.conditions.iter().flatten().any(ready)
    }

    fn waits_for_its_turn(&self) -> bool {
        let is_progress = |reason: Option<&str>| matches!(reason, Some("ContainerCreating" | "PodInitializing"));
        !self.delete && !pod::is_deleting(&self.pod) && self.waiting_reasons().all(is_progress)
    }

    /// The reasons of the waiting containers.
    fn waiting_reasons(&self) -> impl Iterator<Item = Option<&str>> {
        let groups = [&self.status.init_container_statuses, &self.status.container_statuses];
        let waiting =
            groups.into_iter().flatten().flatten().filter_map(|status| status.state.as_ref()?.waiting.as_ref());
        waiting.map(|waiting| waiting.reason.as_deref())
    }
}

/// Sends pod statuses. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    token: CancellationToken,
    tasks: TaskTracker,
    permits: Semaphore,
    /// Reports by uid that wait for the current call of their pod.
    waiting: Mutex<HashMap<String, Waiting>>,
    first: Mutex<FirstReports>,
    /// Notified when a pod has returned.
    one_returned: Notify,
}

/// The waiting report of a pod.
#[derive(Default)]
struct Waiting {
    report: Option<Report>,
    /// Notified when the report is replaced.
    newer: Arc<Notify>,
}

/// Why a report waits for a newer one.
struct Transient {
    /// When the last pod returned, if it waits for others that return.
    since: Option<Instant>,
    /// Until when it waits at most.
    deadline: Option<Instant>,
    newer: Arc<Notify>,
    /// Ends the wait.
    over: Option<CancellationToken>,
}

impl Reporter {
    /// Sends through `client` until `token` is cancelled, in tasks of `tasks`.
    pub(crate) fn new(client: Client, token: CancellationToken, tasks: TaskTracker) -> Self {
        let permits = Semaphore::new(MAX_PARALLEL);
        Self {
            inner: Arc::new(Inner {
                client,
                token,
                tasks,
                permits,
                waiting: Mutex::default(),
                first: Mutex::default(),
                one_returned: Notify::new(),
            }),
        }
    }

    /// Expects that these pods return. Gives `signs` as they do, or as they are deleted.
    pub(crate) fn expect_first_reports(&self, uids: HashSet<String>, signs: Signs) {
        *self.inner.first.lock() = FirstReports::new(uids, signs);
    }

    /// The number of pods that are still on their way back.
    pub(crate) fn returning(&self) -> usize {
        self.inner.first.lock().returning()
    }

    /// Whether a pod is still on its way back.
    pub(crate) fn returns(&self, uid: &str) -> bool {
        self.inner.first.lock().returns(uid)
    }

    /// Resolves when another pod has returned.
    pub(crate) async fn one_returned(&self) {
        self.inner.one_returned.notified().await;
    }

    /// Stops waiting for the first status of a pod: none will be sent.
    pub(crate) fn forget(&self, uid: &str) {
        self.inner.mark_reported(uid);
    }

    /// Queues a report. It replaces the waiting report of the same pod.
    pub(crate) fn report(&self, report: Report) {
        let uid = pod::uid(&report.pod).to_owned();
        if !report.shows_return() {
            self.inner.first.lock().mark_returned(&uid, &self.inner.one_returned);
        }
        match self.inner.waiting.lock().entry(uid.clone()) {
            Entry::Occupied(mut entry) => {
                let waiting = entry.get_mut();
                waiting.report = Some(report);
                waiting.newer.notify_one();
                return;
            }
            Entry::Vacant(entry) => {
                entry.insert(Waiting { report: Some(report), newer: Arc::default() });
            }
        }
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            let token = inner.token.clone();
            tokio::select! {
                () = token.cancelled() => {}
                () = inner.send_all(&uid) => {}
            }
        });
    }
}

impl Inner {
    async fn send_all(&self, uid: &str) {
        let mut delay = FIRST_RETRY;
        loop {
            self.debounce(uid).await;
            let Ok(permit) = self.permits.acquire().await else { return };
            // only now: a newer report may have come while this one waited for a permit
            let Some(report) = self.take(uid) else { return };
            let result = self.send(&report).await;
            drop(permit);
            match result {
                Ok(()) => {
                    self.mark_reported(uid);
                    delay = FIRST_RETRY;
                }
                Err(error) => {
                    tracing::warn!(pod = pod::full_name(&report.pod), %error, "cannot report the pod's status, will try again");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(MAX_RETRY);
                    // a newer report replaces this one, but a requested deletion is kept
                    let mut waiting = self.waiting.lock();
                    if let Some(Waiting { report: none @ None, .. }) = waiting.get_mut(uid) {
                        *none = Some(report);
                    }
                }
            }
        }
    }

    /// Records that the first status of a pod was sent, or will not be.
    fn mark_reported(&self, uid: &str) {
        self.first.lock().mark_reported(uid, &self.one_returned);
    }

    /// Waits while the pod's report is soon replaced by another, or should let others pass.
    async fn debounce(&self, uid: &str) {
        let begin = Instant::now();
        while let Some(Transient { since, deadline, newer, over }) = self.transient(uid) {
            let others = u32::try_from(self.waiting.lock().len() / DEBOUNCE_PODS).unwrap_or(u32::MAX);
            let delay = DEBOUNCE_DELAY.saturating_mul(others.saturating_add(1)).min(MAX_DEBOUNCE_DELAY);
            let due = since.map_or(begin, |since| since.max(begin)) + delay;
            let over = async {
                match over {
                    Some(over) => over.cancelled_owned().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = newer.notified() => {}
                () = over => {}
                () = tokio::time::sleep_until(deadline.map_or(due, |deadline| due.min(deadline))) => {
                    // the time may have moved meanwhile
                    if self.transient(uid).is_none_or(|again| again.since == since) {
                        return;
                    }
                }
            }
        }
    }

    /// Why the waiting report is not sent yet: it only shows progress, or what the API shows anyway while other pods return.
    fn transient(&self, uid: &str) -> Option<Transient> {
        let waiting = self.waiting.lock();
        let Waiting { report: Some(report), newer } = waiting.get(uid)? else { return None };
        let newer = newer.clone();
        if report.shows_start() {
            return Some(Transient { since: None, deadline: None, newer, over: None });
        }
        let first = self.first.lock();
        if !first.expects(uid) {
            return None;
        }
        if report.shows_return() {
            return Some(Transient { since: first.last(), deadline: None, newer, over: None });
        }
        let (deadline, all) = first.others().filter(|_| report.shows_ready())?;
        Some(Transient { since: first.last(), deadline: Some(deadline), newer, over: Some(all) })
    }

    /// Takes the next report of a pod; with none the pod's entry goes, so that the next report starts a new task.
    fn take(&self, uid: &str) -> Option<Report> {
        let mut waiting = self.waiting.lock();
        let report = waiting.get_mut(uid).and_then(|waiting| waiting.report.take());
        if report.is_none() {
            waiting.remove(uid);
        }
        report
    }

    async fn send(&self, report: &Report) -> client::Result<()> {
        let (namespace, name, uid) = (pod::namespace(&report.pod), pod::name(&report.pod), pod::uid(&report.pod));
        let patch = Patch::Strategic(status_patch(&report.pod, &report.status));
        match self.client.submit_status::<Pod>(namespace, name, patch).await {
            Ok(()) => {}
            // the pod is gone
            Err(error) if self.is_gone(&report.pod, &error).await? => return Ok(()),
            Err(error) if error.is_invalid() => {
                tracing::error!(pod = pod::full_name(&report.pod), %error, "the API refuses the pod's status");
            }
            Err(error) => return Err(error),
        }
        if report.delete {
            let options = DeleteOptions::uid(uid).grace(0);
            match self.client.delete::<Pod>(namespace, name, &options).await {
                Err(error) if !self.is_gone(&report.pod, &error).await? => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a call failed because the pod is gone or another pod has its name. A conflict is no proof: it also occurs when other clients
    /// update the pod repeatedly.
    async fn is_gone(&self, pod: &Pod, error: &client::Error) -> client::Result<bool> {
        if !(error.is_conflict() || error.is_invalid()) {
            return Ok(error.is_not_found());
        }
        let found = self.client.find::<Pod>(pod::namespace(pod), pod::name(pod)).await?;
        Ok(found.is_none_or(|found| found.metadata.uid != pod.metadata.uid))
    }
}

/// The strategic merge patch that sets a pod's status, and keeps conditions that other clients own.
fn status_patch(pod: &Pod, status: &PodStatus) -> Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    for field in status::OWN_FIELDS {
        if body.get(field).is_none() {
            body[field] = Value::Null;
        }
    }
    for condition in body["conditions"].as_array_mut().into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    // Only a pod whose spec has changed was ever resized.
    if status.observed_generation.is_some_and(|generation| generation > 1)
        && let Some(conditions) = body.get_mut("conditions").and_then(Value::as_array_mut)
    {
        for kind in [PENDING, IN_PROGRESS] {
            if conditions.iter().all(|condition| condition["type"] != kind) {
                conditions.push(json!({"$patch": "delete", "type": kind}));
            }
        }
    }
    for field in ["podIPs", "hostIPs"] {
        // address lists merge by address: this removes other addresses
        if let Some(addresses) = body.get_mut(field).and_then(Value::as_array_mut) {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
    }
    json!({"metadata": {"uid": pod::uid(pod)}, "status": body})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_replaced_not_added_to() {
        let addresses = |host: &str, pod: &str| json!({"hostIP": host, "hostIPs": [{"ip": host}], "podIP": pod, "podIPs": [{"ip": pod}]});
        let pod = json!({"metadata": {"uid": "u"}, "status": addresses("10.32.0.1", "10.32.0.2")});
        let (pod, new): (Pod, PodStatus) = (
            serde_json::from_value(pod.clone()).unwrap(),
            serde_json::from_value(addresses("10.64.0.1", "10.64.0.2")).unwrap(),
        );
        let patch = status_patch(&pod, &new)["status"].clone();
        let replaced = |ip: &str| json!([{"$patch": "replace"}, {"ip": ip}]);
        assert_eq!((&patch["hostIPs"], &patch["podIPs"]), (&replaced("10.64.0.1"), &replaced("10.64.0.2")));
    }
}
