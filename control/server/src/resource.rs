//! A served resource as a value, the whole truth about a kind: names, verbs, subresources, how it is stored and shown, and what belongs to
//! the kind. The registry, discovery, OpenAPI and every verb read it; a custom resource is the same value with another strategy. Follows
//! the resource list of upstream's discovery documents and `rest.Storage`.

use crate::{
    Names, Verb,
    action::{Action, Serve, Subresource},
    codec::Expected,
    columns::TableConvertor,
    scope::Scope,
    strategy::{Allocator, Convertor, Plain, Strategy},
};
use api::{GroupVersionKind, schema::Schema};
use serde_json::Value;
use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// The schema that a resource brings along.
#[derive(Clone)]
pub struct OwnSchema {
    /// What prunes, defaults and merges.
    pub schema: Schema,
    /// `openAPIV3Schema`, for the documents.
    pub open_api: Arc<Value>,
}

/// A served resource. Build it with [`Resource::new`] and the methods after it.
pub struct Resource {
    /// What it is called.
    pub names: Arc<Names>,
    /// What it serves.
    pub verbs: Vec<Verb>,
    /// Its subresources.
    pub subresources: Vec<Arc<Subresource>>,
    /// The life cycle of its objects.
    pub strategy: Arc<dyn Strategy>,
    /// Its own schema, where it is not a kind that Kubernetes publishes.
    pub own_schema: Option<OwnSchema>,
    published_schema: OnceLock<Schema>,
    /// How its objects are shown as tables.
    pub table: Arc<dyn TableConvertor>,
    /// Between the stored form and the served one, where they differ.
    pub convertor: Option<Arc<dyn Convertor>>,
    /// What its objects take from the cluster (addresses, ports).
    pub allocator: Option<Arc<dyn Allocator>>,
    /// Group and resource under which objects are stored: its own, or another's that shares the storage (events).
    pub storage: (String, String),
    /// The directory of upstream's storage, which errors of a write's preconditions name: mostly the resource.
    pub upstream_directory: &'static str,
    /// `apiVersion` of the stored form.
    pub storage_version: String,
    /// `metadata.generation` is kept: 1 on create, + 1 when anything but metadata and status changes, and on deletion.
    pub generation: bool,
    /// DELETE answers the object instead of a Status.
    pub returns_deleted_object: bool,
    /// PUT on an absent object creates it.
    pub create_on_update: bool,
    /// PUT without a resourceVersion is allowed.
    pub unconditional_update: bool,
    /// Objects go away by themselves after this time (events: an hour).
    pub ttl: Option<Duration>,
    /// Answers its verbs instead of the store: reviews, bindings, computed resources.
    pub action: Option<Arc<dyn Action>>,
    /// What every answer about it warns of.
    pub deprecation: Option<&'static str>,
    /// Its lists may be longer than what is accepted elsewhere (Endpoints).
    pub long_lists: bool,
    /// The server has no such kind yet: it lists none, and refuses to make one with a sentence of its own.
    pub absent: bool,
}

impl Resource {
    /// A stored, namespaced kind with all verbs: `Resource::new("apps", "v1", "deployments", "Deployment", Deployments)`.
    pub fn new<K: Strategy + TableConvertor>(
        group: &str,
        version: &str,
        resource: &str,
        kind: &str,
        own: impl Into<Arc<K>>,
    ) -> Self {
        let own: Arc<K> = own.into();
        let names = Names::new(group, version, resource, kind);
        Self {
            storage: (group.to_owned(), resource.to_owned()),
            upstream_directory: "",
            storage_version: names.gvr.api_version(),
            names: Arc::new(names),
            verbs: Verb::ALL.to_vec(),
            subresources: Vec::new(),
            strategy: own.clone(),
            own_schema: None,
            published_schema: OnceLock::new(),
            table: own,
            convertor: None,
            allocator: None,
            generation: false,
            returns_deleted_object: false,
            create_on_update: false,
            unconditional_update: true,
            ttl: None,
            action: None,
            deprecation: None,
            long_lists: false,
            absent: false,
        }
    }

    /// A kind whose verbs are answered by `action`; nothing of it is stored.
    pub fn answered(group: &str, version: &str, resource: &str, kind: &str, action: Arc<dyn Action>) -> Self {
        let mut made = Self::new(group, version, resource, kind, Plain).verbs(&[Verb::Create]);
        made.action = Some(action);
        made
    }

    fn rename(mut self, change: impl FnOnce(&mut Names)) -> Self {
        change(Arc::make_mut(&mut self.names));
        self
    }

    /// Its objects have no namespace.
    pub fn cluster_scoped(self) -> Self {
        self.rename(|names| names.namespaced = false)
    }

    /// Upstream stores its objects in a directory of another name.
    pub fn in_upstream_directory(mut self, name: &'static str) -> Self {
        self.upstream_directory = name;
        self
    }

    /// The key that upstream's errors name: `/pods/default/web`.
    pub(crate) fn upstream_key(&self, namespace: &str, name: &str) -> String {
        let directory = if self.upstream_directory.is_empty() { &self.gvr.resource } else { self.upstream_directory };
        if self.namespaced { format!("/{directory}/{namespace}/{name}") } else { format!("/{directory}/{name}") }
    }

