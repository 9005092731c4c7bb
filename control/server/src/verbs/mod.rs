//! The verbs. Each takes the call and the resource it is about and answers, or fails with a `Status`.

mod binding;
mod delete;
mod eviction;
mod list;
mod log;
mod patch;
mod read;
mod scale;
mod token;
mod watch;
mod write;

use crate::{
    Context, Resource, Verb,
    chain::Call,
    negotiate::{self, Form, Offers, Output},
    payload::View,
    reply,
    request::RequestInfo,
    table::{Include, Look},
};
use api::{Object, Status};
use axum::body::Body;
use bytes::BytesMut;
use http::{Method, Response, StatusCode};
use std::sync::Arc;

pub(crate) use write::{Change, Uid, Write, create_object, update_object};

/// Serves a request about a resource.
pub(crate) async fn serve(call: Call) -> Result<Response<Body>, Status> {
    let info = &call.info;
    let registry = call.server.0.registry.load();
    let Some(resource) = registry.get(&info.group, &info.version, &info.resource).cloned() else {
        // Below a group that is served, upstream answers a Status; elsewhere a page.
        let served = registry.all().iter().any(|r| r.gvr.group == info.group);
        return if served { Err(Status::resource_not_found()) } else { Ok(reply::no_such_path()) };
    };
    drop(registry);
    if call.method == Method::HEAD {
        return Err(not_allowed());
    }
    path_segments(&resource, info)?;
    not_yet(&call, &resource)?;
    let info = &call.info;
    let scoped =
        resource.namespaced || info.namespace.is_empty() || (info.resource == "namespaces" && info.group.is_empty());
    let somewhere = !resource.namespaced || !info.namespace.is_empty() || !info.named;
    if !scoped || !somewhere || !info.rest.is_empty() {
        return Err(Status::resource_not_found());
    }
    if !info.subresource.is_empty() {
        return subresource(call, resource).await;
    }
    let verb = match info.verb.as_str() {
        "create" if !info.named && (!resource.namespaced || !info.namespace.is_empty()) => Verb::Create,
        "get" => Verb::Get,
        "list" => Verb::List,
        "watch" => Verb::Watch,
        "update" if info.named => Verb::Update,
        "patch" if info.named => Verb::Patch,
        "delete" => Verb::Delete,
        "deletecollection" if !resource.namespaced || !info.namespace.is_empty() => Verb::DeleteCollection,
        _ => return Err(not_allowed()),
    };
    if !resource.serves(verb) {
        return Err(if resource.absent { absent(&resource) } else { not_allowed() });
    }
    if resource.kind == "Binding" && resource.gvr.group.is_empty() {
        return binding_by_name(call).await;
    }
    match verb {
        Verb::Create if info.group.is_empty() && info.resource == "bindings" => {
            let pods = call.server.0.registry.load().get("", "v1", "pods").cloned();
            binding::create(call, pods.ok_or_else(Status::resource_not_found)?).await
        }
        Verb::Create => write::create(call, resource).await,
        Verb::Get => read::get(call, resource).await,
        Verb::List => read::list(call, resource).await,
        Verb::Watch => watch::watch(call, resource).await,
        Verb::Update => write::update(call, resource).await,
        Verb::Patch => patch::patch(call, resource).await,
        Verb::Delete => delete::delete(call, resource).await,
        Verb::DeleteCollection => delete::collection(call, resource).await,
    }
}

/// Refuses names and namespaces that cannot be part of a key, with upstream's words.
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

/// 501 for the streams into pods and the proxies, which Kubernetes has and this server has not yet.
fn not_yet(call: &Call, resource: &Resource) -> Result<(), Status> {
    let info = &call.info;
    let streams = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward");
    let known = match resource.gvr.resource.as_str() {
        "pods" => streams || info.subresource == "proxy",
        "services" | "nodes" => info.subresource == "proxy",
        _ => false,
    };
    if !known || !info.group.is_empty() {
        return Ok(());
    }
    if streams && call.server.0.store.get(&call.key(resource)).is_none() {
        return Err(Status::not_found(&resource.gvr, &info.name));
    }
    let text = format!("{}/{} is not implemented yet{}", info.resource, info.subresource, instead(info));
    Err(Status { code: 501, ..Status::new(api::Reason::Unknown, text) })
}

