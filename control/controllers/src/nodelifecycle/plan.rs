//! Conditions and taints of a node. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, Taint},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

/// The heartbeat of a node: what a live node keeps changing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    renewed: Option<Timestamp>,
    reported: Option<Timestamp>,
}

impl Heartbeat {
    /// The heartbeat in the Lease and status of a node.
    pub(crate) fn of(node: &Node, lease: Option<&Lease>) -> Self {
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref()).map(|t| t.0);
        let unknown = |c: &&NodeCondition| c.status != "Unknown";
        // a condition that this controller has set to Unknown is no heartbeat
        let reported =
            condition(node, "Ready").filter(unknown).and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
        Self { renewed, reported }
    }
}

/// The condition of this type.
pub(super) fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// The conditions of a node without heartbeats, all Unknown; `None` if they are so already.
pub(crate) fn unknown_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut changed = Vec::new();
    for type_ in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match condition(node, type_) {
            Some(old) if old.status == "Unknown" => {}
            Some(old) => changed.push(NodeCondition {
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusUnknown".to_owned()),
                message: Some("Kubelet stopped posting node status.".to_owned()),
                last_transition_time: Some(Time(now)),
                ..old.clone()
            }),
            None => changed.push(NodeCondition {
                type_: type_.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    (!changed.is_empty()).then_some(changed)
}

/// (condition, status, taint)
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The taints that the conditions require, beside those of other clients; `None` if the node has them already.
pub(crate) fn taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let old = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (type_, status, key) in BY_CONDITION {
        if condition(node, type_).is_some_and(|c| c.status == status) {
            wanted.push((key, "NoSchedule"));
            if type_ == "Ready" {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let mut new: Vec<Taint> =
        old.iter().filter(|t| !is_ours(t) || wanted.contains(&(&t.key, &t.effect))).cloned().collect();
    for (key, effect) in wanted {
        if !new.iter().any(|t| t.key == key && t.effect == effect) {
            new.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    (new != old).then_some(new)
}

/// Whether this controller manages the taint.
fn is_ours(taint: &Taint) -> bool {
    let ready = |key: &str| BY_CONDITION[..2].iter().any(|(_, _, k)| *k == key);
    match taint.effect.as_str() {
        "NoSchedule" => taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, k)| *k == taint.key),
        "NoExecute" => ready(&taint.key),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(conditions: Value, spec: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}}))
            .expect("a node")
    }

    fn keys(taints: &[Taint]) -> Vec<String> {
        taints.iter().map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect)).collect()
    }

    #[test]
    fn conditions_become_taints_and_foreign_taints_stay() {
        let foreign = json!([{"key": "mine", "effect": "NoExecute"}]);
        let not_ready = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]);
        for (conditions, spec, expected) in [
            (json!([{"type": "Ready", "status": "True"}]), json!({}), None),
            (
                json!([{"type": "Ready", "status": "False"}]),
                json!({}),
                Some(vec!["not-ready:NoSchedule", "not-ready:NoExecute"]),
            ),
            (
                json!([{"type": "Ready", "status": "Unknown"}]),
                json!({"taints": foreign}),
                Some(vec!["mine:NoExecute", "unreachable:NoSchedule", "unreachable:NoExecute"]),
            ),
            (json!([{"type": "Ready", "status": "False"}]), json!({"taints": not_ready}), None),
            (json!([{"type": "Ready", "status": "True"}]), json!({"taints": not_ready}), Some(vec![])),
            (
                json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]),
                json!({"unschedulable": true}),
                Some(vec!["disk-pressure:NoSchedule", "unschedulable:NoSchedule"]),
            ),
        ] {
            let got = taints(&node(conditions.clone(), spec), Timestamp::UNIX_EPOCH).map(|t| keys(&t));
            assert_eq!(
                got,
                expected.map(|e: Vec<&str>| e.into_iter().map(str::to_owned).collect::<Vec<_>>()),
                "{conditions}"
            );
        }
    }

    #[test]
    fn silence_makes_every_condition_unknown_once() {
        let mut n =
            node(json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]), json!({}));
        let conditions = unknown_conditions(&n, Timestamp::UNIX_EPOCH).expect("a change");
        let told: Vec<_> = conditions
            .iter()
            .map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_deref().unwrap_or("")))
            .collect();
        assert_eq!(told[0], ("Ready", "Unknown", "NodeStatusUnknown"));
        assert_eq!(told[1], ("MemoryPressure", "Unknown", "NodeStatusNeverUpdated"));
        n.status.as_mut().expect("a status").conditions = Some(conditions);
        assert_eq!(unknown_conditions(&n, Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn our_own_unknown_is_no_sign_of_life() {
        let alive =
            node(json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]), json!({}));
        let given_up = node(
            json!([{"type": "Ready", "status": "Unknown", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]),
            json!({}),
        );
        let lease: Lease =
            serde_json::from_value(json!({"spec": {"renewTime": "2026-01-01T00:00:10.000000Z"}})).expect("a lease");
        assert_ne!(Heartbeat::of(&alive, None), Heartbeat::of(&given_up, None));
        assert_ne!(Heartbeat::of(&given_up, None), Heartbeat::of(&given_up, Some(&lease)));
    }
}
