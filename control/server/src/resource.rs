//! A served resource as a value: names, verbs, subresources, storage, tables, and the code of the kind. The registry, discovery, OpenAPI
//! and every verb read it; a custom resource is the same value with another strategy. Follows the resource list of upstream's discovery
//! documents and `rest.Storage`.

use crate::{
    Names, Verb,
    action::{Action, Serve, Subresource},
    codec::Expected,
    columns::TableConvertor,
    scope::Scope,
    strategy::{Allocator, Convertor, Plain, Strategy},
};
use api::{GroupVersionKind, schema::Schema};
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    borrow::Cow,
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The schema of a resource that Kubernetes does not publish. It is kept as text, and compiled when the first object needs it: there may be
/// thousands of them.
pub struct OwnSchema {
    /// `openAPIV3Schema` as JSON.
    text: Bytes,
    schema: OnceLock<Schema>,
    digest: OnceLock<String>,
}

impl OwnSchema {
    /// From an `openAPIV3Schema`.
    pub fn new(open_api: &Value) -> Self {
        let text = serde_json::to_vec(open_api).expect("JSON values serialise").into();
        Self { text, schema: OnceLock::new(), digest: OnceLock::new() }
    }

    /// `openAPIV3Schema`, for the documents.
    pub fn document(&self) -> Value {
        serde_json::from_slice(&self.text).expect("a JSON value was written")
    }

    /// The schema for pruning, defaulting and merging.
    pub fn schema(&self) -> Schema {
        self.schema.get_or_init(|| Schema::from_open_api(&self.document())).clone()
    }

    /// Differs for different schemas.
    pub(crate) fn digest(&self) -> &str {
        self.digest.get_or_init(|| hex::encode(Sha256::digest(&self.text)))
    }
}

