//! Strategic merge patch: a merge patch in which lists merge by key, as the schema says, with directives.
//!
//! Directives: `$patch: replace|delete` in an object, `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`.
//! Follows <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md>.

use super::{PatchError, lists};
use crate::{
    schema::{Kind, Schema},
    show::go,
};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";

/// Applies a strategic merge patch.
///
/// # Errors
/// [`PatchError::Malformed`] for a malformed patch or directive, [`PatchError::Unprocessable`] for lists of lists, and
/// [`PatchError::Internal`] for the rest, such as an element without its merge key, as upstream answers.
pub fn strategic(document: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    let (Some(document), Some(patch)) = (document.as_object(), patch.as_object()) else {
        return Err(PatchError::Malformed("invalid JSON document".into()));
    };
    merge_object(document.clone(), patch.clone(), Some(schema)).map(Value::Object)
}

fn malformed<T>(what: &str) -> Result<T, PatchError> {
    Err(PatchError::Malformed(format!("invalid patch format of {what}")))
}

fn internal<T>(text: String) -> Result<T, PatchError> {
    Err(PatchError::Internal(text))
}

type Object = Map<String, Value>;

fn merge_object(mut original: Object, mut patch: Object, schema: Option<&Schema>) -> Result<Object, PatchError> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(cleaned_object(patch)),
            Some("delete") => Ok(Object::new()),
            _ => internal(format!("unknown patch type: {} in map: {}", go(&directive), go(&Value::Object(patch)))),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_orders(&mut original, &mut patch, schema)?;
    for (key, change) in patch {
        if let Some(field) = directive_field(&key, DELETE_FROM) {
            delete_from(&mut original, field, change)?;
            continue;
        }
        if key.split('/').next() == Some(DELETE_FROM) {
            return malformed("primitive list");
        }
        if change.is_null() {
            original.remove(&key);
            continue;
        }
        let field = schema.and_then(|s| s.field(&key));
        let merged = match (original.remove(&key), change) {
            (Some(Value::Object(_)), Value::Object(_)) | (Some(Value::Array(_)), Value::Array(_))
                if schema.is_some_and(|s| s.facts().kind == Kind::Raw) =>
            {
                // Upstream looks up the fields of any value in the Go type that contains it.
                return internal(format!("unable to find api field in struct RawExtension for the json field {key:?}"));
            }
            (Some(Value::Object(old)), Value::Object(new)) => {
                if field.as_ref().is_some_and(|f| f.patch_strategy().replace) {
                    cleaned(Value::Object(new))
                } else {
                    Some(Value::Object(merge_object(old, new, field.as_ref())?))
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                Some(Value::Array(merge_list(old, new, &key, field.as_ref())?))
            }
            (_, new) => cleaned(new),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// `$directive/field`: the field.
fn directive_field<'a>(key: &'a str, directive: &str) -> Option<&'a str> {
    key.strip_prefix(directive)?.strip_prefix('/')
}

/// Removes every key that is not in `$retainKeys`; the patch must not set such a key.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let keep = match patch.remove(RETAIN_KEYS) {
        None => return Ok(()),
        Some(Value::Array(keep)) => keep,
        Some(_) => return malformed("retainKeys"),
    };
    let keep: HashSet<&str> = keep.iter().filter_map(Value::as_str).collect();
    let named = |key: &str| keep.contains(key);
    for (key, value) in patch.iter() {
        if !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(SET_ORDER) && !named(key) {
            return malformed("retainKeys");
        }
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// `$setElementOrder/<list>`: merges and orders that list.
fn set_orders(original: &mut Object, patch: &mut Object, schema: Option<&Schema>) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let order = patch.remove(&directive);
        let Some(field) = directive_field(&directive, SET_ORDER) else { return malformed("setElementOrder list") };
        let Some(Value::Array(order)) = order else { return malformed("setElementOrder list") };
        let list = |map: &mut Object| match map.remove(field) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => malformed("setElementOrder list"),
        };
        if patch.get(field).is_some_and(Value::is_null) {
            continue; // the list is deleted
        }
        let (old, new) = (list(original)?, list(patch)?);
        let place = schema.and_then(|s| s.field(field));
        let key = merge_key(place.as_ref());
        check_order(new.as_deref().unwrap_or_default(), &order, key)?;
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(cleaned).collect(),
            (Some(old), Some(new)) => merge_list(old, new, field, place.as_ref())?,
        };
        original.insert(field.to_owned(), Value::Array(lists::ordered(merged, &order, &server_order, key)));
    }
    Ok(())
}

