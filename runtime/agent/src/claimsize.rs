//! The size of volumes that are folders of the node: a claim may not use more than its capacity, as an emptyDir not more than its sizeLimit.
//! Pods that use a claim beyond it are evicted; its data stays.

use crate::{
    pod,
    shared::Shared,
    volumes::{blocking, local_folder, local_handle, tree},
};
use client::fit::volumes::{capacity, claims};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// The shortest time between two measurements of a folder.
pub(crate) const MEASURE_PAUSE: Duration = Duration::from_secs(5);

/// The last measurement of each volume, by name: what it uses, in bytes, and when it may be measured again.
pub(crate) type Sizes = HashMap<String, (u64, Instant)>;

/// The volumes of a pod's claims.
fn of_pod<'a>(pod: &Pod, volumes: &'a [Arc<PersistentVolume>]) -> Vec<(String, &'a Arc<PersistentVolume>)> {
    let named = |name: &str| {
        volumes.iter().find(|volume| {
            let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            claim.is_some_and(|claim| {
                claim.name.as_deref() == Some(name) && claim.namespace.as_deref() == Some(pod::namespace(pod))
            })
        })
    };
    claims(pod).filter_map(|(name, _)| Some((name.to_string(), named(&name)?))).collect()
}

/// Why a pod is evicted, if a volume of it uses more than it has.
fn exceeded(claim: &str, volume: &PersistentVolume, used: u64) -> Option<String> {
    let has = capacity(volume);
    let bytes = u64::try_from(has.value()).ok().filter(|bytes| *bytes > 0)?;
    (used > bytes)
        .then(|| format!("Usage of PersistentVolumeClaim {claim:?} exceeds its capacity {:?}. ", has.to_string()))
}

/// The pods whose volumes use more than they have, each with the message of its eviction.
pub(crate) async fn exceeding(shared: &Shared, pods: &[Arc<Pod>], sizes: &mut Sizes) -> Vec<(Arc<Pod>, String)> {
    let volumes = shared.cluster.volumes.list();
    sizes.retain(|name, _| volumes.iter().any(|volume| volume.metadata.name.as_ref() == Some(name)));
    let mut found = Vec::new();
    for pod in pods {
        for (claim, volume) in of_pod(pod, &volumes) {
            let Some(used) = used(shared, volume, sizes).await else { continue };
            if let Some(message) = exceeded(&claim, volume, used) {
                found.push((pod.clone(), message));
                break;
            }
        }
    }
    found
}

async fn used(shared: &Shared, volume: &PersistentVolume, sizes: &mut Sizes) -> Option<u64> {
    let (name, begin) = (volume.metadata.name.clone()?, Instant::now());
    if let Some((used, _)) = sizes.get(&name).filter(|(_, due)| begin < *due) {
        return Some(*used);
    }
    let folder = local_folder(&shared.persistent_dir(), local_handle(volume)?)?;
    match blocking(move || tree::usage(&folder)).await {
        Ok(size) => {
            sizes.insert(name, (size.bytes, begin + MEASURE_PAUSE + begin.elapsed() * 50));
            Some(size.bytes)
        }
        Err(error) => {
            tracing::warn!(volume = name, %error, "cannot measure what the volume takes of the disk");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(name: &str, claim: &str, size: &str) -> Arc<PersistentVolume> {
        let spec = json!({"claimRef": {"namespace": "ns", "name": claim}, "capacity": {"storage": size}});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a volume"))
    }

    #[test]
    fn a_claim_has_its_capacity() {
        let volumes = [volume("v1", "a", "1Mi"), volume("v2", "p-e", "2Mi"), volume("v3", "other", "3Mi")];
        let pod = |namespace: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": namespace}, "spec": {"containers": [], "volumes": [
                {"name": "x", "persistentVolumeClaim": {"claimName": "a"}}, {"name": "e", "ephemeral": {}}, {"name": "y", "emptyDir": {}}]}}))
            .expect("a pod")
        };
        let names: Vec<_> = of_pod(&pod("ns"), &volumes).into_iter().map(|(claim, _)| claim).collect();
        assert_eq!(names, ["a", "p-e"]);
        assert!(of_pod(&pod("elsewhere"), &volumes).is_empty());
        assert_eq!(exceeded("a", &volumes[0], 1 << 20), None);
        let text = exceeded("a", &volumes[0], (1 << 20) + 1);
        assert_eq!(text.as_deref(), Some("Usage of PersistentVolumeClaim \"a\" exceeds its capacity \"1Mi\". "));
        assert_eq!(exceeded("a", &volume("v", "a", "0"), 7), None);
    }
}
