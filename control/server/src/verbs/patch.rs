//! PATCH: JSON patch, merge patch, strategic merge patch, and server-side apply. After a conflict a patch without a resourceVersion is
//! applied again; a patch with one is answered with 409.

use super::{
    restrict::status_part,
    write::{self, Write, create_object, finish, update_object},
};
use crate::{
    Operation, Resource, Server,
    action::{Change, Uid},
    call::Call,
    codec::{self, FieldValidation, WriteOptions},
    metadata,
    negotiate::{self, Offers},
    scope::Scope,
    typemeta,
};
use api::{Cause, FieldPath, GroupVersionKind, Object, Reason, Status, apply::ApplyOptions, invalid, schema::Schema};
use axum::body::Body;
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// Most operations in a JSON patch.
const MAX_OPERATIONS: usize = 10_000;

/// A decoded patch.
pub(super) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Decodes the body, or answers 415.
    pub(super) fn decode(headers: &HeaderMap, body: &[u8]) -> Result<Self, Status> {
        let media = negotiate::content_type(headers);
        let make: fn(Value) -> Self = match media {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" => Self::Strategic,
            _ => return Err(codec::unsupported_patch(media, false)),
        };
        let pairs = media == "application/strategic-merge-patch+json";
        let refuse =
            |why: String| Status::bad_request(if pairs { why } else { format!("error decoding patch: {why}") });
        let (value, _) = api::json::parse(body).map_err(refuse)?;
        if let Some(cause) = codec::too_long(&value, &FieldPath::default()).filter(|_| pairs) {
            return Err(Status::bad_request(format!("the patch is not accepted: {cause}")));
        }
        match (&value, media) {
            (Value::Array(operations), "application/json-patch+json") if operations.len() > MAX_OPERATIONS => {
                let text = format!(
                    "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                    operations.len()
                );
                return Err(Status::new(Reason::RequestEntityTooLarge, text));
            }
            (Value::Array(_), "application/json-patch+json") | (Value::Object(_), _) => {}
            (other, _) => {
                let wanted = match media {
                    "application/json-patch+json" => "[]handlers.jsonPatchOp",
                    _ => "map[string]interface {}",
                };
                let found = api::schema::json_kind(other);
                return Err(refuse(format!("json: cannot unmarshal {found} into Go value of type {wanted}")));
            }
        }
        Ok(make(value))
    }

    /// The patched value.
    pub(super) fn apply(&self, current: &Value, schema: &Schema) -> Result<Value, Status> {
        match self {
            Self::Json(patch) => api::patch::json(current, patch).map_err(|e| e.status()),
            Self::Merge(patch) => Ok(api::patch::merge(current, patch)),
            Self::Strategic(patch) => api::patch::strategic(current, patch, schema).map_err(|e| e.status()),
        }
    }

    /// Whether it changes nothing but metadata and status, and reads nothing else.
    fn keeps_to_status(&self) -> bool {
        match self {
            Self::Json(_) => false,
            Self::Merge(patch) | Self::Strategic(patch) => patch.as_object().is_some_and(|fields| {
                fields.keys().all(|field| ["apiVersion", "kind", "metadata", "status"].contains(&field.as_str()))
            }),
        }
    }

    /// The patch as errors print it.
    fn show(&self) -> String {
        match self {
            Self::Strategic(patch) => api::patch::go_text(patch),
            Self::Json(patch) | Self::Merge(patch) => patch.to_string(),
        }
    }
}

fn invalid_patch(shown: &str, error: &str) -> Status {
    let cause = Cause::invalid(&FieldPath::new("patch"), &json!(shown), error);
    invalid(&GroupVersionKind::new("", "", ""), "", &[cause])
}

