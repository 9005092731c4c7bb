//! Object metadata, equal for every kind: system fields, immutable fields, and upstream's validation.

use crate::{Context, Resource, codec::parse_uint, strategy::Recheck};
use api::{Cause, FieldPath, Object, Status, names};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Largest sum of annotation keys and values, bytes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Sets the namespace of a body to that of the request, or refuses another one.
pub fn match_namespace(object: &mut Object, namespace: &str, namespaced: bool) -> Result<(), Status> {
    if !namespaced {
        object.remove(&["metadata", "namespace"]);
        return Ok(());
    }
    match object.namespace() {
        given if given == namespace => Ok(()),
        "" => {
            object.set(&["metadata", "namespace"], namespace);
            Ok(())
        }
        _ => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

/// Before a create: clears the fields that only the system sets. Returns whether the object had a resourceVersion, which upstream's storage
/// refuses only at the end; one that is not a number counts as none.
pub(crate) fn clear_for_create(object: &mut Object) -> bool {
    let versioned = parse_uint(object.resource_version()).is_ok_and(|revision| revision != 0);
    for field in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "uid",
        "creationTimestamp",
        "generation",
    ] {
        object.remove(&["metadata", field]);
    }
    versioned
}

/// On create, after admission: sets name, uid and creationTimestamp.
pub(crate) fn set_system_fields(object: &mut Object, cx: &Context) {
    if object.name().is_empty() && object.str_at(&["metadata", "generateName"]).is_some_and(|g| !g.is_empty()) {
        generate_name(object, cx);
    }
    object.set(&["metadata", "uid"], cx.ids.uid());
    object.set(&["metadata", "creationTimestamp"], api::time::rfc3339(cx.now));
}

/// Makes a new name from `generateName`.
pub(crate) fn generate_name(object: &mut Object, cx: &Context) {
    let base = object.str_at(&["metadata", "generateName"]).unwrap_or_default();
    let cut = (0..=base.len().min(58)).rev().find(|at| base.is_char_boundary(*at)).unwrap_or(0);
    let name = format!("{}{}", &base[..cut], cx.ids.suffix(5));
    object.set(&["metadata", "name"], name);
}

/// Before an update: fields that a client may omit or cannot change come from the stored object.
pub(crate) fn carry_over(object: &mut Object, old: &Object) {
    for field in ["creationTimestamp", "generation"] {
        copy(object, old, &["metadata", field]);
    }
    for field in ["uid", "deletionGracePeriodSeconds"] {
        if object.at(&["metadata", field]).is_none_or(|v| v.is_null() || *v == json!("")) {
            copy(object, old, &["metadata", field]);
        }
    }
    if old.is_deleting() {
        copy(object, old, &["metadata", "deletionTimestamp"]);
    }
    object.remove(&["metadata", "selfLink"]);
}

/// Removes empty lists and maps of the metadata, as Go's JSON does.
pub(crate) fn leave_out_empty(object: &mut Object) {
    for field in ["labels", "annotations", "ownerReferences", "finalizers", "managedFields"] {
        let path = ["metadata", field];
        let empty = match object.at(&path) {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            object.remove(&path);
        }
    }
}

/// Copies the value at a path from another object, absence included.
pub(crate) fn copy(object: &mut Object, from: &Object, path: &[&str]) {
    match from.at(path) {
        Some(value) => object.set(path, value.clone()),
        None => drop(object.remove(path)),
    }
}

/// Upstream's `ValidateObjectMeta`.
pub(crate) fn validate(resource: &Resource, object: &Object) -> Vec<Cause> {
    let mut causes = check_name_and_namespace(resource, object);
    causes.extend(check_common(object));
    finalizers(object, &FieldPath::new("metadata").child("finalizers"), &mut causes);
    causes.extend(managers(object));
    if !resource.strategy.allows_any_finalizer() {
        causes.extend(standard_finalizers(object));
    }
    causes
}

/// Name and namespace.
fn check_name_and_namespace(resource: &Resource, object: &Object) -> Vec<Cause> {
    let root = FieldPath::new("metadata");
    let mut causes = Vec::new();
    let generate = object.str_at(&["metadata", "generateName"]).unwrap_or_default();
    if !generate.is_empty() {
        for problem in resource.strategy.validate_name(generate, true) {
            causes.push(Cause::invalid(&root.child("generateName"), &json!(generate), &problem));
        }
    }
    match object.name() {
        "" => causes.push(Cause::required(&root.child("name"), "name or generateName is required")),
        name => {
            for problem in resource.strategy.validate_name(name, false) {
                causes.push(Cause::invalid(&root.child("name"), &json!(name), &problem));
            }
        }
    }
    if resource.namespaced {
        match object.namespace() {
            "" => causes.push(Cause::required(&root.child("namespace"), "")),
            namespace => {
                for problem in names::dns1123_label(namespace) {
                    causes.push(Cause::invalid(&root.child("namespace"), &json!(namespace), &problem));
                }
            }
        }
    }
    causes
}

/// The checks of upstream that are the same on creates and updates.
fn check_common(object: &Object) -> Vec<Cause> {
    let root = FieldPath::new("metadata");
    let mut causes = Vec::new();
    labels(object, &root.child("labels"), &mut causes);
    annotations(object, &root.child("annotations"), &mut causes);
    owners(object, &root.child("ownerReferences"), &mut causes);
    causes
}

fn labels(object: &Object, field: &FieldPath, causes: &mut Vec<Cause>) {
    for (key, value) in object.labels() {
        for problem in names::qualified_name(key) {
            causes.push(Cause::invalid(field, &json!(key), &problem));
        }
        for problem in names::label_value(value) {
            causes.push(Cause::invalid(field, &json!(value), &problem));
        }
    }
}

fn annotations(object: &Object, field: &FieldPath, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in object.annotations() {
        size += key.len() + value.len();
        for problem in names::qualified_name(&key.to_lowercase()) {
            causes.push(Cause::invalid(field, &json!(key), &problem));
        }
    }
    if size > ANNOTATIONS_LIMIT {
        causes.push(Cause::too_long(field, ANNOTATIONS_LIMIT));
    }
}

/// The version in an `apiVersion`, if it has at most a group before it.
fn version_of(api_version: &str) -> Option<&str> {
    let version = api_version.split_once('/').map_or(api_version, |(_, version)| version);
    (!version.is_empty() && !version.contains('/')).then_some(version)
}

/// An owner reference as Go's JSON has it.
fn owner_text(owner: &Value) -> String {
    let text = |key: &str| owner.get(key).cloned().unwrap_or_else(|| json!(""));
    let mut out = format!(
        "{{\"apiVersion\":{},\"kind\":{},\"name\":{},\"uid\":{}",
        text("apiVersion"),
        text("kind"),
        text("name"),
        text("uid")
    );
    for key in ["controller", "blockOwnerDeletion"] {
        if let Some(flag) = owner.get(key).filter(|f| f.is_boolean()) {
            out.push_str(&format!(",\"{key}\":{flag}"));
        }
    }
    out.push('}');
    out
}

/// Removes duplicate owner references and returns upstream's warning. Upstream does this before admission for a whole object, and after
/// admission for a patched one.
pub(crate) fn dedup_owners(object: &mut Object, patched: bool) -> Option<String> {
    let owners = object.list_at(&["metadata", "ownerReferences"]);
    let (mut kept, mut doubled): (Vec<Value>, Vec<String>) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for owner in owners {
        if seen.insert(owner.to_string()) {
            kept.push(owner.clone());
        } else {
            doubled.push(owner.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned());
        }
    }
    if doubled.is_empty() {
        return None;
    }
    object.set(&["metadata", "ownerReferences"], kept);
    let when = if patched { " after mutating admission happens" } else { "" };
    Some(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        doubled.join(", ")
    ))
}

