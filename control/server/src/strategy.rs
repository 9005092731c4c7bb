//! The code of a kind: [`Strategy`] is the life cycle of its objects (defaults, preparation, validation, selectable fields, deletion),
//! [`Allocator`] allocates what they need from the cluster, [`Convertor`] converts between versions. Every method of a strategy has a
//! default, so that a kind is about 60 lines in one file. Follows upstream's `registry/*/strategy.go`.
//!
//! Order on create: decode (schema check, prune, defaults of the schema) → [`Strategy::default`] → managedFields → mutating admission →
//! [`Strategy::prepare_create`] → [`Allocator::reserve`] → [`Strategy::validate`] → validating admission → store. On update the same with
//! [`Strategy::prepare_update`] and [`Strategy::validate_update`] (which the core calls *besides* `validate`). On `/status` the object is
//! first reduced by [`Strategy::prepare_status`] and then goes to [`Strategy::validate_status`].
//!
//! Generic object metadata (name, namespace, labels, annotations, owner references, finalizers, immutable system fields), uid,
//! creationTimestamp and resourceVersion are handled by the server for all kinds.

use crate::{Context, Objects, columns::TableConvertor, context};
use api::{Cause, Object, Status};
use serde_json::Value;
use std::sync::Arc;

/// A write of another object in the transaction of an object, for what is allocated by an object of its own: the addresses of a Service. Admission
/// is not asked, for nobody has asked for it. Resources are named by group and plural.
#[derive(Debug)]
pub enum Companion {
    /// Creates an object, which lacks only what the server sets. There must be none with its name.
    Create((&'static str, &'static str), Object),
    /// Deletes an object, which must be as it is here.
    Delete((&'static str, &'static str), Arc<Object>),
}

/// Allocations for a write that is not stored yet: released when dropped, kept by [`Reservation::commit`].
#[derive(Default)]
pub struct Reservation {
    companions: Vec<Companion>,
    undo: Vec<Box<dyn FnOnce() + Send>>,
    commit: Vec<Box<dyn FnOnce() + Send>>,
}

impl Reservation {
    /// Nothing is reserved.
    pub fn none() -> Self {
        Self::default()
    }

    /// A reservation that `undo` releases.
    pub fn new(undo: impl FnOnce() + Send + 'static) -> Self {
        Self::none().and(undo)
    }

    /// Adds a reservation. All are released in reverse order.
    pub fn and(mut self, undo: impl FnOnce() + Send + 'static) -> Self {
        self.undo.push(Box::new(undo));
        self
    }

    /// Adds work for after the commit: the release of what the old object held.
    pub fn after_commit(mut self, then: impl FnOnce() + Send + 'static) -> Self {
        self.commit.push(Box::new(then));
        self
    }

    /// Adds a write of another object, which is stored with the object or not at all. Where it cannot be, everything is reserved anew.
    pub fn with(mut self, companion: Companion) -> Self {
        self.companions.push(companion);
        self
    }

    /// The writes of other objects. They are left out afterwards.
    pub fn take_companions(&mut self) -> Vec<Companion> {
        std::mem::take(&mut self.companions)
    }

    /// Both reservations as one.
    pub fn join(mut self, mut other: Self) -> Self {
        self.companions.append(&mut other.companions);
        self.undo.append(&mut other.undo);
        self.commit.append(&mut other.commit);
        self
    }

    /// Whether nothing is reserved and no work follows.
    pub fn is_empty(&self) -> bool {
        self.companions.is_empty() && self.undo.is_empty() && self.commit.is_empty()
    }

    /// Keeps the reservation, because the write is stored.
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

/// The selectable fields of a kind.
#[derive(Clone, Copy, Debug)]
pub enum Selectable<'a> {
    /// Of a built-in kind.
    Known(&'a [&'static str]),
    /// Of a defined one.
    Defined(&'a [String]),
}

impl<'a> Selectable<'a> {
    /// Their names.
    pub fn iter(self) -> Box<dyn Iterator<Item = &'a str> + 'a> {
        match self {
            Self::Known(names) => Box::new(names.iter().copied()),
            Self::Defined(names) => Box::new(names.iter().map(String::as_str)),
        }
    }

    /// The place of a name.
    pub fn position(self, name: &str) -> Option<usize> {
        match self {
            Self::Known(names) => names.iter().position(|known| *known == name),
            Self::Defined(names) => names.iter().position(|known| known == name),
        }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }
}

/// The content of `/scale`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// `spec.replicas`.
    pub replicas: i64,
    /// `status.replicas`.
    pub observed: i64,
    /// `status.selector` as text.
    pub selector: String,
}

/// What a kind of upstream checks of the metadata on an update, in addition to the checks for all kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// Nothing.
    Nothing,
    /// The change (`ValidateObjectMetaUpdate`).
    Change,
    /// All of it (`ValidateObjectMeta`).
    Whole,
    /// All of it, and all of it again.
    WholeTwice,
    /// The change, and all of it.
    Both,
}

