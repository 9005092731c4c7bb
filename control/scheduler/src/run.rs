//! The loop: news from the informers go in, bindings and reports go out.

use std::sync::Arc;

use api::Clock;
use client::{Client, Delta, Error, EventType, Informers, Patch, Recorder, RecorderOptions, reference};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cache::Cache,
    cycle::{Decision, schedule},
    metrics::Metrics,
    plugin::{Event, Plugins},
    plugins::{Strategy, defaults},
    pod::{PodInfo, is_finished, node_name, uid},
    queue::{Pending, Queue},
};

/// What the composition root decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Wall-clock time, for conditions and events.
    pub clock: Clock,
    /// Pods with this `spec.schedulerName` are ours.
    pub name: String,
    /// Whether load spreads or packs.
    pub strategy: Strategy,
    /// Chooses among equally good nodes.
    pub seed: u64,
    /// Bindings and reports in flight at a time; when all are, the next decision waits.
    pub in_flight: usize,
}

impl Options {
    /// Upstream's defaults.
    pub fn new(clock: Clock, seed: u64) -> Self {
        Self { clock, name: "default-scheduler".to_owned(), strategy: Strategy::default(), seed, in_flight: 64 }
    }
}

/// Schedules pods until cancelled. Cheap to clone.
#[derive(Clone)]
pub struct Scheduler {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    informers: Informers,
    options: Options,
    plugins: Plugins,
    metrics: Metrics,
    state: Mutex<State>,
    /// Something changed that may make a pod ready.
    changed: Notify,
}

/// Everything a decision needs. Decisions are made under the lock, so that no event falls between a refusal and the wait that follows.
struct State {
    cache: Cache,
    queue: Queue,
    chance: fastrand::Rng,
}

impl Scheduler {
    /// Over the shared informers; `client` carries the scheduler's identity.
    pub fn new(client: Client, informers: Informers, options: Options) -> Self {
        let plugins = defaults(options.strategy);
        let state = State {
            cache: Cache::default(),
            queue: Queue::new(plugins.clone()),
            chance: fastrand::Rng::with_seed(options.seed),
        };
        let (state, changed) = (Mutex::new(state), Notify::new());
        let inner = Inner { client, informers, options, plugins, metrics: Metrics::default(), state, changed };
        Self { inner: Arc::new(inner) }
    }

    /// How many pods wait where.
    pub fn pending(&self) -> Pending {
        self.inner.state.lock().queue.pending()
    }

    /// Shows its metrics in the process's registry; once.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
        let this = Arc::downgrade(&self.inner);
        client::metrics::gauge(registry, ("scheduler_pending_pods", "Pods that wait, by queue"), "queue", move || {
            let Some(this) = this.upgrade() else { return Vec::new() };
            let Pending { active, backoff, unschedulable, gated } = this.state.lock().queue.pending();
            let all = [("active", active), ("backoff", backoff), ("unschedulable", unschedulable), ("gated", gated)];
            all.map(|(queue, pods)| (queue, i64::try_from(pods).unwrap_or(i64::MAX))).into()
        });
    }

    /// Runs until cancelled; returns when nothing is in flight any more.
    pub async fn run(&self, token: CancellationToken) {
        let inner = &self.inner;
        let (nodes, pods) = (inner.informers.of::<Node>(), inner.informers.of::<Pod>());
        inner.clone().subscribe();
        let component = RecorderOptions { component: inner.options.name.clone(), host: None };
        let (recorder, write) = Recorder::new(inner.client.clone(), inner.options.clock.clone(), component);
        let tasks = TaskTracker::new();
        let writer = tasks.spawn(write);
        let synced = async { tokio::join!(nodes.synced(), pods.synced()) };
        let work = async {
            synced.await;
            inner.clone().decide(recorder, &tasks).await;
        };
        tokio::select! { () = token.cancelled() => {}, () = work => {} }
        tasks.close();
        drop(writer);
        tasks.wait().await;
    }
}

impl Inner {
    /// The informers call these as long as they live; a scheduler that ended only keeps its books.
    fn subscribe(self: Arc<Self>) {
        let this = Arc::downgrade(&self);
        self.informers.of::<Node>().subscribe({
            let this = this.clone();
            move |delta| {
                if let Some(this) = this.upgrade() {
                    this.state.lock().on_node(delta);
                    this.changed.notify_one();
                }
            }
        });
        self.informers.of::<Pod>().subscribe(move |delta| {
            if let Some(this) = this.upgrade() {
                this.state.lock().on_pod(delta, &this.options.name);
                this.changed.notify_one();
            }
        });
    }

    async fn decide(self: Arc<Self>, recorder: Recorder, tasks: &TaskTracker) {
        let permits = Arc::new(Semaphore::new(self.options.in_flight));
        loop {
            let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            let (pod, decision, begin) = self.next().await;
            let this = self.clone();
            let recorder = recorder.clone();
            match decision {
                Decision::Bind(node) => tasks.spawn(this.bind(pod, node, begin, recorder, permit)),
                Decision::Refuse { message, .. } => {
                    self.tried("unschedulable", begin);
                    tasks.spawn(this.report(pod, "Unschedulable", message, recorder, permit))
                }
            };
        }
    }

