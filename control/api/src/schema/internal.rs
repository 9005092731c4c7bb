//! Structs as upstream's errors print internal Go types: Go names, every field, in the order of declaration.

use super::types::{Arena, Field, Kind, NodeId};
use serde_json::{Map, Value};

/// Initialisms that Go writes in capitals at the beginning of a name.
const INITIALS: &[&str] = &["api", "cpu", "http", "id", "ip", "tls", "uid", "url"];

/// See [`super::Schema::internal_form`].
pub(super) fn write(arena: &Arena, node: NodeId, value: &Value, out: &mut String) {
    match (arena.node(node).kind, value) {
        (Kind::Struct(id), Value::Object(map)) => {
            let mut fields: Vec<&Field> = arena.structure(id).fields.iter().collect();
            // Protobuf numbers the fields in the order in which they were declared.
            fields.sort_by_key(|field| field.tags.as_slice().to_vec());
            between(out, ['{', '}'], fields, |field, out| {
                out.push_str(&Value::from(go_name(&field.name)).to_string());
                out.push(':');
                write_field(arena, field, map, out);
            });
        }
        (Kind::List(item), Value::Array(list)) => {
            between(out, ['[', ']'], list, |one, out| write(arena, item, one, out));
        }
        (Kind::Map(item), Value::Object(map)) => between(out, ['{', '}'], map, |(key, one), out| {
            out.push_str(&Value::from(key.as_str()).to_string());
            out.push(':');
            write(arena, item, one, out);
        }),
        _ => out.push_str(&value.to_string()),
    }
}

fn between<T>(out: &mut String, ends: [char; 2], all: impl IntoIterator<Item = T>, one: impl Fn(T, &mut String)) {
    out.push(ends[0]);
    for (i, each) in all.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        one(each, out);
    }
    out.push(ends[1]);
}

/// See [`super::Schema::internal_field`].
pub(super) fn write_field(arena: &Arena, field: &Field, of: &Map<String, Value>, out: &mut String) {
    if let Some(value) = of.get(&*field.name).filter(|value| !value.is_null()) {
        return write(arena, field.node, value, out);
    }
    let counted = field.omit_zero || field.always;
    match arena.node(field.node).kind {
        _ if field.pointer => out.push_str("null"),
        Kind::String => out.push_str("\"\""),
        Kind::Bool if counted => out.push_str("false"),
        Kind::Int32 | Kind::Int64 | Kind::IntOrString if counted => out.push('0'),
        Kind::Struct(_) if field.always => write(arena, field.node, &Value::Object(Map::new()), out),
        _ => out.push_str("null"),
    }
}

/// `resourceVersion` is `ResourceVersion`, `apiVersion` is `APIVersion`.
fn go_name(name: &str) -> String {
    let end = name.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(name.len());
    let (word, rest) = name.split_at(end);
    if INITIALS.contains(&word) {
        return word.to_ascii_uppercase() + rest;
    }
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use crate::schema::Schema;
    use serde_json::json;

    #[test]
    fn every_field_is_there_by_gos_name_in_gos_order() {
        let shown = |definition: &str, value| Schema::named(definition).expect("built in").internal_form(&value);
        for (definition, value, wanted) in [
            (
                "io.k8s.api.core.v1.ObjectReference",
                json!({"name": "n", "kind": "Pod"}),
                r#"{"Kind":"Pod","Namespace":"","Name":"n","UID":"","APIVersion":"","ResourceVersion":"","FieldPath":""}"#,
            ),
            (
                "io.k8s.api.core.v1.Taint",
                json!({"key": "a", "effect": "E"}),
                r#"{"Key":"a","Value":"","Effect":"E","TimeAdded":null}"#,
            ),
            (
                "io.k8s.api.core.v1.SeccompProfile",
                json!({"type": "X", "localhostProfile": "p"}),
                r#"{"Type":"X","LocalhostProfile":"p"}"#,
            ),
            ("io.k8s.api.core.v1.PodIP", json!({"ip": "10.0.0.1"}), r#"{"IP":"10.0.0.1"}"#),
            ("io.k8s.api.core.v1.EventSeries", json!({}), r#"{"Count":0,"LastObservedTime":null}"#),
        ] {
            assert_eq!(shown(definition, value), wanted);
        }
        let event = Schema::named("io.k8s.api.core.v1.Event").expect("built in");
        let nothing = serde_json::Map::new();
        let parts = ["action", "related", "source", "count"].map(|name| event.internal_field(&nothing, name));
        assert_eq!(parts, ["\"\"", "null", r#"{"Component":"","Host":""}"#, "0"]);
    }
}
