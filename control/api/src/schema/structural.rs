//! Builds the schema of a custom resource from the OpenAPI schema in its definition.
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>.
//! The validation of the definition checks whether a schema is structural; here an unknown construct means "anything".

use super::{
    Schema,
    data::builtin,
    types::{Arena, Field, Kind, ListType, Node, NodeId, Str, Struct, StructId, smallpath::Tags},
};
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// See [`Schema::from_open_api`].
pub(super) fn build(schema: &Value) -> Schema {
    let mut builder = Builder::default();
    let node = builder.place(schema, true);
    builder.arena.seal();
    Schema { arena: Arc::new(builder.arena), node }
}

#[derive(Default)]
struct Builder {
    arena: Arena,
    /// The built-in structs that were copied here.
    copied: HashMap<StructId, StructId>,
}

impl Builder {
    /// `resource`: the value is a whole object, which has a type and metadata.
    fn place(&mut self, schema: &Value, resource: bool) -> NodeId {
        let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
        let resource = resource || flag("x-kubernetes-embedded-resource");
        let kind = match text("type") {
            _ if flag("x-kubernetes-int-or-string") => Kind::IntOrString,
            "object" => self.object(schema, resource),
            _ if resource => self.object(schema, resource),
            "array" => {
                let item = self.place(schema.get("items").unwrap_or(&Value::Null), false);
                Kind::List(item)
            }
            "string" => Kind::String,
            "boolean" => Kind::Bool,
            "number" => Kind::Double,
            "integer" if text("format") == "int32" => Kind::Int32,
            "integer" => Kind::Int64,
            _ => Kind::Any,
        };
        let mut node = Node::new(kind);
        node.lenient = true;
        // Of entries without a schema nothing is asked.
        node.bare = schema.is_boolean();
        node.nullable = flag("nullable") || node.bare;
        node.preserve = flag("x-kubernetes-preserve-unknown-fields");
        node.atomic = text("x-kubernetes-map-type") == "atomic";
        node.default = schema.get("default").cloned().map(Box::new);
        node.list = match text("x-kubernetes-list-type") {
            "set" => ListType::Set,
            "map" => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                ListType::Map(keys.into_iter().flatten().filter_map(|k| k.as_str().map(str::to_owned)).collect())
            }
            _ => ListType::Atomic,
        };
        self.arena.add(node)
    }

    fn object(&mut self, schema: &Value, resource: bool) -> Kind {
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties").filter(|a| a.is_object() || **a == Value::Bool(true));
        let value = additional.map(|a| self.place(a, false));
        if let (None, Some(value), false) = (properties, value, resource) {
            return Kind::Map(value);
        }
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut fields = Vec::new();
        for (name, property) in properties.into_iter().flatten() {
            if !(resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata")) {
                let node = self.place(property, false);
                fields.push(field(Str::Owned(name.clone()), node, required.contains(&name.as_str())));
            }
        }
        if resource {
            for name in ["apiVersion", "kind"] {
                let node = self.arena.add(Node::new(Kind::String));
                fields.push(field(Str::Borrowed(name), node, true));
            }
            let metadata = builtin().definition(OBJECT_META).expect("the data has ObjectMeta");
            let node = self.copy(&builtin().arena, metadata);
            fields.push(field(Str::Borrowed("metadata"), node, false));
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        self.add(Struct { fields, additional: value, ..Struct::default() })
    }

    fn add(&mut self, structure: Struct) -> Kind {
        self.arena.structs.push(structure);
        Kind::Struct(StructId::try_from(self.arena.structs.len() - 1).expect("fewer than 2^32 structs"))
    }

    /// Copies a built-in node with everything below it.
    fn copy(&mut self, from: &Arena, id: NodeId) -> NodeId {
        let mut node = from.node(id).clone();
        node.kind = match node.kind {
            Kind::List(item) => Kind::List(self.copy(from, item)),
            Kind::Map(item) => Kind::Map(self.copy(from, item)),
            Kind::Struct(id) => match self.copied.get(&id) {
                Some(known) => Kind::Struct(*known),
                None => {
                    let original = from.structure(id);
                    let kind =
                        self.add(Struct { name: original.name.clone(), atomic: original.atomic, ..Struct::default() });
                    let Kind::Struct(new) = kind else { unreachable!("just made a struct") };
                    self.copied.insert(id, new);
                    let fields =
                        original.fields.iter().map(|f| Field { node: self.copy(from, f.node), ..f.clone() }).collect();
                    self.arena.structs[new as usize].fields = fields;
                    kind
                }
            },
            other => other,
        };
        self.arena.add(node)
    }
}

