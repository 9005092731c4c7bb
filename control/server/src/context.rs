//! The context of a write: user, time, resource, and a view of the other objects. Strategies and admission get it, so that they need no globals.

use crate::{Names, deadline::Deadline, notes::Notes};
use api::{Object, names::SAFE_ALPHABET};
use jiff::Timestamp;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use store::{Changes, Revision};

/// The user of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `system:admin`, `system:serviceaccount:ns:name`.
    pub name: String,
    /// Uid, where the authenticator knows one.
    pub uid: String,
    /// Groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Extra facts, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user by name and groups.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..Self::default() }
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What changed of a resource.
pub struct Delta {
    /// The changes are complete up to this revision.
    pub revision: Revision,
    /// The changes are all objects: what was known before counts no more.
    pub whole: bool,
    /// Namespace, name and the object after each change, the oldest first; `None` is a deletion.
    pub changes: Vec<(String, String, Option<Arc<Object>>)>,
}

/// A view of the stored objects, always current; never touches the disk. Objects carry `metadata.resourceVersion`.
pub trait Objects: Send + Sync + 'static {
    /// One object. `namespace` is empty for cluster-scoped kinds.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// Whether there is an object.
    fn exists(&self, group: &str, resource: &str, namespace: &str, name: &str) -> bool {
        self.get(group, resource, namespace, name).is_some()
    }
    /// All objects of a resource, of one namespace or (if empty) all; ordered by namespace, then name.
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>>;
    /// Notifies of changes of a resource's objects from now on.
    fn changes(&self, group: &str, resource: &str) -> Changes;
    /// What changed of a resource's objects after a revision; without one, or where that is not known any more, all of them.
    fn since(&self, group: &str, resource: &str, _revision: Option<Revision>) -> Delta {
        let objects = self.list(group, resource, "").into_iter();
        let changes = objects.map(|object| (object.namespace().to_owned(), object.name().to_owned(), Some(object)));
        Delta { revision: 0, whole: true, changes: changes.collect() }
    }
}

/// Uids and random name parts from one seeded generator.
#[derive(Debug)]
pub struct Ids(Mutex<fastrand::Rng>);

impl Ids {
    /// From a generator that the composition root seeds.
    pub fn new(rng: fastrand::Rng) -> Self {
        Self(Mutex::new(rng))
    }

    /// A fresh version 4 uuid.
    pub fn uid(&self) -> String {
        let mut bytes = [0; 16];
        self.0.lock().fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// `length` characters of Kubernetes' safe alphabet (no vowels, no similar characters), the suffix of generated names.
    pub fn suffix(&self, length: usize) -> String {
        let mut rng = self.0.lock();
        (0..length).map(|_| char::from(SAFE_ALPHABET[rng.usize(..SAFE_ALPHABET.len())])).collect()
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().u64(..bound)
    }
}

/// The operation of a request, as admission sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change of an object: PUT, PATCH, and subresources that change it.
    Update,
    /// A deletion.
    Delete,
    /// A stream to what an object stands for: exec, attach, port-forward, proxy.
    Connect,
}

/// Warnings that come up while an object is validated.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds one for the answer.
    pub fn add(&self, warning: String) {
        self.0.lock().push(warning);
    }

    /// Those so far; none is left.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

/// The context of one write. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The user.
    pub user: Arc<User>,
    /// The time of the request: all timestamps of one write are equal.
    pub now: Timestamp,
    /// The operation.
    pub operation: Operation,
    /// The resource.
    pub resource: Arc<Names>,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace of the request, empty for cluster-scoped kinds.
    pub namespace: String,
    /// The object's name; empty for a create with `generateName` until the name is made.
    pub name: String,
    /// Nothing is stored.
    pub dry_run: bool,
    /// The stored objects.
    pub objects: Arc<dyn Objects>,
    /// Uids and name suffixes.
    pub ids: Arc<Ids>,
    /// What validation warns of.
    pub warnings: Warnings,
    /// What admission notes of the request.
    pub notes: Arc<Notes>,
    /// When the request is over.
    pub deadline: Deadline,
}

/// DNS-1123 subdomain with upstream's messages; a `generateName` prefix may end in a dash.
pub fn subdomain(name: &str, prefix: bool) -> Vec<String> {
    api::names::dns1123_subdomain(&maybe_prefix(name, prefix))
}

/// A `generateName` prefix as a name to check: a trailing dash becomes a letter, because the suffix follows it.
pub fn maybe_prefix(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(rest) if prefix => format!("{rest}a"),
        _ => name.to_owned(),
    }
}

/// A `metav1.LabelSelector` as the text that `-l` takes.
pub fn selector_text(selector: Option<&serde_json::Value>) -> String {
    selector
        .and_then(|s| api::selector::Selector::from_label_selector(s).ok())
        .map(|s| s.to_string())
        .unwrap_or_default()
}
