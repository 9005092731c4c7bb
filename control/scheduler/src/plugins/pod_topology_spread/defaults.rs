//! The constraints of pods that have none: over the pods of the same Services and controller.

use crate::{
    listers::Listers,
    pod::PodInfo,
    terms::{Constraint, Labels, Spread, parse},
};
use api::selector::{Operator, Requirement, Selector};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

/// Upstream's own: hosts, then zones.
pub(super) fn system() -> Vec<TopologySpreadConstraint> {
    let soft = |topology_key: &str, max_skew| TopologySpreadConstraint {
        topology_key: topology_key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        max_skew,
        ..TopologySpreadConstraint::default()
    };
    vec![soft("kubernetes.io/hostname", 3), soft("topology.kubernetes.io/zone", 5)]
}

/// The constraints for a pod; none if nothing selects it.
pub(super) fn of(constraints: &[TopologySpreadConstraint], listers: &Listers, pod: &PodInfo) -> Option<Spread> {
    if constraints.is_empty() {
        return None;
    }
    let selector = selector(listers, pod).filter(|selector| !selector.is_empty())?;
    Some(Spread::parse(constraints, |constraint| Constraint::with_selector(constraint, selector.clone())))
}

/// What the Services of a pod and its controller select together.
fn selector(listers: &Listers, pod: &PodInfo) -> Option<Selector> {
    let namespace = pod.namespace();
    let mut labels = Labels::new();
    for service in listers.services(namespace) {
        let Some(wanted) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else { continue };
        if wanted.iter().all(|(key, value)| pod.labels().and_then(|l| l.get(key)) == Some(value)) {
            labels.extend(wanted.clone());
        }
    }
    let owner = client::meta::controller_of(&pod.pod.metadata);
    let mut requirements = Vec::new();
    if let Some(owner) = owner {
        match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("v1", "ReplicationController") => {
                let found = listers.replication_controller(namespace, &owner.name);
                let selector = found.and_then(|rc| rc.spec.as_ref().and_then(|s| s.selector.clone()));
                labels.extend(selector.into_iter().flatten());
            }
            ("apps/v1", "ReplicaSet") => {
                let found = listers.replica_set(namespace, &owner.name);
                let selector = found.and_then(|set| set.spec.as_ref().map(|s| parse(Some(&s.selector))));
                requirements.extend(selector.iter().flat_map(|s| s.requirements().iter().cloned()));
            }
            ("apps/v1", "StatefulSet") => {
                let found = listers.stateful_set(namespace, &owner.name);
                let selector = found.and_then(|set| set.spec.as_ref().map(|s| parse(Some(&s.selector))));
                requirements.extend(selector.iter().flat_map(|s| s.requirements().iter().cloned()));
            }
            _ => {}
        }
    }
    let exact = |(key, value): (String, String)| Requirement::new(&key, Operator::Equals, vec![value]).ok();
    requirements.extend(labels.into_iter().filter_map(exact));
    Some(Selector::new(requirements))
}
