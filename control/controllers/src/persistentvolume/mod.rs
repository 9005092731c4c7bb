//! Binds claims to volumes, makes volumes for claims on nodes, and releases volumes.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/persistent-volumes/> and
//! <https://kubernetes.io/docs/concepts/storage/dynamic-provisioning/>. Volumes of other provisioners are made by these; here they are bound.

mod plan;
mod provision;
#[cfg(test)]
mod tests;

use self::{
    plan::{Around, ClaimStep, Told, VolumeStep},
    provision::Refused,
};
use crate::{Context, meta};
use client::{
    Client, Controller, EventType, Informer, Key, Next, Recorder, Wakeups,
    fit::volumes::{BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, class_of_claim, class_of_volume, reserved},
    reference,
};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus},
    storage::v1::StorageClass,
};
use std::sync::Arc;

/// The index of claims without a volume, by class.
const UNBOUND: &str = "persistentvolume/unbound";
/// The index of volumes, by class if they are free, else by claim.
const CANDIDATES: &str = "persistentvolume/candidates";
/// Who makes the volume of a claim, for provisioners outside.
const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

/// Binds claims and volumes. Upstream's `persistentvolume-binder-controller`. A key without a namespace is that of a volume.
pub(crate) struct BinderController {
    client: Client,
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    nodes: Informer<Node>,
    /// The provisioner of volumes on nodes.
    local: Option<String>,
}