/// What serves the purpose of a stream or proxy meanwhile: kubectl shows it to the user.
fn instead(info: &RequestInfo) -> &'static str {
    match (info.resource.as_str(), info.subresource.as_str()) {
        (_, "exec" | "attach") => ": a Wasm container has no shell; kubectl logs shows what it prints",
        ("nodes", _) => "",
        _ => {
            ": reach it by the NodePort of a Service, such as kubectl patch service NAME -p '{\"spec\":{\"type\":\"NodePort\"}}'"
        }
    }
}

/// POST to `bindings`: the older way to `pods/binding`, with the pod's name in the body.
async fn binding_by_name(mut call: Call) -> Result<Response<Body>, Status> {
    let pods = call.server.0.registry.load().get("", "v1", "pods").cloned();
    let pods = pods.ok_or_else(Status::resource_not_found)?;
    call.info.resource = "pods".to_owned();
    call.info.subresource = "binding".to_owned();
    binding::create(call, pods).await
}

fn not_allowed() -> Status {
    Status::new(api::Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
}

/// A write of a kind that is only listed.
fn absent(resource: &Resource) -> Status {
    let text = format!(
        "sampan has no {kind} yet: the list of {plural} is served, and is always empty, since kubectl asks for it",
        kind = resource.kind,
        plural = resource.gvr.resource
    );
    Status::new(api::Reason::MethodNotAllowed, text)
}

async fn subresource(call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    // kubectl tells "there are no ephemeral containers here" from "there is no such pod" by the name in the Status.
    let found = resource.subresource(&call.info.subresource).ok_or_else(Status::resource_not_found)?;
    let verb = match call.info.verb.as_str() {
        "create" => Verb::Create,
        "get" => Verb::Get,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        _ => return Err(not_allowed()),
    };
    if !found.verbs.contains(&verb) {
        return Err(not_allowed());
    }
    match (call.info.subresource.as_str(), verb) {
        ("status" | "finalize", Verb::Get) => read::get(call, resource).await,
        ("status" | "finalize", Verb::Update) => write::update(call, resource).await,
        ("status", Verb::Patch) => patch::patch(call, resource).await,
        ("scale", Verb::Get) => scale::get(call, resource).await,
        ("scale", Verb::Update) => scale::update(call, resource).await,
        ("scale", Verb::Patch) => scale::patch(call, resource).await,
        ("binding", Verb::Create) => binding::create(call, resource).await,
        ("eviction", Verb::Create) => eviction::create(call, resource).await,
        ("token", Verb::Create) => token::create(call, resource).await,
        ("log", Verb::Get) => log::get(call, resource).await,
        _ => Err(Status::resource_not_found()),
    }
}

impl Call {
    /// What strategies and admission know about this call.
    pub(crate) fn context(&self, verb: Verb, resource: &Arc<Resource>, dry_run: bool) -> Context {
        Context {
            user: self.user.clone(),
            now: self.server.0.clock.now(),
            verb,
            resource: resource.clone(),
            subresource: self.info.subresource.clone(),
            namespace: if resource.namespaced { self.info.namespace.clone() } else { String::new() },
            name: self.info.name.clone(),
            dry_run,
            objects: self.server.objects(),
            ids: self.server.0.ids.clone(),
        }
    }

    /// The form of the answer.
    pub(crate) fn output(&self, offers: Offers) -> Result<Output, Status> {
        negotiate::output(&self.headers, &self.query, offers, false)
    }

    /// The key of the object that the path names.
    pub(crate) fn key(&self, resource: &Resource) -> String {
        resource.key(&self.info.namespace, &self.info.name)
    }
}

/// Answers one stored object in the form that was asked for.
pub(crate) fn answer(
    call: &Call,
    code: StatusCode,
    output: Output,
    resource: &Resource,
    view: &View,
) -> Result<Response<Body>, Status> {
    let bytes = if output.form == Form::Object {
        view.bytes()
    } else {
        let mut out = BytesMut::with_capacity(view.length());
        let look = Look { form: output.form, include: Include::parse(&call.query)?, now: call.server.0.clock.now() };
        look.single(&mut out, resource, view, true, None);
        out.freeze()
    };
    Ok(reply::json(code, output, bytes))
}

/// A view of an object that is not stored: a dry run, or the last state of a deleted one.
pub(crate) fn view_of(object: &Object) -> View {
    View::detached(object)
}
