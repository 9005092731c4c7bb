//! The claims of a StatefulSet's pods, and who owns them: by the retention policy, the set, a pod that is too many, or nobody. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#persistentvolumeclaim-retention>.

use super::identity::claim_name;
use crate::meta;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

/// The names of the claims of a pod.
pub(super) fn names(set: &StatefulSet, ordinal: i32) -> Vec<String> {
    templates(set).iter().map(|one| claim_name(set, meta::name(&one.metadata), ordinal)).collect()
}

/// The claims of a pod, as they are made.
pub(super) fn wanted(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selected = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let claim = |template: &PersistentVolumeClaim| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(selected.clone());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(set, meta::name(&template.metadata), ordinal)),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    templates(set).iter().map(claim).collect()
}

/// Whether claims go with the set, and with a pod that is too many.
fn deletes(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let delete = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    (
        delete(policy.and_then(|policy| policy.when_deleted.as_ref())),
        delete(policy.and_then(|policy| policy.when_scaled.as_ref())),
    )
}

fn is_of(owner: &OwnerReference, kind: &str, object: &ObjectMeta) -> bool {
    let version = if kind == "Pod" { "v1" } else { "apps/v1" };
    owner.kind == kind && owner.api_version == version && owner.name == meta::name(object)
}

/// Whether the claim belongs to an earlier pod of this name: it is about to be deleted, and no new pod may use it.
pub(super) fn is_stale(set: &StatefulSet, claim: &PersistentVolumeClaim, pod: &ObjectMeta) -> bool {
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let of_pod = owners.iter().find(|owner| is_of(owner, "Pod", pod));
    deletes(set).1 && of_pod.is_some_and(|owner| owner.uid != meta::uid(pod))
}

/// Who owns the claim by the policy; `None` when it is so. `extra`: the pod is too many.
pub(super) fn owners(
    set: &StatefulSet,
    pod: &Pod,
    extra: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let now = claim.metadata.owner_references.clone().unwrap_or_default();
    let ours =
        |owner: &OwnerReference| is_of(owner, "StatefulSet", &set.metadata) || is_of(owner, "Pod", &pod.metadata);
    let (of_set, of_pod) = (meta::uid(&set.metadata), meta::uid(&pod.metadata));
    // Those of another set or pod with the name: the garbage collector's work.
    if now.iter().any(|owner| ours(owner) && owner.uid != of_set && owner.uid != of_pod) {
        return None;
    }
    let (deleted, scaled) = deletes(set);
    let other = (deleted || scaled) && now.iter().any(|owner| !ours(owner) && owner.controller == Some(true));
    let mut wanted: Vec<_> = now.iter().filter(|owner| !ours(owner)).cloned().collect();
    if !other {
        if scaled && extra {
            wanted.push(meta::controller_ref(pod));
        } else if deleted {
            wanted.push(meta::controller_ref(set));
        }
    }
    let essence = |owners: &[OwnerReference]| {
        let mut all: Vec<_> = owners.iter().map(|owner| (owner.uid.clone(), owner.controller == Some(true))).collect();
        all.sort();
        all
    };
    (essence(&now) != essence(&wanted)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(policy: Value) -> StatefulSet {
        let template =
            json!({"metadata": {"name": "data", "labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "ns", "uid": "s"}, "spec": {
            "selector": {"matchLabels": {"app": "db"}}, "volumeClaimTemplates": [template], "template": {},
            "persistentVolumeClaimRetentionPolicy": policy}}))
        .unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "db-1", "namespace": "ns", "uid": "p"}})).unwrap()
    }

    fn claim(owners: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data-db-1", "ownerReferences": owners}})).unwrap()
    }

    fn owner(version: &str, kind: &str, name: &str, uid: &str, controller: bool) -> Value {
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controller})
    }

    #[test]
    fn each_pod_has_claims_of_its_own() {
        let made = wanted(&set(json!(null)), 1);
        assert_eq!(names(&set(json!(null)), 1), ["data-db-1"]);
        assert_eq!(meta::name(&made[0].metadata), "data-db-1");
        let labels = made[0].metadata.labels.clone().unwrap();
        assert_eq!(labels.into_iter().collect::<Vec<_>>(), [("a".into(), "b".into()), ("app".into(), "db".into())]);
    }

    #[test]
    fn the_policy_says_who_owns_a_claim() {
        let (of_set, of_pod) =
            (owner("apps/v1", "StatefulSet", "db", "s", true), owner("v1", "Pod", "db-1", "p", true));
        for (deleted, scaled, extra, now, expected) in [
            ("Retain", "Retain", false, json!([]), None),
            ("Retain", "Retain", false, json!([of_set]), Some(vec![])),
            ("Delete", "Retain", false, json!([]), Some(vec!["s"])),
            ("Delete", "Retain", true, json!([of_set]), None),
            ("Retain", "Delete", false, json!([]), None),
            ("Retain", "Delete", true, json!([]), Some(vec!["p"])),
            ("Retain", "Delete", false, json!([of_pod]), Some(vec![])),
            ("Delete", "Delete", true, json!([of_set]), Some(vec!["p"])),
            ("Delete", "Delete", false, json!([of_pod]), Some(vec!["s"])),
            ("Delete", "Delete", false, json!([owner("apps/v1", "StatefulSet", "db", "s", false)]), Some(vec!["s"])),
            ("Delete", "Delete", false, json!([owner("apps/v1", "StatefulSet", "db", "old", true)]), None),
            ("Delete", "Delete", false, json!([owner("x/v1", "Other", "o", "o", true)]), None),
            ("Delete", "Delete", false, json!([owner("x/v1", "Other", "o", "o", true), of_set]), Some(vec!["o"])),
        ] {
            let set = set(json!({"whenDeleted": deleted, "whenScaled": scaled}));
            let changed = owners(&set, &pod(), extra, &claim(now.clone()));
            let uids = changed.map(|owners| owners.into_iter().map(|owner| owner.uid).collect::<Vec<_>>());
            let expected = expected.map(|uids| uids.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(uids, expected, "{deleted} {scaled} {extra} {now}");
        }
    }

    #[test]
    fn a_claim_of_an_earlier_pod_is_not_used() {
        let scaled = set(json!({"whenScaled": "Delete"}));
        let of = |uid: &str| claim(json!([owner("v1", "Pod", "db-1", uid, true)]));
        assert!(is_stale(&scaled, &of("old"), &pod().metadata) && !is_stale(&scaled, &of("p"), &pod().metadata));
        assert!(!is_stale(&set(json!(null)), &of("old"), &pod().metadata));
    }
}
