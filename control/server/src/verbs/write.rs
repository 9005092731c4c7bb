//! Create and update: the one pipeline of every write. [`crate::strategy`] describes its order.

use super::{answer, companions, read::store_error, restrict::restrict, view_of};
use crate::{
    Context, Operation, Reservation, Resource, Server,
    action::{Change, Uid},
    admission::{Attributes, Given},
    call::Call,
    codec::{self, WriteOptions, parse_uint},
    metadata,
    negotiate::Offers,
    payload::{self, Item},
    scope::Scope,
    strategy::{Companion, Recheck},
};
use api::{
    Cause, FieldPath, GroupVersionKind, Object, Reason, Status,
    apply::{FieldSet, UpdateOptions},
    invalid,
    schema::Schema,
};
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::Value;
use std::sync::Arc;
use store::{Entry, Error, Expect, Revision};

/// How many generated names are tried.
const MAX_NAME_ATTEMPTS: usize = 8;

/// How often everything is reserved anew because somebody else was faster.
const MAX_RESERVATIONS: usize = 64;

/// How deep a stored object may nest: as deep as a request body, plus what managedFields add when they describe it.
const MAX_DEPTH: usize = api::MAX_DEPTH + 16;

/// What admission is shown of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The object.
    Object,
    /// Its Scale.
    Scale,
    /// Nothing: it was asked about the request that caused the write.
    Nothing,
}

/// One write.
pub(crate) struct Write {
    pub(crate) server: Server,
    pub(crate) resource: Arc<Resource>,
    pub(crate) cx: Context,
    /// What the write may change.
    pub(crate) scope: Scope,
    pub(crate) manager: String,
    pub(crate) schema: Schema,
    pub(crate) warnings: Vec<String>,
    /// What admission is shown.
    pub(crate) shown: Shown,
    /// What it is told of the client's options.
    pub(crate) given: Given,
}

/// The result of a write.
pub(crate) enum Written {
    /// Stored, or found unchanged.
    Entry(Arc<Entry<Item>>),
    /// Not stored: a dry run, or the last state of an object whose deletion the write completed.
    Detached(Box<Object>),
}

impl Written {
    /// The resourceVersion; empty for an object that has never been stored.
    pub(crate) fn resource_version(&self) -> String {
        match self {
            Self::Entry(entry) => entry.revision.to_string(),
            Self::Detached(object) => object.resource_version().to_owned(),
        }
    }
}

impl Write {
    pub(crate) fn new(
        server: &Server,
        call: &Call,
        resource: &Arc<Resource>,
        operation: Operation,
        options: &WriteOptions,
    ) -> Self {
        let cx = server.context(call, operation, &resource.names, options.dry_run);
        let mut made = Self::with(server, resource.clone(), cx, &options.manager);
        made.given = Given::Write { manager: options.given_manager.clone(), validation: options.given_validation };
        made
    }

    pub(crate) fn with(server: &Server, resource: Arc<Resource>, cx: Context, manager: &str) -> Self {
        let schema = resource.schema();
        let (server, manager) = (server.clone(), manager.to_owned());
        let (shown, given) = (Shown::Object, Given::Nothing);
        Self { server, resource, cx, scope: Scope::Main, manager, schema, warnings: Vec::new(), shown, given }
    }

