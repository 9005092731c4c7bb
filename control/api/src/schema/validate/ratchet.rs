//! Which value of the old object belongs to one of the new object, and whether the two are equal, as upstream's ratcheting sees it: fields are
//! matched by name, elements of `x-kubernetes-list-type: map` by their keys, other elements never.
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-ratcheting>.

use super::node::{Merge, Node};
use serde_json::Value;
use std::collections::HashMap;

/// The elements of an old list by their keys.
pub(super) struct Index<'a> {
    keys: &'a [Box<str>],
    elements: HashMap<String, &'a Value>,
}

impl<'a> Index<'a> {
    /// Nothing, if elements of this list belong to none of another.
    pub(super) fn new(node: &'a Node, old: Option<&'a Value>) -> Option<Self> {
        let (Merge::Map(keys), true, Some(_)) = (&node.merge, node.has_type("array"), &node.items) else { return None };
        if keys.is_empty() {
            return None;
        }
        let mut elements = HashMap::new();
        for element in old?.as_array()? {
            if let Some(key) = key_of(keys, element) {
                elements.entry(key).or_insert(element);
            }
        }
        Some(Self { keys, elements })
    }

    /// The old element with the keys of a new one.
    pub(super) fn get(&self, new: &Value) -> Option<&'a Value> {
        self.elements.get(&key_of(self.keys, new)?).copied()
    }
}

/// The keys of an element as one text; nothing if one is missing or no scalar.
fn key_of(keys: &[Box<str>], element: &Value) -> Option<String> {
    let element = element.as_object()?;
    let mut out = String::new();
    for key in keys {
        match element.get(&**key)? {
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
            scalar => {
                out.push('\0');
                out.push_str(&scalar.to_string());
            }
        }
    }
    Some(out)
}

/// The old value of a field, if the schema knows the field.
pub(super) fn field<'a>(node: &Node, old: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    node.child(name)?;
    old?.as_object()?.get(name)
}

/// Whether a value is unchanged. An object with fields that the schema does not know is not, and a list of type map may have another order.
pub(super) fn is_same(node: &Node, new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => match &node.merge {
            _ if a.is_empty() => true,
            Merge::Map(_) => {
                let (Some(index), Some(items)) = (Index::new(node, Some(old)), &node.items) else { return false };
                a.iter().all(|new| index.get(new).is_some_and(|old| is_same(items, new, old)))
            }
            _ => a == b,
        },
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => a
            .iter()
            .all(|(name, new)| node.child(name).zip(b.get(name)).is_some_and(|(child, old)| is_same(child, new, old))),
        (Value::Array(_) | Value::Object(_), _) => false,
        (new, old) => new == old,
    }
}
