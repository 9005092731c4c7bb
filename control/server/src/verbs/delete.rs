//! DELETE and deletecollection: preconditions, graceful deletion, finalizers and propagation. Follows upstream's generic store and
//! "Garbage Collection" and "Pod Lifecycle: Termination".

use super::{
    answer, read, view_of,
    write::{Write, take_away},
};
use crate::{
    Context, Reservation, Resource, Verb,
    admission::Attributes,
    chain::Call,
    codec, limits,
    negotiate::Offers,
    payload::{Item, View},
    reply,
    select::{Filter, identity},
};
use api::{Cause, FieldPath, GroupVersionKind, Object, Status, invalid};
use axum::body::Body;
use bytes::BufMut;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;
use store::{Entry, Error, Expect};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// How often a delete is tried again when the object changes under it.
const TRIES: usize = 8;

/// `DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    grace: Option<i64>,
    propagation: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) revision: Option<String>,
    pub(super) dry_run: bool,
}

impl Options {
    fn parse(call: &Call, body: &[u8]) -> Result<Self, Status> {
        let value = if body.is_empty() { from_query(call)? } else { codec::decode_options(&call.headers, body)? };
        Self::of(&value, call)
    }

    /// From a decoded `DeleteOptions`, and the `dryRun` of the query.
    pub(super) fn of(value: &Value, call: &Call) -> Result<Self, Status> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let mut causes = Vec::new();
        let mut propagation = text("/propagationPolicy");
        let field = FieldPath::new("propagationPolicy");
        match (propagation.as_deref(), value.get("orphanDependents").and_then(Value::as_bool)) {
            (Some(_), Some(_)) => causes.push(Cause::invalid(
                &field,
                &json!(propagation),
                "orphanDependents and deletionPropagation cannot be both set",
            )),
            (None, Some(orphan)) => propagation = Some(if orphan { "Orphan" } else { "Background" }.to_owned()),
            (Some("Orphan" | "Background" | "Foreground"), None) | (None, None) => {}
            (Some(other), None) => {
                causes.push(Cause::not_supported(
                    &field,
                    &json!(other),
                    &["Foreground", "Background", "Orphan", "nil"],
                ));
            }
        }
        let dry: Vec<&str> =
            value.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let dry_run = codec::dry_run(dry.into_iter().chain(call.query.all("dryRun")), &mut causes);
        if !causes.is_empty() {
            return Err(invalid(&GroupVersionKind::new("meta.k8s.io", "v1", "DeleteOptions"), "", &causes));
        }
        // A negative grace means one second, as upstream has it.
        let grace = value.get("gracePeriodSeconds").and_then(Value::as_i64).map(|g| if g < 0 { 1 } else { g });
        Ok(Self {
            grace,
            propagation,
            uid: text("/preconditions/uid"),
            revision: text("/preconditions/resourceVersion"),
            dry_run,
        })
    }
}

fn from_query(call: &Call) -> Result<Value, Status> {
    let mut value = json!({});
    if let Some(seconds) = call.query.number("gracePeriodSeconds")? {
        value["gracePeriodSeconds"] = json!(seconds);
    }
    if let Some(policy) = call.query.given("propagationPolicy") {
        value["propagationPolicy"] = json!(policy);
    }
    if call.query.given("orphanDependents").is_some() {
        value["orphanDependents"] = json!(call.query.flag("orphanDependents"));
    }
    Ok(value)
}

/// What a delete did.
enum Outcome {
    /// The object is gone; this was its last state.
    Gone(Box<Object>),
    /// It is being deleted, or was already.
    Pending(Box<Object>),
}

/// DELETE of one object.
pub(super) async fn delete(call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Tables)?;
    let (call, bytes) = call.with_body().await?;
    let options = Options::parse(&call, &bytes)?;
    let cx = call.context(Verb::Delete, &resource, options.dry_run);
    match remove(&call, cx, &options).await? {
        Outcome::Gone(object) if !resource.returns_deleted_object => {
            let details = json!({"name": object.name(), "group": resource.gvr.group, "kind": resource.gvr.resource, "uid": object.uid()});
            let mut details = details;
            if resource.gvr.group.is_empty() {
                details.as_object_mut().map(|d| d.remove("group"));
            }
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            Ok(reply::value(StatusCode::OK, output, &status))
        }
        Outcome::Gone(object) | Outcome::Pending(object) => {
            answer(&call, StatusCode::OK, output, &resource, &view_of(&object))
        }
    }
}

