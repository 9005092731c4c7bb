//! Duplicates in lists of `x-kubernetes-list-type` `set` and `map`. Elements are compared by their text, in linear time.
//!
//! Follows <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>.

use super::{
    node::{Additional, Merge, Node},
    place::Place,
    report::shown,
};
use crate::{Cause, CauseKind, FieldPath};
use serde_json::{Map, Value};
use std::{borrow::Cow, collections::HashMap};

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
fn second<'a>(texts: impl Iterator<Item = Cow<'a, str>>) -> Vec<usize> {
    let mut seen: HashMap<Cow<'a, str>, u8> = HashMap::new();
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

fn set(list: &[Value]) -> Vec<(usize, Value)> {
    let found = second(list.iter().map(|item| Cow::Owned(item.to_string())));
    found.into_iter().filter_map(|index| Some((index, list.get(index)?.clone()))).collect()
}

/// The elements are objects, or null, which is an object without keys.
fn map(keys: &[Box<str>], list: &[Value]) -> Vec<(usize, Value)> {
    let text = |item: &Value| {
        let mut out = String::new();
        for key in keys {
            // A missing key is not one that is null.
            out.push_str(&item.get(&**key).map(Value::to_string).unwrap_or_default());
            out.push('\0');
        }
        Cow::Owned(out)
    };
    let keyed = |index: usize| {
        let item = list.get(index)?;
        let present = keys.iter().filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())));
        Some((index, Value::Object(present.collect::<Map<_, _>>())))
    };
    second(list.iter().map(text)).into_iter().filter_map(keyed).collect()
}
