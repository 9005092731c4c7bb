//! An API server for tests: stores JSON, lists, watches, merges statuses. No validation, no defaulting.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct FakeApi(Arc<Inner>);

struct Inner {
    objects: Mutex<Objects>,
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct Objects {
    /// By path: `/api/v1/namespaces/n/pods/p`.
    by_path: BTreeMap<String, Value>,
    log: Vec<(u64, String, &'static str, Value)>,
    /// Statuses patched into pods, by name.
    statuses: Vec<(String, Value)>,
    /// Answer this many writes of this resource (any, when it is empty; never Events) with this code and reason.
    failures: (u32, &'static str, u16, &'static str),
    tokens: u32,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { objects: Mutex::default(), revision: watch::Sender::new(1) }))
    }

    pub(crate) fn client(&self) -> client::Client {
        let router = Router::new().fallback(serve).with_state(self.clone());
        let service =
            tower::ServiceExt::<Request>::map_request(router, |request: http::Request<kube::client::Body>| {
                request.map(Body::new)
            });
        client::Client::new(kube::Client::new(service, "default"))
    }

    /// Creates or replaces an object at a path.
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut objects = self.0.objects.lock();
        let revision = *self.0.revision.borrow() + 1;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let kind = if objects.by_path.contains_key(path) { "MODIFIED" } else { "ADDED" };
        objects.by_path.insert(path.to_owned(), object.clone());
        objects.log.push((revision, path.to_owned(), kind, object));
        drop(objects);
        self.0.revision.send_replace(revision);
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.0.objects.lock().by_path.get(path).cloned()
    }

    /// An object as it was first created.
    pub(super) fn created(&self, path: &str) -> Option<Value> {
        let objects = self.0.objects.lock();
        let first = objects.log.iter().find(|(_, at, kind, _)| at == path && *kind == "ADDED");
        first.map(|(.., object)| object.clone())
    }

    /// Changes an object in place.
    pub(super) fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(path).expect("an object to edit");
        change(&mut object);
        self.put(path, object);
    }

    pub(super) fn delete(&self, path: &str) {
        let mut objects = self.0.objects.lock();
        let Some(mut object) = objects.by_path.remove(path) else { return };
        let revision = *self.0.revision.borrow() + 1;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        objects.log.push((revision, path.to_owned(), "DELETED", object));
        drop(objects);
        self.0.revision.send_replace(revision);
    }

    /// All objects below a collection's path, anywhere.
    pub(super) fn all(&self, resource: &str) -> Vec<Value> {
        let objects = self.0.objects.lock();
        let of = |(path, value): (&String, &Value)| (resource_of(path) == resource).then(|| value.clone());
        objects.by_path.iter().filter_map(of).collect()
    }

    pub(super) fn statuses(&self) -> Vec<(String, Value)> {
        self.0.objects.lock().statuses.clone()
    }

    pub(super) fn fail(&self, times: u32) {
        self.0.objects.lock().failures = (times, "", 500, "InternalError");
    }

    /// Answers writes of a resource with conflicts, as when others were faster; answers how many are left of those asked for before.
    pub(super) fn conflict(&self, times: u32, resource: &'static str) -> u32 {
        std::mem::replace(&mut self.0.objects.lock().failures, (times, resource, 409, "Conflict")).0
    }

    /// `reason: message` of all events, in order of creation.
    pub(crate) fn events(&self) -> Vec<String> {
        let mut events = self.all("events");
        events.sort_by_key(|e| e["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok()));
        let text =
            |e: &Value| format!("{}: {}", e["reason"].as_str().unwrap_or(""), e["message"].as_str().unwrap_or(""));
        events.iter().map(text).collect()
    }
}

/// `/api/v1/namespaces/n/pods/p` → `pods`.
fn resource_of(path: &str) -> &str {
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let skip = if parts.first() == Some(&"api") { 2 } else { 3 };
    match &parts[skip.min(parts.len())..] {
        ["namespaces", _, resource, ..] => resource,
        [resource, ..] => resource,
        [] => "",
    }
}

fn status(code: u16, reason: &str, message: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code});
    (StatusCode::from_u16(code).expect("a status code"), axum::Json(body)).into_response()
}

