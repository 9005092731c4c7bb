//! Merges an applied configuration into an object, and removes fields from an object.

use super::{
    set::{self, FieldSet},
    types::{Shape, Type},
};
use crate::show;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// Merges `config` into `live`. Nothing is removed; atomic values are replaced; items of sets and keyed lists have the order of `config`
/// where it contains them, else that of `live`.
pub(super) fn merge(live: &Map<String, Value>, config: &Map<String, Value>, kind: Type<'_>) -> Map<String, Value> {
    let mut out = live.clone();
    for (name, value) in config {
        let merged = match out.get(name) {
            Some(old) => merge_value(old, value, kind.child(name)),
            None => value.clone(),
        };
        out.insert(name.clone(), merged);
    }
    out
}

fn merge_value(live: &Value, config: &Value, kind: Type<'_>) -> Value {
    if config.is_null() {
        // Null removes nothing from a value that is owned item by item.
        let parts = kind.shape(live) != Shape::Leaf && !super::walk::is_hollow(live);
        return if parts { live.clone() } else { Value::Null };
    }
    match (kind.shape(config), live, config) {
        (Shape::Map, Value::Object(a), Value::Object(b)) => Value::Object(merge(a, b, kind)),
        (shape @ (Shape::Set | Shape::Keyed(_)), Value::Array(a), Value::Array(b)) => {
            Value::Array(merge_items(a, b, shape, kind))
        }
        _ => config.clone(),
    }
}

fn merge_items(live: &[Value], config: &[Value], shape: Shape<'_>, kind: Type<'_>) -> Vec<Value> {
    let elements = |list: &[Value]| -> Vec<String> {
        // An item without a key is kept and never merged.
        list.iter().enumerate().map(|(i, v)| kind.element(shape, v).unwrap_or_else(|_| format!("{i}"))).collect()
    };
    let (left, right) = (elements(live), elements(config));
    let right_at: HashSet<&str> = right.iter().map(String::as_str).collect();
    let mut left_at: HashMap<&str, Option<usize>> = HashMap::new();
    for (i, element) in left.iter().enumerate() {
        // Several items with one key cannot be merged.
        left_at.entry(element).and_modify(|at| *at = None).or_insert(Some(i));
    }
    let item = kind.item();
    let join = |at: usize| match left_at.get(right[at].as_str()) {
        Some(Some(old)) => merge_value(&live[*old], &config[at], item),
        _ => config[at].clone(),
    };
    let mut shared = right.iter().map(String::as_str).filter(|e| left_at.contains_key(e));
    let mut next = shared.next();
    let mut done: HashSet<&str> = HashSet::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let Some(element) = left.get(l).map(String::as_str) {
            if !right_at.contains(element) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            match right.get(r).map(String::as_str) {
                Some(other) if other == element => {}
                // It is inserted at its position in `config`.
                Some(_) if next.is_some_and(|next| next != element) => {
                    l += 1;
                    continue;
                }
                _ if done.contains(element) => l += 1,
                _ => {}
            }
        }
        let Some(element) = right.get(r).map(String::as_str) else { continue };
        done.insert(element);
        out.push(join(r));
        r += 1;
        if left.get(l).is_some_and(|l| l == element) {
            l += 1;
        }
        if next == Some(element) {
            next = shared.next();
        }
    }
    out
}

/// The most paths that are named.
const MAX_ATOMICS: usize = 100;

/// The paths of the lists and maps that are owned as a whole.
pub(super) fn atomics(map: &Map<String, Value>, kind: Type<'_>) -> Vec<String> {
    let mut found = Vec::new();
    atomics_in(map, kind, "", &mut found);
    found
}

fn atomics_in(map: &Map<String, Value>, kind: Type<'_>, path: &str, found: &mut Vec<String>) {
    for (name, value) in map {
        let (child, declared) = kind.child_declared(name);
        if declared {
            atomics_of(value, child, &format!("{path}.{name}"), found);
        }
    }
}

fn atomics_of(value: &Value, kind: Type<'_>, path: &str, found: &mut Vec<String>) {
    if found.len() >= MAX_ATOMICS {
        return;
    }
    if matches!(value, Value::Object(_) | Value::Array(_)) && kind.shape(value) == Shape::Leaf {
        found.push(path.to_owned());
    }
    match value {
        Value::Object(map) => atomics_in(map, kind, path, found),
        Value::Array(list) => {
            let item = kind.item();
            list.iter().enumerate().for_each(|(at, value)| atomics_of(value, item, &format!("{path}[{at}]"), found));
        }
        _ => {}
    }
}

/// `map` without the fields in `remove`. A map or list that loses its last entry is removed too: Go's decoder drops the null that upstream
/// leaves in its place.
pub(super) fn remove(map: &Map<String, Value>, remove: &FieldSet, kind: Type<'_>) -> Map<String, Value> {
    without(map, remove, kind, false)
}

/// As [`remove`], but before Go's decoder: a map or list that loses its last entry becomes null, which is a field.
pub(super) fn remove_to_null(map: &Map<String, Value>, remove: &FieldSet, kind: Type<'_>) -> Map<String, Value> {
    without(map, remove, kind, true)
}

