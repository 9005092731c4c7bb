//! Passes requests on to the servers of their group versions. Follows upstream's `handler_proxy`.

use super::{
    registration::Registration,
    remotes::{forget, told},
};
use crate::{
    Server,
    call::Call,
    proxy::{self, Passage},
    registry::Registry,
    reply,
    request::RequestInfo,
};
use api::Status;
use axum::body::Body;
use http::{Response, StatusCode};
use std::sync::Arc;

/// Subresources whose requests may run longer than others.
const LONG: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// The registration of the group version that a request is for, where another server serves it. What is served here is never passed on.
pub(crate) fn elsewhere(server: &Server, registry: &Registry, info: &RequestInfo) -> Option<Arc<Registration>> {
    let remotes = server.remotes()?;
    let path = info.path.trim_matches('/');
    // The OpenAPI document of a group version is its server's as well.
    let mut parts = path.strip_prefix("openapi/v3/").unwrap_or(path).split('/');
    let (root, group, version) = (parts.next()?, parts.next()?, parts.next()?);
    if root != "apis" || registry.group_version(group, version).next().is_some() {
        return None;
    }
    remotes.registered(server).find(group, version).filter(|found| found.remote.is_some()).cloned()
}

/// Whether a request to another server may run longer than others, as upstream decides.
pub(crate) fn is_long_running(info: &RequestInfo) -> bool {
    info.is_resource && (info.verb == "watch" || LONG.contains(&info.subresource.as_str()))
}

/// Passes a call on.
///
/// # Errors
/// 500 for a user whom no header can tell.
pub(crate) async fn forward(server: &Server, mut call: Call, to: &Registration) -> Result<Response<Body>, Status> {
    let not_available = || reply::text(StatusCode::SERVICE_UNAVAILABLE, "service unavailable\n");
    let (Some(remotes), Some(remote)) = (server.remotes(), &to.remote) else { return Ok(not_available()) };
    if !remote.available {
        return Ok(not_available());
    }
    let Ok(address) = remotes.address(server, remote) else { return Ok(not_available()) };
    let mut headers = told(&call.user).ok_or_else(|| Status::internal("the user cannot be told in a header"))?;
    forget(&mut call.parts.headers);
    if let Some(id) = call.parts.headers.remove(AUDIT_ID) {
        headers.insert(AUDIT_ID, id);
    }
    let unreachable = |text: String| Ok(reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")));
    let stream = match remotes.open(remote, address).await {
        Ok(stream) => stream,
        Err(error) => return unreachable(format!("error trying to reach service: {error}")),
    };
    let (host, path) = (address.to_string(), proxy::whole(&call));
    let passage = Passage { host: &host, path: &path, prefix: "", headers };
    match proxy::pass(stream, call, passage, server.shutdown().clone()).await {
        Err(status) if status.code == 503 => unreachable(status.message),
        answer => answer,
    }
}

/// The header with the identity of a request, which is the same in both servers.
pub(crate) const AUDIT_ID: &str = "audit-id";
