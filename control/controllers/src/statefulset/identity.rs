//! The names of a StatefulSet's pods and what else makes each of them that one. Pure.

use crate::{history::POD_REVISION, meta, pods};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The number in the name of a pod of this set; `None` for the pod of another.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, number) = meta::name(&pod.metadata).rsplit_once('-')?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (digits && parent == meta::name(&set.metadata)).then(|| number.parse().ok())?
}

/// The name of the claim of a pod to the volume of a claim template.
pub(super) fn claim_name(set: &StatefulSet, template: &str, ordinal: i32) -> String {
    format!("{template}-{}-{ordinal}", meta::name(&set.metadata))
}

/// The volumes of the claim templates for a pod.
fn claims(set: &StatefulSet, ordinal: i32) -> Vec<Volume> {
    let templates = set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default();
    let volume = |name: &str| Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, name, ordinal),
            read_only: None,
        }),
        ..Volume::default()
    };
    templates.iter().map(|template| volume(meta::name(&template.metadata))).collect()
}

/// Whether name, labels and volumes are those of this pod of the set.
pub(super) fn matches(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let name = meta::name(&pod.metadata);
    let labelled = pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_NAME)).is_some_and(|l| l == name);
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let claim = |volume: &Volume| volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    let there = |wanted: &Volume| volumes.iter().any(|one| one.name == wanted.name && claim(one) == claim(wanted));
    name == pod_name(set, ordinal) && labelled && claims(set, ordinal).iter().all(there)
}

fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", meta::name(&set.metadata))
}

/// Gives a pod the labels and volumes of its number.
pub(super) fn assume(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let name = pod_name(set, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    pod.metadata.name = Some(name);
    let mut volumes = claims(set, ordinal);
    if !volumes.is_empty() {
        let spec = pod.spec.get_or_insert_default();
        let own = spec.volumes.take().unwrap_or_default();
        let others: Vec<_> = own.into_iter().filter(|one| volumes.iter().all(|claim| claim.name != one.name)).collect();
        volumes.extend(others);
        spec.volumes = Some(volumes);
    }
}

/// A new pod of the set.
pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let (namespace, name) = (meta::namespace(&set.metadata), meta::name(&set.metadata));
    let mut pod = pods::from_template(namespace, name, template, meta::controller_ref(set));
    assume(set, &mut pod, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_REVISION.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname.clone_from(&pod.metadata.name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    pod
}
