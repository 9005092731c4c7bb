//! OpenAPI v3 per group-version, and v2 as JSON and as protobuf, made on first use and kept compressed. Clients take from them: which PATCH types and
//! `fieldValidation` a kind knows, merge keys for three-way patches, and the texts of `kubectl explain`. Follows kube-openapi's handlers.

mod paths;
mod protobuf;

use crate::{chain::Call, limits, registry::Registry, reply, version};
use api::{Status, schema::openapi as schemas};
use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use http::{HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};
use std::{
    collections::{BTreeSet, HashMap},
    io::{Read, Write},
};

pub(crate) use paths::Version;

/// The documents made so far or being made, by what they are about.
#[derive(Default)]
pub(crate) struct OpenApi {
    made: Mutex<HashMap<String, Making>>,
}

/// A document that is made once, however many wait for it; not undone when they no longer do.
type Making = Shared<BoxFuture<'static, Result<Document, String>>>;

/// A document as it is kept.
#[derive(Clone)]
struct Document {
    /// gzip-compressed.
    packed: Bytes,
    /// Unpacked, bytes.
    length: usize,
}

impl Document {
    fn pack(bytes: &[u8]) -> std::io::Result<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes)?;
        Ok(Self { packed: encoder.finish()?.into(), length: bytes.len() })
    }

    fn unpack(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length);
        GzDecoder::new(self.packed.as_ref()).read_to_end(&mut bytes).expect("the server packed it");
        bytes
    }
}

impl OpenApi {
    /// Forgets everything: the registry has changed.
    #[allow(dead_code)] // custom resources come and go
    pub(crate) fn clear(&self) {
        self.made.lock().clear();
    }

    async fn document(&self, key: &str, make: impl FnOnce() -> Vec<u8> + Send + 'static) -> Result<Document, Status> {
        let making = self.made.lock().entry(key.to_owned()).or_insert_with(|| begin(make)).clone();
        let made = making.clone().await;
        if made.is_err() {
            // The next one tries again, unless somebody does already.
            let mut all = self.made.lock();
            if all.get(key).is_some_and(|kept| kept.ptr_eq(&making)) {
                all.remove(key);
            }
        }
        made.map_err(Status::internal)
    }
}

fn begin(make: impl FnOnce() -> Vec<u8> + Send + 'static) -> Making {
    let work = tokio::task::spawn_blocking(move || Document::pack(&make()));
    let made = async move { work.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string()) };
    made.boxed().shared()
}

/// Answers `/openapi/…`; `None` if nothing is there.
pub(crate) async fn answer(call: &Call, path: &str) -> Result<Option<Response<Body>>, Status> {
    let registry = call.server.0.registry.load_full();
    if path == "/openapi/v2" {
        let hash = hash(&registry, None);
        let documents = &call.server.0.openapi;
        if wants_protobuf(call) {
            let packed = documents.document("v2.pb", move || protobuf::document(&v2(&registry))).await?;
            return Ok(Some(document(call, &packed, &hash, protobuf::MEDIA_TYPE, false)?));
        }
        let packed = documents.document("v2", move || bytes(&v2(&registry))).await?;
        return Ok(Some(document(call, &packed, &hash, JSON, false)?));
    }
    let Some(rest) = path.strip_prefix("/openapi/v3") else { return Ok(None) };
    if rest.is_empty() {
        return Ok(Some(index(call, &registry)));
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
    // Not by the path: that can be written in any number of ways.
    let key = format!("{group}/{version}");
    let packed = call.server.0.openapi.document(&key, move || bytes(&v3(&registry, &group, &version))).await?;
    Ok(Some(document(call, &packed, &hash, JSON, call.query.get("hash").is_some())?))
}

const JSON: &str = "application/json";

fn bytes(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).expect("JSON values serialise")
}

/// Whether the first form of the v2 document that the client names, and there is, is protobuf.
fn wants_protobuf(call: &Call) -> bool {
    let accepted =
        call.headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let mut known = accepted.filter_map(|a| {
        let name = a.split(';').next().unwrap_or_default().trim();
        let json = matches!(name, "application/json" | "application/*" | "*/*");
        (json || name.starts_with(protobuf::ACCEPTED)).then_some(!json)
    });
    known.next().unwrap_or(false)
}

