//! The order in which surplus pods are deleted. Pure.
//!
//! Follows "Pod deletion cost" and "Scaling a ReplicaSet" of <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>.

use crate::{meta, pods};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::{cmp::Reverse, collections::HashMap, sync::Arc};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The order of deletion as one comparable value, smallest first. A total order on purpose: upstream's pairwise rules are not transitive
/// when logarithmic ages tie, so ties are always broken by restarts and then by uid.
type Key<'a> = (bool, u8, bool, i32, Reverse<usize>, i64, Reverse<(i32, i32)>, i64, &'a str);

/// The `count` of `active` pods to delete: unassigned, pending and unready ones first, then those whose node holds most `related` pods, then
/// the youngest (ages are compared by powers of two, so that the choice among pods of about the same age is random).
pub(crate) fn to_delete(active: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    if count >= active.len() {
        return active.to_vec();
    }
    let mut per_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|p| pods::is_active(p)) {
        *per_node.entry(pods::node_name(pod)).or_default() += 1;
    }
    let mut order: Vec<(Key<'_>, &Arc<Pod>)> = active.iter().map(|p| (key(p, &per_node, now), p)).collect();
    order.sort_by(|a, b| a.0.cmp(&b.0));
    order.into_iter().take(count).map(|(_, p)| p.clone()).collect()
}

fn key<'a>(pod: &'a Pod, per_node: &HashMap<&str, usize>, now: Timestamp) -> Key<'a> {
    let node = pods::node_name(pod);
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = meta::annotation(&pod.metadata, DELETION_COST).and_then(cost).unwrap_or(0);
    let ready = pods::is_ready(pod);
    (
        !node.is_empty(),
        phase,
        ready,
        cost,
        Reverse(per_node.get(node).copied().unwrap_or(0)),
        if ready { age(pods::ready_since(pod), now) } else { 0 },
        Reverse(pods::max_restarts(pod)),
        age(pod.metadata.creation_timestamp.as_ref().map(|t| t.0), now),
        meta::uid(&pod.metadata),
    )
}

/// A cost as Kubernetes reads it: an i32 in plain decimal, without a plus sign or leading zeros.
fn cost(text: &str) -> Option<i32> {
    let plain = text == "0" || !(text.starts_with('+') || text.starts_with('0') || text.starts_with("-0"));
    text.parse().ok().filter(|_| plain)
}

/// The binary logarithm of the age in nanoseconds: -2 without a time, -1 for one in the future.
fn age(since: Option<Timestamp>, now: Timestamp) -> i64 {
    let Some(since) = since else { return -2 };
    let nanos = now.duration_since(since).as_nanos();
    if nanos <= 0 { -1 } else { i64::from(nanos.ilog2()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, phase: &str, ready: Option<&str>, more: serde_json::Value) -> Arc<Pod> {
        let conditions = ready.map(|t| json!([{"type": "Ready", "status": "True", "lastTransitionTime": t}]));
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": conditions},
        });
        json_patch(&mut value, more);
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    fn json_patch(to: &mut serde_json::Value, from: serde_json::Value) {
        match (to, from) {
            (serde_json::Value::Object(to), serde_json::Value::Object(from)) => {
                from.into_iter().for_each(|(k, v)| json_patch(to.entry(k).or_insert(json!({})), v));
            }
            (to, from) => *to = from,
        }
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|p| meta::name(&p.metadata)).collect()
    }

    #[test]
    fn pods_that_cost_least_to_lose_go_first() {
        let early = Some("2026-01-01T00:00:01Z");
        let late = Some("2026-01-01T09:00:00Z");
        let now: Timestamp = "2026-01-01T10:00:00Z".parse().expect("a time");
        let cost = |c: &str| json!({"metadata": {"annotations": {DELETION_COST: c}}});
        let restarts = |n: i32| {
            json!({"status": {"containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": n}]}})
        };
        let none = || json!({});
        let ordered = [
            pod("unassigned", "", "Pending", None, none()),
            pod("pending", "n1", "Pending", None, none()),
            pod("unknown", "n1", "Unknown", None, none()),
            pod("unready", "n1", "Running", None, none()),
            pod("cheap", "n1", "Running", early, cost("-5")),
            pod("crowded", "n2", "Running", early, none()),
            pod("young", "n1", "Running", late, none()),
            pod("restarted", "n1", "Running", early, restarts(3)),
            pod("old", "n1", "Running", early, none()),
            pod("dear", "n1", "Running", late, cost("7")),
        ];
        let related = vec![pod("x", "n2", "Running", None, none()), pod("y", "n2", "Running", None, none())];
        let mut shuffled = ordered.to_vec();
        shuffled.reverse();
        shuffled.swap(1, 6);
        for n in 0..ordered.len() {
            assert_eq!(names(&to_delete(&shuffled, &related, n, now)), names(&ordered[..n]));
        }
    }

    #[test]
    fn all_pods_are_chosen_when_none_shall_stay() {
        let pods = vec![pod("a", "", "Pending", None, json!({})), pod("b", "", "Pending", None, json!({}))];
        assert_eq!(names(&to_delete(&pods, &pods, 5, Timestamp::UNIX_EPOCH)), ["a", "b"]);
    }

    #[test]
    fn a_cost_that_is_not_a_plain_integer_counts_as_none() {
        for (text, expected) in
            [("5", Some(5)), ("-5", Some(-5)), ("0", Some(0)), ("+5", None), ("05", None), ("x", None)]
        {
            assert_eq!(cost(text), expected, "{text}");
        }
    }
}
