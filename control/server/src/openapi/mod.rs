//! OpenAPI v3 per group-version, and v2 as JSON and protobuf, built on first use and kept compressed. Clients use them for PATCH types,
//! `fieldValidation`, merge keys of three-way patches, and the texts of `kubectl explain`. Follows kube-openapi's handlers.

mod own;
mod paths;
mod protobuf;

use crate::{
    Resource, Server,
    aggregation::{discovery, swagger},
    call::Call,
    gzip,
    lazy::CompressedDocument,
    limits,
    registry::Registry,
    reply, version,
};
use api::{Status, schema::openapi as schemas};
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};
use std::{collections::BTreeSet, sync::Arc};

pub(crate) use paths::Version;

/// Answers `/openapi/…`; `None` if there is no such document.
pub(crate) async fn answer(server: &Server, call: &Call, path: &str) -> Result<Option<Response<Body>>, Status> {
    let registry = server.registry();
    if path == "/openapi/v2" {
        let (hash, of) = (hash(&registry, None), registry.clone());
        if let Some(merged) = merged(server, call, &registry, &hash).await {
            return Ok(Some(merged?));
        }
        if wants_protobuf(call) {
            let packed = registry.documents().compressed("v2.pb", move || protobuf::document(&v2(&of))).await?;
            return Ok(Some(document(server, call, &packed, &hash, protobuf::MEDIA_TYPE, false)?));
        }
        let packed = registry.documents().compressed("v2", move || bytes(&v2(&of))).await?;
        return Ok(Some(document(server, call, &packed, &hash, JSON, false)?));
    }
    let Some(rest) = path.strip_prefix("/openapi/v3") else { return Ok(None) };
    if rest.is_empty() {
        return Ok(Some(index(server, call, &registry).await));
    }
    let segments: Vec<&str> = rest.trim_matches('/').split('/').collect();
    let (group, version) = match segments.as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Ok(None),
    };
    if registry.group_version(group, version).next().is_none() {
        return Ok(None);
    }
    let hash = hash(&registry, Some((group, version)));
    if call.query.get("hash").is_some_and(|asked| asked != hash) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let target = HeaderValue::from_str(&format!("{path}?hash={hash}")).map_err(Status::internal)?;
        response.headers_mut().insert(header::LOCATION, target);
        return Ok(Some(response));
    }
    let (group, version) = (group.to_owned(), version.to_owned());
    // Not the path, which can be written in any number of ways.
    let key = format!("{group}/{version}");
    let of = registry.clone();
    let packed = registry.documents().compressed(&key, move || bytes(&v3(&of, &group, &version))).await?;
    Ok(Some(document(server, call, &packed, &hash, JSON, call.query.get("hash").is_some())?))
}

const JSON: &str = "application/json";

/// The v2 document with what other servers add; `None` where they add nothing, or it cannot be made with that.
async fn merged(
    server: &Server,
    call: &Call,
    registry: &Arc<Registry>,
    hash: &str,
) -> Option<Result<Response<Body>, Status>> {
    let (parts, protobuf) = (discovery::parts(server, registry).await, wants_protobuf(call));
    let remotes = server.remotes().filter(|_| !parts.is_empty())?;
    let mut digest = Sha512::new_with_prefix(hash);
    parts.iter().for_each(|part| digest.update(part.digest()));
    let (hash, of) = (hex::encode_upper(digest.finalize()), registry.clone());
    let make = move || {
        let mut whole = v2(&of);
        swagger::merge(&mut whole, &parts);
        if protobuf { protobuf::document(&whole) } else { bytes(&whole) }
    };
    let packed = remotes.swagger().get(protobuf, &hash, make).await?;
    let media = if protobuf { protobuf::MEDIA_TYPE } else { JSON };
    Some(document(server, call, &packed, &hash, media, false))
}

fn bytes(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).expect("JSON values serialise")
}

/// Whether protobuf is the first available form of the v2 document in the client's Accept header.
fn wants_protobuf(call: &Call) -> bool {
    let accepted =
        call.headers().get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let mut known = accepted.filter_map(|a| {
        let name = a.split(';').next().unwrap_or_default().trim();
        let json = matches!(name, "application/json" | "application/*" | "*/*");
        (json || name.starts_with(protobuf::ACCEPTED)).then_some(!json)
    });
    known.next().unwrap_or(false)
}

