//! What belongs to a kind and nothing more: [`Strategy`] is the life cycle of its objects (defaults, preparation, validation, selectable
//! fields, deletion), [`Allocator`] what they take from the cluster, [`Convertor`] the way between versions. Every method of a strategy is defaulted so that a kind is about 60 lines in one file. Follows upstream's `registry/*/strategy.go`.
//!
//! Order on create: decode (schema check, prune, schema-borne defaults) → [`Strategy::default`] → managedFields → mutating admission →
//! [`Strategy::prepare_create`] → [`Allocator::reserve`] → [`Strategy::validate`] → validating admission → store. On update the same with
//! [`Strategy::prepare_update`] and [`Strategy::validate_update`] (which the core calls *besides* `validate`). On `/status` the object is
//! first reduced by [`Strategy::prepare_status`] and then goes to [`Strategy::validate_status`].
//!
//! Generic object metadata (name, namespace, labels, annotations, owner references, finalizers, immutable system fields), uid,
//! creationTimestamp and resourceVersion are the core's work.

use crate::{
    Context,
    columns::{Column, DEFAULT_COLUMNS, TableConvertor},
    context,
};
use api::{Cause, Object, Status};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Something taken for a write that is not stored yet: given back when dropped, kept by [`Reservation::commit`].
#[derive(Default)]
pub struct Reservation {
    undo: Vec<Box<dyn FnOnce() + Send>>,
    commit: Vec<Box<dyn FnOnce() + Send>>,
}

impl Reservation {
    /// Nothing is reserved.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reserved; `undo` gives it back.
    pub fn new(undo: impl FnOnce() + Send + 'static) -> Self {
        Self::none().and(undo)
    }

    /// Reserved as well. Undone in reverse order.
    pub fn and(mut self, undo: impl FnOnce() + Send + 'static) -> Self {
        self.undo.push(Box::new(undo));
        self
    }

    /// Done once the write is stored: what the old object held is given back.
    pub fn after_commit(mut self, then: impl FnOnce() + Send + 'static) -> Self {
        self.commit.push(Box::new(then));
        self
    }

    /// Whether nothing is reserved and nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.undo.is_empty() && self.commit.is_empty()
    }

    /// The write is stored.
    pub fn commit(mut self) {
        self.undo.clear();
        for then in self.commit.drain(..) {
            then();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for undo in self.undo.drain(..).rev() {
            undo();
        }
    }
}

/// What `/scale` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// `spec.replicas`.
    pub replicas: i64,
    /// `status.replicas`.
    pub observed: i64,
    /// `status.selector` as text.
    pub selector: String,
}

/// What a kind of upstream checks of the metadata itself on an update, besides what is checked for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// Nothing.
    Nothing,
    /// The change (`ValidateObjectMetaUpdate`).
    Change,
    /// All of it (`ValidateObjectMeta`).
    Whole,
    /// The change, and all of it.
    Both,
}