impl BinderController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (claims, volumes) = (cx.informers.of(), cx.informers.of());
        claims.index(UNBOUND, |claim: &PersistentVolumeClaim| match is_unbound(claim) {
            true => vec![class_of_claim(claim).to_owned()],
            false => Vec::new(),
        });
        volumes.index(CANDIDATES, |volume| {
            vec![claim_of(volume).map_or_else(|| free(class_of_volume(volume)), |key| key.to_string())]
        });
        Self {
            client: cx.client.clone(),
            recorder: cx.recorder("persistentvolume-controller"),
            claims,
            volumes,
            classes: cx.informers.of(),
            nodes: cx.informers.of(),
            local: cx.options.local_volumes.clone(),
        }
    }

    async fn claim(&self, claim: &Arc<PersistentVolumeClaim>) -> anyhow::Result<()> {
        let class = self.classes.get("", class_of_claim(claim));
        let default = self.default_class();
        let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let mut candidates = self.volumes.by_index(CANDIDATES, &Key::of(&**claim).to_string());
        candidates.extend(self.volumes.by_index(CANDIDATES, &free(class_of_claim(claim))));
        let around = Around {
            named: self.volumes.get("", named),
            candidates,
            class: class.as_deref(),
            default_class: default.as_deref(),
        };
        match plan::claim(claim, &around) {
            ClaimStep::Bind(volume) => self.bind(claim, &volume).await,
            ClaimStep::Class(name) => {
                let mut claim = (**claim).clone();
                claim.spec.get_or_insert_default().storage_class_name = Some(name);
                self.client.update(&claim).await?;
                Ok(())
            }
            ClaimStep::Phase(phase, told) => {
                told.iter().for_each(|told| self.tell(&**claim, told));
                self.claim_status(claim, phase, |_| {}).await
            }
            ClaimStep::Provision => match class {
                Some(class) => self.provision(claim, &class).await,
                None => Ok(()),
            },
        }
    }

    /// The name of the newest default class.
    fn default_class(&self) -> Option<String> {
        const NAME: &str = "storageclass.kubernetes.io/is-default-class";
        let classes = self.classes.list();
        let default = classes.iter().filter(|class| meta::annotation(&class.metadata, NAME) == Some("true"));
        let newest = default
            .max_by_key(|class| (meta::created(&class.metadata), std::cmp::Reverse(meta::name(&class.metadata))));
        newest.and_then(|class| class.metadata.name.clone())
    }

    /// Makes both refer to each other, first the volume.
    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> anyhow::Result<()> {
        let mut volume = volume.clone();
        if let Some(bound) = reserved(&volume, claim) {
            volume = self.client.update(&bound).await?;
        }
        self.volume_status(&volume, "Bound", "").await?;
        let mut claim = claim.clone();
        if let Some(bound) = bound_claim(&claim, &volume) {
            claim = self.client.update(&bound).await?;
        }
        let spec = volume.spec.unwrap_or_default();
        self.claim_status(&claim, "Bound", |status| {
            status.access_modes = spec.access_modes;
            // Later the capacity is the expander's.
            status.capacity = status.capacity.take().or(spec.capacity);
        })
        .await
    }

    async fn claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        change: impl FnOnce(&mut PersistentVolumeClaimStatus),
    ) -> anyhow::Result<()> {
        let mut changed = claim.clone();
        let status = changed.status.get_or_insert_default();
        if status.phase.as_deref() == Some(phase) && phase != "Bound" {
            return Ok(());
        }
        status.phase = Some(phase.to_owned());
        change(status);
        if changed.status != claim.status {
            crate::status::write(&self.client, &changed).await?;
        }
        Ok(())
    }

    async fn volume_status(&self, volume: &PersistentVolume, phase: &str, message: &str) -> anyhow::Result<()> {
        let mut changed = volume.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = Some(message.to_owned()).filter(|message| !message.is_empty());
        if changed.status != volume.status {
            crate::status::write(&self.client, &changed).await?;
        }
        Ok(())
    }

    async fn provision(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> anyhow::Result<()> {
        if self.local.as_deref() != Some(class.provisioner.as_str()) {
            return self.wait_for_provisioner(claim, &class.provisioner).await;
        }
        let failed = |why: &str| {
            let class = meta::name(&class.metadata);
            Told {
                kind: EventType::Warning,
                reason: "ProvisioningFailed",
                message: format!("failed to provision volume with StorageClass {class:?}: {why}"),
            }
        };
        match provision::local(claim, class, &self.nodes.list(), &class.provisioner) {
            Ok(volume) => {
                match self.client.create(&volume).await {
                    Err(error) if !error.is_already_exists() => {
                        self.tell(claim, &failed(&error.to_string()));
                        return Err(error.into());
                    }
                    _ => {}
                }
                let message = format!("Successfully provisioned volume {}", provision::name(claim));
                self.tell(claim, &Told { kind: EventType::Normal, reason: "ProvisioningSucceeded", message });
                Ok(())
            }
            Err(Refused::Claim(why)) => {
                self.tell(claim, &failed(&why));
                self.claim_status(claim, "Pending", |_| {}).await
            }
            Err(Refused::Node(why)) => {
                self.tell(claim, &failed(&why));
                let mut claim = claim.clone();
                claim.metadata.annotations.iter_mut().for_each(|all| drop(all.remove(SELECTED_NODE)));
                self.client.update(&claim).await?;
                Ok(())
            }
        }
    }

    /// Somebody else makes the volume.
    async fn wait_for_provisioner(&self, claim: &PersistentVolumeClaim, provisioner: &str) -> anyhow::Result<()> {
        let mut changed = claim.clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        for name in PROVISIONER {
            annotations.insert(name.to_owned(), provisioner.to_owned());
        }
        if changed != *claim {
            self.client.update(&changed).await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.tell(claim, &Told { kind: EventType::Normal, reason: "ExternalProvisioning", message });
        self.claim_status(claim, "Pending", |_| {}).await
    }

    async fn volume(&self, volume: &Arc<PersistentVolume>) -> anyhow::Result<()> {
        let key = claim_of(volume);
        let mut claim = key.as_ref().and_then(|key| self.claims.find(key));
        if let (Some(key), None) = (&key, &claim) {
            // A live read before a volume is released, which may delete data.
            claim = self.client.find::<PersistentVolumeClaim>(&key.namespace, &key.name).await?.map(Arc::new);
        }
        match plan::volume(volume, claim.as_deref()) {
            VolumeStep::Wait => Ok(()),
            VolumeStep::Phase(phase, message) => self.volume_status(volume, phase, message).await,
            VolumeStep::Release => {
                let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
                if phase == Some("Failed") {
                    return Ok(());
                }
                match plan::unreclaimable(volume) {
                    None => self.volume_status(volume, "Released", "").await,
                    Some(told) => {
                        self.tell(&**volume, &told);
                        self.volume_status(volume, "Failed", &told.message).await
                    }
                }
            }
            VolumeStep::Unbind => {
                let unbound = self.client.update(&unbound(volume)).await?;
                self.volume_status(&unbound, "Available", "").await
            }
        }
    }

    fn tell<K: client::Kind>(&self, object: &K, told: &Told) {
        self.recorder.event(&reference(object), told.kind, told.reason, &*told.message);
    }
}

/// Whether a claim names no volume.
fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_none_or(str::is_empty)
}