/// The patched object of `kind`: types are checked, unknown fields pruned, problems of strict decoding reported.
pub(super) fn patched(
    patch: &Patch,
    current: Object,
    kind: &GroupVersionKind,
    schema: &Schema,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Object, Status> {
    let current = current.into_value();
    let mut value = match patch.apply(&current, schema) {
        // A stored object may lack fields that Go always writes, such as the key of a list element. Upstream decodes it to Go's types and
        // patches that.
        Err(_) if matches!(patch, Patch::Strategic(_)) => {
            let mut whole = current.clone();
            schema.decode_check(&mut whole).map_err(Status::internal)?;
            schema.leave_out_empty(&mut whole);
            patch.apply(&whole, schema)?
        }
        outcome => outcome?,
    };
    let problems = match patch {
        Patch::Strategic(_) => schema.convert_check(&mut value),
        Patch::Json(_) | Patch::Merge(_) => decoded(&mut value, kind, schema),
    };
    // Upstream shows a strategic merge patch, and of the others what they make.
    let shown = || match patch {
        Patch::Strategic(_) => patch.show(),
        Patch::Json(_) | Patch::Merge(_) => {
            patch.apply(&current, schema).map_or_else(|_| patch.show(), |made| made.to_string())
        }
    };
    let problems = problems.map_err(|e| invalid_patch(&shown(), &e))?;
    schema.leave_out_empty(&mut value);
    schema.default(&mut value);
    if !problems.is_empty() {
        match validation {
            FieldValidation::Strict => return Err(invalid_patch(&shown(), &codec::strict_error(&problems))),
            FieldValidation::Warn => warnings.extend(problems),
            FieldValidation::Ignore => {}
        }
    }
    let mut object = Object::from_value(value).ok_or_else(|| invalid_patch(&shown(), "not an object"))?;
    // Upstream ignores apiVersion and kind in a strategic merge patch, and takes them from the path where another patch removes them.
    object.set(&["apiVersion"], kind.api_version());
    object.set(&["kind"], kind.kind.clone());
    Ok(object)
}

/// Decodes the patched object as upstream does: by its own apiVersion and kind.
fn decoded(value: &mut Value, kind: &GroupVersionKind, schema: &Schema) -> Result<Vec<String>, String> {
    let mut given = typemeta::interpret(value)?;
    if given.version.is_empty() && (given.group.is_empty() || given.group == kind.group) {
        // Without a version upstream decodes the internal type, which has none of these fields.
        let problems = typemeta::internal_problems(value);
        *value = json!({});
        return Ok(problems);
    }
    if given.kind.is_empty() {
        given.kind.clone_from(&kind.kind);
    }
    if given == *kind {
        return schema.decode_check(value);
    }
    if let Some(other) = Schema::for_kind(&given) {
        other.decode_check(value)?;
    }
    Err(typemeta::no_conversion(&given, kind))
}

/// PATCH of an object or its status.
pub(super) async fn patch(
    server: &Server,
    call: Call,
    resource: Arc<Resource>,
    scope: Scope,
) -> Result<Response<Body>, Status> {
    if negotiate::content_type(call.headers()) == "application/apply-patch+yaml" {
        return apply(server, call, resource, scope).await;
    }
    let output = call.output(Offers::Resource(&resource.names))?;
    let options = WriteOptions::parse("PatchOptions", &call.query, call.headers(), false)?;
    let (media, defined) = (negotiate::content_type(call.headers()), resource.own_schema.is_some());
    if defined && !codec::patch_types(defined).any(|known| known == media) {
        return Err(codec::unsupported_patch(media, defined));
    }
    let patch = Patch::decode(call.headers(), &call.body)?;
    let mut write = Write::new(server, &call, &resource, Operation::Update, &options).within(scope);
    let (kind, schema, namespace) = (resource.gvk(), write.schema.clone(), write.cx.namespace.clone());
    // The agents of nodes patch little but statuses, and a pod's spec is most of it: it is put back by the scope in any case.
    let in_part = scope == Scope::Status && !resource.strategy.status_defaults_need_spec() && patch.keeps_to_status();
    let make = |old: &Object, warnings: &mut Vec<String>| {
        let base = if in_part { status_part(old) } else { old.clone() };
        let mut object = patched(&patch, base, &kind, &schema, options.field_validation, warnings)?;
        metadata::match_namespace(&mut object, &namespace, resource.namespaced)?;
        write::same_name(&call.info.name, &object)?;
        let pinned = object.resource_version() != old.resource_version();
        Ok(Change { object, owned: false, pinned, uid: Uid::Given })
    };
    match update_object(&mut write, make).await? {
        Some(written) => finish(&call, &write, StatusCode::OK, output, &written),
        None => Err(Status::not_found(&resource.gvr, &call.info.name)),
    }
}

/// The applied configuration of a `kind` from a body.
pub(super) fn configuration(
    kind: &GroupVersionKind,
    schema: &Schema,
    bytes: &[u8],
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Object, Status> {
    let (value, duplicates) =
        api::yaml::parse(bytes).map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
    match options.field_validation {
        FieldValidation::Strict if !duplicates.is_empty() => {
            return Err(Status::bad_request(format!("error strict decoding YAML: {}", api::yaml::strict_error(bytes))));
        }
        FieldValidation::Warn => warnings.extend(duplicates),
        _ => {}
    }
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    for field in ["kind", "apiVersion"] {
        if text(&value, field).is_empty() {
            let title = if field == "kind" { "Kind" } else { "apiVersion" };
            return Err(Status::bad_request(format!(
                "Object '{title}' is missing in '{}'",
                String::from_utf8_lossy(bytes)
            )));
        }
    }
    let given = GroupVersionKind::from_api_version(&text(&value, "apiVersion"), &text(&value, "kind"));
    if given != *kind {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            given.api_version(),
            kind.api_version()
        )));
    }
    if value.pointer("/metadata/managedFields").is_some_and(|v| !v.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let named = |field: &str| value.get("metadata").map(|metadata| text(metadata, field)).unwrap_or_default();
    let fields = value.as_object().ok_or_else(|| Status::bad_request("the applied configuration is not an object"))?;
    api::apply::check(fields, schema).map_err(|why| {
        let what = format!("{}/{}; {kind}", named("namespace"), named("name"));
        Status::new(Reason::Unknown, format!("failed to create typed patch object ({what}): {why}"))
    })?;
    Object::from_value(value).ok_or_else(|| Status::bad_request("the applied configuration is not an object"))
}