/// What belongs to one kind. Objects given in have the served `apiVersion` and `kind`.
pub trait Strategy: Send + Sync + 'static {
    /// Kubernetes' defaulting of this kind. Must be idempotent.
    fn default(&self, _object: &mut Object) {}

    /// Prepares a create. The core has dropped `status` (if the kind has `/status`) and set generation 1 (if it keeps one).
    fn prepare_create(&self, _cx: &Context, _object: &mut Object) {}

    /// Whether a create may bring its status (Node: a kubelet registers itself with one).
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// Prepares an update. The core has put the old `status` back (if the kind has `/status`) and, after this returns, counts the
    /// generation.
    fn prepare_update(&self, _cx: &Context, _object: &mut Object, _old: &Object) {}

    /// Prepares a write of `/status`. The core has put back everything but `status` and `metadata`, and of the metadata the owner
    /// references and deletion fields.
    fn prepare_status(&self, _cx: &Context, _object: &mut Object, _old: &Object) {}

    /// Names the kind allows, with upstream's messages; default: DNS-1123 subdomain. `prefix`: the name is a `generateName`.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        context::subdomain(name, prefix)
    }

    /// All violations of a new object.
    fn validate(&self, _cx: &Context, _object: &Object) -> Vec<Cause> {
        Vec::new()
    }

    /// All violations of a change besides those of [`Strategy::validate`].
    fn validate_update(&self, _cx: &Context, _object: &Object, _old: &Object) -> Vec<Cause> {
        Vec::new()
    }

    /// How upstream's update of the kind looks at the metadata once more, so that a violation there is named that often.
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Change
    }

    /// Whether finalizers of the kind may have any name; of others a name without a slash must be a known one.
    fn free_finalizers(&self) -> bool {
        false
    }

    /// All violations of a write of `/status`.
    fn validate_status(&self, _cx: &Context, _object: &Object, _old: &Object) -> Vec<Cause> {
        Vec::new()
    }

    /// `Warning` headers about what [`Strategy::prepare_create`] is going to change.
    fn early_warnings(&self, _object: &Object) -> Vec<String> {
        Vec::new()
    }

    /// `Warning` headers for what is accepted but deprecated, odd or not enforced.
    fn warnings(&self, _cx: &Context, _object: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// Field selector labels besides `metadata.name` and `metadata.namespace`.
    fn field_labels(&self) -> &[&'static str] {
        &[]
    }

    /// The value of a label of [`Strategy::field_labels`]; absent is the empty string.
    fn field(&self, object: &Object, label: &str) -> String {
        let path: Vec<&str> = label.split('.').collect();
        match object.at(&path) {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        }
    }

    /// The 400 text for a label that is not selectable.
    fn unknown_field(&self, label: &str) -> String {
        if self.field_labels().is_empty() {
            return format!("{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
        }
        format!("field label not supported: {label}")
    }

    /// Graceful deletion: the grace in seconds for a delete that asked for `requested`; `None` for kinds without it, 0 for at once.
    fn grace(&self, _object: &Object, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// What becomes of dependents when a delete does not say: `Background`, or `Orphan` (batch/v1 Job).
    fn default_propagation(&self) -> &'static str {
        "Background"
    }

    /// Whether something besides finalizers keeps a deleted object (Namespace: `spec.finalizers`).
    fn holds(&self, _object: &Object) -> bool {
        false
    }

    /// Called when deletion begins and does not end at once: deletionTimestamp is set (Namespace: phase Terminating).
    fn begin_deletion(&self, _cx: &Context, _object: &mut Object) {}

    /// What `/scale` shows; default: `spec.replicas`, `status.replicas`, `spec.selector` as a label selector.
    fn scale(&self, object: &Object) -> Scale {
        Scale {
            replicas: object.int_at(&["spec", "replicas"]).unwrap_or(0),
            observed: object.int_at(&["status", "replicas"]).unwrap_or(0),
            selector: context::selector_text(object.at(&["spec", "selector"])),
        }
    }

    /// Paths that a write of the main resource (`""`) or of a subresource never owns in managedFields. Where there is `/status`, only its
    /// writes own anything of the status, whatever is said here.
    fn reset_fields(&self, subresource: &str) -> &[&'static [&'static str]] {
        if subresource == "status" { &[&["spec"]] } else { &[] }
    }
}

/// What the objects of a kind take from the cluster: addresses and ports of Services.
pub trait Allocator: Send + Sync + 'static {
    /// Takes what the object needs and writes it into the object. With `cx.dry_run` nothing may stay taken after the guard is dropped.
    ///
    /// # Errors
    /// Nothing fits, or what is asked for is taken.
    fn reserve(&self, cx: &Context, object: &mut Object, old: Option<&Object>) -> Result<Reservation, Status>;

    /// Gives back what a deleted object held. Called once per deletion, after it is stored.
    fn release(&self, object: &Object);

    /// Takes what an object holds that was stored when the server started.
    fn load(&self, object: &Object);
}

/// Converts objects between the stored form of a resource and the form in which another version of it is served.
#[async_trait::async_trait]
pub trait Convertor: Send + Sync + 'static {
    /// From the served form to the stored one.
    ///
    /// # Errors
    /// The conversion failed; the write is refused.
    async fn to_storage(&self, object: Object) -> Result<Object, Status>;

    /// From the stored form to the served one: as many objects as were given, in their order.
    ///
    /// # Errors
    /// The conversion failed; so does the read.
    #[allow(clippy::wrong_self_convention)] // the pair of `to_storage`
    async fn from_storage(&self, objects: Vec<Object>) -> Result<Vec<Object>, Status>;
}

/// A kind that has nothing of its own; its table shows name and age.
pub struct Plain;

impl Strategy for Plain {}

impl TableConvertor for Plain {
    fn columns(&self) -> &[Column] {
        DEFAULT_COLUMNS
    }

    fn row(&self, object: &Object, _now: Timestamp) -> Vec<Value> {
        let created = object.at(&["metadata", "creationTimestamp"]).cloned();
        // Go's zero time, as upstream prints it
        vec![json!(object.name()), created.unwrap_or_else(|| json!("0001-01-01T00:00:00Z"))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_reservation_is_undone_in_reverse_unless_committed() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let note = |text: &'static str| {
            let log = log.clone();
            move || log.lock().expect("not poisoned").push(text)
        };
        drop(Reservation::new(note("first")).and(note("second")).after_commit(note("done")));
        Reservation::new(note("never")).after_commit(note("done")).commit();
        assert_eq!(*log.lock().expect("not poisoned"), ["second", "first", "done"]);
    }
}