/// DELETE of a collection: answers the list of what was deleted.
pub(super) async fn collection(call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Tables)?;
    let (call, bytes) = call.with_body().await?;
    let options = Options::parse(&call, &bytes)?;
    read::validate_options(&call.query, false)?;
    let filter = Filter::parse(&call.query, &resource, None)?;
    let page = read::page(&call, &resource, &filter, true).await?;
    // Before anything is deleted.
    let room = call.server.0.limits.whole(page.entries.iter().map(|e| e.payload.view(&resource).length()).sum())?;
    let prefix = resource.prefix();
    let context = |entry: &Arc<Entry<Item>>| {
        let (namespace, name) = identity(&resource, &prefix, &entry.key);
        let mut cx = call.context(Verb::Delete, &resource, options.dry_run);
        cx.namespace = namespace.to_owned();
        cx.name = name.to_owned();
        cx
    };
    let contexts: Vec<Context> = page.entries.iter().map(context).collect();
    // Side by side, so that they share group commits; bounded, so that a large collection cannot take over the writer.
    let work: Vec<BoxFuture<'_, _>> = contexts.into_iter().map(|cx| remove(&call, cx, &options).boxed()).collect();
    let outcomes: Vec<Result<Outcome, Status>> = futures::stream::iter(work).buffered(64).collect().await;
    let mut out = reply::list_head(&resource.list_kind, &resource.gvr.api_version(), page.revision, None, None);
    out.put_slice(b"\"items\":[");
    let mut first = true;
    for outcome in outcomes {
        let object = match outcome {
            Ok(Outcome::Gone(object) | Outcome::Pending(object)) => object,
            Err(status) if status.reason == api::Reason::NotFound => continue,
            Err(status) => return Err(status),
        };
        if !first {
            out.put_u8(b',');
        }
        first = false;
        View::detached(&object).write(&mut out, None);
    }
    out.put_slice(b"]}\n");
    Ok(limits::keep(reply::json(StatusCode::OK, output, out.freeze()), room))
}

/// Deletes the object that the path names.
pub(super) async fn by_options(call: &Call, resource: &Arc<Resource>, options: &Options) -> Result<(), Status> {
    let mut cx = call.context(Verb::Delete, resource, options.dry_run);
    cx.subresource.clear();
    remove(call, cx, options).await.map(drop)
}

async fn remove(call: &Call, cx: Context, options: &Options) -> Result<Outcome, Status> {
    let resource = cx.resource.clone();
    let key = resource.key(&cx.namespace, &cx.name);
    let store = &call.server.0.store;
    for attempt in 1.. {
        let Some(entry) = store.get(&key) else { return Err(Status::not_found(&resource.gvr, &cx.name)) };
        let view = entry.payload.view(&resource);
        let whole = view.read();
        let broken = whole.is_err();
        let object = Arc::new(whole.unwrap_or_else(|_| view.object()));
        preconditions(&cx, options, &object)?;
        let write = Write::with(&call.server, cx.clone(), "");
        let attributes = Attributes { context: cx.clone(), old: Some(object.clone()) };
        write.admit_finally(&attributes, &object).await?;
        // Of an object that cannot be read nobody could take off the finalizers either.
        let step = match broken {
            false => step(call, &cx, options, &entry, &object).await,
            true => at_once(call, &cx, &entry, Object::clone(&object)).await,
        };
        match step {
            Ok(outcome) => return Ok(outcome),
            Err(Error::Conflict { actual: None }) => return Err(Status::not_found(&resource.gvr, &cx.name)),
            Err(Error::Conflict { .. }) if attempt < TRIES && options.revision.is_none() => continue,
            Err(Error::Conflict { .. }) => return Err(Status::modified(&resource.gvr, &cx.name)),
            Err(error) => return Err(read::store_error(error)),
        }
    }
    unreachable!("the last try returns")
}