async fn serve(State(api): State<FakeApi>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body in memory");
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if parts.method != Method::GET {
        let mut objects = api.0.objects.lock();
        let (left, only, code, reason) = objects.failures;
        let resource = resource_of(&path);
        if left > 0 && resource != "events" && (only.is_empty() || only == resource) {
            objects.failures.0 -= 1;
            return status(code, reason, "the test says no");
        }
    }
    match parts.method {
        Method::GET if query.contains("watch=true") => api.watch(&path, &query),
        Method::GET => api.read(&path),
        Method::POST if path.ends_with("/token") => api.token(&body),
        Method::POST => {
            let name = body["metadata"]["name"].as_str().expect("a name");
            let path = format!("{path}/{name}");
            if api.get(&path).is_some() {
                return status(409, "AlreadyExists", "already exists");
            }
            let mut body = body;
            if !body["metadata"]["resourceVersion"].is_null() {
                return status(400, "BadRequest", "resourceVersion should not be set on objects to be created");
            }
            if body["metadata"]["uid"].is_null() {
                body["metadata"]["uid"] = format!("uid-{}", *api.0.revision.borrow()).into();
            }
            api.put(&path, body);
            axum::Json(api.get(&path)).into_response()
        }
        Method::PUT => {
            let path = path.trim_end_matches("/status");
            if api.get(path).is_none() {
                return status(404, "NotFound", "not found");
            }
            api.put(path, body);
            axum::Json(api.get(path)).into_response()
        }
        Method::PATCH => api.patch(&path, body),
        Method::DELETE => {
            let Some(object) = api.get(&path) else { return status(404, "NotFound", "not found") };
            let uid = &body["preconditions"]["uid"];
            if !uid.is_null() && *uid != object["metadata"]["uid"] {
                return status(409, "Conflict", "uid differs");
            }
            api.delete(&path);
            axum::Json(object).into_response()
        }
        _ => status(405, "MethodNotAllowed", "no"),
    }
}

impl FakeApi {
    fn read(&self, path: &str) -> Response {
        if let Some(object) = self.get(path) {
            return axum::Json(object).into_response();
        }
        let resource = resource_of(path);
        if path.rsplit('/').next() != Some(resource) {
            return status(404, "NotFound", &format!("{path} not found"));
        }
        let revision = self.0.revision.borrow().to_string();
        let items = self.all(resource);
        axum::Json(
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items}),
        )
        .into_response()
    }

    fn watch(&self, path: &str, query: &str) -> Response {
        let resource = resource_of(path).to_owned();
        let since = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).and_then(|v| v.parse().ok());
        let state = (self.clone(), since.unwrap_or(0u64), self.0.revision.subscribe());
        let stream = futures::stream::unfold(state, move |(api, since, mut revision)| {
            let resource = resource.clone();
            async move {
                loop {
                    let now = *revision.borrow_and_update();
                    let lines: String = {
                        let objects = api.0.objects.lock();
                        let fresh =
                            objects.log.iter().filter(|(at, path, ..)| *at > since && resource_of(path) == resource);
                        fresh
                            .map(|(_, _, kind, object)| json!({"type": kind, "object": object}).to_string() + "\n")
                            .collect()
                    };
                    if !lines.is_empty() {
                        let now = now.max(*api.0.revision.borrow());
                        return Some((Ok::<_, std::io::Error>(Bytes::from(lines)), (api, now, revision)));
                    }
                    revision.changed().await.ok()?;
                }
            }
        });
        Body::from_stream(stream.boxed()).into_response()
    }

    fn patch(&self, path: &str, body: Value) -> Response {
        let own = path.trim_end_matches("/status");
        let Some(mut object) = self.get(own) else { return status(404, "NotFound", "not found") };
        let uid = &body["metadata"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return status(409, "Conflict", "uid differs");
        }
        if resource_of(own) == "pods" {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            self.0.objects.lock().statuses.push((name, body["status"].clone()));
        }
        merge(&mut object, &body);
        self.put(own, object);
        axum::Json(self.get(own)).into_response()
    }

    fn token(&self, body: &Value) -> Response {
        let number = {
            let mut objects = self.0.objects.lock();
            objects.tokens += 1;
            objects.tokens
        };
        let base = super::world::epoch() + jiff::SignedDuration::from_secs(super::world::elapsed().as_secs() as i64);
        let expires =
            base + jiff::SignedDuration::from_secs(body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600));
        let status = json!({"token": format!("token-{number}"), "expirationTimestamp": expires.to_string()});
        axum::Json(json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": body["spec"], "status": status}))
            .into_response()
    }
}

/// Merges objects; conditions by type; all other lists are replaced.
fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return };
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().expect("an object").remove(key);
        } else if key == "conditions" {
            let mut all = into[key].as_array().cloned().unwrap_or_default();
            for condition in value.as_array().into_iter().flatten() {
                let mut condition = condition.clone();
                condition.as_object_mut().expect("an object").retain(|_, v| !v.is_null());
                all.retain(|c| c["type"] != condition["type"]);
                all.push(condition);
            }
            into[key] = all.into();
        } else if value.is_object() {
            if !into[key].is_object() {
                into[key] = json!({});
            }
            merge(&mut into[key], value);
        } else {
            let list =
                value.as_array().map(|l| l.iter().filter(|v| v.get("$patch").is_none()).cloned().collect::<Vec<_>>());
            into[key] = list.map_or_else(|| value.clone(), Value::from);
        }
    }
}
