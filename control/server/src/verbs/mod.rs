//! The verbs. Each takes a call and its resource, and returns a response or a `Status`.

mod admit;
mod api;
mod companions;
mod computed;
mod delete;
mod list;
mod patch;
mod protobuf;
mod read;
mod restrict;
mod scale;
mod versions;
mod watch;
mod watchtimer;
mod write;

use crate::{
    Operation, Resource, Server, Verb,
    action::Serve,
    call::Call,
    gzip,
    negotiate::{Form, Output},
    payload::View,
    reply,
    route::Target,
    scope::Scope,
    table::{IncludeObject, Representation},
};
use ::api::{Object, Status};
use axum::body::Body;
use bytes::BytesMut;
use futures::{FutureExt, future::BoxFuture};
use http::{Response, StatusCode};
use std::sync::Arc;

/// Serves a request about a resource. On the heap: what a write needs while it waits would be part of every future around it, and of the stack
/// below a parser that recurses.
pub(crate) fn serve(server: &Server, call: Call, target: Target) -> BoxFuture<'_, Result<Response<Body>, Status>> {
    dispatch(server, call, target).boxed()
}

async fn dispatch(server: &Server, call: Call, target: Target) -> Result<Response<Body>, Status> {
    let Target { resource, subresource, verb } = target;
    match (subresource.as_ref().map(|s| &s.serve), &resource.action) {
        (Some(Serve::Action(action)), _) | (None, Some(action)) => {
            if let Some(options) = action.connection(&call) {
                connect(server, &call, &resource, options).await?;
            }
            action.serve(server, call, resource.names.clone()).await
        }
        (Some(Serve::Scope(scope)), _) => stored(server, call, resource.clone(), verb, *scope).await,
        (Some(Serve::Scale), _) => scale::serve(server, call, resource.clone(), verb).await,
        (None, None) => stored(server, call, resource, verb, Scope::Main).await,
    }
}

/// Asks admission about a connection with these options.
async fn connect(server: &Server, call: &Call, resource: &Arc<Resource>, options: Object) -> Result<(), Status> {
    let cx = server.context(call, Operation::Connect, &resource.names, false);
    let mut write = write::Write::with(server, resource.clone(), cx, "");
    let attributes = write.attributes(None);
    let mut shown = options.clone();
    write.admit(&attributes, &mut shown).await?;
    if shown != options {
        return Err(Status::internal("the options of a connection cannot be changed by admission"));
    }
    write.validate_admission(&attributes, &shown).await
}

/// The verbs of stored objects. The route has checked that the resource or subresource serves the verb.
async fn stored(
    server: &Server,
    call: Call,
    resource: Arc<Resource>,
    verb: Verb,
    scope: Scope,
) -> Result<Response<Body>, Status> {
    let accepts_gzip = gzip::accepts(call.headers());
    let response = match verb {
        Verb::Create => write::create(server, call, resource).await,
        Verb::Get => read::get(server, call, resource).await,
        Verb::List => read::list(server, call, resource).await,
        Verb::Watch => watch::watch(server, call, resource).await,
        Verb::Update => write::update(server, call, resource, scope).await,
        Verb::Patch => patch::patch(server, call, resource, scope).await,
        Verb::Delete => delete::delete(server, call, resource).await,
        Verb::DeleteCollection => delete::collection(server, call, resource).await,
    }?;
    Ok(if accepts_gzip { gzip::compressed(response) } else { response })
}

/// The response with one stored object in the negotiated representation.
pub(crate) fn answer(
    server: &Server,
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
        let representation = Representation {
            form: output.form,
            include: IncludeObject::parse(&call.query)?,
            now: server.clock().now(),
        };
        representation.write_object(&mut out, resource, view, true, None);
        out.freeze()
    };
    Ok(reply::json(code, output, bytes))
}

/// A view of an object that is not stored: a dry run, or the last state of a deleted one.
pub(crate) fn view_of(object: &Object) -> View {
    View::detached(object)
}