    /// Waits for a pod that can be tried, and decides about it.
    async fn next(&self) -> (Arc<PodInfo>, Decision, Instant) {
        loop {
            let changed = self.changed.notified();
            let due = {
                let mut state = self.state.lock();
                let begin = Instant::now();
                if let Some((pod, decision)) = state.decide(&self.plugins) {
                    return (pod, decision, begin);
                }
                state.queue.next_due()
            };
            match due {
                Some(at) => tokio::select! { () = changed => {}, () = tokio::time::sleep_until(at) => {} },
                None => changed.await,
            }
        }
    }

    fn tried(&self, result: &'static str, begin: Instant) {
        self.metrics.tried(&self.options.name, result, begin.elapsed());
    }

    async fn bind(
        self: Arc<Self>,
        pod: Arc<PodInfo>,
        node: String,
        begin: Instant,
        recorder: Recorder,
        permit: OwnedSemaphorePermit,
    ) {
        let meta = &pod.pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
        let binding = json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let call = self.client.subresource::<Pod, _, Value>(http::Method::POST, (namespace, name, "binding"), &binding);
        let result = std::panic::AssertUnwindSafe(call).catch_unwind().await;
        let result = result.unwrap_or_else(|_| Err(Error::Transport("the call panicked".to_owned())));
        self.tried(if result.is_ok() { "scheduled" } else { "error" }, begin);
        match result {
            Ok(_) => {
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                recorder.event(&reference(&*pod.pod), EventType::Normal, "Scheduled", message);
                self.state.lock().queue.remove(pod.uid());
            }
            Err(error) => self.failed(pod, &error, recorder, permit).await,
        }
    }

    /// The binding was not made: the room is free again. A pod that is gone or bound by somebody else is not ours any more.
    async fn failed(
        self: Arc<Self>,
        pod: Arc<PodInfo>,
        error: &Error,
        recorder: Recorder,
        permit: OwnedSemaphorePermit,
    ) {
        {
            let mut state = self.state.lock();
            let now = Instant::now();
            state.cache.forget(pod.uid());
            if error.is_not_found() {
                state.queue.remove(pod.uid());
            } else {
                state.queue.retry(pod.uid(), now);
            }
            state.queue.on(&Event::PodRemoved(&pod), now);
        }
        self.changed.notify_one();
        if !(error.is_not_found() || error.is_conflict()) {
            self.report(pod, "SchedulerError", error.to_string(), recorder, permit).await;
        }
    }

    /// Tells the user why the pod has no node: an event, and a condition when it is not there already.
    async fn report(
        self: Arc<Self>,
        pod: Arc<PodInfo>,
        reason: &'static str,
        message: String,
        recorder: Recorder,
        permit: OwnedSemaphorePermit,
    ) {
        recorder.event(&reference(&*pod.pod), EventType::Warning, "FailedScheduling", message.clone());
        if let Some(patch) = condition(&pod.pod, reason, &message, self.options.clock.now()) {
            let meta = &pod.pod.metadata;
            let (namespace, name) = (meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
            if let Err(error) = self.client.patch_status::<Pod>(namespace, name, Patch::Strategic(patch)).await
                && !error.is_not_found()
            {
                tracing::warn!(pod = format!("{namespace}/{name}"), %error, "the condition PodScheduled could not be written");
            }
        }
        drop(permit);
    }
}

/// The patch that sets `PodScheduled` to false, unless the pod says just that already.
fn condition(pod: &Pod, reason: &str, message: &str, now: jiff::Timestamp) -> Option<Value> {
    let known = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let known = known.and_then(|c| c.iter().find(|c| c.type_ == "PodScheduled"));
    let unchanged = known.is_some_and(|c| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    });
    if unchanged {
        return None;
    }
    let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let since = since.map_or(now, |t| t.0);
    Some(json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(since),
        "observedGeneration": pod.metadata.generation,
    }]}}))
}

impl State {
    fn decide(&mut self, plugins: &Plugins) -> Option<(Arc<PodInfo>, Decision)> {
        let now = Instant::now();
        let pod = self.queue.pop(now)?;
        let decision = schedule(&pod, &self.cache.snapshot(), plugins, &mut self.chance);
        match &decision {
            Decision::Bind(node) => self.cache.assume(pod.clone(), node),
            Decision::Refuse { refused_by, .. } => self.queue.refuse(pod.uid(), refused_by.clone(), now),
        }
        Some((pod, decision))
    }

    fn on_node(&mut self, delta: &Delta<Node>) {
        let now = Instant::now();
        match delta {
            Delta::Deleted(node) => self.cache.remove_node(node.metadata.name.as_deref().unwrap_or("")),
            Delta::Added(new) | Delta::Modified { new, .. } => match self.cache.set_node(new.clone()) {
                None => self.queue.on(&Event::NodeAdded(new), now),
                Some(old) if matters(&old, new) => self.queue.on(&Event::NodeUpdated { old: &old, new }, now),
                Some(_) => {}
            },
        }
    }