/// The life cycle of one kind's objects. Objects have the served `apiVersion` and `kind`.
pub trait Strategy: Send + Sync + 'static {
    /// Kubernetes' defaulting of this kind. Must be idempotent.
    fn default(&self, _object: &mut Object) {}

    /// Whether the defaults of the status depend on the rest of the object. If not, a patch of a status is applied without the rest.
    fn status_defaults_need_spec(&self) -> bool {
        false
    }

    /// Prepares a create. `status` is already removed (if the kind has `/status`), and the generation is set to 1 afterwards (if it has one).
    fn prepare_create(&self, _cx: &Context, _object: &mut Object) {}

    /// Whether a create keeps its status (Node: a kubelet registers itself with one).
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// Prepares an update. The old `status` is already restored (if the kind has `/status`); the generation is incremented afterwards.
    fn prepare_update(&self, _cx: &Context, _object: &mut Object, _old: &Object) {}

    /// Prepares a write of `/status`. Everything but `status` and `metadata` is already restored, and of the metadata the owner references
    /// and the deletion fields.
    fn prepare_status(&self, _cx: &Context, _object: &mut Object, _old: &Object) {}

    /// Validates a name, with upstream's messages; default: DNS-1123 subdomain. `prefix`: the name is a `generateName`.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        context::subdomain(name, prefix)
    }

    /// All violations of a new object.
    fn validate(&self, _cx: &Context, _object: &Object) -> Vec<Cause> {
        Vec::new()
    }

    /// All violations of a change, in addition to those of [`Strategy::validate`].
    fn validate_update(&self, _cx: &Context, _object: &Object, _old: &Object) -> Vec<Cause> {
        Vec::new()
    }

    /// How upstream's update of the kind checks the metadata again, so that a violation is reported as often.
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Change
    }

    /// Whether finalizers of the kind may have any name; for other kinds a name without a slash must be a standard one.
    fn allows_any_finalizer(&self) -> bool {
        false
    }

    /// All violations of a write of `/status`.
    fn validate_status(&self, _cx: &Context, _object: &Object, _old: &Object) -> Vec<Cause> {
        Vec::new()
    }

    /// `Warning` headers about fields that [`Strategy::prepare_create`] changes afterwards.
    fn early_warnings(&self, _object: &Object) -> Vec<String> {
        Vec::new()
    }

    /// `Warning` headers for fields that are accepted but deprecated, odd or not enforced.
    fn warnings(&self, _cx: &Context, _object: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// Selectable fields other than `metadata.name` and `metadata.namespace`.
    fn field_labels(&self) -> &[&'static str] {
        &[]
    }

    /// The same, for kinds that are defined by objects.
    fn selectable(&self) -> Selectable<'_> {
        Selectable::Known(self.field_labels())
    }

    /// The value of a selectable field; an absent one is empty.
    fn field(&self, object: &Object, label: &str) -> String {
        let path: Vec<&str> = label.split('.').collect();
        match object.at(&path) {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        }
    }

    /// The fields of the object's parts that [`Strategy::field`] reads, for kinds whose every change is matched with selectors: the others are
    /// not parsed then. None: the whole object is.
    fn field_sources(&self) -> &[(&'static str, &'static str)] {
        &[]
    }

    /// The message of the 400 for a field that is not selectable.
    fn unknown_field(&self, label: &str) -> String {
        if self.selectable().is_empty() {
            return format!("{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
        }
        format!("field label not supported: {label}")
    }

    /// Graceful deletion: the grace period in seconds for a delete with `requested`; `None` for kinds without it, 0 for at once.
    fn grace_period(&self, _object: &Object, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// The propagation policy of a delete that gives none: `Background`, or `Orphan` (batch/v1 Job).
    fn default_propagation(&self) -> &'static str {
        "Background"
    }

    /// Whether something other than finalizers blocks the deletion (Namespace: `spec.finalizers`).
    fn blocks_deletion(&self, _object: &Object) -> bool {
        false
    }

    /// Called when a deletion begins that is not completed at once; deletionTimestamp is set (Namespace: phase Terminating).
    fn begin_deletion(&self, _cx: &Context, _object: &mut Object) {}

    /// The content of `/scale`; default: `spec.replicas`, `status.replicas`, `spec.selector` as a label selector.
    fn scale(&self, object: &Object) -> Scale {
        Scale {
            replicas: object.int_at(&["spec", "replicas"]).unwrap_or(0),
            observed: object.int_at(&["status", "replicas"]).unwrap_or(0),
            selector: context::selector_text(object.at(&["spec", "selector"])),
        }
    }

    /// Where `/scale` finds the wanted replicas.
    fn replicas_path(&self) -> Vec<&str> {
        vec!["spec", "replicas"]
    }

    /// Paths that a write of the main resource (`""`) or of a subresource never owns in managedFields. Where there is `/status`, only its writes
    /// own status fields, whatever this returns.
    fn reset_fields(&self, subresource: &str) -> &[&'static [&'static str]] {
        if subresource == "status" { &[&["spec"]] } else { &[] }
    }
}

/// Allocates what the objects of a kind need from the cluster: addresses and ports of Services.
pub trait Allocator: Send + Sync + 'static {
    /// Allocates what the object needs and writes it into the object. With `cx.dry_run` nothing stays allocated after the guard is dropped.
    ///
    /// # Errors
    /// The range is exhausted, or the requested value is allocated already.
    fn reserve(&self, cx: &Context, object: &mut Object, old: Option<&Object>) -> Result<Reservation, Status>;

    /// The objects that are deleted with an object, in one transaction.
    fn leaving(&self, _objects: &dyn Objects, _object: &Object) -> Vec<Companion> {
        Vec::new()
    }

    /// Releases the allocations of a deleted object. Called once per deletion, after it is stored.
    fn release(&self, object: &Object);

    /// Allocates what an object holds that was stored when the server started.
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

    /// From the stored form to the served one, with as many objects in the same order.
    ///
    /// # Errors
    /// The conversion failed; so does the read.
    #[allow(clippy::wrong_self_convention)] // the pair of `to_storage`
    async fn from_storage(&self, objects: Vec<Object>) -> Result<Vec<Object>, Status>;
}

/// A kind with the default strategy; its table has name and age.
pub struct Plain;

impl Strategy for Plain {}

impl TableConvertor for Plain {}

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
        drop(Reservation::new(note("third")).join(Reservation::new(note("fourth"))));
        assert_eq!(log.lock().expect("not poisoned")[3..], ["fourth", "third"]);
    }
}
