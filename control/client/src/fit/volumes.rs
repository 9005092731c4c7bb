//! Which PersistentVolume a claim gets, and which claims a pod has. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#binding>.

use super::affinity::Required;
use crate::{meta, pod};
use api::{quantity::Quantity, selector::Selector};
use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Volume},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::{api::resource::Quantity as Text, apis::meta::v1::ObjectMeta},
};
use std::{borrow::Cow, collections::BTreeMap};

/// The annotation that named the class before the field did, and takes precedence.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The annotation of the node that the scheduler chose for a claim that waits for its first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The annotation of a claim whose binding is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// The annotation of a binding that a component made, on the claim and on the volume.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The finalizer that a provisioned volume has until its data is gone, by the name that upstream's provisioners give it.
pub const PROVISIONER_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// The label of the volumes of a node, by which its agent watches them: as much of the node's name as a label can hold.
pub fn node_label(driver: &str, node: &str) -> (String, String) {
    const LONGEST: usize = 63;
    let name: String = node.chars().take(LONGEST).collect();
    (format!("{driver}/node"), name.trim_end_matches(['-', '.']).to_owned())
}

/// The reference of a volume to its claim.
pub fn claim_reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// The volume as it refers to the claim; `None` if it does. Only a reference that nobody had made is marked as a component's, so that a user's
/// reservation outlives the claim.
pub fn reserved(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let before = volume.spec.as_ref()?.claim_ref.as_ref();
    if before.is_some_and(|reference| reference.uid.as_deref() == Some(meta::uid(&claim.metadata))) {
        return None;
    }
    let mut reserved = volume.clone();
    if before.is_none() {
        let annotations = reserved.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    reserved.spec.get_or_insert_default().claim_ref = Some(claim_reference(claim));
    Some(reserved)
}

/// The name of the claim that a volume of a pod needs, and whether it is made for the pod (an ephemeral volume).
pub fn claim_of<'a>(pod: &Pod, volume: &'a Volume) -> Option<(Cow<'a, str>, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some((source.claim_name.as_str().into(), false));
    }
    volume.ephemeral.as_ref()?;
    Some((format!("{}-{}", pod::name(pod), volume.name).into(), true))
}

/// The names of a pod's claims, each with whether it is made for the pod.
pub fn claims(pod: &Pod) -> impl Iterator<Item = (Cow<'_, str>, bool)> {
    pod::spec(pod).volumes.iter().flatten().filter_map(|volume| claim_of(pod, volume))
}

/// The class of a claim; empty for none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    meta::annotation(&claim.metadata, CLASS).or(spec).unwrap_or_default()
}

/// The class of a volume; empty for none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    meta::annotation(&volume.metadata, CLASS).or(spec).unwrap_or_default()
}

/// Whether claims of the class wait for a pod.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// Whether the claim's binding is complete.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    !volume.is_empty() && meta::annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// Whether nodes other than this one cannot use the volume.
pub fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required.as_ref())
        .is_none_or(|selector| Required::from(selector).matches(node))
}

/// Whether `reference` is to this claim; one without uid is to any of the name.
pub fn refers_to(reference: &ObjectReference, claim: &ObjectMeta) -> bool {
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.name.as_deref().unwrap_or_default() == meta::name(claim)
        && reference.namespace.as_deref().unwrap_or_default() == meta::namespace(claim)
        && (uid.is_empty() || uid == meta::uid(claim))
}

/// The size in a resource list.
pub fn storage(list: Option<&BTreeMap<String, Text>>) -> Quantity {
    list.and_then(|list| list.get("storage")).and_then(|text| text.0.parse().ok()).unwrap_or_default()
}

/// The size that a claim requests.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

/// The size of a volume.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

/// Whether the volume has the mode and access modes that a claim wants, and its size.
pub fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else { return false };
    let mode = |mode: &Option<String>| mode.as_deref().unwrap_or("Filesystem").to_owned();
    let modes = has.access_modes.as_deref().unwrap_or_default();
    mode(&has.volume_mode) == mode(&wants.volume_mode)
        && wants.access_modes.iter().flatten().all(|wanted| modes.contains(wanted))
        && has.volume_attributes_class_name.as_deref().unwrap_or_default()
            == wants.volume_attributes_class_name.as_deref().unwrap_or_default()
        && capacity(volume) >= requested(claim)
}

