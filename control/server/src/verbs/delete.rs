//! DELETE and deletecollection: preconditions, graceful deletion, finalizers and propagation. Follows upstream's generic store and
//! "Garbage Collection" and "Pod Lifecycle: Termination".

use super::{
    answer, read, view_of,
    write::{Shown, Write, delete_stored},
};
use crate::{
    Context, Operation, Reservation, Resource, Server,
    admission::Given,
    call::Call,
    deleteoptions::DeleteOptions,
    limits,
    negotiate::Offers,
    payload::{self, Item, View},
    reply,
    select::{Filter, identity},
};
use api::{Object, Status};
use axum::body::Body;
use bytes::BufMut;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::sync::Arc;
use store::{Entry, Error, Expect};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// How often a delete is tried when other writers change the object.
const MAX_ATTEMPTS: usize = 8;

/// The result of a delete.
enum Outcome {
    /// The object is gone; this was its last state.
    Gone(Box<Object>),
    /// The object is marked as deleted; something still keeps it.
    Pending(Box<Object>),
}

/// DELETE of one object.
pub(super) async fn delete(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Resource(&resource.names))?;
    let options = DeleteOptions::parse(call.headers(), &call.query, &call.body)?;
    let cx = server.context(&call, Operation::Delete, &resource.names, options.dry_run);
    match remove(server, &resource, cx, &options, Shown::Object).await? {
        Outcome::Gone(object) if !resource.returns_deleted_object => {
            let mut details = json!({"name": object.name(), "group": resource.gvr.group, "kind": resource.gvr.resource, "uid": object.uid()});
            if resource.gvr.group.is_empty() {
                details.as_object_mut().map(|d| d.remove("group"));
            }
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            Ok(reply::value(StatusCode::OK, output, &status))
        }
        Outcome::Gone(object) | Outcome::Pending(object) => {
            answer(server, &call, StatusCode::OK, output, &resource, &view_of(&object))
        }
    }
}

/// DELETE of a collection; the response is the list of the deleted objects.
pub(super) async fn collection(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Resource(&resource.names))?;
    let options = DeleteOptions::parse(call.headers(), &call.query, &call.body)?;
    read::validate_options(&call.query, false)?;
    let filter = Filter::parse(&call.query, &resource, None)?;
    let page = read::page(server, &call, &resource, &filter, true).await?;
    // Reserved before anything is deleted.
    let room = server
        .limits()
        .reserve_response_memory(page.entries.iter().map(|e| e.payload.view(&resource).length()).sum())?;
    let prefix = resource.prefix();
    let context = |entry: &Arc<Entry<Item>>| {
        let (namespace, name) = identity(&resource, &prefix, &entry.key);
        let mut cx = server.context(&call, Operation::Delete, &resource.names, options.dry_run);
        cx.namespace = namespace.to_owned();
        cx.name = name.to_owned();
        cx
    };
    let contexts: Vec<Context> = page.entries.iter().map(context).collect();
    // Concurrent, so that deletes share group commits; bounded, so that a large collection cannot occupy the writer.
    let work: Vec<BoxFuture<'_, _>> =
        contexts.into_iter().map(|cx| remove(server, &resource, cx, &options, Shown::Object).boxed()).collect();
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
    Ok(limits::hold_memory_until_sent(reply::json(StatusCode::OK, output, out.freeze()), room))
}

/// Deletes the object that a context names, about which admission was asked before.
pub(super) async fn by_options(server: &Server, cx: Context, options: &DeleteOptions) -> Result<(), Status> {
    let gvr = &cx.resource.gvr;
    let resource = server.registry().get(&gvr.group, &gvr.version, &gvr.resource).cloned();
    let resource = resource.ok_or_else(Status::resource_not_found)?;
    remove(server, &resource, cx, options, Shown::Nothing).await.map(drop)
}