/// A hash over everything that a document is built from, without building it: it changes whenever the document would.
fn hash(registry: &Registry, only: Option<(&str, &str)>) -> String {
    let mut digest = Sha512::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(version::KUBERNETES);
    for resource in of(registry, only) {
        digest.update(format!("{:?} {:?}", resource.names, resource.verbs));
        for sub in &resource.subresources {
            digest.update(format!("{} {:?} {:?}", sub.name, sub.kind, sub.verbs));
        }
        // Published schemas only change with the version of the program.
        if let Some(own) = &resource.own_schema {
            digest.update(own.digest());
            digest.update(format!("{:?}", resource.strategy.selectable()));
        }
    }
    hex::encode_upper(digest.finalize())
}

async fn index(server: &Server, call: &Call, registry: &Registry) -> Response<Body> {
    let mut paths = Map::new();
    let others = discovery::documents(server, &discovery::outline(server, registry)).await;
    for ((group, version), known) in others {
        if let Some(url) = known.open_api {
            paths.insert(format!("apis/{group}/{version}"), json!({"serverRelativeURL": &*url}));
        }
    }
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = format!("/openapi/v3/{path}?hash={}", hash(registry, Some((group, version))));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    let output = crate::negotiate::Output {
        pretty: crate::negotiate::pretty(call.headers(), &call.query),
        ..Default::default()
    };
    reply::value(StatusCode::OK, output, &json!({"paths": paths}))
}

fn document(
    server: &Server,
    call: &Call,
    document: &CompressedDocument,
    hash: &str,
    media: &'static str,
    forever: bool,
) -> Result<Response<Body>, Status> {
    let etag = HeaderValue::from_str(&format!("\"{hash}\"")).expect("hexadecimal is a header value");
    let mut response = Response::new(Body::empty());
    if call.headers().get(header::IF_NONE_MATCH) == Some(&etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        if gzip::accepts(call.headers()) {
            *response.body_mut() = Body::from(document.bytes.clone());
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        } else {
            let room = server.limits().reserve_response_memory(document.length)?;
            response = limits::hold_memory_until_sent(Response::new(Body::from(document.decompress())), room);
        }
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::ETAG, etag);
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if forever {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        let year = server.clock().now() + jiff::SignedDuration::from_hours(365 * 24);
        let expires = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&year);
        if let Some(value) = expires.ok().and_then(|t| HeaderValue::from_str(&t).ok()) {
            headers.insert(header::EXPIRES, value);
        }
    }
    Ok(response)
}

/// Definitions that documents need in addition to those of the kinds.
const COMMON: [&str; 2] =
    ["io.k8s.apimachinery.pkg.apis.meta.v1.Status", "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];

fn definitions(registry: &Registry, only: Option<(&str, &str)>, version: schemas::Version) -> Value {
    let mut names: BTreeSet<&str> = COMMON.into();
    for resource in of(registry, only) {
        let list = api::GroupVersionKind { kind: resource.list_kind.clone(), ..resource.gvk() };
        let kinds = [resource.gvk(), list].into_iter().chain(resource.subresources.iter().map(|s| s.kind.clone()));
        names.extend(kinds.filter_map(|k| schemas::definition_name(&k)));
        if resource.own_schema.is_some() {
            names.extend(own::METADATA);
        }
    }
    let mut all = schemas::definitions(names, version);
    for resource in of(registry, only) {
        if let Some(own) = &resource.own_schema {
            own::add(&mut all, resource, own, version);
        }
    }
    all
}

/// The resources of one group and version, or all.
fn of<'a>(registry: &'a Registry, only: Option<(&'a str, &'a str)>) -> impl Iterator<Item = &'a Resource> {
    let wanted = move |r: &&Resource| only.is_none_or(|(g, v)| r.gvr.group == g && r.gvr.version == v);
    registry.all().iter().map(AsRef::as_ref).filter(wanted)
}

fn v3(registry: &Registry, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    for resource in registry.group_version(group, version) {
        paths::add(&mut paths, resource, Version::V3);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version::KUBERNETES},
        "paths": paths,
        "components": {
            "schemas": definitions(registry, Some((group, version)), schemas::Version::V3),
            "securitySchemes": {"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}},
        },
    })
}

fn v2(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for resource in registry.all() {
        paths::add(&mut paths, resource, Version::V2);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version::KUBERNETES},
        "paths": paths,
        "definitions": definitions(registry, None, schemas::Version::V2),
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}
