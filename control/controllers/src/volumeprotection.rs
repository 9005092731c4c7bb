//! Keeps claims that pods use, and volumes that claims use: their finalizer goes when nobody uses them any more.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection>.

use crate::{Context, meta};
use client::{Client, Controller, Informer, Key, Kind, ListOptions, Next, Wakeups, fit::volumes, pod};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// The index of pods by the claims that they use.
const BY_CLAIM: &str = "volumeprotection/pods";

/// What happens with the finalizer of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Keep,
    Add,
    Remove,
}

/// An object that is not being deleted has the finalizer; one that is being deleted loses it when it is not `used`.
fn plan(object: &ObjectMeta, finalizer: &str, used: bool) -> Change {
    match (meta::is_deleting(object), meta::has_finalizer(object, finalizer)) {
        (true, true) if !used => Change::Remove,
        (false, false) => Change::Add,
        _ => Change::Keep,
    }
}

fn changed(object: &mut ObjectMeta, finalizer: &str, change: Change) {
    let finalizers = object.finalizers.get_or_insert_default();
    match change {
        Change::Keep => {}
        Change::Add => finalizers.push(finalizer.to_owned()),
        Change::Remove => finalizers.retain(|one| one != finalizer),
    }
}

async fn apply<K: Kind>(client: &Client, object: &K, finalizer: &str, change: Change) -> anyhow::Result<Next> {
    if change != Change::Keep {
        let mut object = object.clone();
        changed(object.metadata_mut(), finalizer, change);
        match client.update(&object).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(Next::Done)
}

/// Whether the pod uses the claim: it is bound to a node, or may be at once, and has not ended.
fn uses(pod: &Pod, claim: &str) -> bool {
    !pod::node_name(pod).is_empty() && !pod::is_finished(pod) && volumes::claims(pod).any(|(name, _)| name == claim)
}

/// Keeps claims. Upstream's `persistentvolumeclaim-protection-controller`.
pub(crate) struct ClaimProtectionController {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

impl ClaimProtectionController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let pods = cx.informers.of::<Pod>();
        pods.index(BY_CLAIM, |pod| {
            let namespace = pod::namespace(pod).to_owned();
            volumes::claims(pod).map(|(name, _)| Key::new(namespace.clone(), name).to_string()).collect()
        });
        Self { client: cx.client.clone(), claims: cx.informers.of(), pods }
    }

    async fn is_used(&self, key: &Key) -> anyhow::Result<bool> {
        if self.pods.by_index(BY_CLAIM, &key.to_string()).iter().any(|pod| uses(pod, &key.name)) {
            return Ok(true);
        }
        // A live read before data may be lost: the cache may be behind.
        let pods = self.client.list::<Pod>(&key.namespace, &ListOptions::default()).await?;
        Ok(pods.items.iter().any(|pod| uses(pod, &key.name)))
    }
}

#[async_trait::async_trait]
impl Controller for ClaimProtectionController {
    const NAME: &'static str = "persistentvolumeclaim-protection-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.claims);
        wakeups.on(&self.pods, |delta| {
            let pod = delta.object();
            // Only its end can free a claim.
            if !matches!(delta, client::Delta::Deleted(_)) && !pod::is_finished(pod) {
                return Vec::new();
            }
            volumes::claims(pod).map(|(name, _)| Key::new(pod::namespace(pod), name)).collect()
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(claim) = self.claims.find(key) else { return Ok(Next::Done) };
        let used = meta::is_deleting(&claim.metadata) && self.is_used(key).await?;
        apply(&self.client, &*claim, CLAIM, plan(&claim.metadata, CLAIM, used)).await
    }
}

/// Keeps volumes. Upstream's `persistentvolume-protection-controller`.
pub(crate) struct VolumeProtectionController {
    client: Client,
    volumes: Informer<PersistentVolume>,
}

impl VolumeProtectionController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { client: cx.client.clone(), volumes: cx.informers.of() }
    }
}

#[async_trait::async_trait]
impl Controller for VolumeProtectionController {
    const NAME: &'static str = "persistentvolume-protection-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.volumes);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(volume) = self.volumes.find(key) else { return Ok(Next::Done) };
        let used = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        apply(&self.client, &*volume, VOLUME, plan(&volume.metadata, VOLUME, used)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_finalizer_is_there_until_the_object_is_deleted_and_not_used() {
        for (deleting, has, used, expected) in [
            (false, false, false, Change::Add),
            (false, true, false, Change::Keep),
            (true, true, true, Change::Keep),
            (true, true, false, Change::Remove),
            (true, false, false, Change::Keep),
        ] {
            let time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
            let mut object = ObjectMeta {
                finalizers: Some(if has { vec![CLAIM.to_owned(), "other".to_owned()] } else { Vec::new() }),
                deletion_timestamp: deleting.then_some(time),
                ..ObjectMeta::default()
            };
            let change = plan(&object, CLAIM, used);
            assert_eq!(change, expected, "{deleting} {has} {used}");
            changed(&mut object, CLAIM, change);
            let left = has && expected != Change::Remove || expected == Change::Add;
            assert_eq!(meta::has_finalizer(&object, CLAIM), left);
        }
    }

    #[test]
    fn only_pods_on_nodes_that_have_not_ended_use_a_claim() {
        let pod = |node: &str, phase: &str| -> Pod {
            let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
            let spec = json!({"containers": [], "nodeName": node, "volumes": volumes});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": phase}}))
                .unwrap()
        };
        assert!(uses(&pod("n", "Running"), "c") && uses(&pod("n", "Pending"), "c"));
        assert!(!uses(&pod("", "Pending"), "c") && !uses(&pod("n", "Failed"), "c") && !uses(&pod("n", "Running"), "d"));
    }
}