    fn on_pod(&mut self, delta: &Delta<Pod>, scheduler: &str) {
        let now = Instant::now();
        let pod = delta.object();
        let gone = matches!(delta, Delta::Deleted(_)) || is_finished(pod);
        let id = uid(pod);
        if gone {
            self.queue.remove(id);
            if let Some(info) = self.cache.remove_pod(id) {
                self.queue.on(&Event::PodRemoved(&info), now);
            }
        } else if node_name(pod).is_some() {
            self.queue.remove(id);
            // heartbeats of the status change nothing that counts here
            let known = !self.cache.is_assumed(id) && self.cache.pod(id).is_some_and(|k| k.spec == pod.spec);
            if !known {
                let before = self.cache.pod(id).cloned();
                self.cache.set_pod(Arc::new(PodInfo::new(pod.clone())));
                if let Some(before) = before
                    .filter(|b| b.spec.as_ref().map(|s| &s.containers) != pod.spec.as_ref().map(|s| &s.containers))
                {
                    self.queue.on(&Event::PodRemoved(&PodInfo::new(before)), now);
                }
            }
        } else if pod.metadata.deletion_timestamp.is_some() {
            self.queue.remove(id);
        } else if self.is_ours(pod, scheduler) && !self.cache.is_assumed(id) {
            self.queue.set(Arc::new(PodInfo::new(pod.clone())), now);
        }
    }

    fn is_ours(&self, pod: &Pod, scheduler: &str) -> bool {
        pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler") == scheduler
    }
}

/// Whether a node's change can matter to a pod; heartbeats cannot.
fn matters(old: &Node, new: &Node) -> bool {
    let spec = |n: &Node| n.spec.as_ref().map(|s| (s.unschedulable, s.taints.clone()));
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    old.metadata.labels != new.metadata.labels || spec(old) != spec(new) || allocatable(old) != allocatable(new)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn the_condition_is_written_once_and_keeps_its_time() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let mut p = pod(json!({"metadata": {"name": "p", "uid": "u"}}));
        let patch = condition(&p, "Unschedulable", "why", now).expect("a patch");
        let c = &patch["status"]["conditions"][0];
        assert_eq!(
            (c["status"].as_str(), c["lastTransitionTime"].as_str()),
            (Some("False"), Some("2026-01-01T00:00:00Z"))
        );
        p.status = serde_json::from_value(patch["status"].clone()).expect("a status");
        assert_eq!(condition(&p, "Unschedulable", "why", now), None);
        let later = "2026-01-01T01:00:00Z".parse().expect("a time");
        let again = condition(&p, "Unschedulable", "other", later).expect("a patch");
        assert_eq!(again["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }

    fn state() -> (State, Plugins) {
        let plugins = defaults(Strategy::default());
        let queue = Queue::new(plugins.clone());
        (State { cache: Cache::default(), queue, chance: fastrand::Rng::with_seed(0) }, plugins)
    }

    fn node(name: &str) -> Delta<Node> {
        let value =
            json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}});
        Delta::Added(Arc::new(serde_json::from_value(value).expect("a node")))
    }

    fn waiting(name: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name, "uid": name}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_a_finished_pod_leaves_goes_to_the_one_that_waits() {
        let (mut s, plugins) = state();
        s.on_node(&node("n"));
        let a = Arc::new(pod(waiting("a", "1")));
        s.on_pod(&Delta::Added(a.clone()), "default-scheduler");
        s.on_pod(&Delta::Added(Arc::new(pod(waiting("b", "1")))), "default-scheduler");
        let (first, decision) = s.decide(&plugins).expect("a pod");
        assert_eq!((first.uid(), decision), ("a", Decision::Bind("n".into())));
        let (second, decision) = s.decide(&plugins).expect("a pod");
        assert!(second.uid() == "b" && matches!(decision, Decision::Refuse { .. }), "assumed room is taken");
        let mut bound = (*a).clone();
        bound.spec.as_mut().expect("a spec").node_name = Some("n".into());
        s.on_pod(&Delta::Modified { old: a, new: Arc::new(bound.clone()) }, "default-scheduler");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(s.decide(&plugins).is_none(), "nothing has become free");
        let mut done = bound.clone();
        done.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("a status");
        s.on_pod(&Delta::Modified { old: Arc::new(bound), new: Arc::new(done) }, "default-scheduler");
        assert_eq!(s.decide(&plugins).map(|d| d.1), Some(Decision::Bind("n".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_other_schedulers_and_pods_being_deleted_are_left_alone() {
        let (mut s, plugins) = state();
        s.on_node(&node("n"));
        let mut other = waiting("a", "1");
        other["spec"]["schedulerName"] = json!("other");
        let mut deleted = waiting("b", "1");
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        s.on_pod(&Delta::Added(Arc::new(pod(other))), "default-scheduler");
        s.on_pod(&Delta::Added(Arc::new(pod(deleted))), "default-scheduler");
        assert!(s.decide(&plugins).is_none());
    }
}
