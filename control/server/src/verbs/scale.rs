//! `/scale`: `autoscaling/v1 Scale` over `spec.replicas` of a workload.

use super::{
    patch::{self, Patch},
    write::{Change, Write, Written, update_object},
};
use crate::{
    Column, Resource, Verb,
    chain::Call,
    codec::{self, WriteOptions},
    kinds::cells,
    metadata,
    negotiate::{self, Form, Offers, Output},
    reply,
    table::{self, Include},
};
use api::{Cause, FieldPath, GroupVersionKind, Object, Status, invalid, schema::Schema};
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

fn kind() -> GroupVersionKind {
    GroupVersionKind::new("autoscaling", "v1", "Scale")
}

/// The scale of an object.
fn scale_of(resource: &Resource, object: &Object) -> Object {
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

/// GET.
pub(super) async fn get(call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Tables)?;
    let entry = call.server.0.store.get(&call.key(&resource));
    let entry = entry.ok_or_else(|| Status::not_found(&resource.gvr, &call.info.name))?;
    let scale = scale_of(&resource, &entry.payload.view(&resource).object());
    let shown = match output.form {
        Form::Object => scale.into_value(),
        Form::Partial(version) => partial(&scale, version),
        Form::Table(version) => table(&call, scale, version)?,
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

fn table(call: &Call, scale: Object, version: &str) -> Result<Value, Status> {
    let count = |path: &[&str]| scale.at(path).and_then(Value::as_i64).unwrap_or(0);
    let age = cells::age(&scale, call.server.0.clock.now());
    let cells = json!([scale.name(), count(&["spec", "replicas"]), count(&["status", "replicas"]), age]);
    let revision = scale.resource_version().to_owned();
    let object = match Include::parse(&call.query)? {
        Include::None => Value::Null,
        Include::Metadata => partial(&scale, version),
        Include::Object => scale.into_value(),
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
pub(super) async fn update(call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Objects)?;
    let options = WriteOptions::parse("UpdateOptions", &call.query, &call.headers, false)?;
    let (call, bytes) = call.with_body().await?;
    let decoded = codec::decode(&call.headers, &bytes, &kind())?;
    let mut write = Write::new(&call, &resource, Verb::Update, &options);
    codec::judge(&decoded, &kind(), options.field_validation, &mut write.warnings)?;
    let scale = decoded.object;
    let written = set(&call, &mut write, |_, _| Ok(scale.clone())).await?;
    finish(&write, output, &resource, written)
}

/// PATCH: the patch is one of the Scale.
pub(super) async fn patch(call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Objects)?;
    let apply = negotiate::content_type(&call.headers) == "application/apply-patch+yaml";
    let options = WriteOptions::parse("PatchOptions", &call.query, &call.headers, apply)?;
    let (call, bytes) = call.with_body().await?;
    // An applied Scale has one field to own: it is merged.
    let patch = if apply {
        Patch::Merge(
            codec::aside(&bytes, api::yaml::parse)
                .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?
                .0,
        )
    } else {
        Patch::decode(&call.headers, &bytes)?
    };
    let mut write = Write::new(&call, &resource, Verb::Update, &options);
    let schema = Schema::for_kind(&kind()).unwrap_or_else(Schema::any);
    let strategy = resource.clone();
    let written = set(&call, &mut write, |old, warnings| {
        patch::patched(&patch, &scale_of(&strategy, old), &kind(), &schema, options.field_validation, warnings)
    })
    .await?;
    finish(&write, output, &resource, written)
}

async fn set(
    call: &Call,
    write: &mut Write,
    mut make: impl FnMut(&Object, &mut Vec<String>) -> Result<Object, Status>,
) -> Result<Written, Status> {
    let resource = write.cx.resource.clone();
    let change = |old: &Object, warnings: &mut Vec<String>| {
        let scale = make(old, warnings)?;
        let replicas = scale.int_at(&["spec", "replicas"]).unwrap_or(0);
        if scale.name() != call.info.name && !scale.name().is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                scale.name(),
                call.info.name
            )));
        }
        if replicas < 0 {
            let field = FieldPath::new("spec").child("replicas");
            let cause = Cause::invalid(&field, &json!(replicas), "must be greater than or equal to 0");
            return Err(invalid(&kind(), &call.info.name, &[cause]));
        }
        let mut object = old.clone();
        object.set(&["spec", "replicas"], replicas);
        let version = scale.resource_version();
        let pinned = !matches!(version, "" | "0") && version != old.resource_version();
        if pinned {
            object.set(&["metadata", "resourceVersion"], version.to_owned());
        }
        if !scale.uid().is_empty() {
            object.set(&["metadata", "uid"], scale.uid().to_owned());
        }
        Ok(Change { object, owned: false, pinned })
    };
    update_object(write, change).await?.ok_or_else(|| Status::not_found(&resource.gvr, &call.info.name))
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