/// The elements of the patch must have the order of `$setElementOrder`.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for element in patch.iter().filter(|e| e.get(DIRECTIVE).is_none()) {
        let wanted = needed_identity(element, key)?;
        if !rest.any(|other| lists::identity(other, key) == Some(wanted)) {
            let (patch, order) = (go(&Value::from(patch)), go(&Value::from(order)));
            return internal(format!("The order in patch list:\n{patch}\n doesn't match {SET_ORDER} list:\n{order}\n"));
        }
    }
    Ok(())
}

fn delete_from(original: &mut Object, field: &str, change: Value) -> Result<(), PatchError> {
    let Value::Array(delete) = change else { return malformed("primitive list") };
    let delete: HashSet<Value> = delete.into_iter().collect();
    if let Some(Value::Array(list)) = original.get_mut(field) {
        list.retain(|element| !delete.contains(element));
    }
    Ok(())
}

fn merge_key(field: Option<&Schema>) -> Option<&str> {
    field.and_then(Schema::patch_merge_key)
}

fn needed_identity<'a>(element: &'a Value, key: Option<&str>) -> Result<&'a Value, PatchError> {
    match lists::identity(element, key) {
        Some(identity) => Ok(identity),
        None => {
            let key = key.unwrap_or_default();
            internal(format!("map: {} does not contain declared merge key: {key}", go(element)))
        }
    }
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, name: &str, field: Option<&Schema>) -> Result<Vec<Value>, PatchError> {
    if !field.is_some_and(|f| f.patch_strategy().merge) {
        return Ok(new.into_iter().filter_map(cleaned).collect());
    }
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    let mut kinds = old.iter().chain(&new).map(element_kind);
    let first = kinds.next().unwrap_or_default();
    if first == "slice" {
        return Err(PatchError::Unprocessable("lists of lists are not supported".into()));
    }
    if kinds.any(|kind| kind != first) {
        let both = format!("[{} {}]", go(&Value::from(old)), go(&Value::from(new)));
        return internal(format!("list element types are not identical: {both}"));
    }
    if first != "map" {
        let both = lists::without_repetitions(old.iter().chain(&new).cloned().collect());
        return Ok(lists::ordered(both, &new, &old, None));
    }
    let Some(key) = merge_key(field) else {
        return internal(format!("cannot merge lists without merge key for {name}"));
    };
    let (old, new) = special_elements(old, new, key)?;
    for element in old.iter().chain(&new) {
        needed_identity(element, Some(key))?;
    }
    let items = field.and_then(Schema::items);
    let mut merged = old.clone();
    let mut places: HashMap<Value, usize> = HashMap::with_capacity(old.len() + new.len());
    for (at, element) in old.iter().enumerate() {
        places.entry(element[key].clone()).or_insert(at);
    }
    for element in new.iter().cloned() {
        match (places.get(&element[key]).copied(), element) {
            (Some(at), Value::Object(change)) => {
                let Value::Object(current) = merged[at].take() else { unreachable!("all elements are objects") };
                merged[at] = Value::Object(merge_object(current, change, items.as_ref())?);
            }
            (_, element) => {
                let Some(element) = cleaned(element) else { continue };
                if let Some(identity) = element.get(key) {
                    places.entry(identity.clone()).or_insert(merged.len());
                }
                merged.push(element);
            }
        }
    }
    Ok(lists::ordered(merged, &new, &old, Some(key)))
}

/// Go's type of an element.
fn element_kind(element: &Value) -> &'static str {
    match element {
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
        other => crate::schema::json_kind(other),
    }
}

/// Removes and applies the elements with `$patch`: deletions, or the replacement of the list.
fn special_elements(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::with_capacity(new.len());
    let mut replace = false;
    let mut deleted = HashSet::new();
    for element in new {
        match element.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => plain.push(element),
            Some("delete") => drop(deleted.insert(needed_identity(&element, Some(key))?.clone())),
            Some("replace") => replace = true,
            Some("merge") => return internal("merging lists cannot yet be specified in the patch".into()),
            Some(other) => return internal(format!("unknown patch type: {other} in map: {}", go(&element))),
        }
    }
    old.retain(|other| lists::identity(other, Some(key)).is_none_or(|identity| !deleted.contains(identity)));
    if replace { Ok((plain.into_iter().filter_map(cleaned).collect(), Vec::new())) } else { Ok((old, plain)) }
}

/// A value for a place that had none: without directives and nulls. `None` if it is itself a directive.
fn cleaned(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => Some(Value::Object(cleaned_object(map))),
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(cleaned).collect())),
        other => Some(other),
    }
}

fn cleaned_object(map: Object) -> Object {
    let directive = |key: &str| key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_FROM);
    map.into_iter()
        .filter(|(key, value)| !value.is_null() && !directive(key))
        .filter_map(|(key, value)| Some((key, cleaned(value)?)))
        .collect()
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