    pub(crate) fn within(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    pub(crate) fn showing(mut self, shown: Shown) -> Self {
        self.shown = shown;
        self
    }

    /// Fields that no write of this resource or subresource owns.
    pub(crate) fn ignored(&self) -> Option<FieldSet> {
        let own = self.resource.strategy.reset_fields(&self.cx.subresource);
        let mut paths: Vec<&[&str]> = own.to_vec();
        if self.cx.subresource != "status" && self.resource.subresource("status").is_some() {
            paths.push(&["status"]);
        }
        (!paths.is_empty()).then(|| FieldSet::from_fields(&paths))
    }

    fn own_fields(&self, old: Option<&Object>, object: &mut Object) {
        let api_version = self.resource.gvr.api_version();
        let ignored = self.ignored();
        let options = UpdateOptions {
            manager: &self.manager,
            subresource: &self.cx.subresource,
            api_version: &api_version,
            now: self.cx.now,
            ignored: ignored.as_ref(),
        };
        api::apply::update(old, object, &options, &self.schema);
    }

    /// The bytes to store. They are limited to the length of a request body, so that patches do not add up to more, and to a depth that every
    /// reader accepts.
    async fn encode(&self, object: &Object) -> Result<bytes::Bytes, Status> {
        if object.0.values().any(|value| api::nests_deeper(value, MAX_DEPTH - 1)) {
            return Err(Status::bad_request("the object is not accepted: exceeded max depth"));
        }
        let bytes = self.encode_unbounded(object).await?;
        if bytes.len() > codec::BODY_LIMIT { Err(Status::too_large(codec::BODY_LIMIT)) } else { Ok(bytes) }
    }

    /// The bytes to store, without limits: a deletion must always be able to mark a stored object.
    pub(crate) async fn encode_unbounded(&self, object: &Object) -> Result<bytes::Bytes, Status> {
        let resource = &self.resource;
        let Some(convertor) = &resource.convertor else { return Ok(payload::stored_form(object)) };
        let mut stored = convertor.to_storage(object.clone()).await?;
        stored.set(&["apiVersion"], resource.storage_version.clone());
        Ok(payload::stored_form(&stored))
    }

    /// The object as it would be read after it was stored.
    async fn as_stored(&self, object: Object) -> Result<Object, Status> {
        let resource = &self.resource;
        let Some(convertor) = &resource.convertor else { return Ok(object) };
        let version = object.resource_version().to_owned();
        let mut stored = convertor.to_storage(object).await?;
        stored.set(&["apiVersion"], resource.storage_version.clone());
        let mut read = convertor.from_storage(vec![stored]).await?.pop().unwrap_or_default();
        read.set(&["apiVersion"], resource.gvr.api_version());
        read.set(&["kind"], resource.kind.clone());
        if !version.is_empty() {
            read.set(&["metadata", "resourceVersion"], version);
        }
        Ok(read)
    }

    fn refuse(&self, object: &Object, causes: &[Cause]) -> Result<(), Status> {
        if causes.is_empty() {
            return Ok(());
        }
        // Kinds that share their storage have one internal type upstream, which names its own group.
        let kind = GroupVersionKind { group: self.resource.storage.0.clone(), ..self.resource.gvk() };
        Err(invalid(&kind, object.name(), causes))
    }
}

/// POST.
pub(super) async fn create(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Resource(&resource.names))?;
    let options = WriteOptions::parse("CreateOptions", &call.query, call.headers(), false)?;
    let kind = resource.gvk();
    let decoded = codec::decode(call.headers(), &call.body, &resource.expected())?;
    let mut write = Write::new(server, &call, &resource, Operation::Create, &options);
    codec::enforce_field_validation(&decoded, &kind, options.field_validation, &mut write.warnings)?;
    let written = create_object(&mut write, decoded.object, false).await?;
    finish(&call, &write, StatusCode::CREATED, output, &written)
}

/// The response to a write.
pub(super) fn finish(
    call: &Call,
    write: &Write,
    code: StatusCode,
    output: crate::negotiate::Output,
    written: &Written,
) -> Result<Response<Body>, Status> {
    let resource = &write.resource;
    let mut response = match written {
        Written::Entry(entry) => answer(&write.server, call, code, output, resource, entry.payload.view(resource)),
        Written::Detached(object) => answer(&write.server, call, code, output, resource, &view_of(object)),
    }?;
    codec::add_warnings(response.headers_mut(), &write.warnings);
    Ok(response)
}

/// Creates an object: every step of a create after decoding. `owned`: managedFields are already up to date (server-side apply).
pub(crate) async fn create_object(write: &mut Write, object: Object, owned: bool) -> Result<Written, Status> {
    create_with_retries(write, object, owned).await.map_err(|status| with_warnings(write, status))
}

/// A failure, with the warnings so far.
fn with_warnings(write: &mut Write, status: Status) -> Status {
    Status { warnings: std::mem::take(&mut write.warnings), ..status }
}

