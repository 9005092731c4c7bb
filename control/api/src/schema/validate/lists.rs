//! Duplicates in lists of `x-kubernetes-list-type` `set` and `map`. Elements are compared by their text, in linear time.
//!
//! Follows <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>.

use super::{
    node::{Additional, Merge, Node},
    place::Place,
    report::shown,
};
use crate::{Cause, CauseKind, FieldPath, show};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Most causes.
const MAX_CAUSES: usize = 1000;

/// See [`super::Validator::validate_lists`].
pub(super) fn validate(at: &FieldPath, node: &Node, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    walk(Place::Root(at), node, value, &mut causes);
    causes
}

fn walk(place: Place<'_>, node: &Node, value: &Value, causes: &mut Vec<Cause>) {
    if !node.has_merges || causes.len() >= MAX_CAUSES {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                if let Additional::Schema(entry) = &node.additional {
                    walk(Place::Entry(&place, key), entry, child, causes);
                }
                if let Some(property) = node.property(key) {
                    walk(Place::Field(&place, key), property, child, causes);
                }
            }
        }
        Value::Array(list) => {
            let found = match &node.merge {
                Merge::Atomic => Vec::new(),
                Merge::Set => set(list),
                Merge::Map(keys) => match list.iter().position(|item| !item.is_object() && !item.is_null()) {
                    Some(index) => {
                        let text = "must be an object for an array of list-type map";
                        let item = list.get(index).map(shown).unwrap_or_default();
                        causes.push(Cause::invalid_shown(&place.path().index(index), &item, text));
                        Vec::new()
                    }
                    None => map(keys, list),
                },
            };
            for (index, duplicate) in found {
                if causes.len() < MAX_CAUSES {
                    let field = place.path().index(index);
                    causes.push(Cause::shown(CauseKind::Duplicate, &field, &shown(&duplicate), ""));
                }
            }
            for (index, item) in list.iter().enumerate() {
                if let Some(items) = &node.items {
                    walk(Place::Element(&place, index), items, item, causes);
                }
            }
        }
        _ => {}
    }
}

/// The second appearance of each text.
fn second(texts: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: HashMap<String, u8> = HashMap::new();
    let mut found = Vec::new();
    for (index, text) in texts.enumerate() {
        let times = seen.entry(text).or_default();
        *times = times.saturating_add(1);
        if *times == 2 {
            found.push(index);
        }
    }
    found
}

/// The text of a value: of an object or a list that of Go's JSON, in which 1 and 1.0 are the same; they are not by themselves.
fn text(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Number(number) => out.push_str(&show::go_number(number, true)),
            Value::Array(list) => list.iter().for_each(|item| {
                write(item, out);
                out.push(',');
            }),
            Value::Object(map) => map.iter().for_each(|(key, child)| {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(child, out);
                out.push(',');
            }),
            scalar => out.push_str(&scalar.to_string()),
        }
        out.push(match value {
            Value::Array(_) => ']',
            Value::Object(_) => '}',
            _ => ' ',
        });
    }
    if !value.is_array() && !value.is_object() {
        return value.to_string();
    }
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn set(list: &[Value]) -> Vec<(usize, Value)> {
    let found = second(list.iter().map(text));
    found.into_iter().filter_map(|index| Some((index, list.get(index)?.clone()))).collect()
}

/// The elements are objects, or null, which is an object without keys.
fn map(keys: &[Box<str>], list: &[Value]) -> Vec<(usize, Value)> {
    let key = |item: &Value| {
        let present = keys.iter().filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())));
        Value::Object(present.collect::<Map<_, _>>())
    };
    let by_key = |item: &Value| match keys {
        // A missing key is not one that is null.
        [one] => item.get(&**one).map(text).unwrap_or_default(),
        _ => text(&key(item)),
    };
    let found = second(list.iter().map(by_key));
    found.into_iter().filter_map(|index| Some((index, key(list.get(index)?)))).collect()
}