fn field(name: Str, node: NodeId, required: bool) -> Field {
    Field { name, node, required, omit_zero: false, pointer: false, always: false, tags: Tags::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        Schema::from_open_api(&json!({"type": "object", "required": ["spec"], "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer", "format": "int32", "default": 3},
                "mode": {"type": "string", "default": "fast", "nullable": true},
                "port": {"x-kubernetes-int-or-string": true},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "object"}}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-map-type": "atomic"},
                "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}, "on": {"type": "boolean", "default": true}}}},
                "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}
            }},
            "any": {"x-kubernetes-preserve-unknown-fields": true}
        }}))
    }

    #[test]
    fn unknown_fields_are_pruned_and_types_left_to_validation() {
        let mut value = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n", "foo": 1, "creationTimestamp": null},
            "spec": {"size": "big", "other": 1, "port": "http", "free": {"x": 1, "a": {"y": 1}}, "labels": {"k": "v"},
                "items": [{"name": "a", "bar": 1}], "template": {"kind": "Y", "metadata": {"labels": {}, "nope": 1}, "z": 1}},
            "any": {"thing": [1]}, "top": 1});
        let problems = schema().decode_check(&mut value).expect("custom resources are not type-checked");
        let paths =
            ["metadata.foo", "spec.free.a.y", "spec.items[0].bar", "spec.other", "spec.template.metadata.nope", "top"];
        assert_eq!(problems, paths.map(|p| format!("unknown field \"{p}\"")));
        assert_eq!(
            value,
            json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n"},
                "spec": {"size": "big", "port": "http", "free": {"x": 1, "a": {}}, "labels": {"k": "v"}, "items": [{"name": "a"}],
                    "template": {"kind": "Y", "metadata": {"labels": {}}, "z": 1}}, "any": {"thing": [1]}})
        );
    }

    #[test]
    fn what_has_no_schema_is_pruned() {
        let object = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let schema = Schema::from_open_api(&json!({"type": "object", "properties": {
            "bare": {"type": "object", "additionalProperties": true},
            "text": {"type": "string"},
            "list": {"type": "array", "items": object},
            "kept": {"type": "array", "items": {"type": "array", "items": object}, "x-kubernetes-preserve-unknown-fields": true},
            "port": {"x-kubernetes-int-or-string": true},
        }}));
        let objects = json!([{"a": "x", "b": 1}]);
        let mut value = json!({"bare": {"x": 1, "y": {"z": 1}}, "text": {"z": 1}, "list": {"z": 1}, "kept": [objects, {"z": 1}], "port": [{"z": 1}, 1]});
        let problems = schema.decode_check(&mut value).expect("custom resources are not type-checked");
        let paths = ["bare.y.z", "list.z", "port[0].z", "text.z"];
        assert_eq!(problems, paths.map(|path| format!("unknown field \"{path}\"")));
        assert_eq!(
            value,
            json!({"bare": {"x": 1, "y": {}}, "text": {}, "list": {}, "kept": [objects, {"z": 1}], "port": [{}, 1]})
        );
    }

    #[test]
    fn metadata_is_checked_by_itself() {
        for (value, text) in [
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string",
            ),
            (json!({"metadata": "x"}), "json: cannot unmarshal string into Go value of type v1.ObjectMeta"),
            (
                json!({"metadata": {"name": 1, "labels": 1, "annotations": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.annotations of type string",
            ),
            (
                json!({"spec": {"template": {"metadata": {"name": null, "labels": {"a": 1}}}}}),
                r#"spec.template.metadata: Invalid value: {"labels":{"a":1},"name":null}: json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"#,
            ),
            (json!({"spec": {"template": {"kind": 1}}}), "spec.template.kind: Invalid value: 1: must be a string"),
        ] {
            assert_eq!(schema().decode_check(&mut value.clone()).expect_err(text), text);
        }
    }

    #[test]
    fn what_is_empty_stays() {
        let mut value = json!({"metadata": {"labels": {}}, "spec": {"labels": {}, "items": []}});
        schema().leave_out_empty(&mut value);
        schema().forget_empty(value.as_object_mut().expect("an object"));
        assert_eq!(value, json!({"metadata": {}, "spec": {"labels": {}, "items": []}}));
    }

    #[test]
    fn defaults_fill_absent_fields() {
        let mut value = json!({"spec": {"size": null, "mode": null, "items": [{"name": "a"}]}});
        schema().default(&mut value);
        assert_eq!(value, json!({"spec": {"size": 3, "mode": null, "items": [{"name": "a", "on": true}]}}));
    }

    #[test]
    fn nulls_that_are_not_allowed_are_removed_or_replaced() {
        let schema = Schema::from_open_api(&json!({"type": "object", "properties": {
            "plain": {"type": "string"},
            "nullable": {"type": "string", "nullable": true},
            "default": {"type": "string", "default": "d"},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "additionalProperties": true},
            "list": {"type": "array", "items": {"type": "string"}},
            "filled": {"type": "array", "items": {"type": "string", "default": "d"}},
            "objects": {"type": "array", "items": {"type": "object", "properties": {"plain": {"type": "string"}}}},
        }}));
        let nulls = json!({"a": null, "b": "x"});
        let mut value = json!({"plain": null, "nullable": null, "default": null, "any": null, "unknown": null, "map": nulls, "free": nulls,
            "list": [null], "filled": [null, "x"], "objects": [{"plain": null}, null]});
        schema.default(&mut value);
        assert_eq!(
            value,
            json!({"nullable": null, "default": "d", "unknown": null, "map": {"b": "x"}, "free": nulls, "list": [null],
                "filled": ["d", "x"], "objects": [{}, null]})
        );
    }

    #[test]
    fn merge_facts_are_kept() {
        let schema = schema();
        let spec = schema.field("spec").expect("declared");
        assert!(schema.is_required("spec"));
        assert_eq!(
            spec.field("items").map(|f| f.list_type().clone()),
            Some(ListType::Map(Box::new(["name".to_owned()])))
        );
        assert!(spec.field("labels").is_some_and(|f| f.is_atomic()));
        assert!(spec.field("free").is_some_and(|f| f.preserves_unknown()));
        assert!(schema.field("metadata").and_then(|m| m.field("ownerReferences")).is_some());
    }
}
