//! Paths that are no resources: discovery, OpenAPI, version, health, metrics, and the fixed documents of [`crate::server::Parts`].

use crate::{
    aggregation::{check, discovery as aggregated},
    call::Call,
    discovery, fairness,
    negotiate::{self, Output},
    openapi, reply,
    server::{Document, Server},
    version,
};
use api::Status;
use axum::body::Body;
use http::{HeaderValue, Method, Response, StatusCode, header};

/// Answers a request for a document.
pub(crate) async fn serve(server: &Server, call: Call) -> Result<Response<Body>, Status> {
    if call.info.path.trim_matches('/').contains("//") {
        return Ok(reply::no_such_path());
    }
    if !matches!(*call.method(), Method::GET | Method::HEAD) {
        return Err(Status::new(
            api::Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        ));
    }
    let output = Output { pretty: negotiate::pretty(call.headers(), &call.query), ..Output::default() };
    let path = call.info.path.trim_end_matches('/');
    let found = match path {
        "" => Some(paths(server, output)),
        "/version" => Some(reply::value(StatusCode::OK, Output { pretty: true, ..output }, &version::info())),
        "/metrics" => Some(metrics(server)?),
        fairness::DUMP => Some(reply::text(StatusCode::OK, server.fairness().dump())),
        _ if is_health(path) => server.checks().answer(path, &call.query),
        _ if path == "/api" || path == "/apis" || path.starts_with("/api/") || path.starts_with("/apis/") => {
            discovery::answer(server, &call, path).await?
        }
        _ if path.starts_with(check::PATH) => Some(check::answer(server, path.trim_start_matches(check::PATH)).await?),
        _ if path.starts_with("/openapi/") => openapi::answer(server, &call, path).await?,
        _ => server.documents().iter().find(|document| document.path == path).map(fixed),
    };
    Ok(found.unwrap_or_else(reply::no_such_path))
}

/// Whether a path is a health check.
pub(crate) fn is_health(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|p| path.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn fixed(document: &Document) -> Response<Body> {
    let mut response = reply::value(StatusCode::OK, Output::default(), &document.value);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(document.media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

fn metrics(server: &Server) -> Result<Response<Body>, Status> {
    let text = server.metrics().encode().map_err(Status::internal)?;
    let mut response = Response::new(Body::from(text));
    let media = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    Ok(response)
}

/// `/`: the list of paths.
fn paths(server: &Server, output: Output) -> Response<Body> {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .into_iter()
    .chain(server.documents().iter().map(|document| document.path))
    .map(str::to_owned)
    .collect();
    for group in aggregated::outline(server, &server.registry()).groups().iter().filter(|group| !group.name.is_empty())
    {
        let path = format!("/apis/{}", group.name);
        paths.extend(group.versions.iter().map(|version| format!("{path}/{}", version.name)));
        paths.push(path);
    }
    paths.sort();
    reply::value(StatusCode::OK, output, &serde_json::json!({"paths": paths}))
}
