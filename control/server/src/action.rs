//! Subresources, and resources that are not stored: what serves them, and what that code can do with the API.

use crate::{
    Context, Names, Objects, Operation, Verb, call::Call, codec::WriteOptions, deleteoptions::DeleteOptions,
    nodes::Kubelet, proxy::Backend, request::Query, scope::Scope,
};
use api::{GroupVersionKind, Object, Status};
use axum::body::Body;
use http::Response;
use std::{borrow::Cow, fmt, sync::Arc};
use tokio_util::sync::CancellationToken;

/// A subresource. Discovery, OpenAPI, the route of a request and its dispatch read this one value.
#[derive(Debug)]
pub struct Subresource {
    /// `status`.
    pub name: Cow<'static, str>,
    /// The kind of its bodies: the resource's own, or `autoscaling/v1 Scale`.
    pub kind: GroupVersionKind,
    /// The verbs that it serves.
    pub verbs: Vec<Verb>,
    /// How it is served.
    pub serve: Serve,
}

impl Subresource {
    /// A subresource.
    pub fn new(name: &'static str, kind: GroupVersionKind, verbs: &[Verb], serve: Serve) -> Self {
        Self { name: Cow::Borrowed(name), kind, verbs: verbs.to_vec(), serve }
    }
}

/// How a subresource is served.
#[derive(Clone)]
pub enum Serve {
    /// By the verbs of the resource; a write changes this part of the object only.
    Scope(Scope),
    /// As an `autoscaling/v1 Scale` of the object.
    Scale,
    /// By code of its own.
    Action(Arc<dyn Action>),
}

impl Serve {
    pub(crate) fn takes_path(&self) -> bool {
        matches!(self, Self::Action(action) if action.takes_path())
    }

    pub(crate) fn is_long_running(&self, query: &Query) -> bool {
        matches!(self, Self::Action(action) if action.is_long_running(query))
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope(scope) => write!(f, "{scope:?}"),
            Self::Scale => f.write_str("Scale"),
            Self::Action(_) => f.write_str("Action"),
        }
    }
}

/// Answers calls of a subresource (`pods/eviction`) or of a resource that is not stored (a review).
#[async_trait::async_trait]
pub trait Action: Send + Sync + 'static {
    /// Answers one call, whose verb the resource or subresource serves. `names` are those of the resource.
    ///
    /// # Errors
    /// The Status that the client receives.
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status>;

    /// Whether a call may run longer than the request timeout. Its body is then not read before.
    fn is_long_running(&self, _query: &Query) -> bool {
        false
    }

    /// The options of a call that opens a stream to what the object stands for (a pod). Admission is asked about them first, as for upstream's
    /// CONNECT.
    fn connection(&self, _call: &Call) -> Option<Object> {
        None
    }

    /// Whether a path may follow the name of the subresource (proxies).
    fn takes_path(&self) -> bool {
        false
    }
}

/// What an action can do with the API.
#[async_trait::async_trait]
pub trait Api: Objects {
    /// The names of a resource of a group, in its preferred version.
    fn names(&self, group: &str, resource: &str) -> Option<Arc<Names>>;

    /// What strategies and admission learn about a call.
    fn context(&self, call: &Call, operation: Operation, names: &Arc<Names>, dry_run: bool) -> Context;

    /// Asks admission about an object that a call creates and that is not stored as it is: a review, an eviction. It may change the object.
    ///
    /// # Errors
    /// Admission refuses it.
    async fn admit(
        &self,
        call: &Call,
        names: &Arc<Names>,
        options: &WriteOptions,
        object: &mut Object,
    ) -> Result<(), Status>;

    /// Updates the stored object that the context names, with every step of an update after decoding but admission, which was asked about the
    /// call. Answers the new resourceVersion, or `None` where there is no such object.
    ///
    /// # Errors
    /// The errors of `make`, of validation, and of the store.
    async fn update(&self, update: &mut Update, make: Make<'_>) -> Result<Option<String>, Status>;

    /// Deletes the object that the context names, without asking admission once more.
    ///
    /// # Errors
    /// 404, 409 for a precondition, and the errors of the store.
    async fn delete(&self, cx: Context, options: &DeleteOptions) -> Result<(), Status>;

    /// Answers a get or a list with objects that are made for it and not stored: selectors and tables work as of stored ones. A get takes
    /// the first.
    ///
    /// # Errors
    /// 400 for a selector, 406 for a representation.
    fn computed(&self, call: &Call, names: &Names, objects: Vec<Object>) -> Result<Response<Body>, Status>;

    /// The way to the kubelet of a node.
    fn kubelet(&self, node: &str) -> Kubelet;

    /// Whether the caller may do the same with another verb.
    ///
    /// # Errors
    /// 403.
    async fn require(&self, call: &Call, verb: &str) -> Result<(), Status>;

    /// Passes a call on to an HTTP server inside the cluster: what follows the subresource is the path there.
    ///
    /// # Errors
    /// 503 where it cannot be reached.
    async fn proxy(&self, backend: &Backend, call: Call) -> Result<Response<Body>, Status>;

    /// Cancelled when the server stops; long-running responses end then.
    fn shutdown(&self) -> CancellationToken;
}

/// An update that an action makes.
pub struct Update {
    /// The user, the time, the object.
    pub cx: Context,
    /// The field manager.
    pub manager: String,
    /// What the update may change.
    pub scope: Scope,
    /// `Warning` headers: those so far; the update adds its own.
    pub warnings: Vec<String>,
}

/// Makes the new object from the stored one, and warnings. Called again after a conflict with another writer.
pub type Make<'a> = &'a mut (dyn FnMut(&Object, &mut Vec<String>) -> Result<Change, Status> + Send);

/// The new form of a stored object.
pub struct Change {
    /// The new object.
    pub object: Object,
    /// managedFields are already up to date (server-side apply).
    pub owned: bool,
    /// The client gave the resourceVersion, so that a conflict is answered and not retried.
    pub pinned: bool,
    /// How the uid of the new object is used.
    pub uid: Uid,
}

/// How the uid of a new object is used, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uid {
    /// As a precondition: a stored object with another uid is a conflict (PUT).
    Expected,
    /// As a field like others, which cannot change (patches).
    Given,
}
