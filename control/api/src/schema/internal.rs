//! Structs as upstream's errors print internal Go types: Go names, every field, in the order of declaration.

use super::types::{Arena, Field, Kind, NodeId, StructId};
use serde_json::{Map, Value};

/// Initialisms that Go writes in capitals at the beginning of a name.
const INITIALS: &[&str] = &["api", "cpu", "http", "id", "ip", "tls", "uid", "url"];

/// The order of the fields of internal types that declare them otherwise than those of the API.
const ORDERS: &[(&str, &[&str])] = &[
    (
        "JSONSchemaProps",
        &[
            "id",
            "$schema",
            "$ref",
            "description",
            "type",
            "nullable",
            "format",
            "title",
            "default",
            "maximum",
            "exclusiveMaximum",
            "minimum",
            "exclusiveMinimum",
            "maxLength",
            "minLength",
            "pattern",
            "maxItems",
            "minItems",
            "uniqueItems",
            "multipleOf",
            "enum",
            "maxProperties",
            "minProperties",
            "required",
            "items",
            "allOf",
            "oneOf",
            "anyOf",
            "not",
            "properties",
            "additionalProperties",
            "patternProperties",
            "dependencies",
            "additionalItems",
            "definitions",
            "externalDocs",
            "example",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
            "x-kubernetes-list-map-keys",
            "x-kubernetes-list-type",
            "x-kubernetes-map-type",
            "x-kubernetes-validations",
        ],
    ),
    (
        "CustomResourceDefinitionVersion",
        &[
            "name",
            "served",
            "storage",
            "deprecated",
            "deprecationWarning",
            "schema",
            "subresources",
            "additionalPrinterColumns",
            "selectableFields",
        ],
    ),
    ("ValidationRule", &["rule", "message", "messageExpression", "reason", "fieldPath", "optionalOldSelf"]),
];

/// The fields of a struct in the order of the internal type.
fn declared(arena: &Arena, id: StructId) -> Vec<&Field> {
    let mut fields: Vec<&Field> = arena.structure(id).fields.iter().collect();
    // Protobuf numbers the fields in the order in which they were declared.
    fields.sort_by_key(|field| field.tags.as_slice().to_vec());
    if let Some((_, order)) = ORDERS.iter().find(|(name, _)| *name == arena.struct_name(id)) {
        fields.sort_by_key(|field| order.iter().position(|name| *name == field.name));
    }
    fields
}

/// See [`super::Schema::internal_form`].
pub(super) fn write(arena: &Arena, node: NodeId, value: &Value, out: &mut String) {
    // A union of a schema and something else: the internal type has a field for each.
    let one_of = |of: NodeId, names: [&str; 2], out: &mut String| {
        out.push_str(&format!("{{\"{}\":", names[0]));
        let (first, second) = match (names, value) {
            (["Allows", _], Value::Bool(_)) => (Some(value), None),
            (["Allows", _], _) => (Some(&Value::Bool(true)), Some(value)),
            (_, Value::Object(_)) => (Some(value), None),
            (_, Value::Array(_)) => (None, Some(value)),
            _ => (None, None),
        };
        for (index, (name, part)) in names.into_iter().zip([first, second]).enumerate() {
            if index > 0 {
                out.push_str(&format!(",\"{name}\":"));
            }
            match part {
                None => out.push_str("null"),
                Some(Value::Array(list)) => between(out, ['[', ']'], list, |one, out| write(arena, of, one, out)),
                Some(part) => write(arena, of, part, out),
            }
        }
        out.push('}');
    };
    match (arena.node(node).kind, value) {
        (Kind::Struct(id), Value::Object(map)) => {
            between(out, ['{', '}'], declared(arena, id), |field, out| {
                out.push_str(&Value::from(go_name(&field.name)).to_string());
                out.push(':');
                write_field(arena, field, map, out);
            });
        }
        (Kind::SchemaOrArray(of), _) => one_of(of, ["Schema", "JSONSchemas"], out),
        (Kind::SchemaOrBool(of), _) => one_of(of, ["Allows", "Schema"], out),
        (Kind::SchemaOrStrings(of), _) => one_of(of, ["Schema", "Property"], out),
        (Kind::List(item), Value::Array(list)) => {
            between(out, ['[', ']'], list, |one, out| write(arena, item, one, out));
        }
        (Kind::Map(item), Value::Object(map)) => between(out, ['{', '}'], map, |(key, one), out| {
            out.push_str(&crate::show::json(&Value::from(key.as_str())));
            out.push(':');
            write(arena, item, one, out);
        }),
        _ => out.push_str(&crate::show::json(value)),
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
    match name {
        "$ref" => return "Ref".to_owned(),
        "$schema" => return "Schema".to_owned(),
        "jsonPath" => return "JSONPath".to_owned(),
        _ => {}
    }
    if let Some(extension) = name.strip_prefix("x-kubernetes-") {
        return std::iter::once("x").chain(extension.split('-')).map(capitalized).collect();
    }
    let end = name.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(name.len());
    let (word, rest) = name.split_at(end);
    if INITIALS.contains(&word) {
        return word.to_ascii_uppercase() + rest;
    }
    capitalized(name)
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
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
            (
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ValidationRule",
                json!({"rule": "a<b", "optionalOldSelf": true}),
                r#"{"Rule":"a\u003cb","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":true}"#,
            ),
        ] {
            assert_eq!(shown(definition, value), wanted);
        }
        let props = Schema::named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
        let props = props.expect("built in");
        for (value, wanted) in [
            (json!({"items": []}), r#"{"Schema":null,"JSONSchemas":[]}"#),
            (json!({"items": "x"}), r#"{"Schema":null,"JSONSchemas":null}"#),
        ] {
            assert_eq!(props.internal_field(value.as_object().expect("an object"), "items"), wanted);
        }
        let shown = props.internal_form(&json!({"additionalProperties": false, "items": {"$ref": "r"}, "not": {}}));
        for part in [
            r#"{"ID":"","Schema":"","Ref":null,"Description":"","Type":"","Nullable":false,"Format":"""#,
            r#""Items":{"Schema":{"ID":"","Schema":"","Ref":"r","#,
            r#""AdditionalProperties":{"Allows":false,"Schema":null}"#,
            r#""XPreserveUnknownFields":null,"XEmbeddedResource":false,"XIntOrString":false,"XListMapKeys":null,"XListType":null,"XMapType":null,"XValidations":null}"#,
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let event = Schema::named("io.k8s.api.core.v1.Event").expect("built in");
        let nothing = serde_json::Map::new();
        let parts = ["action", "related", "source", "count"].map(|name| event.internal_field(&nothing, name));
        assert_eq!(parts, ["\"\"", "null", r#"{"Component":"","Host":""}"#, "0"]);
    }
}
