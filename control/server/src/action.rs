//! Subresources and whole resources that are not read from the store: what serves them, and what it can do with the API around it.

use crate::{
    Context, Names, Objects, Operation, Verb, call::Call, deleteoptions::DeleteOptions, nodes::Kubelet, request::Query,
    scope::Scope,
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
    /// What it serves.
    pub verbs: Vec<Verb>,
    /// How it is served.
    pub serve: Serve,
    /// Whether discovery names it. What is not implemented yet is known, and not named.
    pub listed: bool,
}

impl Subresource {
    /// A subresource that discovery names.
    pub fn new(name: &'static str, kind: GroupVersionKind, verbs: &[Verb], serve: Serve) -> Self {
        Self { name: Cow::Borrowed(name), kind, verbs: verbs.to_vec(), serve, listed: true }
    }
}

/// How a subresource is served.
#[derive(Clone)]
pub enum Serve {
    /// By the verbs of the resource; a write changes this part of the object only.
    Scope(Scope),
    /// As an `autoscaling/v1 Scale` of the object.
    Scale,
    /// By something of its own.
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
    /// Answers one call; its verb is one that the resource or subresource serves. `names` are those of the resource.
    ///
    /// # Errors
    /// The answer, where it is an error.
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status>;

    /// Whether a call may run longer than the time limit. Its body is then not read beforehand.
    fn is_long_running(&self, _query: &Query) -> bool {
        false
    }

    /// Whether it opens a stream into what the object stands for: admission is asked first, as for upstream's CONNECT.
    fn connects(&self) -> bool {
        false
    }

    /// Whether a path may follow its name (proxies).
    fn takes_path(&self) -> bool {
        false
    }
}

/// What an action can do with the API that it is part of.
#[async_trait::async_trait]
pub trait Api: Objects {
    /// The names of a resource of a group, in its preferred version.
    fn names(&self, group: &str, resource: &str) -> Option<Arc<Names>>;

    /// What strategies and admission will know about a call.
    fn context(&self, call: &Call, operation: Operation, names: &Arc<Names>, dry_run: bool) -> Context;

    /// Changes the stored object that the context names, with everything of an update after decoding. Answers the new resourceVersion, or
    /// `None` where there is no such object.
    ///
    /// # Errors
    /// Those of `make`, of validation and admission, and of the store.
    async fn update(&self, update: &mut Update, make: Make<'_>) -> Result<Option<String>, Status>;

    /// Deletes the object that the context names.
    ///
    /// # Errors
    /// 404, 409 of a precondition, those of admission and of the store.
    async fn delete(&self, cx: Context, options: &DeleteOptions) -> Result<(), Status>;

    /// The way to the kubelet of a node.
    fn kubelet(&self, node: &str) -> Kubelet;

    /// Whether the caller may do the same with another verb.
    ///
    /// # Errors
    /// 403.
    async fn require(&self, call: &Call, verb: &str) -> Result<(), Status>;

    /// Cancelled when the server ends: long answers end then.
    fn shutdown(&self) -> CancellationToken;
}

/// An update that an action asks for.
pub struct Update {
    /// Who, when, which object.
    pub cx: Context,
    /// The field manager.
    pub manager: String,
    /// What it may change.
    pub scope: Scope,
    /// `Warning` headers so far, and those of the update.
    pub warnings: Vec<String>,
}

/// Makes the new object of the stored one, and warnings; asked again when somebody else was faster.
pub type Make<'a> = &'a mut (dyn FnMut(&Object, &mut Vec<String>) -> Result<Change, Status> + Send);

/// What an update makes of the stored object.
pub struct Change {
    /// The new object.
    pub object: Object,
    /// managedFields are done (server-side apply).
    pub owned: bool,
    /// The client named the resourceVersion: a clash is its, not ours to try again.
    pub pinned: bool,
    /// What the uid of the new object means.
    pub uid: Uid,
}

/// What the uid of a new object means, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uid {
    /// The object it is meant for: another one is a conflict (PUT).
    Expected,
    /// A value like others: it cannot change (patches).
    Given,
}