/// The result of an apply of `config` in the form of Go's types: fields that were applied as null are absent, quantities are canonical.
/// Before this step values are compared as they were written, so that `0.5` differs from `500m`.
pub(super) fn canonical(object: Object, config: &Object, schema: &Schema) -> Result<Object, Status> {
    let mut value = object.into_value();
    schema.convert_check(&mut value).map_err(|why| {
        let kind = config.gvk();
        let what = format!("{}/{}; {kind}", config.namespace(), config.name());
        let how = format!("unable to convert unstructured object to {kind}: {why}");
        Status::new(Reason::Unknown, format!("failed to convert new object ({what}) to proper version: {how}"))
    })?;
    schema.leave_out_empty(&mut value);
    schema.default(&mut value);
    Object::from_value(value).ok_or_else(|| Status::internal("an applied object is one"))
}

/// Server-side apply.
async fn apply(server: &Server, call: Call, resource: Arc<Resource>, scope: Scope) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Resource(&resource.names))?;
    let options = WriteOptions::parse("PatchOptions", &call.query, call.headers(), true)?;
    let mut write = Write::new(server, &call, &resource, Operation::Update, &options).within(scope);
    let schema = write.schema.clone();
    let config = configuration(&resource.gvk(), &schema, &call.body, &options, &mut write.warnings)?;

    let (api_version, ignored, subresource) =
        (resource.gvr.api_version(), write.ignored(), write.cx.subresource.clone());
    let namespace = write.cx.namespace.clone();
    let how = ApplyOptions {
        manager: &options.manager,
        force: options.force.unwrap_or(false),
        now: write.cx.now,
        subresource: &subresource,
        api_version: &api_version,
        ignored: ignored.as_ref(),
    };
    for _ in 0..2 {
        let make = |old: &Object, _: &mut Vec<String>| {
            let pinned = !matches!(config.resource_version(), "" | "0");
            let mut object = canonical(api::apply::apply(Some(old), &config, &how, &schema)?, &config, &schema)?;
            metadata::match_namespace(&mut object, &namespace, resource.namespaced)?;
            write::same_name(&call.info.name, &object)?;
            Ok(Change { object, owned: true, pinned, uid: Uid::Given })
        };
        if let Some(written) = update_object(&mut write, make).await? {
            return finish(&call, &write, StatusCode::OK, output, &written);
        }
        if scope != Scope::Main {
            return Err(Status::not_found(&resource.gvr, &call.info.name));
        }
        if !config.uid().is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                config.uid()
            );
            return Err(Status::conflict(&resource.gvr, &call.info.name, &why));
        }
        let mut object = canonical(api::apply::apply(None, &config, &how, &schema)?, &config, &schema)?;
        metadata::match_namespace(&mut object, &namespace, resource.namespaced)?;
        write::same_name(&call.info.name, &object)?;
        match create_object(&mut write, object, true).await {
            Ok(written) => return finish(&call, &write, StatusCode::CREATED, output, &written),
            // Another client has created the object in between: apply to that one.
            Err(status) if status.reason == Reason::AlreadyExists => continue,
            Err(status) => return Err(status),
        }
    }
    Err(Status::modified(&resource.gvr, &call.info.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patch_types_are_told_by_content_type() {
        let mut headers = HeaderMap::new();
        assert_eq!(Patch::decode(&headers, b"{}").map(|_| ()).expect_err("no type").code, 415);
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/merge-patch+json"));
        assert!(matches!(Patch::decode(&headers, b"{}"), Ok(Patch::Merge(_))));
        assert_eq!(Patch::decode(&headers, b"[]").map(|_| ()).expect_err("not an object").code, 400);
    }
}