/// The volume for an unbound claim: one that is reserved for it, or the smallest that fits. `node`: the node must reach it. `delayed`: the
/// claim waits for a pod, so that only a reserved volume is taken; with a node it does not wait.
pub fn find<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
    node: Option<&Node>,
    delayed: bool,
    taken: impl Fn(&PersistentVolume) -> bool,
) -> Option<&'a PersistentVolume> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.map(|s| Selector::from_label_selector(&serde_json::to_value(s).unwrap_or_default()));
    let selected = |volume: &PersistentVolume| match &selector {
        None => true,
        Some(Ok(selector)) => selector.matches(|key| volume.metadata.labels.as_ref()?.get(key).map(String::as_str)),
        Some(Err(_)) => false,
    };
    let mut best: Option<&PersistentVolume> = None;
    for volume in volumes {
        if meta::is_deleting(&volume.metadata) || !satisfies(volume, claim) || taken(volume) {
            continue;
        }
        let reaches = node.is_none_or(|node| reaches(volume, node));
        if let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
            if refers_to(reference, &claim.metadata) && reaches {
                return Some(volume);
            }
            continue;
        }
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let fits = phase == Some("Available") && class_of_volume(volume) == class_of_claim(claim) && selected(volume);
        if delayed || !reaches || !fits {
            continue;
        }
        let key = |volume: &PersistentVolume| (capacity(volume), meta::name(&volume.metadata).to_owned());
        if best.is_none_or(|best| key(volume) < key(best)) {
            best = Some(volume);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, more: Value) -> PersistentVolume {
        let mut spec = json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": size}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let labels = json!({"name": name, "labels": {"disk": name}});
        serde_json::from_value(json!({"metadata": labels, "spec": spec, "status": {"phase": "Available"}})).unwrap()
    }

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata = json!({"name": "c", "namespace": "ns", "uid": "u"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn the_smallest_volume_that_fits_is_taken_and_a_reserved_one_first() {
        let other = json!({"claimRef": {"name": "d", "namespace": "ns"}});
        let volumes = [
            volume("small", "1Gi", json!({})),
            volume("big", "9Gi", json!({})),
            volume("good", "3Gi", json!({})),
            volume("others", "2Gi", other),
            volume("block", "2Gi", json!({"volumeMode": "Block"})),
            volume("class", "2Gi", json!({"storageClassName": "s"})),
        ];
        let name = |claim: PersistentVolumeClaim, delayed| {
            find(&claim, &volumes, None, delayed, |_| false).map(|v| v.metadata.name.clone().unwrap())
        };
        assert_eq!(name(claim(json!({})), false).as_deref(), Some("good"));
        assert_eq!(name(claim(json!({})), true), None);
        assert_eq!(name(claim(json!({"storageClassName": "s"})), false).as_deref(), Some("class"));
        assert_eq!(name(claim(json!({"volumeMode": "Block"})), false).as_deref(), Some("block"));
        assert_eq!(name(claim(json!({"accessModes": ["ReadWriteMany"]})), false), None);
        let selected = json!({"selector": {"matchLabels": {"disk": "big"}}});
        assert_eq!(name(claim(selected), false).as_deref(), Some("big"));
        let mine = json!({"claimRef": {"name": "c", "namespace": "ns", "uid": "u"}, "storageClassName": "any"});
        let reserved = [volume("free", "3Gi", json!({})), volume("mine", "7Gi", mine)];
        let found = find(&claim(json!({})), &reserved, None, true, |_| false);
        assert_eq!(found.map(|v| meta::name(&v.metadata)), Some("mine"));
        let found = find(&claim(json!({})), &volumes, None, false, |v| meta::name(&v.metadata) == "good");
        assert_eq!(found.map(|v| meta::name(&v.metadata)), Some("big"));
    }

    #[test]
    fn a_node_must_reach_the_volume() {
        let on = |node: &str| {
            let term =
                json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]);
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": term}}})
        };
        let volumes = [volume("a", "2Gi", on("n1")), volume("b", "3Gi", on("n2"))];
        let node = |name: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}))
                .unwrap()
        };
        for (at, expected) in [("n1", Some("a")), ("n2", Some("b")), ("n3", None)] {
            let found = find(&claim(json!({})), &volumes, Some(&node(at)), false, |_| false);
            assert_eq!(found.map(|v| meta::name(&v.metadata)), expected);
        }
    }

    #[test]
    fn the_claims_of_a_pod_are_named() {
        let volumes = json!([{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "b", "emptyDir": {}},
            {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]);
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": volumes}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(claims(&pod).collect::<Vec<_>>(), [("c".into(), false), ("p-e".into(), true)]);
    }
}