/// Changes whenever the document would: it is made of everything that the document is made of, without making it.
fn hash(registry: &Registry, only: Option<(&str, &str)>) -> String {
    let mut digest = Sha512::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(version::KUBERNETES);
    for resource in registry.all().iter().filter(|r| only.is_none_or(|(g, v)| r.gvr.group == g && r.gvr.version == v)) {
        digest.update(format!(
            "{:?} {:?} {:?} {:?} {}",
            resource.gvr, resource.kind, resource.verbs, resource.subresources, resource.namespaced
        ));
    }
    hex::encode_upper(digest.finalize())
}

fn index(call: &Call, registry: &Registry) -> Response<Body> {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = format!("/openapi/v3/{path}?hash={}", hash(registry, Some((group, version))));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    let output =
        crate::negotiate::Output { pretty: crate::negotiate::pretty(&call.headers, &call.query), ..Default::default() };
    reply::value(StatusCode::OK, output, &json!({"paths": paths}))
}

fn document(
    call: &Call,
    document: &Document,
    hash: &str,
    media: &'static str,
    forever: bool,
) -> Result<Response<Body>, Status> {
    let etag = HeaderValue::from_str(&format!("\"{hash}\"")).expect("hexadecimal is a header value");
    let mut response = Response::new(Body::empty());
    if call.headers.get(header::IF_NONE_MATCH) == Some(&etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        let accepts = call.headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if accepts.split(',').any(|e| e.trim().starts_with("gzip")) {
            *response.body_mut() = Body::from(document.packed.clone());
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        } else {
            let room = call.server.0.limits.whole(document.length)?;
            response = limits::keep(Response::new(Body::from(document.unpack())), room);
        }
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::ETAG, etag);
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if forever {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        let year = call.server.0.clock.now() + jiff::SignedDuration::from_hours(365 * 24);
        let expires = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&year);
        if let Some(value) = expires.ok().and_then(|t| HeaderValue::from_str(&t).ok()) {
            headers.insert(header::EXPIRES, value);
        }
    }
    Ok(response)
}

/// Definitions that documents need besides those of the kinds.
const COMMON: [&str; 2] =
    ["io.k8s.apimachinery.pkg.apis.meta.v1.Status", "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];

fn definitions(registry: &Registry, only: Option<(&str, &str)>, version: schemas::Version) -> Value {
    let mut names: BTreeSet<&str> = COMMON.into();
    for resource in registry.all().iter().filter(|r| only.is_none_or(|(g, v)| r.gvr.group == g && r.gvr.version == v)) {
        let list = api::GroupVersionKind { kind: resource.list_kind.clone(), ..resource.gvk() };
        let kinds = [resource.gvk(), list].into_iter().chain(resource.subresources.iter().map(|s| s.kind.clone()));
        names.extend(kinds.filter_map(|k| schemas::definition_name(&k)));
    }
    schemas::definitions(names, version)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    #[tokio::test]
    async fn a_document_is_made_once_for_all_who_wait_and_for_who_left() {
        let (documents, made) = (OpenApi::default(), Arc::<AtomicUsize>::default());
        let ask = || {
            let made = made.clone();
            documents.document("v2", move || {
                made.fetch_add(1, Ordering::SeqCst);
                b"text".to_vec()
            })
        };
        // Begun, and left.
        assert!(ask().now_or_never().is_none());
        for answer in futures::future::join_all((0..10).map(|_| ask())).await {
            let document = answer.expect("a document");
            assert_eq!((document.unpack(), document.length), (b"text".to_vec(), 4));
        }
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_document_that_could_not_be_made_is_tried_again() {
        let documents = OpenApi::default();
        assert_eq!(
            documents.document("v2", || panic!("on purpose")).await.map(|_| ()).expect_err("an error").code,
            500
        );
        assert!(documents.document("v2", Vec::new).await.is_ok());
    }
}
