//! A served resource as a value. The registry, discovery, OpenAPI and every verb read it; a custom resource is the same value with
//! another strategy. Follows the resource list of upstream's discovery documents.

use crate::{Context, Strategy};
use api::{GroupVersionKind, GroupVersionResource, Object, Status};
use serde_json::Value;
use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

/// What can be done with a resource, as discovery names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// All eight, which most stored kinds serve.
    pub const ALL: &'static [Verb] = &[
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    /// As discovery and error messages write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One column of a table (`meta.k8s.io/v1 TableColumnDefinition`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// `Ready`.
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the first column, else mostly empty.
    pub format: Cow<'static, str>,
    /// For people.
    pub description: Cow<'static, str>,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A string column that is always shown.
    pub const fn new(name: &'static str, description: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            kind: "string",
            format: Cow::Borrowed(""),
            description: Cow::Borrowed(description),
            priority: 0,
        }
    }

    /// The `Name` column.
    pub const fn name() -> Self {
        Self {
            name: Cow::Borrowed("Name"),
            kind: "string",
            format: Cow::Borrowed("name"),
            description: Cow::Borrowed("Name must be unique within a namespace."),
            priority: 0,
        }
    }

    /// The `Age` column.
    pub const fn age() -> Self {
        Self::new("Age", "Time since the object was created.")
    }

    /// Shown with `-o wide` only.
    pub const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    /// Its cells are integers.
    pub const fn integer(mut self) -> Self {
        self.kind = "integer";
        self
    }

    /// Its cells are booleans.
    pub const fn boolean(mut self) -> Self {
        self.kind = "boolean";
        self
    }

    /// Its cells are RFC 3339 times.
    pub const fn date(mut self) -> Self {
        self.kind = "date";
        self
    }
}

/// The columns of a kind without its own: `Name` and `Created At`.
pub const DEFAULT_COLUMNS: &[Column] =
    &[Column::name(), Column::new("Created At", "Time the object was created.").date()];

/// A subresource as discovery lists it. The core serves `status`, `scale`, `binding`, `eviction`, `log`, `finalize` and
/// `token` by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`.
    pub name: Cow<'static, str>,
    /// The kind of its bodies: the resource's own, or `autoscaling/v1 Scale`.
    pub kind: GroupVersionKind,
    /// `get`, `patch`, `update`, or `create`.
    pub verbs: Vec<Verb>,
}

/// Answers a create without storing anything: the reviews of authentication and authorization.
#[async_trait::async_trait]
pub trait Review: Send + Sync + 'static {
    /// The answer: the object with its status filled in.
    async fn review(&self, cx: &Context, object: Object) -> Result<Object, Status>;
}

/// A served resource. Build it with [`Resource::new`] and the methods after it.
pub struct Resource {
    /// Where it is served.
    pub gvr: GroupVersionResource,
    /// `Deployment`.
    pub kind: String,
    /// `DeploymentList`.
    pub list_kind: String,
    /// `deployment`.
    pub singular: String,
    /// `deploy`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in a namespace.
    pub namespaced: bool,
    /// What it serves.
    pub verbs: Vec<Verb>,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// Its table columns; the cells come from [`Strategy::row`].
    pub columns: Cow<'static, [Column]>,
    /// What belongs to the kind.
    pub strategy: Arc<dyn Strategy>,
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
    /// Not stored: a create is answered by this.
    pub review: Option<Arc<dyn Review>>,
    /// What every answer about it warns of.
    pub deprecation: Option<&'static str>,
    /// The server has no such kind yet: it lists none, and refuses to make one with a sentence of its own.
    pub absent: bool,
}

impl Resource {
    /// A stored, namespaced kind with all verbs: `Resource::new("apps", "v1", "deployments", "Deployment", Arc::new(Deployments))`.
    pub fn new(group: &str, version: &str, resource: &str, kind: &str, strategy: Arc<dyn Strategy>) -> Self {
        let gvr = GroupVersionResource::new(group, version, resource);
        Self {
            storage: (group.to_owned(), resource.to_owned()),
            upstream_directory: "",
            storage_version: gvr.api_version(),
            gvr,
            kind: kind.to_owned(),
            list_kind: format!("{kind}List"),
            singular: kind.to_lowercase(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            verbs: Verb::ALL.to_vec(),
            subresources: Vec::new(),
            columns: Cow::Borrowed(DEFAULT_COLUMNS),
            strategy,
            generation: false,
            returns_deleted_object: false,
            create_on_update: false,
            unconditional_update: true,
            ttl: None,
            review: None,
            deprecation: None,
            absent: false,
        }
    }

    /// A create-only kind that is not stored.
    pub fn reviewed(group: &str, version: &str, resource: &str, kind: &str, review: Arc<dyn Review>) -> Self {
        let mut made = Self::new(group, version, resource, kind, Arc::new(crate::strategy::Plain));
        made.verbs = vec![Verb::Create];
        made.namespaced = false;
        made.review = Some(review);
        made
    }

    /// Its objects have no namespace.
    pub fn cluster_scoped(mut self) -> Self {
        self.namespaced = false;
        self
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
    pub fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(|n| (*n).to_owned()).collect();
        self
    }

    /// Categories.
    pub fn category(mut self, name: &str) -> Self {
        self.categories.push(name.to_owned());
        self
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

    /// Table columns.
    pub fn columns(mut self, columns: impl Into<Cow<'static, [Column]>>) -> Self {
        self.columns = columns.into();
        self
    }

    /// Keeps `metadata.generation`.
    pub fn with_generation(mut self) -> Self {
        self.generation = true;
        self
    }

    /// Adds `/status`: main writes ignore status, status writes take nothing else.
    pub fn with_status(self) -> Self {
        let kind = self.gvk();
        self.with_subresource("status", kind, &[Verb::Get, Verb::Patch, Verb::Update])
    }

    /// Adds `/scale` over `spec.replicas`.
    pub fn with_scale(self) -> Self {
        let kind = GroupVersionKind::new("autoscaling", "v1", "Scale");
        self.with_subresource("scale", kind, &[Verb::Get, Verb::Patch, Verb::Update])
    }

    /// Adds a subresource.
    pub fn with_subresource(mut self, name: &'static str, kind: GroupVersionKind, verbs: &[Verb]) -> Self {
        self.subresources.push(Subresource { name: Cow::Borrowed(name), kind, verbs: verbs.to_vec() });
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

    /// Shares the storage of another resource, whose `apiVersion` is the stored form; the strategy converts
    /// ([`Strategy::to_storage`], [`Strategy::from_storage`]).
    pub fn stored_as(mut self, group: &str, resource: &str, api_version: &str) -> Self {
        self.storage = (group.to_owned(), resource.to_owned());
        self.storage_version = api_version.to_owned();
        self
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&self.gvr.group, &self.gvr.version, &self.kind)
    }

    /// Whether it serves a verb.
    pub fn serves(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether the stored form is another version's.
    pub fn converts(&self) -> bool {
        self.storage_version != self.gvr.api_version()
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

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resource({}, {})", self.gvr.api_version(), self.gvr.resource)
    }
}

/// A cell's text, `<none>` where empty.
pub fn or_none(text: &str) -> Value {
    Value::from(if text.is_empty() { "<none>" } else { text })
}