async fn remove(
    server: &Server,
    resource: &Arc<Resource>,
    mut cx: Context,
    options: &DeleteOptions,
    shown: Shown,
) -> Result<Outcome, Status> {
    cx.operation = Operation::Delete;
    let key = resource.key(&cx.namespace, &cx.name);
    let mut write = Write::with(server, resource.clone(), cx, "").showing(shown);
    write.given = Given::Deletion(options.clone());
    let mut attempt = 0;
    loop {
        attempt += 1;
        let Some(entry) = server.store().get(&key) else {
            return Err(Status::not_found(&resource.gvr, &write.cx.name));
        };
        payload::convert(resource, [&entry.payload]).await?;
        let view = entry.payload.view(resource);
        let whole = view.read();
        let broken = whole.is_err();
        let object = Arc::new(whole.unwrap_or_else(|_| view.object()));
        preconditions(&write.cx, options, &object)?;
        let attributes = write.attributes(Some(&object));
        write.admit(&attributes, &mut Object::default()).await?;
        write.validate_admission(&attributes, &object).await?;
        // Nobody can remove the finalizers of an object that cannot be read.
        let step = match broken {
            false => delete_once(&write, options, &entry, &object).await?,
            true => delete_now(&write, &entry, Object::clone(&object)).await,
        };
        match step {
            Ok(outcome) => return Ok(outcome),
            Err(Error::Conflict { actual: None }) => return Err(Status::not_found(&resource.gvr, &write.cx.name)),
            Err(Error::Conflict { .. }) if attempt < MAX_ATTEMPTS && options.revision.is_none() => continue,
            Err(Error::OtherConflict { .. }) if attempt < MAX_ATTEMPTS => continue,
            Err(Error::Conflict { .. } | Error::OtherConflict { .. }) => {
                return Err(Status::modified(&resource.gvr, &write.cx.name));
            }
            Err(error) => return Err(read::store_error(error)),
        }
    }
}

fn preconditions(cx: &Context, options: &DeleteOptions, object: &Object) -> Result<(), Status> {
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

/// Deletes the object at once, without regard to finalizers.
async fn delete_now(write: &Write, entry: &Arc<Entry<Item>>, mut object: Object) -> Result<Outcome, Error<Item>> {
    if !write.cx.dry_run {
        let last = object.clone();
        let revision = delete_stored(write, entry, last, Reservation::none()).await?;
        object.set(&["metadata", "resourceVersion"], revision.to_string());
    }
    Ok(Outcome::Gone(Box::new(object)))
}

/// One attempt of a delete.
async fn delete_once(
    write: &Write,
    options: &DeleteOptions,
    entry: &Arc<Entry<Item>>,
    old: &Object,
) -> Result<Result<Outcome, Error<Item>>, Status> {
    let (resource, cx) = (&write.resource, &write.cx);
    let mut object = old.clone();
    set_propagation_finalizer(&mut object, resource, options);
    let grace = resource.strategy.grace_period(old, options.grace);
    let kept = !object.finalizers().is_empty() || resource.strategy.blocks_deletion(&object);
    if !kept && grace.unwrap_or(0) == 0 {
        return Ok(delete_now(write, entry, object).await);
    }
    set_deletion_timestamp(&mut object, cx, resource.generation, grace.unwrap_or(0));
    if !old.is_deleting() {
        resource.strategy.begin_deletion(cx, &mut object);
    }
    if object == *old || cx.dry_run {
        return Ok(Ok(Outcome::Pending(Box::new(object))));
    }
    let bytes = write.encode_unbounded(&object).await?;
    let entry = match write.server.store().put(&entry.key, Expect::At(entry.revision), bytes, resource.ttl).await {
        Ok(entry) => entry,
        Err(error) => return Ok(Err(error)),
    };
    payload::convert(resource, [&entry.payload]).await?;
    Ok(Ok(Outcome::Pending(Box::new(entry.payload.view(resource).object()))))
}

/// Sets the finalizer that the propagation policy asks for.
fn set_propagation_finalizer(object: &mut Object, resource: &Resource, options: &DeleteOptions) {
    let policy = match options.propagation.as_deref() {
        Some(policy) => policy,
        // Without a policy in the request, an object that already waits for its dependents continues to wait.
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

/// Sets deletionTimestamp and grace period. Later deletes may only shorten the grace period.
fn set_deletion_timestamp(object: &mut Object, cx: &Context, counts: bool, grace: i64) {
    if !object.is_deleting() {
        object.set(&["metadata", "deletionTimestamp"], api::time::rfc3339(add_seconds(cx.now, grace)));
        object.set(&["metadata", "deletionGracePeriodSeconds"], grace);
        if counts {
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
    object.set(&["metadata", "deletionTimestamp"], api::time::rfc3339(add_seconds(stamp, grace - before)));
    object.set(&["metadata", "deletionGracePeriodSeconds"], grace);
}

fn add_seconds(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(time)
}
