//! `/scale`: `autoscaling/v1 Scale` over `spec.replicas` of a workload.

use super::{
    patch::{self, Patch},
    write::{self, Shown, Write, Written, update_object},
};
use crate::{
    Operation, Resource, Server, Verb,
    action::{Change, Uid},
    call::Call,
    codec::{self, Expected, WriteOptions},
    columns::{Column, age},
    metadata,
    negotiate::{self, Form, Offers, Output},
    payload, reply,
    route::not_allowed,
    table::{self, IncludeObject},
};
use api::{
    Cause, FieldPath, GroupVersionKind, GroupVersionResource, Object, Status, apply::ApplyOptions, invalid,
    schema::Schema,
};
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

fn kind() -> GroupVersionKind {
    GroupVersionKind::new("autoscaling", "v1", "Scale")
}

fn schema() -> Schema {
    Schema::for_kind(&kind()).unwrap_or_else(Schema::any)
}

/// The Scale of an object.
pub(super) fn scale_of(resource: &Resource, object: &Object) -> Object {
    let scale = resource.strategy.scale(object);
    let mut made = Object::default();
    made.set(&["kind"], "Scale");
    made.set(&["apiVersion"], "autoscaling/v1");
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata::copy(&mut made, object, &["metadata", field]);
    }
    made.set(&["spec"], json!({}));
    if scale.replicas != 0 {
        made.set(&["spec", "replicas"], scale.replicas);
    }
    made.set(&["status", "replicas"], scale.observed);
    if !scale.selector.is_empty() {
        made.set(&["status", "selector"], scale.selector);
    }
    made
}

/// Serves a verb of the subresource.
pub(super) async fn serve(
    server: &Server,
    call: Call,
    resource: Arc<Resource>,
    verb: Verb,
) -> Result<Response<Body>, Status> {
    match verb {
        Verb::Get => get(server, call, resource).await,
        Verb::Update => update(server, call, resource).await,
        Verb::Patch => patch(server, call, resource).await,
        _ => Err(not_allowed()),
    }
}

/// GET.
async fn get(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Tables)?;
    let entry = server.store().get(&resource.key(&call.info.namespace, &call.info.name));
    let entry = entry.ok_or_else(|| Status::not_found(&resource.gvr, &call.info.name))?;
    payload::convert(&resource, [&entry.payload]).await?;
    let scale = scale_of(&resource, &entry.payload.view(&resource).object());
    let shown = match output.form {
        Form::Object => scale.into_value(),
        Form::Partial(version) => partial(&scale, version),
        Form::Table(version) => table(server, &call, scale, version)?,
    };
    Ok(reply::value(StatusCode::OK, output, &shown))
}

/// What `kubectl get --subresource=scale` prints.
const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Desired", "Number of desired replicas.").integer(),
    Column::new("Available", "Number of available replicas.").integer(),
    Column::age(),
];

fn table(server: &Server, call: &Call, scale: Object, version: &str) -> Result<Value, Status> {
    let count = |path: &[&str]| scale.at(path).and_then(Value::as_i64).unwrap_or(0);
    let age = age(&scale, server.clock().now());
    let cells = json!([scale.name(), count(&["spec", "replicas"]), count(&["status", "replicas"]), age]);
    let revision = scale.resource_version().to_owned();
    let object = match IncludeObject::parse(&call.query)? {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial(&scale, version),
        IncludeObject::Object => scale.into_value(),
    };
    Ok(json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {"resourceVersion": revision},
        "columnDefinitions": table::columns(COLUMNS), "rows": [{"cells": cells, "object": object}],
    }))
}

fn partial(scale: &Object, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": scale.at(&["metadata"])})
}

/// PUT.
async fn update(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Objects)?;
    let options = WriteOptions::parse("UpdateOptions", &call.query, call.headers(), false)?;
    let decoded = codec::decode(call.headers(), &call.body, &Expected::published(&kind()))?;
    let mut write = Write::new(server, &call, &resource, Operation::Update, &options).showing(Shown::Scale);
    codec::enforce_field_validation(&decoded, &kind(), options.field_validation, &mut write.warnings)?;
    let mut scale = decoded.object;
    metadata::match_namespace(&mut scale, &write.cx.namespace, resource.namespaced)?;
    let scales = resource.clone();
    let make = |old: &Object, _: &mut Vec<String>| change((&call, &scales), &scale, old, old.clone(), false);
    match update_object(&mut write, make).await? {
        Some(written) => finish(&write, output, &resource, written),
        None => Err(Status::not_found(&resource.gvr, &call.info.name)),
    }
}

/// PATCH of the Scale.
async fn patch(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    if negotiate::content_type(call.headers()) == "application/apply-patch+yaml" {
        return apply(server, call, resource).await;
    }
    let output = call.output(Offers::Objects)?;
    let options = WriteOptions::parse("PatchOptions", &call.query, call.headers(), false)?;
    let (media, defined) = (negotiate::content_type(call.headers()), resource.own_schema.is_some());
    if defined && !codec::patch_types(defined).any(|known| known == media) {
        return Err(codec::unsupported_patch(media, defined));
    }
    let patch = Patch::decode(call.headers(), &call.body)?;
    let mut write = Write::new(server, &call, &resource, Operation::Update, &options).showing(Shown::Scale);
    let scale_schema = schema();
    let scales = resource.clone();
    let make = |old: &Object, warnings: &mut Vec<String>| {
        let scale = scale_of(&scales, old);
        let mut scale = patch::patched(&patch, scale, &kind(), &scale_schema, options.field_validation, warnings)?;
        metadata::match_namespace(&mut scale, old.namespace(), scales.namespaced)?;
        let change = change((&call, &scales), &scale, old, old.clone(), false)?;
        same_uid(&scales, &scale, old)?;
        Ok(change)
    };
    match update_object(&mut write, make).await? {
        Some(written) => finish(&write, output, &resource, written),
        None => Err(Status::not_found(&resource.gvr, &call.info.name)),
    }
}

