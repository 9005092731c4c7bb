//! The defaults of a schema.

use super::types::{Arena, Kind, NodeId};
use serde_json::{Map, Value};

/// Sets absent fields that have a default, recursively. A null stays if the field is nullable; otherwise it counts as absent, and in a custom
/// resource it is removed if there is no default.
pub(super) fn apply(arena: &Arena, id: NodeId, value: &mut Value) {
    let kind = arena.node(id).kind;
    match (kind, value) {
        (Kind::Struct(s), Value::Object(map)) => {
            remove_nulls(arena, id, map);
            let structure = arena.structure(s);
            for field in structure.defaulted.iter().map(|i| &structure.fields[usize::from(*i)]) {
                let node = arena.node(field.node);
                let absent = map.get(&*field.name).is_none_or(|v| v.is_null() && !node.nullable);
                if let (true, Some(default)) = (absent, &node.default) {
                    map.insert(field.name.to_string(), (**default).clone());
                }
            }
            for (name, child) in map.iter_mut().filter(|(_, v)| v.is_object() || v.is_array()) {
                if let Some(node) = arena.child(id, name) {
                    apply(arena, node, child);
                }
            }
        }
        (Kind::Map(item), Value::Object(map)) => {
            remove_nulls(arena, id, map);
            map.values_mut().for_each(|child| element(arena, item, child));
        }
        (Kind::List(item), Value::Array(list)) => list.iter_mut().for_each(|child| element(arena, item, child)),
        _ => {}
    }
}

fn element(arena: &Arena, id: NodeId, value: &mut Value) {
    let node = arena.node(id);
    if let (true, true, Some(default)) = (value.is_null(), node.lenient && !node.nullable, &node.default) {
        *value = (**default).clone();
    }
    apply(arena, id, value);
}

/// Removes the nulls of a custom resource that are neither allowed nor replaced by a default.
fn remove_nulls(arena: &Arena, id: NodeId, map: &mut Map<String, Value>) {
    if arena.node(id).lenient {
        map.retain(|name, child| {
            let node = arena.child(id, name).filter(|_| child.is_null()).map(|node| arena.node(node));
            node.is_none_or(|node| !node.lenient || node.nullable || node.default.is_some())
        });
    }
}
