//! Adoption and release: which owner controls an object that matches its selector. [`claim`] decides, purely; [`Claims`] acts.
//!
//! Follows "Non-Template Pod acquisitions" of <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>; upstream's
//! `ControllerRefManager`.

use crate::{
    labels::{self, Labels, Selects},
    meta,
};
use api::selector::Selector;
use client::{Client, Delta, Error, Informer, Key, Kind, Patch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::Value;
use std::sync::Arc;

/// What an owner does about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The owner controls it and it matches.
    Keep,
    /// It matches and has no controller: become its controller.
    Adopt,
    /// The owner controls it but it matches no longer: remove the owner reference.
    Release,
    /// Another controller has it, or it does not match.
    Ignore,
}

/// Decides for `owner`, which selects by `selector`, about `object`.
pub(crate) fn claim(owner: &ObjectMeta, selector: &Selector, object: &ObjectMeta) -> Claim {
    let deleting = meta::is_deleting(owner);
    let matches = meta::matches(selector, object.labels.as_ref());
    match meta::controller_of(object) {
        Some(r) if Some(&r.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if deleting || !matches || meta::is_deleting(object) => Claim::Ignore,
        None if object.namespace != owner.namespace => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The claims of one owner to objects of any kind.
pub(crate) struct Claims<'a, O> {
    /// The client.
    pub client: &'a Client,
    /// The owner that claims.
    pub owner: &'a O,
    /// A finalizer that adoption adds and release removes.
    pub finalizer: Option<&'static str>,
}

impl<O: Kind> Claims<'_, O> {
    /// Adopts the candidates that match and releases those that no longer do. Returns those that the owner controls then.
    ///
    /// # Errors
    /// A call fails, or the owner does not exist any more.
    pub(crate) async fn settle<K: Kind>(
        &self,
        selector: &Selector,
        candidates: Vec<Arc<K>>,
    ) -> anyhow::Result<Vec<Arc<K>>> {
        let (mut ours, mut free, mut strange) = (Vec::new(), Vec::new(), Vec::new());
        for object in candidates {
            match claim(self.owner.metadata(), selector, object.metadata()) {
                Claim::Keep => ours.push(object),
                Claim::Adopt => free.push(object),
                Claim::Release => strange.push(object),
                Claim::Ignore => {}
            }
        }
        self.release(&strange).await?;
        ours.extend(self.adopt(&free).await?);
        Ok(ours)
    }

    /// Adopts objects without a controller, after a live read that the owner exists and is not being deleted. Returns those that the owner
    /// controls then.
    ///
    /// # Errors
    /// A call fails, or the owner does not exist any more.
    pub(crate) async fn adopt<K: Kind>(&self, objects: &[Arc<K>]) -> anyhow::Result<Vec<Arc<K>>> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let owner = self.owner.metadata();
        let fresh: O = self.client.get(meta::namespace(owner), meta::name(owner)).await?;
        anyhow::ensure!(fresh.metadata().uid == owner.uid, "the {} was replaced by another of its name", O::KIND);
        anyhow::ensure!(!meta::is_deleting(fresh.metadata()), "the {} has just been deleted", O::KIND);
        let reference = meta::controller_ref(self.owner);
        let mut ours = Vec::with_capacity(objects.len());
        for object in objects {
            let patch = meta::adoption(&reference, meta::uid(object.metadata()), self.finalizer);
            ours.extend(self.patch(&**object, patch).await?.map(Arc::new));
        }
        Ok(ours)
    }

    /// Removes the owner reference from objects.
    ///
    /// # Errors
    /// A patch fails.
    pub(crate) async fn release<K: Kind>(&self, objects: &[Arc<K>]) -> Result<(), Error> {
        for object in objects {
            let (owner, uid) = (meta::uid(self.owner.metadata()), meta::uid(object.metadata()));
            self.patch(&**object, meta::release(owner, uid, self.finalizer)).await?;
        }
        Ok(())
    }

    /// `None` for an object that is gone, or that another one of the same name has replaced.
    async fn patch<K: Kind>(&self, object: &K, patch: Value) -> Result<Option<K>, Error> {
        let (namespace, name) = (meta::namespace(object.metadata()), meta::name(object.metadata()));
        match self.client.patch::<K>(namespace, name, Patch::Strategic(patch)).await {
            Ok(patched) => Ok(Some(patched)),
            Err(error) => ignore_not_found(self.client, object, error).await.map(|()| None),
        }
    }
}

/// The objects that `owner` may claim: those it controls, and those without a controller that have the wanted labels.
pub(crate) fn candidates<K: Kind>(objects: &Informer<K>, owner: &ObjectMeta, wanted: &Labels) -> Vec<Arc<K>> {
    let mut all = objects.by_owner(meta::uid(owner));
    all.extend(labels::orphans(objects, meta::namespace(owner), wanted));
    all
}

/// The owners in the namespace that may adopt a changed object: it has no controller, and either that or its labels are new. `selector` is
/// that of an owner; an empty selector adopts nothing.
pub(crate) fn enqueue_for_orphan<K: Kind, O: Selects>(
    delta: &Delta<K>,
    owners: &Informer<O>,
    selector: impl Fn(&O) -> Option<&LabelSelector>,
) -> Vec<Key> {
    enqueue_adopters(delta, owners, |owner, labels| {
        let selector = selector(owner).and_then(|s| meta::selector(s).ok());
        selector.is_some_and(|s| !s.is_empty() && meta::matches(&s, labels))
    })
}

/// As [`enqueue_for_orphan`]; `adopts` says whether an owner wants an object with these labels.
pub(crate) fn enqueue_adopters<K: Kind, O: Selects>(
    delta: &Delta<K>,
    owners: &Informer<O>,
    adopts: impl Fn(&Arc<O>, Option<&Labels>) -> bool,
) -> Vec<Key> {
    let object = delta.object().metadata();
    let free = |meta: &ObjectMeta| meta::controller_of(meta).is_none();
    if matches!(delta, Delta::Deleted(_)) || !free(object) {
        return Vec::new();
    }
    let old = delta.old().map(|old| old.metadata());
    if old.is_some_and(|old| old.labels == object.labels && free(old)) {
        return Vec::new();
    }
    let wants = |owner: &Arc<O>| adopts(owner, object.labels.as_ref());
    let owners = labels::selecting(owners, meta::namespace(object), &[object.labels.as_ref()]);
    owners.iter().filter(|owner| wants(owner)).map(|owner| Key::of(&**owner)).collect()
}

/// Ignores the error of a call that named the uid of `object` if the object is gone or another one has its name. A live read decides, because
/// the API also answers a conflict when other writers are faster again and again.
///
/// # Errors
/// `error` while the object exists; or the live read fails.
pub(crate) async fn ignore_not_found<K: Kind>(client: &Client, object: &K, error: Error) -> Result<(), Error> {
    if error.is_not_found() {
        return Ok(());
    }
    if !(error.is_conflict() || error.is_invalid()) {
        return Err(error);
    }
    let meta = object.metadata();
    let live = client.find::<K>(meta::namespace(meta), meta::name(meta)).await?;
    if live.is_some_and(|live| live.metadata().uid == meta.uid) { Err(error) } else { Ok(()) }
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