async fn create_with_retries(write: &mut Write, mut object: Object, owned: bool) -> Result<Written, Status> {
    write.cx.operation = Operation::Create;
    let resource = write.resource.clone();
    let strategy = &resource.strategy;
    metadata::match_namespace(&mut object, &write.cx.namespace, resource.namespaced)?;
    let versioned = own_parts(&resource, &mut object);
    strategy.default(&mut object);
    if !owned {
        write.warnings.extend(metadata::dedup_owners(&mut object, false));
        write.own_fields(None, &mut object);
    }
    let attributes = write.attributes(None);
    write.admit(&attributes, &mut object).await?;
    if attributes.is_changed() {
        // A webhook can set no more than the client.
        metadata::match_namespace(&mut object, &write.cx.namespace, resource.namespaced)?;
        own_parts(&resource, &mut object);
    }
    write.warnings.extend(metadata::dedup_owners(&mut object, true));

    let generated = object.name().is_empty();
    let (mut attempt, mut reservations) = (0, 0);
    let given = write.warnings.len();
    loop {
        write.warnings.truncate(given);
        attempt += 1;
        let last = !generated || attempt == MAX_NAME_ATTEMPTS;
        let only = last && resource.allocator.is_none();
        let candidate = if only { std::mem::take(&mut object) } else { object.clone() };
        let (made, stored) = create_once(write, &attributes, candidate, versioned).await?;
        match stored {
            None => return Ok(Written::Detached(Box::new(made))),
            Some(Ok(entry)) => return written(&resource, entry).await,
            Some(Err(Error::Conflict { .. })) if !last => continue,
            Some(Err(Error::OtherConflict { .. })) if reservations < MAX_RESERVATIONS => {
                reservations += 1;
                attempt -= 1;
            }
            Some(Err(Error::Conflict { .. })) => {
                let mut status = Status::already_exists(&resource.gvr, made.name());
                if generated {
                    status.message.push_str(", the server was not able to generate a unique name for the object");
                }
                return Err(status);
            }
            Some(Err(error)) => return Err(store_error(error)),
        }
    }
}

/// Clears what only the server sets in a new object. Returns whether it had a resourceVersion.
fn own_parts(resource: &Resource, object: &mut Object) -> bool {
    let versioned = metadata::clear_for_create(object);
    if resource.subresource("status").is_some() && !resource.strategy.keeps_status_on_create() {
        object.remove(&["status"]);
    }
    versioned
}

type Stored = Option<Result<Arc<Entry<Item>>, Error<Item>>>;

async fn create_once(
    write: &mut Write,
    attributes: &Attributes,
    mut object: Object,
    versioned: bool,
) -> Result<(Object, Stored), Status> {
    let resource = write.resource.clone();
    let strategy = &resource.strategy;
    // Name and uid first: a Job's selector is made of them.
    metadata::set_system_fields(&mut object, &write.cx);
    write.warnings.extend(strategy.early_warnings(&object));
    strategy.prepare_create(&write.cx, &mut object);
    if resource.generation {
        object.set(&["metadata", "generation"], 1);
    }
    write.cx.name = object.name().to_owned();
    let reservation = reserve(&resource, &write.cx, &mut object, None)?;
    let mut causes = metadata::validate(&resource, &object);
    causes.extend(strategy.validate(&write.cx, &object));
    write.refuse(&object, &causes)?;
    write.validate_admission(attributes, &object).await?;
    metadata::leave_out_empty(&mut object);
    write.schema.forget_empty(&mut object.0);
    write.warnings.extend(strategy.warnings(&write.cx, &object, None));
    write.warnings.extend(write.admission_warnings(attributes, &object).await);
    let reservation = reservation.join(write.admission_reservation(attributes, &object).await?);
    let key = resource.key(object.namespace(), object.name());
    if write.cx.dry_run {
        let clash = write.server.store().get(&key).map(|entry| Err(Error::Conflict { actual: Some(entry) }));
        return Ok((write.as_stored(object).await?, clash));
    }
    if versioned {
        let text = "resourceVersion should not be set on objects to be created";
        return Err(Status::new(Reason::Unknown, text));
    }
    let bytes = write.encode(&object).await?;
    let result = put(write, key, Expect::Absent, bytes, reservation).await;
    Ok((object, Some(result)))
}

