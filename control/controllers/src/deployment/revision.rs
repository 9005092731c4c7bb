//! Revisions: which ReplicaSet is the current one, and what its annotations say. Pure.
//!
//! `kubectl rollout history` and `undo` read the annotations that are written here.

use super::rolling::{self, DESIRED_REPLICAS, MAX_REPLICAS};
use crate::meta;
use api::annotations::{SCALE_TO_ZERO_AFTER, SCALED_TO_ZERO};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

/// The revision of a ReplicaSet and of the Deployment that rolled it out.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of a ReplicaSet that was rolled back to.
pub(crate) const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The label that distinguishes the pods of the revisions.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

const NOT_COPIED: [&str; 8] = [
    SCALE_TO_ZERO_AFTER,
    SCALED_TO_ZERO,
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// Longest list of earlier revisions, in characters.
const HISTORY_LIMIT: usize = 2000;

/// The revision annotation as a number; absent or unreadable is 0.
pub(crate) fn revision(rs: &ReplicaSet) -> i64 {
    meta::annotation(&rs.metadata, REVISION).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Older first, names decide among the same second.
pub(crate) fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    meta::created(&a.metadata).cmp(&meta::created(&b.metadata)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

/// Whether two templates describe the same pods, the hash label aside.
pub(crate) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let strip = |t: &PodTemplateSpec| {
        let mut t = t.clone();
        if let Some(labels) = t.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
            labels.remove(HASH_LABEL);
        }
        t
    };
    let (a, b) = (strip(a), strip(b));
    if a == b {
        return true;
    }
    let json = |t: &PodTemplateSpec| serde_json::to_value(t).expect("a template is JSON");
    meta::same(&json(&a), &json(&b))
}

/// The index of the oldest ReplicaSet whose template is the Deployment's.
pub(crate) fn current(d: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<usize> {
    let template = &d.spec.as_ref()?.template;
    let matches = |rs: &ReplicaSet| {
        rs.spec.as_ref().and_then(|s| s.template.as_ref()).is_some_and(|t| same_template(t, template))
    };
    let mut found: Vec<usize> = (0..sets.len()).filter(|i| matches(&sets[*i])).collect();
    found.sort_by(|a, b| by_age(&sets[*a], &sets[*b]));
    found.first().copied()
}

/// The ReplicaSet for the Deployment's template, with its size and annotations still to be set.
pub(crate) fn new_set(d: &Deployment) -> ReplicaSet {
    let spec = d.spec.clone().unwrap_or_default();
    let collisions = d.status.as_ref().and_then(|s| s.collision_count);
    let seed = collisions.map(i32::to_le_bytes);
    let template = serde_json::to_value(&spec.template).expect("a template is JSON");
    let hash = meta::encode(meta::hash(&template, seed.as_ref().map_or(&[][..], |s| &s[..])));
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let name: String = meta::name(&d.metadata).chars().take(253 - 1 - hash.len()).collect();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: d.metadata.namespace.clone(),
            owner_references: Some(vec![meta::controller_ref(d)]),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Updates the annotations of the current ReplicaSet; `next` is one more than the highest revision of the others. Returns whether anything
/// changed.
pub(crate) fn annotate(d: &Deployment, rs: &mut ReplicaSet, next: i64, exists: bool) -> bool {
    let mut annotations = rs.metadata.annotations.take().unwrap_or_default();
    let before = annotations.clone();
    for (key, value) in d.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let readable = old.as_deref().is_none_or(|v| v.is_empty() || v.parse::<i64>().is_ok());
    if readable && old.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0) < next {
        annotations.insert(REVISION.to_owned(), next.to_string());
        if let Some(old) = old {
            remember(&mut annotations, &old);
        }
    }
    if !exists {
        set_replicas(&mut annotations, d);
    }
    let changed = annotations != before;
    rs.metadata.annotations = Some(annotations);
    changed
}

/// Keeps the old revision number of a ReplicaSet that a rollback gives a new one; the oldest numbers are dropped above the limit.
fn remember(annotations: &mut BTreeMap<String, String>, old: &str) {
    let history = annotations.get(HISTORY).cloned().unwrap_or_default();
    let mut list: Vec<&str> = history.split(',').filter(|r| !r.is_empty()).collect();
    list.push(old);
    while list.len() > 1 && list.iter().map(|r| r.len() + 1).sum::<usize>() > HISTORY_LIMIT + 1 {
        list.remove(0);
    }
    annotations.insert(HISTORY.to_owned(), list.join(","));
}

fn set_replicas(annotations: &mut BTreeMap<String, String>, d: &Deployment) {
    let desired = rolling::desired(d);
    annotations.insert(DESIRED_REPLICAS.to_owned(), desired.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), (desired + rolling::max_surge(d)).to_string());
}

/// Records the Deployment's size on `rs`; returns whether that changed anything.
pub(crate) fn annotate_size(d: &Deployment, rs: &mut ReplicaSet) -> bool {
    let annotations = rs.metadata.annotations.get_or_insert_default();
    let before = (annotations.get(DESIRED_REPLICAS).cloned(), annotations.get(MAX_REPLICAS).cloned());
    set_replicas(annotations, d);
    before != (annotations.get(DESIRED_REPLICAS).cloned(), annotations.get(MAX_REPLICAS).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "d", "annotations": {"note": "x", REVISION: "9",
                "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        }))
        .expect("a Deployment")
    }

    #[test]
    fn the_new_replica_set_carries_the_hash_everywhere() {
        let d = deployment();
        let rs = new_set(&d);
        let name = meta::name(&rs.metadata).to_owned();
        let hash = name.strip_prefix("web-").expect("the Deployment's name first");
        let spec = rs.spec.clone().expect("a spec");
        let labels = rs.metadata.labels.as_ref().expect("labels");
        assert_eq!(labels[HASH_LABEL], hash);
        assert_eq!(spec.selector.match_labels.expect("labels")[HASH_LABEL], hash);
        assert!(same_template(&spec.template.expect("a template"), &d.spec.as_ref().expect("a spec").template));
        assert_eq!(meta::name(&new_set(&d).metadata), name, "the same template has the same hash");
        let mut collided = d.clone();
        collided.status = serde_json::from_value(json!({"collisionCount": 1})).expect("a status");
        assert_ne!(meta::name(&new_set(&collided).metadata), name);
        let mut changed = d;
        changed.spec.as_mut().expect("a spec").template.spec.as_mut().expect("a spec").containers[0].image =
            Some("j".into());
        assert_ne!(meta::name(&new_set(&changed).metadata), name);
    }

    #[test]
    fn annotations_are_copied_except_those_that_belong_to_the_deployment() {
        let d = deployment();
        let mut rs = new_set(&d);
        assert!(annotate(&d, &mut rs, 3, false));
        let a = rs.metadata.annotations.clone().expect("annotations");
        let expected = [("note", "x"), (REVISION, "3"), (DESIRED_REPLICAS, "4"), (MAX_REPLICAS, "5")];
        assert_eq!(a, expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        assert!(!annotate(&d, &mut rs, 3, true), "nothing to do twice");
        assert!(!annotate(&d, &mut rs, 2, true), "revisions never go back");
    }

    #[test]
    fn a_rollback_keeps_the_earlier_numbers() {
        let d = deployment();
        let mut rs = new_set(&d);
        annotate(&d, &mut rs, 1, false);
        annotate(&d, &mut rs, 3, true);
        annotate(&d, &mut rs, 5, true);
        let a = rs.metadata.annotations.expect("annotations");
        assert_eq!((a[REVISION].as_str(), a[HISTORY].as_str()), ("5", "1,3"));
    }

    #[test]
    fn the_history_of_numbers_stays_short() {
        let mut a = BTreeMap::from([(HISTORY.to_owned(), vec!["123456789"; 200].join(","))]);
        remember(&mut a, "77");
        assert!(a[HISTORY].len() <= HISTORY_LIMIT && a[HISTORY].ends_with(",77"), "{}", a[HISTORY].len());
    }
}
