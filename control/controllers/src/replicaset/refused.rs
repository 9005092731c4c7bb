//! The back-off of a ReplicaSet after nodes refused its pods. Pure.
//!
//! A pod that a node refuses fails at once, and so does its replacement: upstream creates thousands in a minute. Here the delay doubles, as for
//! a crashing container. It is computed from the pods, so that it survives a restart of the controller.

use crate::{meta, pods};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::{sync::Arc, time::Duration};

/// The delay after the first refusal; it doubles with each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest delay.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// After so long without a refusal, earlier refusals no longer count.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// How long to wait before refused pods are replaced; zero if none was refused recently. Of `pods` only those count that the owner with this uid
/// controls.
pub(super) fn pause(owner: &str, pods: &[Arc<Pod>], now: Timestamp) -> Duration {
    let own = pods.iter().filter(|pod| meta::is_controlled_by(&pod.metadata, owner));
    // Pods that were created together are refused together: they count once.
    let mut seconds: Vec<i64> = own.filter_map(|pod| refused_at(pod)).map(|at| at.as_second()).collect();
    seconds.sort_unstable_by(|a, b| b.cmp(a));
    seconds.dedup();
    let Some(last) = seconds.first().and_then(|last| Timestamp::from_second(*last).ok()) else { return Duration::ZERO };
    let near = |pair: &&[i64]| u64::try_from(pair[0] - pair[1]).is_ok_and(|gap| gap <= FORGOTTEN.as_secs());
    let before = seconds.windows(2).take_while(near).count();
    let pause = PAUSE.saturating_mul(1 << before.min(16)).min(MAX_PAUSE);
    pause.saturating_sub(meta::non_negative(now.duration_since(last)))
}

/// When a node refused the pod, if one did: the pod has failed with a reason and has no container statuses.
fn refused_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref().filter(|_| pods::phase(pod) == "Failed")?;
    let taken = status.container_statuses.iter().chain(&status.init_container_statuses).any(|all| !all.is_empty());
    let refused = !taken && status.reason.as_deref().is_some_and(|reason| !reason.is_empty());
    let at = status.start_time.as_ref().or(pod.metadata.creation_timestamp.as_ref());
    at.filter(|_| refused).map(|at| at.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    fn pod(second: i64, status: &Value) -> Arc<Pod> {
        let mut status = status.clone();
        status["startTime"] = json!(at(second).to_string());
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": "rs", "controller": true}]);
        let pod = json!({"metadata": {"name": "p", "ownerReferences": owner}, "status": status});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn refused(seconds: &[i64]) -> Vec<Arc<Pod>> {
        let status = json!({"phase": "Failed", "reason": "OutOfmemory", "message": "Pod was rejected: …"});
        seconds.iter().map(|second| pod(*second, &status)).collect()
    }

    #[test]
    fn the_pause_doubles_with_each_refusal_and_is_forgotten() {
        for (what, seconds, now, expected) in [
            ("none", &[][..], 0, 0),
            ("one", &[10], 10, 1),
            ("one, waited for", &[10], 11, 0),
            ("made together, refused together", &[10, 10, 10], 10, 1),
            ("two", &[10, 12], 12, 2),
            ("in whatever order", &[14, 10, 12], 15, 3),
            (
                "no longer than the longest",
                &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19],
                19,
                300,
            ),
            ("the longest pause is not what makes it forget", &[0, 300, 600], 600, 4),
            ("long ago", &[0, 1, 2, 700], 700, 1),
            ("a clock that went back", &[10], 0, 1),
        ] {
            let pause = pause("rs", &refused(seconds), at(now));
            assert_eq!(pause, Duration::from_secs(expected), "{what}");
        }
    }

    #[test]
    fn pods_that_a_node_took_are_replaced_at_once() {
        let container = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0}]);
        for (what, status) in [
            ("failed", json!({"phase": "Failed", "containerStatuses": container})),
            ("evicted", json!({"phase": "Failed", "reason": "Evicted", "containerStatuses": container})),
            (
                "in an init container",
                json!({"phase": "Failed", "reason": "Evicted", "initContainerStatuses": container}),
            ),
            ("lost", json!({"phase": "Failed"})),
            ("succeeded", json!({"phase": "Succeeded"})),
            ("pending", json!({"phase": "Pending", "reason": "x"})),
        ] {
            assert_eq!(pause("rs", &[pod(0, &status)], at(0)), Duration::ZERO, "{what}");
        }
    }
}