/// PUT, of the main resource, `/status` and `/finalize`.
pub(super) async fn update(
    server: &Server,
    call: Call,
    resource: Arc<Resource>,
    scope: Scope,
) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Resource(&resource.names))?;
    let options = WriteOptions::parse("UpdateOptions", &call.query, call.headers(), false)?;
    let kind = resource.gvk();
    let decoded = codec::decode(call.headers(), &call.body, &resource.expected())?;
    let mut write = Write::new(server, &call, &resource, Operation::Update, &options).within(scope);
    codec::enforce_field_validation(&decoded, &kind, options.field_validation, &mut write.warnings)?;
    let mut object = decoded.object;
    metadata::match_namespace(&mut object, &write.cx.namespace, resource.namespaced)?;
    same_name(&call.info.name, &object)?;

    let pinned = !matches!(object.resource_version(), "" | "0");
    let make = |_: &Object, _: &mut Vec<String>| {
        Ok(Change { object: object.clone(), owned: false, pinned, uid: Uid::Expected })
    };
    match update_object(&mut write, make).await? {
        Some(written) => finish(&call, &write, StatusCode::OK, output, &written),
        None if resource.create_on_update && scope == Scope::Main => {
            let written = create_object(&mut write, object, false).await?;
            finish(&call, &write, StatusCode::CREATED, output, &written)
        }
        None => Err(Status::not_found(&resource.gvr, &call.info.name)),
    }
}

/// The name in a body must be present and equal to that of the path.
pub(super) fn same_name(name: &str, object: &Object) -> Result<(), Status> {
    match object.name() {
        given if given == name => Ok(()),
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given => Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
    }
}

/// Updates a stored object: every step of an update after decoding. `make` makes the new object from the stored one, and is called again
/// after a conflict. `None`: there is no such object.
pub(crate) async fn update_object(
    write: &mut Write,
    make: impl FnMut(&Object, &mut Vec<String>) -> Result<Change, Status>,
) -> Result<Option<Written>, Status> {
    update_with_retries(write, make).await.map_err(|status| with_warnings(write, status))
}

async fn update_with_retries(
    write: &mut Write,
    mut make: impl FnMut(&Object, &mut Vec<String>) -> Result<Change, Status>,
) -> Result<Option<Written>, Status> {
    write.cx.operation = Operation::Update;
    let resource = write.resource.clone();
    let key = resource.key(&write.cx.namespace, &write.cx.name);
    let given = write.warnings.len();
    loop {
        write.warnings.truncate(given);
        let Some(entry) = write.server.store().get(&key) else { return Ok(None) };
        payload::convert(&resource, [&entry.payload]).await?;
        // Not `View::object`: an object that can only be read in part would lose the rest.
        let old = entry.payload.view(&resource).read().map_err(|e| unreadable(write, &e))?;
        let old = Arc::new(old);
        let mut change = make(&old, &mut write.warnings)?;
        resource.strategy.default(&mut change.object);
        let pinned = change.pinned;
        match update_once(write, &entry, &old, change).await? {
            Ok(written) => return Ok(Some(written)),
            Err(Error::Conflict { actual: None }) => return Ok(None),
            // Retried until the request times out, as upstream does: in each round one writer succeeds.
            Err(Error::Conflict { .. }) if !pinned => continue,
            Err(Error::OtherConflict { .. }) => continue,
            Err(Error::Conflict { .. }) => return Err(Status::modified(&resource.gvr, &write.cx.name)),
            Err(error) => return Err(store_error(error)),
        }
    }
}

/// 500 for a stored object that can only be deleted.
fn unreadable(write: &Write, error: &str) -> Status {
    let (resource, name) = (&write.resource.gvr.resource, &write.cx.name);
    Status::internal(format!(
        "the stored object {resource} {name:?} cannot be read: {error}; delete it and create it anew"
    ))
}