    /// Every answer about it warns of this.
    pub fn deprecated(mut self, warning: &'static str) -> Self {
        self.deprecation = Some(warning);
        self
    }

    /// Short names.
    pub fn short(self, short: &[&str]) -> Self {
        self.rename(|names| names.short_names = short.iter().map(|n| (*n).to_owned()).collect())
    }

    /// Categories.
    pub fn category(self, name: &str) -> Self {
        self.rename(|names| names.categories.push(name.to_owned()))
    }

    /// Lists none: the kind is not here yet.
    pub fn not_here_yet(mut self) -> Self {
        self.absent = true;
        self
    }

    /// Only these verbs.
    pub fn verbs(mut self, verbs: &[Verb]) -> Self {
        self.verbs = verbs.to_vec();
        self
    }

    /// Brings its schema along: an `openAPIV3Schema`.
    pub fn with_schema(mut self, open_api: Value) -> Self {
        self.own_schema = Some(OwnSchema { schema: Schema::from_open_api(&open_api), open_api: Arc::new(open_api) });
        self
    }

    /// What its objects take from the cluster.
    pub fn allocating(mut self, allocator: Arc<dyn Allocator>) -> Self {
        self.allocator = Some(allocator);
        self
    }

    /// Keeps `metadata.generation`.
    pub fn with_generation(mut self) -> Self {
        self.generation = true;
        self
    }

    /// Adds `/status`: main writes ignore status, status writes take nothing else.
    pub fn with_status(self) -> Self {
        self.with_scope("status", &[Verb::Get, Verb::Patch, Verb::Update], Scope::Status)
    }

    /// Adds `/scale` over `spec.replicas`.
    pub fn with_scale(self) -> Self {
        let kind = GroupVersionKind::new("autoscaling", "v1", "Scale");
        self.with(Subresource::new("scale", kind, &[Verb::Get, Verb::Patch, Verb::Update], Serve::Scale))
    }

    /// Adds a subresource that reads the object and writes a part of it.
    pub fn with_scope(self, name: &'static str, verbs: &[Verb], scope: Scope) -> Self {
        let kind = self.gvk();
        self.with(Subresource::new(name, kind, verbs, Serve::Scope(scope)))
    }

    /// Adds a subresource that does something of its own.
    pub fn with_action(self, name: &'static str, kind: GroupVersionKind, verbs: &[Verb], action: impl Action) -> Self {
        self.with(Subresource::new(name, kind, verbs, Serve::Action(Arc::new(action))))
    }

    /// Adds a subresource.
    pub fn with(mut self, subresource: Subresource) -> Self {
        self.subresources.push(Arc::new(subresource));
        self
    }

    /// Adds several subresources.
    pub fn with_all(self, subresources: impl IntoIterator<Item = Subresource>) -> Self {
        subresources.into_iter().fold(self, Self::with)
    }

    /// Its lists may be of any length.
    pub fn with_long_lists(mut self) -> Self {
        self.long_lists = true;
        self
    }

    /// DELETE answers the object.
    pub fn returning_deleted(mut self) -> Self {
        self.returns_deleted_object = true;
        self
    }

    /// PUT may create.
    pub fn creating_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }

    /// PUT needs a resourceVersion.
    pub fn conditional_update_only(mut self) -> Self {
        self.unconditional_update = false;
        self
    }

    /// Objects expire.
    pub fn expiring(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Shares the storage of another resource, whose `apiVersion` is the stored form.
    pub fn stored_as(mut self, group: &str, resource: &str, api_version: &str, convertor: impl Convertor) -> Self {
        self.storage = (group.to_owned(), resource.to_owned());
        self.storage_version = api_version.to_owned();
        self.convertor = Some(Arc::new(convertor));
        self
    }

    /// The schema of its objects: its own, or the published one, which is looked for once.
    pub fn schema(&self) -> Schema {
        let published = || Schema::for_kind(&self.gvk()).unwrap_or_else(Schema::any);
        let own = self.own_schema.as_ref().map(|own| own.schema.clone());
        own.unwrap_or_else(|| self.published_schema.get_or_init(published).clone())
    }

    /// What a body that is an object of it should be.
    pub(crate) fn expected(&self) -> Expected {
        Expected { kind: self.gvk(), schema: self.schema(), long_lists: self.long_lists }
    }

    /// Whether it serves a verb.
    pub fn serves(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// The subresources that discovery names.
    pub fn listed(&self) -> impl Iterator<Item = &Subresource> {
        self.subresources.iter().map(AsRef::as_ref).filter(|s| s.listed)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Arc<Subresource>> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether it is the first of those that share a storage: the one in whose form objects are stored.
    pub fn is_storage(&self) -> bool {
        self.action.is_none() && self.convertor.is_none()
    }

    /// Where its objects are stored: `/core/pods/` and so on; namespace and name follow.
    pub fn prefix(&self) -> String {
        let (group, resource) = &self.storage;
        format!("/{}/{resource}/", if group.is_empty() { "core" } else { group })
    }

    /// The key of one object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.prefix())
        } else {
            format!("{}{name}", self.prefix())
        }
    }
}

impl Deref for Resource {
    type Target = Names;

    fn deref(&self) -> &Names {
        &self.names
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resource({}, {})", self.gvr.api_version(), self.gvr.resource)
    }
}
