//! An API server for tests. It stores JSON, lists, watches, merges statuses, and selects by namespace and by equality of fields. It neither
//! validates nor sets defaults.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
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
    /// Objects by path: `/api/v1/namespaces/n/pods/p`.
    by_path: BTreeMap<String, Value>,
    log: Vec<Change>,
    /// Statuses that were patched, by name of the pod.
    statuses: Vec<(String, Value)>,
    /// The number of writes to fail, with the resource (empty for any except Events), code and reason.
    failures: (u32, &'static str, u16, &'static str),
    tokens: u32,
    /// The name of the key of tokens.
    key: &'static str,
    /// Path and query of each GET.
    asked: Vec<String>,
    /// Open watches by path and query.
    open: Vec<String>,
    /// Resources whose watches are stalled.
    silent: &'static [&'static str],
}

/// A write or deletion. For a deletion, `after` is the last state at the revision of the deletion.
struct Change {
    revision: u64,
    path: String,
    before: Option<Value>,
    after: Value,
    deleted: bool,
}

/// The selector of a list or watch.
#[derive(Clone)]
struct Selection {
    resource: String,
    namespace: Option<String>,
    /// The path of a field and its value.
    fields: Vec<(String, String)>,
}

impl Selection {
    fn parse(path: &str, query: &str) -> Self {
        let namespace = path.split_once("/namespaces/").map(|(_, rest)| rest.split('/').next().unwrap_or(rest));
        let fields = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=")).unwrap_or_default();
        let fields = fields.split("%2C").filter_map(|one| one.split_once("%3D"));
        let resource = resource_of(path).to_owned();
        let fields = fields.map(|(field, value)| (format!("/{}", field.replace('.', "/")), value.to_owned())).collect();
        Self { resource, namespace: namespace.map(str::to_owned), fields }
    }

    fn holds(&self, path: &str, object: &Value) -> bool {
        let namespace = self.namespace.as_deref();
        resource_of(path) == self.resource
            && namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
            && self.fields.iter().all(|(field, value)| object.pointer(field).is_some_and(|found| found == value))
    }
}

/// Counts an open watch until it is dropped.
struct Open(FakeApi, String);

impl Drop for Open {
    fn drop(&mut self) {
        let mut objects = self.0.0.objects.lock();
        if let Some(at) = objects.open.iter().position(|open| *open == self.1) {
            objects.open.swap_remove(at);
        }
    }
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