/// The claim that a volume refers to.
fn claim_of(volume: &PersistentVolume) -> Option<Key> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(claim.namespace.clone()?, claim.name.clone()?))
}

/// The index value of free volumes of a class. No key of a claim begins so.
fn free(class: &str) -> String {
    format!("/{class}")
}

/// The claim as it names its volume; `None` if it does.
fn bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let mut bound = claim.clone();
    let annotations = bound.metadata.annotations.get_or_insert_default();
    annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    let spec = bound.spec.get_or_insert_default();
    if spec.volume_name.as_deref().is_none_or(str::is_empty) {
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    spec.volume_name = volume.metadata.name.clone();
    (bound != *claim).then_some(bound)
}

/// The volume without the claim that was bound here. One that a user reserved stays reserved.
fn unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut free = volume.clone();
    let annotations = free.metadata.annotations.get_or_insert_default();
    let ours = annotations.remove(BOUND_BY_CONTROLLER).is_some();
    let spec = free.spec.get_or_insert_default();
    match &mut spec.claim_ref {
        Some(claim) if !ours => claim.uid = None,
        claim => *claim = None,
    }
    free
}

#[async_trait::async_trait]
impl Controller for BinderController {
    const NAME: &'static str = "persistentvolume-binder-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on(&self.claims, |delta| {
            let mut keys = vec![Key::of(&**delta.object())];
            let volume = |claim: &PersistentVolumeClaim| claim.spec.as_ref()?.volume_name.clone();
            keys.extend(volume(delta.object()).map(|name| Key::new("", name)));
            keys.extend(delta.old().and_then(|old| volume(old)).map(|name| Key::new("", name)));
            keys
        });
        let (claims, volumes) = (self.claims.clone(), self.volumes.clone());
        wakeups.on(&self.claims, move |delta| {
            // Volumes that are reserved for it.
            let reserved = volumes.by_index(CANDIDATES, &Key::of(&**delta.object()).to_string());
            reserved.iter().map(|volume| Key::of(&**volume)).collect()
        });
        wakeups.on(&self.volumes, move |delta| {
            let volume = delta.object();
            let mut keys = vec![Key::of(&**volume)];
            match claim_of(volume) {
                Some(claim) => keys.push(claim),
                None => {
                    let waiting = claims.by_index(UNBOUND, class_of_volume(volume));
                    keys.extend(waiting.iter().map(|claim| Key::of(&**claim)));
                }
            }
            keys.extend(delta.old().and_then(|old| claim_of(old)));
            keys
        });
        let claims = self.claims.clone();
        wakeups.on(&self.classes, move |delta| {
            let waiting = claims.by_index(UNBOUND, meta::name(&delta.object().metadata)).into_iter();
            let waiting = waiting.chain(claims.by_index(UNBOUND, ""));
            waiting.map(|claim| Key::of(&*claim)).collect()
        });
        let claims = self.claims.clone();
        wakeups.on(&self.nodes, move |delta| {
            // A claim may wait for a node that is ready.
            let ready = |node: &Node| provision::takes_pods(node);
            if !ready(delta.object()) || delta.old().is_some_and(|old| ready(old)) {
                return Vec::new();
            }
            claims.list().iter().filter(|claim| is_unbound(claim)).map(|claim| Key::of(&**claim)).collect()
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        if key.namespace.is_empty() {
            if let Some(volume) = self.volumes.find(key) {
                self.volume(&volume).await?;
            }
        } else if let Some(claim) = self.claims.find(key) {
            self.claim(&claim).await?;
        }
        Ok(Next::Done)
    }
}