/// Upstream's `ValidateOwnerReferences`; its paths have no index.
fn owners(object: &Object, at: &FieldPath, causes: &mut Vec<Cause>) {
    let mut controller: Option<String> = None;
    for owner in object.list_at(&["metadata", "ownerReferences"]) {
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let version = version_of(text("apiVersion"));
        if version.is_none() {
            causes.push(Cause::invalid(
                &at.child("apiVersion"),
                &json!(text("apiVersion")),
                "version must not be empty",
            ));
        }
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                causes.push(Cause::invalid(&at.child(key), &json!(""), "must not be empty"));
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            causes.push(Cause::invalid_shown(
                at,
                &owner_text(owner),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            if let Some(first) = &controller {
                let text = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}/{}",
                    text("kind"),
                    text("name")
                );
                let owners = object.list_at(&["metadata", "ownerReferences"]);
                let shown: Vec<String> = owners.iter().map(owner_text).collect();
                causes.push(Cause::invalid_shown(at, &format!("[{}]", shown.join(",")), &text));
            } else {
                controller = Some(format!("{}/{}", text("kind"), text("name")));
            }
        }
    }
}

fn finalizers(object: &Object, field: &FieldPath, causes: &mut Vec<Cause>) {
    let names = object.finalizers();
    for name in &names {
        for problem in names::qualified_name(name) {
            causes.push(Cause::invalid(field, &json!(name), &problem));
        }
    }
    if names.contains(&"orphan") && names.contains(&"foregroundDeletion") {
        let text = "finalizer orphan and foregroundDeletion cannot be both set";
        causes.push(Cause::invalid(field, &json!(names), text));
    }
}

