//! Removes what a schema does not know, as upstream prunes.

use super::node::{Additional, Node};
use serde_json::Value;

/// Removes unknown fields. Type and metadata of an object stay, below `x-kubernetes-embedded-resource`. `resource`: the value itself is such an
/// object, whatever the schema says.
pub(super) fn prune(node: &Node, value: &mut Value, resource: bool) {
    known(Some(node), value, resource);
}

/// Below no schema nothing is known.
fn known(node: Option<&Node>, value: &mut Value, resource: bool) {
    let Some(node) = node else {
        match value {
            Value::Object(map) => map.clear(),
            Value::Array(list) => list.iter_mut().for_each(|item| known(None, item, false)),
            _ => {}
        }
        return;
    };
    if node.preserve {
        return kept(node, value, resource);
    }
    match value {
        Value::Object(map) => map.retain(|key, child| {
            is_meta(node, key, resource)
                || field(node, key).is_some_and(|next| {
                    known(next, child, false);
                    true
                })
        }),
        Value::Array(list) => list.iter_mut().for_each(|item| known(node.items.as_deref(), item, false)),
        _ => {}
    }
}

/// Below `x-kubernetes-preserve-unknown-fields` only what has a schema is pruned.
fn kept(node: &Node, value: &mut Value, resource: bool) {
    match value {
        Value::Object(map) => {
            for (key, child) in map.iter_mut().filter(|(key, _)| !is_meta(node, key, resource)) {
                if let Some(next) = field(node, key) {
                    known(next, child, false);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &node.items {
                list.iter_mut().for_each(|item| kept(items, item, false));
            }
        }
        _ => {}
    }
}

fn is_meta(node: &Node, key: &str, resource: bool) -> bool {
    (node.embedded || resource) && matches!(key, "apiVersion" | "kind" | "metadata")
}

/// The schema of a field, which may be none, if the field is known.
fn field<'a>(node: &'a Node, key: &str) -> Option<Option<&'a Node>> {
    match (node.property(key), &node.additional) {
        (Some(property), _) => Some(Some(property)),
        (None, Additional::Schema(entry)) => Some(Some(entry)),
        (None, Additional::Allowed | Additional::Forbidden) => Some(None),
        (None, Additional::Unsaid) => None,
    }
}