fn preconditions(cx: &Context, options: &Options, object: &Object) -> Result<(), Status> {
    for (what, wanted, actual) in
        [("UID", &options.uid, object.uid()), ("ResourceVersion", &options.revision, object.resource_version())]
    {
        if let Some(wanted) = wanted.as_deref().filter(|w| *w != actual) {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}");
            return Err(Status::conflict(&cx.resource.gvr, &cx.name, &why));
        }
    }
    Ok(())
}

/// Takes the object away whatever it holds.
async fn at_once(
    call: &Call,
    cx: &Context,
    entry: &Arc<Entry<Item>>,
    mut object: Object,
) -> Result<Outcome, Error<Item>> {
    if !cx.dry_run {
        let last = object.clone();
        let revision = take_away(&call.server, &cx.resource, entry, last, Reservation::none()).await?;
        object.set(&["metadata", "resourceVersion"], revision.to_string());
    }
    Ok(Outcome::Gone(Box::new(object)))
}

/// One attempt.
async fn step(
    call: &Call,
    cx: &Context,
    options: &Options,
    entry: &Arc<Entry<Item>>,
    old: &Object,
) -> Result<Outcome, Error<Item>> {
    let resource = &cx.resource;
    let store = &call.server.0.store;
    let mut object = old.clone();
    propagate(&mut object, resource, options);
    let grace = resource.strategy.grace(old, options.grace);
    let kept = !object.finalizers().is_empty() || resource.strategy.holds(&object);
    if !kept && grace.unwrap_or(0) == 0 {
        return at_once(call, cx, entry, object).await;
    }
    mark(&mut object, cx, grace.unwrap_or(0));
    if !old.is_deleting() {
        resource.strategy.begin_deletion(cx, &mut object);
    }
    if object == *old || cx.dry_run {
        return Ok(Outcome::Pending(Box::new(object)));
    }
    let bytes = Write::with(&call.server, cx.clone(), "").encode(&object);
    let entry = store.put(&entry.key, Expect::At(entry.revision), bytes, resource.ttl).await?;
    Ok(Outcome::Pending(Box::new(entry.payload.view(resource).object())))
}

/// Sets the finalizers that the propagation policy asks for.
fn propagate(object: &mut Object, resource: &Resource, options: &Options) {
    let policy = match options.propagation.as_deref() {
        Some(policy) => policy,
        // Not asked for: an object that is already waiting for its dependents goes on waiting.
        None if object.finalizers().iter().any(|f| matches!(*f, ORPHAN | FOREGROUND)) => return,
        None => resource.strategy.default_propagation(),
    };
    let wanted = match policy {
        "Orphan" => Some(ORPHAN),
        "Foreground" => Some(FOREGROUND),
        _ => None,
    };
    let mut finalizers: Vec<String> = object
        .finalizers()
        .into_iter()
        .filter(|f| !matches!(*f, ORPHAN | FOREGROUND) || Some(*f) == wanted)
        .map(str::to_owned)
        .collect();
    if let Some(wanted) = wanted.filter(|w| !finalizers.iter().any(|f| f == w)) {
        finalizers.push(wanted.to_owned());
    }
    if finalizers.is_empty() {
        object.remove(&["metadata", "finalizers"]);
    } else {
        object.set(&["metadata", "finalizers"], finalizers);
    }
}

/// Sets deletionTimestamp and grace once; later deletes may only shorten the grace.
fn mark(object: &mut Object, cx: &Context, grace: i64) {
    if !object.is_deleting() {
        object.set(&["metadata", "deletionTimestamp"], api::time::rfc3339(later(cx.now, grace)));
        object.set(&["metadata", "deletionGracePeriodSeconds"], grace);
        if cx.resource.generation {
            let next = object.generation() + 1;
            object.set(&["metadata", "generation"], next);
        }
        return;
    }
    let before = object.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    if grace >= before {
        return;
    }
    let stamp =
        object.str_at(&["metadata", "deletionTimestamp"]).and_then(|t| t.parse::<Timestamp>().ok()).unwrap_or(cx.now);
    object.set(&["metadata", "deletionTimestamp"], api::time::rfc3339(later(stamp, grace - before)));
    object.set(&["metadata", "deletionGracePeriodSeconds"], grace);
}

fn later(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(time)
}
