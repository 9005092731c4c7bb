//! Pods that wait for permit: assumed, and not bound yet.

use crate::status::{Failure, Reason};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// The longest wait; upstream's limit.
pub const MAX_WAIT: Duration = Duration::from_secs(15 * 60);

/// The pods that wait. Cheap to clone; plugins allow and reject through it, at any time. `WaitingPod` upstream.
///
/// Bounded: it holds only assumed pods, each once.
#[derive(Clone, Default)]
pub struct WaitingPods {
    pods: Arc<Mutex<HashMap<String, Waiting>>>,
}

struct Waiting {
    /// The plugins that have not allowed the pod yet, each with its deadline and timeout.
    pending: BTreeMap<&'static str, (Instant, Duration)>,
    refused: Option<(&'static str, Failure)>,
    changed: Arc<Notify>,
}

impl WaitingPods {
    /// The waiting pods by uid, each with the plugins that it waits for.
    pub fn pending(&self) -> BTreeMap<String, Vec<&'static str>> {
        let pods = self.pods.lock();
        pods.iter().map(|(uid, pod)| (uid.clone(), pod.pending.keys().copied().collect())).collect()
    }

    /// Allows the pod for a plugin; it is bound when all its plugins allow it. Does nothing if the pod does not wait.
    pub fn allow(&self, uid: &str, plugin: &'static str) {
        self.change(uid, |pod| {
            pod.pending.remove(plugin);
        });
    }

    /// Rejects the pod for a plugin. Does nothing if the pod does not wait.
    pub fn reject(&self, uid: &str, plugin: &'static str, reason: impl Into<Reason>) {
        self.end(uid, plugin, Failure::Unschedulable(reason.into()));
    }

    /// Ends the wait of a pod whose place goes to one of higher priority: it is tried again after its back-off. False if the pod does not
    /// wait.
    pub(crate) fn preempt(&self, uid: &str) -> bool {
        let waits = self.contains(uid);
        self.end(uid, "", Failure::Taken);
        waits
    }

    /// Ends the wait of a pod that is gone.
    pub(crate) fn cancel(&self, uid: &str) {
        self.end(uid, "", Failure::Canceled);
    }

    /// Makes the pod wait, with a timeout for each plugin.
    pub(crate) fn add(&self, uid: &str, waits: BTreeMap<&'static str, Duration>) {
        let now = Instant::now();
        let pending = waits.into_iter().map(|(plugin, wait)| {
            let wait = wait.min(MAX_WAIT);
            (plugin, (now + wait, wait))
        });
        let waiting = Waiting { pending: pending.collect(), refused: None, changed: Arc::default() };
        self.pods.lock().insert(uid.to_owned(), waiting);
    }

    /// Whether the pod waits.
    pub(crate) fn contains(&self, uid: &str) -> bool {
        self.pods.lock().contains_key(uid)
    }

    /// Waits until all plugins have allowed the pod, or one refused it, or waited too long for it; it does not wait any more then.
    pub(crate) async fn wait(&self, uid: &str) -> Result<(), (&'static str, Failure)> {
        loop {
            let (due, plugin, wait, changed) = {
                let mut pods = self.pods.lock();
                let Some(pod) = pods.get(uid) else { return Ok(()) };
                let first = pod.pending.iter().min_by_key(|(_, (due, _))| *due);
                match (&pod.refused, first) {
                    (None, Some((plugin, (due, wait)))) => (*due, *plugin, *wait, pod.changed.clone()),
                    _ => return pods.remove(uid).and_then(|pod| pod.refused).map_or(Ok(()), Err),
                }
            };
            tokio::select! {
                biased;
                () = changed.notified() => {}
                () = tokio::time::sleep_until(due) => {
                    let wait = api::time::go_duration(jiff::SignedDuration::try_from(wait).unwrap_or_default());
                    let reason = format!("rejected due to timeout after waiting {wait} at plugin {plugin}");
                    self.change(uid, |pod| {
                        // not if it was allowed just now
                        if pod.refused.is_none() && pod.pending.contains_key(plugin) {
                            pod.refused = Some((plugin, Failure::Unschedulable(reason.into())));
                        }
                    });
                }
            }
        }
    }

    /// The first word counts.
    fn end(&self, uid: &str, plugin: &'static str, failure: Failure) {
        self.change(uid, |pod| {
            if pod.refused.is_none() && !pod.pending.is_empty() {
                pod.refused = Some((plugin, failure));
            }
        });
    }

    fn change(&self, uid: &str, change: impl FnOnce(&mut Waiting)) {
        if let Some(pod) = self.pods.lock().get_mut(uid) {
            change(pod);
            pod.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_plugins_must_allow_and_the_first_refusal_counts() {
        let waiting = WaitingPods::default();
        let hour = Duration::from_secs(3600);
        let add = || waiting.add("p", BTreeMap::from([("A", hour), ("B", Duration::from_secs(20))]));
        let end = || async { waiting.wait("p").await.map_err(|(plugin, failure)| format!("{plugin}: {failure}")) };
        add();
        waiting.allow("p", "A");
        assert_eq!(waiting.pending()["p"], ["B"]);
        waiting.allow("p", "B");
        waiting.reject("p", "B", "too late");
        assert_eq!(end().await, Ok(()));
        assert!(!waiting.contains("p"));
        add();
        waiting.reject("p", "A", "no");
        waiting.reject("p", "B", "later");
        assert_eq!(end().await, Err("A: no".to_owned()));
        add();
        assert_eq!(end().await, Err("B: rejected due to timeout after waiting 20s at plugin B".to_owned()));
        add();
        waiting.allow("p", "B");
        let begin = Instant::now();
        assert_eq!(end().await, Err("A: rejected due to timeout after waiting 15m0s at plugin A".to_owned()));
        assert_eq!(begin.elapsed().as_secs(), 900, "no plugin waits longer than upstream's limit");
        waiting.allow("p", "A");
        assert_eq!(end().await, Ok(()), "who does not wait may go on");
    }
}
