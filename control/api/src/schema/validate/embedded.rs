//! The type and the metadata of objects within objects (`x-kubernetes-embedded-resource`).
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#rawextension>.

use super::{
    node::{Additional, Node},
    place::Place,
    report::shown,
};
use crate::{Cause, FieldPath, names, schema::Schema};
use serde_json::{Map, Value, json};

/// Most causes.
const MAX_CAUSES: usize = 1000;
/// Largest sum of annotation keys and values, bytes.
const MAX_ANNOTATIONS: usize = 256 << 10;
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// See [`super::Validator::validate_embedded`]. `resource`: the value itself is such an object, whatever the schema says.
pub(super) fn validate(at: &FieldPath, node: &Node, value: &Value, resource: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    walk(Place::Root(at), node, value, resource, &mut causes);
    causes
}

fn walk(place: Place<'_>, node: &Node, value: &Value, resource: bool, causes: &mut Vec<Cause>) {
    if !(node.has_embedded || resource) || causes.len() >= MAX_CAUSES {
        return;
    }
    match value {
        Value::Object(map) => {
            if node.embedded || resource {
                object(&place.path(), map, causes);
            }
            for (key, child) in map {
                match (node.property(key), &node.additional) {
                    (Some(property), _) => walk(Place::Field(&place, key), property, child, false, causes),
                    (None, Additional::Schema(entry)) => walk(Place::Entry(&place, key), entry, child, false, causes),
                    _ => {}
                }
            }
        }
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                if let Some(items) = &node.items {
                    walk(Place::Element(&place, index), items, item, false, causes);
                }
            }
        }
        _ => {}
    }
}

fn object(at: &FieldPath, map: &Map<String, Value>, causes: &mut Vec<Cause>) {
    for name in ["apiVersion", "kind"] {
        if !map.contains_key(name) {
            causes.push(Cause::required(&at.child(name), ""));
        }
    }
    if let Some(value) = map.get("apiVersion") {
        check(&at.child("apiVersion"), value, causes, |text| match text.split('/').count() > 2 {
            true => vec![format!("unexpected GroupVersion string: {text}")],
            false => Vec::new(),
        });
    }
    if let Some(value) = map.get("kind") {
        check(&at.child("kind"), value, causes, |text| {
            let problems = names::dns1035_label(&text.to_lowercase());
            let text = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
            if problems.is_empty() { Vec::new() } else { vec![text] }
        });
    }
    if let Some(value) = map.get("metadata") {
        let at = at.child("metadata");
        let mut decoded = value.clone();
        match decode(&mut decoded) {
            Err(problem) => causes.push(Cause::invalid_shown(&at, &shown(value), &problem)),
            Ok(()) => metadata(&at, &decoded, causes),
        }
    }
}

fn check(at: &FieldPath, value: &Value, causes: &mut Vec<Cause>, problems: impl Fn(&str) -> Vec<String>) {
    let problems = match value.as_str() {
        None => vec!["must be a string".to_owned()],
        Some("") => vec!["must not be empty".to_owned()],
        Some(text) => problems(text),
    };
    causes.extend(problems.iter().map(|problem| Cause::invalid_shown(at, &shown(value), problem)));
}

/// Makes metadata of Go's type of a value; what the type does not know is dropped.
fn decode(value: &mut Value) -> Result<(), String> {
    match Schema::named(OBJECT_META) {
        Some(schema) => schema.decode_check(value).map(|_| ()),
        None => Ok(()),
    }
}

/// Upstream's `ValidateObjectMeta`, in which no name is a right one.
fn metadata(at: &FieldPath, metadata: &Value, causes: &mut Vec<Cause>) {
    let text = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut refuse = |field: &FieldPath, value: &str, problems: Vec<String>| {
        let shown = shown(&json!(value));
        causes.extend(problems.iter().map(|problem| Cause::invalid_shown(field, &shown, problem)));
    };
    let prefix = names::path_segment(text("generateName")).into_iter().filter(|problem| problem.contains("contain"));
    refuse(&at.child("generateName"), text("generateName"), prefix.collect());
    refuse(&at.child("name"), text("name"), names::path_segment(text("name")));
    if !text("namespace").is_empty() {
        refuse(&at.child("namespace"), text("namespace"), names::dns1123_label(text("namespace")));
    }
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|generation| *generation < 0) {
        let problem = "must be greater than or equal to 0";
        causes.push(Cause::invalid(&at.child("generation"), &json!(generation), problem));
    }
    labels(&at.child("labels"), metadata.get("labels"), causes);
    annotations(&at.child("annotations"), metadata.get("annotations"), causes);
    owners(&at.child("ownerReferences"), metadata.get("ownerReferences"), causes);
    finalizers(&at.child("finalizers"), metadata.get("finalizers"), causes);
    managers(&at.child("managedFields"), metadata.get("managedFields"), causes);
}

fn entries(map: Option<&Value>) -> impl Iterator<Item = (&str, &str)> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

