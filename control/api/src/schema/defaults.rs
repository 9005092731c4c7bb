//! The defaults of a schema.

use super::types::{Arena, Kind, NodeId};
use serde_json::Value;

/// Sets absent fields that have a default, recursively. A null stays if the field is nullable; otherwise it counts as absent if there is a
/// default.
pub(super) fn apply(arena: &Arena, id: NodeId, value: &mut Value) {
    let kind = arena.node(id).kind;
    match (kind, value) {
        (Kind::Struct(s), Value::Object(map)) => {
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
        (Kind::Map(item), Value::Object(map)) => map.values_mut().for_each(|child| apply(arena, item, child)),
        (Kind::List(item), Value::Array(list)) => list.iter_mut().for_each(|child| apply(arena, item, child)),
        _ => {}
    }
}