fn without(map: &Map<String, Value>, remove: &FieldSet, kind: Type<'_>, null: bool) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in map {
        let element = set::field(name);
        if remove.has(&element) {
            continue;
        }
        match remove.below(&element) {
            None => {
                out.insert(name.clone(), value.clone());
            }
            Some(below) => {
                let left = remove_value(value, below, kind.child(name), null);
                if let Some(value) = left.or_else(|| null.then_some(Value::Null)) {
                    out.insert(name.clone(), value);
                }
            }
        }
    }
    out
}

fn remove_value(value: &Value, remove_set: &FieldSet, kind: Type<'_>, null: bool) -> Option<Value> {
    match (kind.shape(value), value) {
        (Shape::Map, Value::Object(map)) => {
            let out = without(map, remove_set, kind, null);
            (!out.is_empty()).then_some(Value::Object(out))
        }
        (shape @ (Shape::Set | Shape::Keyed(_)), Value::Array(list)) => {
            let item = kind.item();
            let mut out = Vec::with_capacity(list.len());
            for value in list {
                match kind.element(shape, value) {
                    Ok(element) if remove_set.has(&element) => {}
                    Ok(element) => match remove_set.below(&element) {
                        Some(below) => out.push(remove_value(value, below, item, null).unwrap_or(Value::Null)),
                        None => out.push(value.clone()),
                    },
                    Err(_) => out.push(value.clone()),
                }
            }
            (!out.is_empty()).then_some(Value::Array(out))
        }
        (_, Value::Object(_) | Value::Array(_)) => None,
        _ => Some(value.clone()),
    }
}

/// Adds every declared field on the path to a member: structs are removed with their content, maps are not.
pub(super) fn with_structs(fields: &FieldSet, kind: Type<'_>) -> FieldSet {
    fields.map_nodes(&mut |element, member, below| {
        let (child, declared) = match element.strip_prefix("f:") {
            Some(name) => kind.child_declared(name),
            None => (kind.item(), false),
        };
        (member || (declared && !below.is_empty()), with_structs(below, child))
    })
}

/// The errors of structured-merge-diff for a configuration: values of a wrong type, fields that are not in the schema, items without keys,
/// duplicate keys.
pub(super) fn check(map: &Map<String, Value>, kind: Type<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    check_fields(map, kind, "", &mut problems);
    problems
}

fn check_fields(map: &Map<String, Value>, kind: Type<'_>, path: &str, problems: &mut Vec<String>) {
    for (name, value) in map {
        let path = format!("{path}.{name}");
        if kind.forbids(name) {
            // Upstream stops at the first one in an object, in the random order of Go's maps.
            problems.push(format!("{path}: field not declared in schema"));
            continue;
        }
        check_value(value, kind.child(name), &path, problems);
    }
}

/// The type error of a value, if any.
fn mistyped(value: &Value, kind: Type<'_>) -> Option<String> {
    use crate::schema::Shape as Wanted;
    let (wanted, fits) = match kind.wants() {
        // IntOrString is untyped in structured-merge-diff.
        Wanted::Any | Wanted::IntOrString => return None,
        Wanted::Object | Wanted::Map => ("map", value.is_object()),
        Wanted::List => ("list", value.is_array()),
        Wanted::String if !value.is_string() => {
            return Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", show::go_syntax(value)));
        }
        Wanted::String => return None,
        Wanted::Integer | Wanted::Number if !value.is_number() => {
            return Some(format!("expected numeric (int or float), got {}", show::go_type(value)));
        }
        Wanted::Integer | Wanted::Number => return None,
        Wanted::Boolean => ("boolean", value.is_boolean()),
        Wanted::Quantity => ("any scalar", !value.is_object() && !value.is_array()),
    };
    (!fits).then(|| format!("expected {wanted}, got &{{{}}}", show::go(value)))
}

fn check_value(value: &Value, kind: Type<'_>, path: &str, problems: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    if let Some(problem) = mistyped(value, kind) {
        problems.push(format!("{path}: {problem}"));
        return;
    }
    match (kind.shape(value), value) {
        (Shape::Map, Value::Object(map)) => check_fields(map, kind, path, problems),
        (shape @ (Shape::Set | Shape::Keyed(_)), Value::Array(list)) => {
            let item = kind.item();
            let mut seen = HashSet::new();
            for (i, value) in list.iter().enumerate() {
                match kind.element(shape, value) {
                    Err(problem) => {
                        problems.push(format!("{path}: element {i}: {problem}"));
                        return;
                    }
                    Ok(element) => {
                        let shown = set::show(&element);
                        if !seen.insert(element) {
                            problems.push(format!("{path}: duplicate entries for key {shown}"));
                        }
                        check_value(value, item, &format!("{path}{shown}"), problems);
                    }
                }
            }
        }
        // Atomic, but typed.
        (Shape::Leaf, Value::Object(map)) => check_fields(map, kind, path, problems),
        (Shape::Leaf, Value::Array(list)) => {
            for (i, value) in list.iter().enumerate() {
                check_value(value, kind.item(), &format!("{path}[{i}]"), problems);
            }
        }
        _ => {}
    }
}
