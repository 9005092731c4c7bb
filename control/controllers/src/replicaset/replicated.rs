//! The kinds whose pods this controller keeps: ReplicaSets, and ReplicationControllers, which it sees as ReplicaSets.

use crate::{labels::Selects, meta};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::{ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use std::sync::Arc;

/// A kind that keeps a number of pods.
pub(crate) trait Replicated: Selects {
    /// Upstream's name of the controller.
    const CONTROLLER: &'static str;
    /// The source of its events.
    const SOURCE: &'static str;

    /// The object as a ReplicaSet.
    fn as_set(this: &Arc<Self>) -> Arc<ReplicaSet>;

    /// The object with this status.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";
    const SOURCE: &'static str = "replicaset-controller";

    fn as_set(this: &Arc<Self>) -> Arc<ReplicaSet> {
        this.clone()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replicationcontroller-controller";
    const SOURCE: &'static str = "replication-controller";

    fn as_set(this: &Arc<Self>) -> Arc<ReplicaSet> {
        let spec = this.spec.clone().map(|spec| ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
            template: spec.template,
        });
        let status = this.status.clone().map(|status| ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| all.into_iter().map(set_condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            // It does not tell them.
            terminating_replicas: None,
        });
        Arc::new(ReplicaSet { metadata: this.metadata.clone(), spec, status })
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let status = ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| all.into_iter().map(own_condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        };
        Self { status: Some(status), ..self.clone() }
    }
}

fn set_condition(condition: ReplicationControllerCondition) -> ReplicaSetCondition {
    ReplicaSetCondition {
        last_transition_time: condition.last_transition_time,
        message: condition.message,
        reason: condition.reason,
        status: condition.status,
        type_: condition.type_,
    }
}

fn own_condition(condition: ReplicaSetCondition) -> ReplicationControllerCondition {
    ReplicationControllerCondition {
        last_transition_time: condition.last_transition_time,
        message: condition.message,
        reason: condition.reason,
        status: condition.status,
        type_: condition.type_,
    }
}

/// Whether an object without a controller that has these labels is adopted; an empty selector adopts nothing.
pub(super) fn adopts<K: Replicated>(owner: &Arc<K>, labels: Option<&crate::labels::Labels>) -> bool {
    let set = K::as_set(owner);
    let selector = set.spec.as_ref().and_then(|spec| meta::selector(&spec.selector).ok());
    selector.is_some_and(|selector| !selector.is_empty() && meta::matches(&selector, labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_replication_controller_is_a_replica_set_and_back() {
        let value = json!({"metadata": {"name": "c", "uid": "u", "generation": 3},
            "spec": {"replicas": 2, "minReadySeconds": 5, "selector": {"a": "b"}, "template": {"metadata": {"labels": {"a": "b"}}}},
            "status": {"replicas": 2, "readyReplicas": 1, "availableReplicas": 1, "fullyLabeledReplicas": 2, "observedGeneration": 3,
                "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "why"}]}});
        let controller: ReplicationController = serde_json::from_value(value.clone()).expect("a ReplicationController");
        let set = ReplicationController::as_set(&Arc::new(controller.clone()));
        let text = serde_json::to_value(&*set).expect("JSON");
        assert_eq!(text["spec"]["selector"], json!({"matchLabels": {"a": "b"}}));
        assert_eq!((&text["metadata"], &text["status"]), (&value["metadata"], &value["status"]));
        let status = ReplicaSetStatus { terminating_replicas: Some(1), ..set.status.clone().expect("a status") };
        assert_eq!(controller.with_status(status), controller);
        let owner = Arc::new(controller);
        let labels = |of: &[(&str, &str)]| of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(
            adopts(&owner, Some(&labels(&[("a", "b"), ("c", "d")]))) && !adopts(&owner, Some(&labels(&[("a", "c")])))
        );
        let empty = Arc::new(ReplicationController { spec: None, ..(*owner).clone() });
        assert!(!adopts(&empty, Some(&labels(&[("a", "b")]))) && !adopts(&owner, None));
    }
}
