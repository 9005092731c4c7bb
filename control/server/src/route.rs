//! Routing: resource, subresource and verb of a request, looked up once in the registry. A request that nothing serves is a [`Refusal`]; it
//! is answered after authorization, so that it does not disclose which resources exist.

use crate::{
    Registration, Resource, Subresource, Verb,
    registry::Registry,
    reply,
    request::{Query, RequestInfo},
};
use api::{Reason, Status};
use axum::body::Body;
use http::{Method, Response};
use std::sync::Arc;

/// The target of a request.
pub(crate) enum Route {
    /// A document: discovery, OpenAPI, version, health, metrics.
    Document,
    /// A verb of a resource or of one of its subresources.
    Resource(Target),
    /// Another server serves the request.
    Elsewhere {
        /// Where it is passed on to.
        to: Arc<Registration>,
        /// Whether it may run longer than others.
        long: bool,
    },
    /// Nothing serves the request.
    Refused(Refusal),
}

/// A verb of a resource or of one of its subresources.
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    pub(crate) subresource: Option<Arc<Subresource>>,
    pub(crate) verb: Verb,
}

/// Why nothing serves a request.
pub(crate) struct Refusal {
    /// The resource that the request names, if there is one.
    resource: Option<Arc<Resource>>,
    /// The answer; `None`: the 404 page for a path outside of every group.
    answer: Option<Status>,
}

impl Refusal {
    pub(crate) fn answer(self) -> Result<Response<Body>, Status> {
        self.answer.map_or_else(|| Ok(reply::no_such_path()), Err)
    }
}

impl Route {
    /// Routes a request.
    pub(crate) fn find(registry: &Registry, method: &Method, info: &RequestInfo) -> Self {
        if !info.is_resource {
            return Self::Document;
        }
        let Some(resource) = registry.get(&info.group, &info.version, &info.resource).cloned() else {
            // Below a served group upstream answers a Status, elsewhere a page of text.
            let served = registry.all().iter().any(|r| r.gvr.group == info.group);
            return Self::Refused(Refusal { resource: None, answer: served.then(Status::resource_not_found) });
        };
        match Target::find(&resource, method, info) {
            Ok(target) => Self::Resource(target),
            Err(status) => Self::Refused(Refusal { resource: Some(resource), answer: Some(status) }),
        }
    }

    /// The resource that the request names, if there is one.
    pub(crate) fn resource(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::Document | Self::Elsewhere { .. } => None,
            Self::Resource(target) => Some(&target.resource),
            Self::Refused(refusal) => refusal.resource.as_ref(),
        }
    }

    /// Whether the request may run longer than the request timeout, holds no seat once it has begun and leaves its body to the verb.
    pub(crate) fn is_long_running(&self, query: &Query) -> bool {
        match self {
            Self::Resource(target) => target.is_long_running(query),
            Self::Elsewhere { long, .. } => *long,
            Self::Document | Self::Refused(_) => false,
        }
    }

    /// The resource and verb that serve the request here.
    pub(crate) fn target(&self) -> Option<&Target> {
        match self {
            Self::Resource(target) => Some(target),
            _ => None,
        }
    }
}

impl Target {
    fn find(resource: &Arc<Resource>, method: &Method, info: &RequestInfo) -> Result<Self, Status> {
        path_segments(resource, info)?;
        in_scope(resource, info)?;
        let subresource = match info.subresource.as_str() {
            "" => None,
            // By the name in the Status kubectl distinguishes "ephemeral containers are not supported" from "there is no such pod".
            name => {
                // A defined resource answers for what it does not have as for an object.
                let missing = || match resource.is_custom() {
                    true => Status::not_found(&resource.gvr, &info.name),
                    false => Status::resource_not_found(),
                };
                Some(resource.subresource(name).ok_or_else(missing)?.clone())
            }
        };
        let proxies = subresource.as_ref().is_some_and(|s| s.serve.takes_path());
        if !info.rest.is_empty() && !proxies {
            return Err(Status::resource_not_found());
        }
        // Every method is the backend's affair.
        match *method {
            Method::HEAD if !proxies => return Err(not_allowed()),
            Method::OPTIONS if proxies => return Ok(Self { resource: resource.clone(), subresource, verb: Verb::Get }),
            _ => {}
        }
        let somewhere = !resource.namespaced || !info.namespace.is_empty();
        let verb = match (info.verb.as_str(), &subresource) {
            ("create", Some(_)) => Verb::Create,
            ("create", None) if !info.named && somewhere => Verb::Create,
            ("get", _) => Verb::Get,
            ("list", None) => Verb::List,
            ("watch", None) => Verb::Watch,
            ("update", _) if info.named => Verb::Update,
            ("patch", _) if info.named => Verb::Patch,
            ("delete", _) => Verb::Delete,
            ("deletecollection", None) if somewhere => Verb::DeleteCollection,
            _ => return Err(not_allowed()),
        };
        let served = subresource.as_ref().map_or(&resource.verbs, |s| &s.verbs);
        match served.contains(&verb) {
            true => Ok(Self { resource: resource.clone(), subresource, verb }),
            false => Err(not_allowed()),
        }
    }

    fn is_long_running(&self, query: &Query) -> bool {
        self.verb == Verb::Watch || self.subresource.as_ref().is_some_and(|s| s.serve.is_long_running(query))
    }
}

/// Refuses names and namespaces that cannot be part of a key, with upstream's texts.
fn path_segments(resource: &Resource, info: &RequestInfo) -> Result<(), Status> {
    let dots = |text: &str| text == "." || text == "..";
    if info.named {
        let why = match info.name.as_str() {
            name if dots(name) => format!("may not be '{name}'"),
            name if name.contains('%') => "may not contain '%'".to_owned(),
            _ => String::new(),
        };
        if !why.is_empty() {
            return Err(Status::bad_request(format!("Name parameter invalid: {:?}: {why}", info.name)));
        }
    }
    if resource.namespaced && dots(&info.namespace) {
        let key = format!("/{}/{}", info.resource, info.namespace);
        return Err(Status::bad_request(format!("invalid key: {key:?}")));
    }
    Ok(())
}

/// A namespaced object is served below its namespace, any other outside of namespaces; a path below `/namespaces/NAME` may be the Namespace's.
fn in_scope(resource: &Resource, info: &RequestInfo) -> Result<(), Status> {
    let fits = if resource.namespaced {
        !info.namespace.is_empty() || !info.named
    } else {
        info.namespace.is_empty() || info.is_namespace()
    };
    if fits { Ok(()) } else { Err(Status::resource_not_found()) }
}

pub(crate) fn not_allowed() -> Status {
    Status::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
}