fn elements(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

fn refuse(at: &FieldPath, value: &str, problems: &[String], causes: &mut Vec<Cause>) {
    if causes.len() < MAX_CAUSES {
        causes.extend(problems.iter().map(|problem| Cause::invalid(at, &json!(value), problem)));
    }
}

fn labels(at: &FieldPath, map: Option<&Value>, causes: &mut Vec<Cause>) {
    for (key, value) in entries(map) {
        refuse(at, key, &names::qualified_name(key), causes);
        refuse(at, value, &names::label_value(value), causes);
    }
}

fn annotations(at: &FieldPath, map: Option<&Value>, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in entries(map) {
        size += key.len() + value.len();
        refuse(at, key, &names::qualified_name(&key.to_lowercase()), causes);
    }
    if size > MAX_ANNOTATIONS {
        causes.push(Cause::too_long(at, MAX_ANNOTATIONS));
    }
}

/// The paths have no index, as upstream's.
fn owners(at: &FieldPath, list: Option<&Value>, causes: &mut Vec<Cause>) {
    let mut controller: Option<String> = None;
    for owner in elements(list) {
        let text = |name: &str| owner.get(name).and_then(Value::as_str).unwrap_or_default();
        let version = text("apiVersion").rsplit('/').next().unwrap_or_default();
        if version.is_empty() || text("apiVersion").split('/').count() > 2 {
            refuse(&at.child("apiVersion"), text("apiVersion"), &["version must not be empty".into()], causes);
        }
        for name in ["kind", "name", "uid"] {
            if text(name).is_empty() {
                refuse(&at.child(name), "", &["must not be empty".into()], causes);
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            let problem = "/v1, Kind=Event is disallowed from being an owner";
            causes.push(Cause::invalid_shown(at, &owner_text(owner), problem));
        }
        if owner.get("controller").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        let name = format!("{}/{}", text("kind"), text("name"));
        match &controller {
            None => controller = Some(name),
            Some(first) if causes.len() < MAX_CAUSES => {
                let all: Vec<String> = elements(list).take(MAX_CAUSES).map(owner_text).collect();
                let problem = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                causes.push(Cause::invalid_shown(at, &format!("[{}]", all.join(",")), &problem));
            }
            Some(_) => {}
        }
    }
}

/// An owner as Go's JSON has it, in the order of the type.
fn owner_text(owner: &Value) -> String {
    let required = ["apiVersion", "kind", "name", "uid"].map(|name| {
        let text = owner.get(name).cloned().unwrap_or_else(|| json!(""));
        format!("\"{name}\":{text}")
    });
    let flags = ["controller", "blockOwnerDeletion"]
        .iter()
        .filter_map(|name| Some(format!("\"{name}\":{}", owner.get(name)?.as_bool()?)));
    format!("{{{}}}", required.into_iter().chain(flags).collect::<Vec<_>>().join(","))
}

fn finalizers(at: &FieldPath, list: Option<&Value>, causes: &mut Vec<Cause>) {
    let has = |wanted: &str| elements(list).any(|name| name == wanted);
    for name in elements(list).filter_map(Value::as_str) {
        refuse(at, name, &names::qualified_name(name), causes);
    }
    if has("orphan") && has("foregroundDeletion") {
        let problem = "finalizer foregroundDeletion and orphan cannot be both set";
        causes.push(Cause::invalid(at, list.unwrap_or(&Value::Null), problem));
    }
}

fn managers(at: &FieldPath, list: Option<&Value>, causes: &mut Vec<Cause>) {
    for (index, entry) in elements(list).enumerate() {
        let at = at.index(index);
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            refuse(&at.child("operation"), text("operation"), &["must be `Apply` or `Update`".into()], causes);
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            refuse(&at.child("fieldsType"), text("fieldsType"), &["must be `FieldsV1`".into()], causes);
        }
        for (name, most) in [("manager", 128), ("subresource", 256)] {
            if text(name).len() > most && causes.len() < MAX_CAUSES {
                causes.push(Cause::too_long(&at.child(name), most));
            }
        }
    }
}

/// Upstream's `Coerce`: makes the metadata of each object within a value that of Go's type.
///
/// # Errors
/// The first value that has another type.
pub(super) fn coerce(at: &FieldPath, node: &Node, value: &mut Value, resource: bool) -> Result<(), Box<Cause>> {
    coerce_at(Place::Root(at), node, value, resource)
}

fn coerce_at(place: Place<'_>, node: &Node, value: &mut Value, resource: bool) -> Result<(), Box<Cause>> {
    if !(node.has_embedded || resource) {
        return Ok(());
    }
    match value {
        Value::Object(map) => {
            for (key, child) in map.iter_mut() {
                if node.embedded || resource {
                    let refuse = |value: &Value, problem: &str| {
                        Err(Box::new(Cause::invalid_shown(&place.path().child(key), &shown(value), problem)))
                    };
                    match key.as_str() {
                        "apiVersion" | "kind" if !child.is_string() => return refuse(child, "must be a string"),
                        "metadata" => {
                            let before = child.clone();
                            if let Err(problem) = decode(child) {
                                return refuse(&before, &problem);
                            }
                        }
                        _ => {}
                    }
                }
                match (node.property(key), &node.additional) {
                    (Some(property), _) => coerce_at(Place::Field(&place, key), property, child, false)?,
                    (None, Additional::Schema(entry)) => coerce_at(Place::Entry(&place, key), entry, child, false)?,
                    _ => {}
                }
            }
        }
        Value::Array(list) => {
            for (index, item) in list.iter_mut().enumerate() {
                if let Some(items) = &node.items {
                    coerce_at(Place::Element(&place, index), items, item, false)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}
