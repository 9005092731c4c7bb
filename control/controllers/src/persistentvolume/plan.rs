//! What has to happen with a claim or a volume. Pure.

use crate::meta;
use client::{
    EventType,
    fit::volumes::{
        BIND_COMPLETED, SELECTED_NODE, class_of_claim, class_of_volume, find, is_bound, refers_to, satisfies,
        waits_for_consumer,
    },
};
use k8s_openapi::api::{
    core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use std::sync::Arc;

/// The annotation of a volume that was made for a claim: by whom.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// An event about the claim or volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) kind: EventType,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Told {
    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind: EventType::Warning, reason, message: message.into() }
    }

    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind: EventType::Normal, reason, message: message.into() }
    }
}

/// What happens with a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClaimStep {
    /// It is bound to this volume, or made so.
    Bind(Arc<PersistentVolume>),
    /// A volume is made for it.
    Provision,
    /// It gets the default class.
    Class(String),
    /// It has this phase, and an event says why.
    Phase(&'static str, Option<Told>),
}

/// The cluster as a claim needs it.
pub(super) struct Around<'a> {
    /// The volume of `spec.volumeName`.
    pub(super) named: Option<Arc<PersistentVolume>>,
    /// Volumes of the claim's class, and those that are reserved for it.
    pub(super) candidates: Vec<Arc<PersistentVolume>>,
    /// The claim's class.
    pub(super) class: Option<&'a StorageClass>,
    /// The name of the default class.
    pub(super) default_class: Option<&'a str>,
}

/// What happens with a claim.
pub(super) fn claim(claim: &PersistentVolumeClaim, around: &Around<'_>) -> ClaimStep {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if is_bound(claim) || meta::annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return bound(claim, named, around);
    }
    if named.is_empty() { unbound(claim, around) } else { wants(claim, named, around) }
}

/// A claim whose binding was complete.
fn bound(claim: &PersistentVolumeClaim, named: &str, around: &Around<'_>) -> ClaimStep {
    let lost = |reason, text: &str| ClaimStep::Phase("Lost", Some(Told::warning(reason, text)));
    if named.is_empty() {
        return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = &around.named else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match reference(volume) {
        Some(other) if other.uid.as_deref() != Some(meta::uid(&claim.metadata)) => {
            lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
        }
        _ => ClaimStep::Bind(volume.clone()),
    }
}

/// A claim that names its volume.
fn wants(claim: &PersistentVolumeClaim, named: &str, around: &Around<'_>) -> ClaimStep {
    let Some(volume) = &around.named else { return ClaimStep::Phase("Pending", None) };
    let refused = |text: String| ClaimStep::Phase("Pending", Some(Told::warning("VolumeMismatch", text)));
    let others = |reason| {
        let text = format!("volume {named:?} already bound to a different claim.");
        ClaimStep::Phase("Pending", Some(Told::warning(reason, text)))
    };
    match reference(volume) {
        Some(other) if !refers_to(other, &claim.metadata) => others("FailedBinding"),
        None if !satisfies(volume, claim) => {
            refused(format!("Cannot bind to requested volume {named:?}: {}", mismatch(volume, claim)))
        }
        None if class_of_volume(volume) != class_of_claim(claim) => {
            refused(format!("Cannot bind to requested volume {named:?}: storageClassName does not match"))
        }
        _ => ClaimStep::Bind(volume.clone()),
    }
}

fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> &'static str {
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", |mode| mode.as_str()).to_owned();
    let (has, wanted) = (volume.spec.as_ref(), claim.spec.as_ref());
    if client::fit::volumes::requested(claim) > client::fit::volumes::capacity(volume) {
        "requested PV is too small"
    } else if mode(has.and_then(|s| s.volume_mode.as_ref())) != mode(wanted.and_then(|s| s.volume_mode.as_ref())) {
        "incompatible volumeMode"
    } else {
        "incompatible accessMode"
    }
}

/// A claim without a volume.
fn unbound(claim: &PersistentVolumeClaim, around: &Around<'_>) -> ClaimStep {
    let pending = |told: Told| ClaimStep::Phase("Pending", Some(told));
    let class = class_of_claim(claim);
    let selected = meta::annotation(&claim.metadata, SELECTED_NODE).is_some();
    let delayed = around.class.is_some_and(waits_for_consumer) && !selected;
    let candidates = around.candidates.iter().map(|volume| &**volume);
    if let Some(found) = find(claim, candidates, None, delayed, |_| false) {
        let name = meta::name(&found.metadata);
        let found = around.candidates.iter().find(|volume| meta::name(&volume.metadata) == name);
        return found.map_or(ClaimStep::Phase("Pending", None), |volume| ClaimStep::Bind(volume.clone()));
    }
    let none = claim.spec.as_ref().is_none_or(|spec| spec.storage_class_name.is_none()) && class.is_empty();
    if none && let Some(default) = around.default_class {
        return ClaimStep::Class(default.to_owned());
    }
    if delayed {
        let text = "waiting for first consumer to be created before binding";
        return pending(Told::normal("WaitForFirstConsumer", text));
    }
    match around.class {
        _ if class.is_empty() => {
            let text = "no persistent volumes available for this claim and no storage class is set";
            pending(Told::normal("FailedBinding", text))
        }
        None => {
            let text = format!("storageclass.storage.k8s.io {class:?} not found");
            pending(Told::warning("ProvisioningFailed", text))
        }
        Some(_) => ClaimStep::Provision,
    }
}

fn reference(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// What happens with a volume.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum VolumeStep {
    /// It has this phase and message.
    Phase(&'static str, &'static str),
    /// It is released, and what its policy says happens.
    Release,
    /// It is free again: its claim took another volume.
    Unbind,
    /// It waits for its claim to be bound.
    Wait,
}

/// What happens with a volume. `claim`: the one that it refers to by name.
pub(super) fn volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    let Some(reference) = reference(volume) else { return VolumeStep::Phase("Available", "") };
    if reference.uid.as_deref().unwrap_or_default().is_empty() {
        return VolumeStep::Phase("Available", "");
    }
    let Some(claim) = claim.filter(|claim| refers_to(reference, &claim.metadata)) else { return VolumeStep::Release };
    match claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default() {
        "" => VolumeStep::Wait,
        name if name == meta::name(&volume.metadata) => VolumeStep::Phase("Bound", ""),
        _ if meta::annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" => {
            VolumeStep::Release
        }
        _ => VolumeStep::Unbind,
    }
}

/// What happens with a volume when its claim is gone.
pub(super) fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// Why a released volume cannot be reclaimed as its policy wants: no controller and no driver does it.
pub(super) fn unreclaimable(volume: &PersistentVolume) -> Option<Told> {
    let name = meta::name(&volume.metadata);
    let driven = volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some());
    match policy(volume) {
        "Delete" if !driven => {
            let text = format!("error getting deleter volume plugin for volume {name:?}: no volume plugin matched");
            Some(Told::warning("VolumeFailedDelete", text))
        }
        "Recycle" => Some(Told::warning("VolumeFailedRecycle", "No recycler plugin found for the volume!")),
        _ => None,
    }
}
