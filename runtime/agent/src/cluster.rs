//! The objects that the agent reads from the API. Like upstream's kubelet, it reads its own Node and pods, the objects that these pods
//! reference, all Services (for environment variables) and all RuntimeClasses. It uses informers, and reads from the API where an informer
//! may be stale.

use crate::{
    config::{Configs, References, references},
    pod,
    referenced::ReferencedObjects,
    volumes::local_selector,
};
use client::{
    Client, Informer, Informers, Target,
    fit::volumes::{claim_of, is_bound},
    meta,
};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Service},
    node::v1::RuntimeClass,
};
use std::collections::BTreeMap;

/// The agent's view of the API.
pub(crate) struct Cluster {
    /// For writes, and for reads that must be fresh.
    pub client: Client,
    /// The pods that are bound to the node.
    pub pods: Informer<Pod>,
    /// The ConfigMaps and Secrets that these pods reference.
    pub(crate) referenced: ReferencedObjects,
    /// All Services.
    pub services: Informer<Service>,
    /// All RuntimeClasses.
    pub classes: Informer<RuntimeClass>,
    /// The node's own Node.
    pub nodes: Informer<Node>,
    /// The volumes that are folders of the node.
    pub volumes: Informer<PersistentVolume>,
}

impl Cluster {
    /// `informers` must have the node's identity.
    pub(crate) fn new(client: Client, informers: Informers, node: &str) -> Self {
        Self {
            pods: informers.over(Target::of::<Pod>().fields(format!("spec.nodeName={node}"))),
            services: informers.of(),
            classes: informers.of(),
            nodes: informers.over(Target::of::<Node>().named("", node)),
            volumes: informers.over(Target::of::<PersistentVolume>().labels(local_selector(node))),
            referenced: ReferencedObjects::new(client.clone(), informers),
            client,
        }
    }

    /// Waits for the first lists.
    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.services.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
    }

    /// Reads the ConfigMaps, Secrets and Services that a pod references.
    pub(crate) async fn configs(&self, pod: &Pod) -> client::Result<Configs> {
        let References { config_maps, secrets } = references(pod);
        let namespace = pod::namespace(pod);
        let mut out = Configs::default();
        for name in config_maps {
            let found = self.referenced.config_map(namespace, &name).await?;
            out.config_maps.insert(name, found);
        }
        for name in secrets {
            let found = self.referenced.secret(namespace, &name).await?;
            out.secrets.insert(name, found);
        }
        if namespace != "default" {
            out.services.extend(self.services.get("default", "kubernetes"));
        }
        out.services.extend(self.services.list_in(namespace));
        Ok(out)
    }

    /// Reads the PersistentVolumes of a pod's claims, by the name of the pod's volume. The error is the message of the event `FailedMount`;
    /// the texts are upstream's.
    pub(crate) async fn persistent(&self, pod: &Pod) -> Result<BTreeMap<String, PersistentVolume>, String> {
        let mut out = BTreeMap::new();
        for volume in pod::spec(pod).volumes.iter().flatten() {
            let Some((name, ephemeral)) = claim_of(pod, volume) else { continue };
            let found = self.volume_of(pod, &name, ephemeral).await;
            let found = found.map_err(|why| {
                let namespace = pod::namespace(pod);
                format!("error processing PVC {namespace}/{name}: {why}")
            })?;
            out.insert(volume.name.clone(), found);
        }
        Ok(out)
    }

    async fn volume_of(&self, pod: &Pod, claim: &str, ephemeral: bool) -> Result<PersistentVolume, String> {
        let failed = |error: client::Error| format!("failed to fetch it from the API server: {error}");
        let found = self.client.find::<PersistentVolumeClaim>(pod::namespace(pod), claim).await.map_err(failed)?;
        let claim = found.ok_or_else(|| format!("persistentvolumeclaim {claim:?} not found"))?;
        if ephemeral && !meta::is_controlled_by(&claim.metadata, pod::uid(pod)) {
            return Err("PVC was not created for the pod (pod is not owner)".to_owned());
        }
        let spec = claim.spec.as_ref();
        let name = spec.and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
        let name = name.filter(|_| is_bound(&claim)).ok_or("PVC is not bound")?;
        let found = self.client.find::<PersistentVolume>("", name).await.map_err(failed)?;
        let volume = found.ok_or_else(|| format!("persistentvolume {name:?} not found"))?;
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if reference.is_none_or(|reference| reference.uid.as_deref() != Some(meta::uid(&claim.metadata))) {
            return Err(format!("PV {name} is bound to another claim"));
        }
        if spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block") {
            return Err("a Wasm guest has no block devices: volumeMode Block cannot be used".to_owned());
        }
        Ok(volume)
    }
}