/// A served resource. Build it with [`Resource::new`] and the methods after it.
pub struct Resource {
    /// Its names.
    pub names: Arc<Names>,
    /// Its verbs.
    pub verbs: Vec<Verb>,
    /// Its subresources.
    pub subresources: Vec<Arc<Subresource>>,
    /// The life cycle of its objects.
    pub strategy: Arc<dyn Strategy>,
    /// Its own schema, if Kubernetes publishes none.
    pub own_schema: Option<Arc<OwnSchema>>,
    /// Of a custom resource, which a stored object defines: cancelled when it defines something else. Watches end then.
    pub(crate) defined: Option<CancellationToken>,
    published_schema: OnceLock<Schema>,
    /// Makes tables of its objects.
    pub table: Arc<dyn TableConvertor>,
    /// Converts between the stored and the served version, if they differ.
    pub convertor: Option<Arc<dyn Convertor>>,
    /// Allocates what its objects need from the cluster (addresses, ports).
    pub allocator: Option<Arc<dyn Allocator>>,
    /// Group and resource under which objects are stored: its own, or those of another resource that shares the storage (events).
    pub storage: (String, String),
    /// The directory in upstream's storage, mostly the resource, which errors of preconditions name.
    pub upstream_directory: Cow<'static, str>,
    /// `apiVersion` of the stored form.
    pub storage_version: String,
    /// Whether objects are stored in the version of this resource, among those that share a storage.
    pub is_storage_version: bool,
    /// Under which key a read keeps its converted form of a stored object: the served version, and what else the form depends on.
    pub form: String,
    /// Objects have `metadata.generation`: 1 on create, incremented by a change outside of metadata and status, and by a deletion.
    pub generation: bool,
    /// DELETE answers the object instead of a Status.
    pub returns_deleted_object: bool,
    /// PUT on an absent object creates it.
    pub create_on_update: bool,
    /// PUT without a resourceVersion is allowed.
    pub unconditional_update: bool,
    /// Objects expire after this time (events: an hour).
    pub ttl: Option<Duration>,
    /// Serves its verbs instead of the store: reviews, bindings, computed resources.
    pub action: Option<Arc<dyn Action>>,
    /// A warning in every response.
    pub deprecation: Option<Cow<'static, str>>,
    /// Lists in its objects may have any length (Endpoints).
    pub long_lists: bool,
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
            upstream_directory: Cow::Borrowed(""),
            storage_version: names.gvr.api_version(),
            is_storage_version: true,
            form: names.gvr.api_version(),
            names: Arc::new(names),
            verbs: Verb::ALL.to_vec(),
            subresources: Vec::new(),
            strategy: own.clone(),
            own_schema: None,
            defined: None,
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
        }
    }

    /// A kind that is not stored: `action` serves its verbs.
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

    /// Sets `upstream_directory`.
    pub fn in_upstream_directory(mut self, name: &'static str) -> Self {
        self.upstream_directory = Cow::Borrowed(name);
        self
    }

    /// The key in upstream's errors: `/pods/default/web`.
    pub(crate) fn upstream_key(&self, namespace: &str, name: &str) -> String {
        let directory = if self.upstream_directory.is_empty() { &self.gvr.resource } else { &*self.upstream_directory };
        if self.namespaced { format!("/{directory}/{namespace}/{name}") } else { format!("/{directory}/{name}") }
    }

    /// Every response has this warning.
    pub fn deprecated(mut self, warning: impl Into<Cow<'static, str>>) -> Self {
        self.deprecation = Some(warning.into());
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

    /// Makes tables with the columns of `table`.
    pub fn with_table(mut self, table: impl TableConvertor) -> Self {
        self.table = Arc::new(table);
        self
    }

    /// Only these verbs.
    pub fn verbs(mut self, verbs: &[Verb]) -> Self {
        self.verbs = verbs.to_vec();
        self
    }

    /// Has a schema of its own: an `openAPIV3Schema`.
    pub fn with_schema(mut self, open_api: &Value) -> Self {
        self.own_schema = Some(Arc::new(OwnSchema::new(open_api)));
        self
    }

    /// Has this schema of its own.
    pub fn with_own_schema(mut self, schema: Arc<OwnSchema>) -> Self {
        self.own_schema = Some(schema);
        self
    }

    /// Another singular name and list kind than those that are made of the kind.
    pub fn called(self, singular: &str, list_kind: &str) -> Self {
        self.rename(|names| {
            names.singular = singular.to_owned();
            names.list_kind = list_kind.to_owned();
        })
    }

    /// Allocates for its objects.
    pub fn allocating(mut self, allocator: Arc<dyn Allocator>) -> Self {
        self.allocator = Some(allocator);
        self
    }

    /// Objects have `metadata.generation`.
    pub fn with_generation(mut self) -> Self {
        self.generation = true;
        self
    }

    /// Adds `/status`: writes of the main resource ignore the status, writes of `/status` change nothing else.
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

    /// Adds a subresource that an action serves.
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

    /// Lists in its objects may have any length.
    pub fn with_long_lists(mut self) -> Self {
        self.long_lists = true;
        self
    }

    /// DELETE returns the object.
    pub fn returning_deleted(mut self) -> Self {
        self.returns_deleted_object = true;
        self
    }

    /// PUT creates an absent object.
    pub fn creating_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }

    /// PUT requires a resourceVersion.
    pub fn conditional_update_only(mut self) -> Self {
        self.unconditional_update = false;
        self
    }

    /// Objects expire.
    pub fn expiring(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Shares the storage of another resource; `api_version` is that of the stored form.
    pub fn stored_as(mut self, group: &str, resource: &str, api_version: &str, convertor: impl Convertor) -> Self {
        self.storage = (group.to_owned(), resource.to_owned());
        self.storage_version = api_version.to_owned();
        self.is_storage_version = false;
        self.convertor = Some(Arc::new(convertor));
        self
    }

    /// Converts what is read, though this is the version of the storage: what was written by an older schema gets the defaults of this one and
    /// loses what it does not know. `form` names the schema.
    pub fn read_by(mut self, form: String, convertor: impl Convertor) -> Self {
        self.form = form;
        self.convertor = Some(Arc::new(convertor));
        self
    }

    /// Whether a stored object defines it: it answers as upstream's custom resources.
    pub fn is_custom(&self) -> bool {
        self.defined.is_some()
    }

    /// The schema of its objects: its own, or the published one.
    pub fn schema(&self) -> Schema {
        let published = || Schema::for_kind(&self.gvk()).unwrap_or_else(Schema::any);
        let own = self.own_schema.as_ref().map(|own| own.schema());
        own.unwrap_or_else(|| self.published_schema.get_or_init(published).clone())
    }

    /// What a body with an object of the resource must be.
    pub(crate) fn expected(&self) -> Expected {
        Expected { kind: self.gvk(), schema: self.schema(), long_lists: self.long_lists, own: self.is_custom() }
    }

    /// Whether it serves a verb.
    pub fn serves(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Arc<Subresource>> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether objects are stored in the version of this resource, among those that share a storage.
    pub fn is_storage(&self) -> bool {
        self.action.is_none() && self.is_storage_version
    }

    /// The key prefix of its objects: `/core/pods/` and so on; namespace and name follow.
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