/// Checks uid and resourceVersion of a body against the stored object.
fn preconditions(write: &Write, object: &Object, old: &Object, uid: Uid) -> Result<(), Status> {
    let (gvr, name) = (&write.resource.gvr, &write.cx.name);
    if uid == Uid::Expected && !object.uid().is_empty() && object.uid() != old.uid() {
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {}, UID in object meta: {}",
            write.resource.upstream_key(&write.cx.namespace, name),
            object.uid(),
            old.uid()
        );
        return Err(Status::conflict(gvr, name, &why));
    }
    let resource = &write.resource;
    match object.resource_version() {
        "" | "0" if !resource.unconditional_update => {
            let field = FieldPath::new("metadata").child("resourceVersion");
            let cause = Cause::invalid(&field, &Value::from(0), "must be specified for an update");
            // In this error upstream names the resource, not the kind.
            let named = GroupVersionKind { kind: gvr.resource.clone(), ..resource.gvk() };
            Err(invalid(&named, name, &[cause]))
        }
        "" | "0" => Ok(()),
        given if given == old.resource_version() => Ok(()),
        given => match parse_uint(given) {
            Ok(number) if Ok(number) == parse_uint(old.resource_version()) => Ok(()),
            Ok(_) => Err(Status::modified(gvr, name)),
            // To upstream a resourceVersion that is not a number is an error of the server.
            Err(why) => Err(Status::new(Reason::Unknown, why)),
        },
    }
}

