//! Zero values for typed decoding in Rust, which requires fields that Go treats as zero when they are missing or null.

use super::types::{Arena, Field, Kind, NodeId};
use serde_json::{Map, Value};

/// Go's zero time, which it writes as null.
const NEVER: &str = "0001-01-01T00:00:00Z";
const NEVER_MICRO: &str = "0001-01-01T00:00:00.000000Z";

/// See [`super::Schema::fill_zeros`].
pub(super) fn fill(arena: &Arena, node: NodeId, value: &mut Value) {
    match (arena.node(node).kind, value) {
        (Kind::Struct(_), Value::Object(map)) => {
            for field in arena.fields(node) {
                self::field(arena, field, map);
            }
        }
        (Kind::Map(item), Value::Object(map)) => map.values_mut().for_each(|child| element(arena, item, child)),
        (Kind::List(item), Value::Array(list)) => list.iter_mut().for_each(|child| element(arena, item, child)),
        _ => {}
    }
}

/// Sets a missing required time, the only type without a zero in the Rust types.
fn field(arena: &Arena, field: &Field, map: &mut Map<String, Value>) {
    match map.get_mut(&*field.name) {
        Some(Value::Null) => drop(map.remove(&*field.name)),
        Some(value) => return inner(arena, field.node, value),
        None => {}
    }
    if field.required && matches!(arena.node(field.node).kind, Kind::Time | Kind::MicroTime) {
        map.insert(field.name.to_string(), zero(arena.node(field.node).kind));
    }
}

fn element(arena: &Arena, node: NodeId, value: &mut Value) {
    if value.is_null() {
        *value = zero(arena.node(node).kind);
    }
    inner(arena, node, value);
}

/// Removes the type of an object within another one (a claim in a StatefulSet): it may be any, but the Rust types refuse all but their own.
fn inner(arena: &Arena, node: NodeId, value: &mut Value) {
    if let Value::Object(map) = value
        && arena.child(node, "metadata").is_some()
        && matches!(arena.node(node).kind, Kind::Struct(_))
    {
        map.remove("apiVersion");
        map.remove("kind");
    }
    fill(arena, node, value);
}

fn zero(kind: Kind) -> Value {
    match kind {
        Kind::String | Kind::Bytes => Value::from(""),
        Kind::Bool => Value::Bool(false),
        Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString => Value::from(0),
        Kind::Quantity => Value::from("0"),
        Kind::Time => Value::from(NEVER),
        Kind::MicroTime => Value::from(NEVER_MICRO),
        Kind::Struct(_) | Kind::Map(_) => Value::Object(Map::new()),
        Kind::List(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use crate::{GroupVersionKind, schema::Schema};
    use serde_json::json;

    #[test]
    fn what_is_missing_or_null_is_zero_and_what_is_there_stays() {
        let service = Schema::for_kind(&GroupVersionKind::new("", "v1", "Service")).expect("built in");
        let time = "2026-01-01T00:00:00Z";
        let mut value = json!({"metadata": null, "spec": {"ports": [null, {"port": 1}], "externalIPs": [null]}, "status": {
            "conditions": [{"type": "A"}, {"type": "B", "lastTransitionTime": null}, {"lastTransitionTime": time}, null]}});
        service.fill_zeros(&mut value);
        let zero = "0001-01-01T00:00:00Z";
        assert_eq!(
            value,
            json!({"spec": {"ports": [{}, {"port": 1}], "externalIPs": [""]}, "status": {"conditions": [
                {"type": "A", "lastTransitionTime": zero}, {"type": "B", "lastTransitionTime": zero},
                {"lastTransitionTime": time}, {"lastTransitionTime": zero}]}})
        );
    }
}