    /// Creates or replaces the object at a path.
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut objects = self.0.objects.lock();
        let revision = *self.0.revision.borrow() + 1;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let before = objects.by_path.insert(path.to_owned(), object.clone());
        objects.log.push(Change { revision, path: path.to_owned(), before, after: object, deleted: false });
        drop(objects);
        self.0.revision.send_replace(revision);
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.0.objects.lock().by_path.get(path).cloned()
    }

    /// The object as it was created.
    pub(super) fn created(&self, path: &str) -> Option<Value> {
        let objects = self.0.objects.lock();
        let first = objects.log.iter().find(|change| change.path == path && change.before.is_none());
        first.map(|change| change.after.clone())
    }

    /// Changes an object in place.
    pub(super) fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(path).expect("an object to edit");
        change(&mut object);
        self.put(path, object);
    }

    pub(super) fn delete(&self, path: &str) {
        let mut objects = self.0.objects.lock();
        let Some(before) = objects.by_path.remove(path) else { return };
        let revision = *self.0.revision.borrow() + 1;
        let mut after = before.clone();
        after["metadata"]["resourceVersion"] = revision.to_string().into();
        objects.log.push(Change { revision, path: path.to_owned(), before: Some(before), after, deleted: true });
        drop(objects);
        self.0.revision.send_replace(revision);
    }

    /// All objects of a collection, in all namespaces.
    pub(super) fn all(&self, resource: &str) -> Vec<Value> {
        let objects = self.0.objects.lock();
        let of = |(path, value): (&String, &Value)| (resource_of(path) == resource).then(|| value.clone());
        objects.by_path.iter().filter_map(of).collect()
    }

    pub(super) fn statuses(&self) -> Vec<(String, Value)> {
        self.0.objects.lock().statuses.clone()
    }

    /// Path and query of every GET.
    pub(super) fn asked(&self) -> Vec<String> {
        self.0.objects.lock().asked.clone()
    }

    /// Path and query of the open watches.
    pub(super) fn open(&self) -> Vec<String> {
        let mut open = self.0.objects.lock().open.clone();
        open.sort();
        open
    }

    /// Stalls the watches of these resources. Other watches send the events that they held back.
    pub(super) fn silence(&self, silent: &'static [&'static str]) {
        self.0.objects.lock().silent = silent;
        self.0.revision.send_modify(|_| {});
    }

    pub(super) fn fail(&self, times: u32) {
        self.0.objects.lock().failures = (times, "", 500, "InternalError");
    }

    /// Answers the next writes of a resource with conflicts. Returns how many of the earlier ones remain.
    pub(super) fn conflict(&self, times: u32, resource: &'static str) -> u32 {
        std::mem::replace(&mut self.0.objects.lock().failures, (times, resource, 409, "Conflict")).0
    }

    /// All events as `reason: message`, in order of creation.
    pub(crate) fn events(&self) -> Vec<String> {
        let mut events = self.all("events");
        events.sort_by_key(|e| e["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok()));
        let text =
            |e: &Value| format!("{}: {}", e["reason"].as_str().unwrap_or(""), e["message"].as_str().unwrap_or(""));
        events.iter().map(text).collect()
    }
}

/// The resource of a path: `/api/v1/namespaces/n/pods/p` → `pods`.
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
    if parts.method == Method::GET {
        api.0.objects.lock().asked.push(parts.uri.to_string());
    }
    match parts.method {
        Method::GET if query.contains("watch=true") => api.watch(&path, &query),
        Method::GET => api.read(&path, &query),
        Method::POST if path.ends_with("/token") => api.token(&path, &body),
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
    fn read(&self, path: &str, query: &str) -> Response {
        if let Some(object) = self.get(path) {
            return axum::Json(object).into_response();
        }
        let resource = resource_of(path);
        if path.rsplit('/').next() != Some(resource) {
            return status(404, "NotFound", &format!("{path} not found"));
        }
        let revision = self.0.revision.borrow().to_string();
        let selection = Selection::parse(path, query);
        let items: Vec<Value> = {
            let objects = self.0.objects.lock();
            let selected = objects.by_path.iter().filter(|(path, object)| selection.holds(path, object));
            selected.map(|(_, object)| object.clone()).collect()
        };
        axum::Json(
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items}),
        )
        .into_response()
    }

    fn watch(&self, path: &str, query: &str) -> Response {
        let selection = Selection::parse(path, query);
        let since = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).and_then(|v| v.parse().ok());
        let open = Open(self.clone(), format!("{path}?{query}"));
        self.0.objects.lock().open.push(open.1.clone());
        let state = (open, since.unwrap_or(0u64), self.0.revision.subscribe());
        let stream = futures::stream::unfold(state, move |(open, since, mut revision)| {
            let selection = selection.clone();
            async move {
                loop {
                    revision.borrow_and_update();
                    let (lines, seen) = open.0.news(&selection, since);
                    if !lines.is_empty() {
                        return Some((Ok::<_, std::io::Error>(Bytes::from(lines)), (open, seen, revision)));
                    }
                    revision.changed().await.ok()?;
                }
            }
        });
        Body::from_stream(stream.boxed()).into_response()
    }

    /// The watch events after a revision, and the revision of the last one.
    fn news(&self, selection: &Selection, since: u64) -> (String, u64) {
        let objects = self.0.objects.lock();
        let silent = objects.silent.contains(&selection.resource.as_str());
        let (mut lines, mut seen) = (String::new(), since);
        for change in objects.log.iter().filter(|change| change.revision > since && !silent) {
            let was = change.before.as_ref().is_some_and(|before| selection.holds(&change.path, before));
            let is = !change.deleted && selection.holds(&change.path, &change.after);
            let kind = match (was, is) {
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                (true, false) => "DELETED",
                (false, false) => continue,
            };
            lines += &(json!({"type": kind, "object": change.after}).to_string() + "\n");
            seen = change.revision;
        }
        (lines, seen)
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

    /// The name of the key of tokens for audiences that begin with `jwt`, which are JSON web tokens.
    pub(crate) fn sign_with(&self, key: &'static str) {
        self.0.objects.lock().key = key;
    }

    /// How many tokens were requested.
    pub(crate) fn tokens(&self) -> u32 {
        self.0.objects.lock().tokens
    }

    fn token(&self, path: &str, body: &Value) -> Response {
        let number = {
            let mut objects = self.0.objects.lock();
            objects.tokens += 1;
            objects.tokens
        };
        let base = super::world::epoch() + jiff::SignedDuration::from_secs(super::world::elapsed().as_secs() as i64);
        let expires =
            base + jiff::SignedDuration::from_secs(body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600));
        let key = self.0.objects.lock().key;
        let token = match body["spec"]["audiences"][0].as_str().is_some_and(|audience| audience.starts_with("jwt")) {
            false => format!("token-{number}"),
            true => {
                let names: Vec<&str> = path.split('/').collect();
                let pod = &body["spec"]["boundObjectRef"];
                let bound = json!({"namespace": names[4], "serviceaccount": {"name": names[6], "uid": "u"},
                    "pod": {"name": pod["name"], "uid": pod["uid"]}, "node": {"name": "node", "uid": "n"}});
                let claims = json!({"iss": "fake", "aud": ["jwt"], "iat": base.as_second(), "exp": expires.as_second(), "kubernetes.io": bound});
                let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
                format!(
                    "{}.{}.{}",
                    part(json!({"alg": "ES256", "kid": key})),
                    part(claims),
                    part(json!(format!("{number:08}")))
                )
            }
        };
        let status = json!({"token": token, "expirationTimestamp": expires.to_string()});
        axum::Json(json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": body["spec"], "status": status}))
            .into_response()
    }
}

/// Merges objects, and conditions by type. Replaces other lists.
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
                if condition.get("$patch").is_none() {
                    all.push(condition);
                }
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