/// Validates managedFields. (Entries that cannot be decoded are replaced before.)
fn managers(object: &Object) -> Vec<Cause> {
    const MAX_LENGTH: [(&str, usize); 2] = [("manager", 128), ("subresource", 256)];
    let mut causes = Vec::new();
    for (index, entry) in object.list_at(&["metadata", "managedFields"]).iter().enumerate() {
        let field = FieldPath::new("metadata").child("managedFields").index(index);
        for (name, longest) in MAX_LENGTH {
            if entry[name].as_str().is_some_and(|text| text.len() > longest) {
                causes.push(Cause::too_long(&field.child(name), longest));
            }
        }
    }
    causes
}

/// For most kinds a finalizer without a slash must be a standard one.
fn standard_finalizers(object: &Object) -> Vec<Cause> {
    let field = FieldPath::new("metadata").child("finalizers");
    let mut causes = Vec::new();
    for (index, name) in object.finalizers().iter().enumerate() {
        if !name.contains('/') && !matches!(*name, "orphan" | "foregroundDeletion" | "kubernetes") {
            causes.push(Cause::invalid(
                &field.index(index),
                &json!(name),
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    causes
}

/// All causes of upstream about the metadata of an update. Upstream checks it several times: for every kind (whole, then the change), then once
/// more for the kind itself, as `again` says.
pub(crate) fn validate_update(resource: &Resource, object: &Object, old: &Object, again: Recheck) -> Vec<Cause> {
    let (check_name_and_namespace, check_common) = (check_name_and_namespace(resource, object), check_common(object));
    let mut ends = Vec::new();
    finalizers(object, &FieldPath::new("metadata").child("finalizers"), &mut ends);
    let standard = if resource.strategy.allows_any_finalizer() { Vec::new() } else { standard_finalizers(object) };
    let (check_changes, managers) = (check_changes(object, old), managers(object));
    let (whole, change) =
        ([&check_name_and_namespace, &check_common, &ends, &managers], [&check_changes, &check_common, &managers]);
    let mut parts: Vec<&Vec<Cause>> = whole.into_iter().chain(change).collect();
    if matches!(again, Recheck::Change | Recheck::Both) {
        parts.extend(change);
        parts.push(&standard);
    }
    let wholes = match again {
        Recheck::Nothing | Recheck::Change => 0,
        Recheck::Whole | Recheck::Both => 1,
        Recheck::WholeTwice => 2,
    };
    for _ in 0..wholes {
        parts.extend(whole);
        parts.push(&standard);
    }
    parts.into_iter().flatten().cloned().collect()
}

/// Upstream's `ValidateObjectMetaUpdate`, without what [`check_common`] checks.
fn check_changes(object: &Object, old: &Object) -> Vec<Cause> {
    let root = FieldPath::new("metadata");
    let mut causes = Vec::new();
    if old.is_deleting() {
        let had = old.finalizers();
        let new: Vec<String> =
            object.finalizers().into_iter().filter(|f| !had.contains(f)).map(|f| format!("{f:?}")).collect();
        if !new.is_empty() {
            let text = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                new.join(", ")
            );
            causes.push(Cause::forbidden(&root.child("finalizers"), &text));
        }
    }
    for field in ["name", "namespace", "uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (new, before) = (object.at(&["metadata", field]), old.at(&["metadata", field]));
        if new != before {
            let none = if field.starts_with("deletion") { Value::Null } else { json!("") };
            causes.push(Cause::immutable(&root.child(field), new.unwrap_or(&none)));
        }
    }
    causes
}