/// Server-side apply of a Scale. The one field of a Scale, `spec.replicas`, has the same path in the object, so that the configuration is
/// applied to the object: the owner of the object's replicas owns those of the Scale. Follows upstream's `managedfields.ScaleHandler`.
async fn apply(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Objects)?;
    let options = WriteOptions::parse("PatchOptions", &call.query, call.headers(), true)?;
    let mut write = Write::new(server, &call, &resource, Operation::Update, &options).showing(Shown::Scale);
    let scales = schema();
    let config = patch::configuration(&kind(), &scales, &call.body, &options, &mut write.warnings)?;
    let config = patch::canonical(config.clone(), &config, &scales)?;

    let (gvk, schema, now) = (resource.gvk(), write.schema.clone(), write.cx.now);
    let mut own = Object::default();
    own.set(&["apiVersion"], gvk.api_version());
    own.set(&["kind"], gvk.kind.clone());
    if let Some(replicas) = config.at(&["spec", "replicas"]) {
        own.set(&resource.strategy.replicas_path(), replicas.clone());
    }
    let make = |old: &Object, _: &mut Vec<String>| {
        let how = ApplyOptions {
            manager: &options.manager,
            force: options.force.unwrap_or(false),
            now,
            subresource: "scale",
            api_version: &gvk.api_version(),
            ignored: None,
        };
        let object =
            api::apply::apply(Some(old), &own, &how, &schema).map_err(|e| of_the_scale(e, &gvk.api_version()))?;
        let mut scale = config.clone();
        if scale.name().is_empty() {
            scale.set(&["metadata", "name"], old.name().to_owned());
        }
        // Replicas that nobody owns are Go's zero, not the default of the kind.
        scale.set(&["spec", "replicas"], object.int_at(&resource.strategy.replicas_path()).unwrap_or(0));
        let change = change((&call, &resource), &scale, old, object, true)?;
        same_uid(&resource, &scale, old)?;
        Ok(change)
    };
    match update_object(&mut write, make).await? {
        Some(written) => finish(&write, output, &resource, written),
        None => Err(Status::not_found(&path_of(&resource), &call.info.name)),
    }
}

/// A uid in a patch of a Scale must be that of the object.
fn same_uid(resource: &Resource, scale: &Object, old: &Object) -> Result<(), Status> {
    let (given, real) = (scale.uid(), old.uid());
    if given.is_empty() || given == real {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {real}");
    Err(Status::conflict(&path_of(resource), old.name(), &why))
}

/// The resource as errors of its Scale name it.
fn path_of(resource: &Resource) -> GroupVersionResource {
    GroupVersionResource { resource: format!("{}/scale", resource.gvr.resource), ..resource.gvr.clone() }
}

/// Conflicts name the version of the Scale, not that of the object.
fn of_the_scale(mut status: Status, api_version: &str) -> Status {
    let (from, to) = (format!(" using {api_version}"), format!(" using {}", kind().api_version()));
    status.message = status.message.replace(&from, &to);
    for cause in status.details.iter_mut().flat_map(|details| details.causes.iter_mut()) {
        cause.message = cause.message.replace(&from, &to);
    }
    status
}

/// The change that a new Scale makes to the object `old`: `object` with the replicas of the Scale, after uid and resourceVersion are checked.
fn change(
    (call, resource): (&Call, &Resource),
    scale: &Object,
    old: &Object,
    mut object: Object,
    owned: bool,
) -> Result<Change, Status> {
    write::same_name(&call.info.name, scale)?;
    let replicas = scale.int_at(&["spec", "replicas"]).unwrap_or(0);
    // The validation of a defined resource has its own texts.
    if replicas < 0 && resource.own_schema.is_none() {
        let field = FieldPath::new("spec").child("replicas");
        let cause = Cause::invalid(&field, &json!(replicas), "must be greater than or equal to 0");
        return Err(invalid(&kind(), &call.info.name, &[cause]));
    }
    object.set(&resource.strategy.replicas_path(), replicas);
    let version = scale.resource_version();
    let pinned = !matches!(version, "" | "0") && version != old.resource_version();
    if pinned {
        object.set(&["metadata", "resourceVersion"], version.to_owned());
    }
    if !scale.uid().is_empty() {
        object.set(&["metadata", "uid"], scale.uid().to_owned());
    }
    Ok(Change { object, owned, pinned, uid: Uid::Expected })
}

fn finish(write: &Write, output: Output, resource: &Resource, written: Written) -> Result<Response<Body>, Status> {
    let object = match written {
        Written::Entry(entry) => entry.payload.view(resource).object(),
        Written::Detached(object) => *object,
    };
    let mut response = reply::value(StatusCode::OK, output, &scale_of(resource, &object).into_value());
    codec::add_warnings(response.headers_mut(), &write.warnings);
    Ok(response)
}