async fn update_once(
    write: &mut Write,
    entry: &Arc<Entry<Item>>,
    old: &Arc<Object>,
    change: Change,
) -> Result<Result<Written, Error<Item>>, Status> {
    let resource = write.resource.clone();
    let mut object = change.object;
    preconditions(write, &object, old, change.uid)?;
    metadata::carry_over(&mut object, old);
    let attributes = write.attributes(Some(old));
    restrict(write.scope, &resource, &mut object, old);
    if change.uid == Uid::Expected {
        write.warnings.extend(metadata::dedup_owners(&mut object, false));
    }
    if !change.owned {
        write.own_fields(Some(old), &mut object);
    }
    write.admit(&attributes, &mut object).await?;
    if attributes.is_changed() {
        // A webhook can set no more than the client.
        metadata::carry_over(&mut object, old);
        restrict(write.scope, &resource, &mut object, old);
    }
    write.warnings.extend(metadata::dedup_owners(&mut object, true));
    let reservation = prepare_update(write, &mut object, old)?;
    write.validate_admission(&attributes, &object).await?;
    write.warnings.extend(write.admission_warnings(&attributes, &object).await);
    metadata::leave_out_empty(&mut object);
    write.schema.forget_empty(&mut object.0);
    let reservation = reservation.join(write.admission_reservation(&attributes, &object).await?);
    object.set(&["metadata", "resourceVersion"], old.resource_version().to_owned());
    if write.cx.dry_run {
        return Ok(Ok(Written::Detached(Box::new(write.as_stored(object).await?))));
    }
    if object == **old {
        return Ok(Ok(Written::Entry(entry.clone())));
    }
    if should_delete_during_update(&resource, &object, old) {
        let deleted = delete_stored(write, entry, object.clone(), reservation).await;
        return Ok(deleted.map(|_| Written::Detached(Box::new(object))));
    }
    let bytes = write.encode(&object).await?;
    match put(write, entry.key.to_string(), Expect::At(entry.revision), bytes, reservation).await {
        Ok(entry) => written(&resource, entry).await.map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

/// Stores the object with its companions and commits its reservation, even when the client disconnects in between: a completed write keeps its
/// allocations.
async fn put(
    write: &Write,
    key: String,
    expect: Expect,
    bytes: bytes::Bytes,
    mut reservation: Reservation,
) -> Result<Arc<Entry<Item>>, Error<Item>> {
    let (store, ttl) = (write.server.store().clone(), write.resource.ttl);
    if reservation.is_empty() {
        return store.put(&key, expect, bytes, ttl).await;
    }
    let with = companions::writes(&write.server.registry(), &write.cx, reservation.take_companions());
    let work = async move {
        let result = store.put_with(&key, expect, bytes, ttl, with).await;
        if result.is_ok() {
            reservation.commit();
        }
        result
    };
    tokio::spawn(work).await.unwrap_or(Err(Error::Closed))
}

/// The stored object, converted to the version of the write.
async fn written(resource: &Resource, entry: Arc<Entry<Item>>) -> Result<Written, Status> {
    payload::convert(resource, [&entry.payload]).await?;
    Ok(Written::Entry(entry))
}

/// Deletes the stored object with its companions and releases the allocations of its last state, even when the client disconnects in between.
/// Returns the revision of the deletion.
pub(super) async fn delete_stored(
    write: &Write,
    entry: &Arc<Entry<Item>>,
    last: Object,
    mut reservation: Reservation,
) -> Result<Revision, Error<Item>> {
    let (store, resource, entry) = (write.server.store().clone(), write.resource.clone(), entry.clone());
    // What was allocated for an object that goes at once is not created.
    let mut companions = reservation.take_companions();
    companions.retain(|companion| matches!(companion, Companion::Delete(..)));
    if let Some(allocator) = &resource.allocator {
        companions.extend(allocator.leaving(write.cx.objects.as_ref(), &last));
    }
    let with = companions::writes(&write.server.registry(), &write.cx, companions);
    let work = async move {
        let (revision, _) = store.delete_with(&entry.key, Expect::At(entry.revision), with).await?;
        reservation.commit();
        if let Some(allocator) = &resource.allocator {
            allocator.release(&last);
        }
        Ok(revision)
    };
    tokio::spawn(work).await.unwrap_or(Err(Error::Closed))
}

/// Allocates what the object needs from the cluster.
fn reserve(
    resource: &Resource,
    cx: &Context,
    object: &mut Object,
    old: Option<&Object>,
) -> Result<Reservation, Status> {
    resource.allocator.as_ref().map_or_else(|| Ok(Reservation::none()), |allocator| allocator.reserve(cx, object, old))
}

/// The steps of an update that depend on the kind: preparation, reservations, validation, warnings.
fn prepare_update(write: &mut Write, object: &mut Object, old: &Object) -> Result<Reservation, Status> {
    let resource = write.resource.clone();
    let (strategy, cx) = (&resource.strategy, &write.cx);
    let mut reservation = Reservation::none();
    let mut causes = Vec::new();
    match write.scope {
        Scope::Action => causes.extend(metadata::validate(&resource, object)),
        Scope::Status => {
            strategy.prepare_status(cx, object, old);
            causes.extend(metadata::validate_update(&resource, object, old, Recheck::Change));
            causes.extend(strategy.validate_status(cx, object, old));
        }
        Scope::Main | Scope::Fields(_) => {
            strategy.prepare_update(cx, object, old);
            count_generation(&resource, object, old);
            reservation = reserve(&resource, cx, object, Some(old))?;
            causes.extend(metadata::validate_update(&resource, object, old, strategy.rechecks_metadata()));
            causes.extend(strategy.validate(cx, object));
            causes.extend(strategy.validate_update(cx, object, old));
        }
    }
    write.warnings.extend(write.cx.warnings.take());
    write.refuse(object, &causes)?;
    if matches!(write.scope, Scope::Main | Scope::Fields(_)) {
        let warnings = strategy.warnings(cx, object, Some(old));
        write.warnings.extend(warnings);
    }
    Ok(reservation)
}

/// Increments `metadata.generation` after a change outside of metadata and, where there is `/status`, status. To upstream an empty list equals an absent one.
fn count_generation(resource: &Resource, object: &mut Object, old: &Object) {
    if !resource.generation {
        return;
    }
    let has_status = resource.subresource("status").is_some();
    let outside = |key: &&String| *key != "metadata" && !(has_status && *key == "status");
    let mut keys = old.0.keys().chain(object.0.keys()).filter(outside);
    let same = keys.all(|key| match resource.own_schema {
        // Without Go's types what is absent is not what is empty.
        Some(_) => old.0.get(key) == object.0.get(key),
        None => api::semantic::deep_equal_at(old, object, &[key.as_str()]),
    });
    // The strategy may have counted a change that lies in the metadata (a Deployment's annotations).
    let generation = (old.generation() + i64::from(!same)).max(object.generation());
    object.set(&["metadata", "generation"], generation);
}

/// Whether this update completes the deletion of the object: nothing keeps it any more.
fn should_delete_during_update(resource: &Resource, object: &Object, old: &Object) -> bool {
    old.is_deleting()
        && old.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
        && object.finalizers().is_empty()
        && !resource.strategy.blocks_deletion(object)
}
