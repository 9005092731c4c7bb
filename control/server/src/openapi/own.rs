//! Definitions of resources whose schema Kubernetes does not publish: custom and computed ones. Follows upstream's
//! `apiextensions-apiserver/pkg/controller/openapi/builder`.

use super::paths;
use crate::{Resource, resource::OwnSchema, strategy::Selectable};
use api::schema::openapi::Version;
use serde_json::{Map, Value, json};

/// The metadata of an object, and of a list.
pub(super) const METADATA: [&str; 2] =
    ["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"];

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const EMBEDDED_API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const OF_OBJECT: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const OF_LIST: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// A reference to a definition, with a description.
fn reference(name: &str, description: &str, version: Version) -> Value {
    match version {
        Version::V2 => json!({"description": description, "$ref": format!("#/definitions/{name}")}),
        Version::V3 => {
            json!({"description": description, "allOf": [{"$ref": format!("#/components/schemas/{name}")}], "default": {}})
        }
    }
}

fn type_meta(properties: &mut Map<String, Value>) {
    properties.insert("apiVersion".into(), json!({"description": API_VERSION, "type": "string"}));
    properties.insert("kind".into(), json!({"description": KIND, "type": "string"}));
}

/// Adds the definitions of a resource and of its list.
pub(super) fn add(all: &mut Value, resource: &Resource, own: &OwnSchema, version: Version) {
    let gvr = &resource.gvr;
    let known = |kind: &str| json!([{"group": gvr.group, "version": gvr.version, "kind": kind}]);
    let mut definition = published(own.document(), version);
    definition["x-kubernetes-group-version-kind"] = known(&resource.kind);
    if let Selectable::Defined(fields @ [_, ..]) = resource.strategy.selectable() {
        definition["x-kubernetes-selectable-fields"] = fields.iter().map(|path| json!({"fieldPath": path})).collect();
    }
    let name = paths::definition_of(resource, &resource.gvk()).unwrap_or_default();
    let item = match version {
        Version::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        Version::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
    };
    let mut properties = Map::new();
    type_meta(&mut properties);
    properties.insert("metadata".into(), reference(METADATA[1], OF_LIST, version));
    let description = format!(
        "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
        gvr.resource
    );
    properties.insert("items".into(), json!({"description": description, "type": "array", "items": item}));
    all[format!("{name}List")] = json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": known(&resource.list_kind),
    });
    all[name.as_ref()] = definition;
}

/// The definition of a kind with this schema.
fn published(mut schema: Value, version: Version) -> Value {
    if version == Version::V2 && flag(&schema, PRESERVE) {
        // With any property kubectl would refuse all others.
        return json!({"type": "object"});
    }
    if version == Version::V2 {
        reduce(&mut schema);
    }
    embed(&mut schema, version);
    schema["type"] = "object".into();
    if let Some(properties) = properties(&mut schema) {
        type_meta(properties);
        properties.insert("metadata".into(), reference(METADATA[0], OF_OBJECT, version));
    }
    schema
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// The properties of a schema, which are made.
fn properties(schema: &mut Value) -> Option<&mut Map<String, Value>> {
    let properties = schema.as_object_mut()?.entry("properties").or_insert_with(|| json!({}));
    if !properties.is_object() {
        *properties = json!({});
    }
    properties.as_object_mut()
}

/// The schemas right below one.
fn below(schema: &mut Value) -> Vec<&mut Value> {
    let mut all = Vec::new();
    for (name, part) in schema.as_object_mut().into_iter().flatten() {
        match (name.as_str(), part) {
            ("items" | "additionalProperties", inner) => all.push(inner),
            ("properties", Value::Object(parts)) => all.extend(parts.values_mut()),
            _ => {}
        }
    }
    all
}

/// Objects within objects have a type and metadata, too.
fn embed(schema: &mut Value, version: Version) {
    below(schema).into_iter().for_each(|inner| embed(inner, version));
    if !flag(schema, "x-kubernetes-embedded-resource") || (version == Version::V2 && flag(schema, PRESERVE)) {
        return;
    }
    if let Some(properties) = properties(schema) {
        properties.insert("apiVersion".into(), json!({"description": EMBEDDED_API_VERSION, "type": "string"}));
        properties.insert("kind".into(), json!({"description": EMBEDDED_KIND, "type": "string"}));
        properties.insert("metadata".into(), reference(METADATA[0], OF_OBJECT, version));
    }
    let required = schema.as_object_mut().map(|map| map.entry("required").or_insert_with(|| json!([])));
    if let Some(Value::Array(required)) = required {
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(name.into());
            }
        }
    }
}

/// What OpenAPI v2 cannot say, or what kubectl does not understand, is left out: clients would refuse objects that the server takes. Follows
/// upstream's `controller/openapi/v2/conversion.go`.
fn reduce(schema: &mut Value) {
    let (nullable, preserve) = (flag(schema, "nullable"), flag(schema, PRESERVE));
    let may_be_null = |value: &Value| flag(value, "nullable");
    let Some(map) = schema.as_object_mut() else { return };
    let mut remove = |names: &[&str]| names.iter().for_each(|name| drop(map.remove(*name)));
    remove(&["allOf", "oneOf", "anyOf", "not"]);
    if nullable {
        remove(&["nullable", "type"]);
    }
    if nullable || preserve {
        remove(&["items", "properties"]);
    }
    let untyped = match map.get("type").and_then(Value::as_str) {
        Some("array") => !map.contains_key("items"),
        Some("object") => preserve,
        _ => false,
    };
    if untyped {
        map.remove("type");
    }
    // What may be null may be absent.
    let all_may = map.get("additionalProperties").is_some_and(may_be_null);
    if let Some(Value::Array(mut names)) = map.remove("required") {
        let parts = map.get("properties");
        let may =
            |name: &Value| parts.zip(name.as_str()).and_then(|(all, name)| all.get(name)).is_some_and(may_be_null);
        names.retain(|name| !all_may && !may(name));
        if !names.is_empty() {
            map.insert("required".into(), names.into());
        }
    }
    below(schema).into_iter().for_each(reduce);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_of_openapi_leaves_out_what_clients_would_misunderstand() {
        for (schema, reduced) in [
            (
                json!({"type": "object", "allOf": [], "anyOf": [], "oneOf": [], "not": {}, "default": {}}),
                json!({"type": "object", "default": {}}),
            ),
            (json!({"type": "string", "nullable": true, "enum": ["a"]}), json!({"enum": ["a"]})),
            (json!({"type": "array", "nullable": true, "items": {"type": "string"}}), json!({})),
            (
                json!({"type": "object", PRESERVE: true, "properties": {"a": {"type": "string"}}}),
                json!({PRESERVE: true}),
            ),
            (json!({"type": "array", PRESERVE: true, "items": {"type": "object"}}), json!({PRESERVE: true})),
            (
                json!({"type": "object", "required": ["a", "b"], "properties": {"a": {"type": "string", "nullable": true}, "b": {"type": "string"}}}),
                json!({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"type": "string"}}}),
            ),
            (
                json!({"type": "object", "required": ["a"], "additionalProperties": {"type": "string", "nullable": true}}),
                json!({"type": "object", "additionalProperties": {}}),
            ),
            (
                json!({"type": "array", "items": {"type": "object", "x-kubernetes-int-or-string": true, "anyOf": []}}),
                json!({"type": "array", "items": {"type": "object", "x-kubernetes-int-or-string": true}}),
            ),
        ] {
            let mut found = schema.clone();
            reduce(&mut found);
            assert_eq!(found, reduced, "{schema}");
        }
    }

    #[test]
    fn what_takes_anything_has_no_properties_in_the_second_version() {
        let schema = json!({"type": "object", "description": "d", PRESERVE: true});
        assert_eq!(published(schema.clone(), Version::V2), json!({"type": "object"}));
        let third = published(schema, Version::V3);
        assert_eq!((&third[PRESERVE], third["properties"].as_object().map(Map::len)), (&json!(true), Some(3)));
    }

    #[test]
    fn objects_within_objects_have_a_type_and_metadata() {
        let inner = |preserve: bool| json!({"type": "object", "x-kubernetes-embedded-resource": true, PRESERVE: preserve, "required": ["kind"]});
        let schema = |preserve| json!({"type": "object", "properties": {"template": inner(preserve)}});
        let template = |preserve, version| published(schema(preserve), version)["properties"]["template"].clone();
        for found in [template(false, Version::V2), template(false, Version::V3), template(true, Version::V3)] {
            assert_eq!(found["required"], json!(["kind", "apiVersion"]));
            assert_eq!(found["properties"]["kind"]["description"], EMBEDDED_KIND);
            assert!(found["properties"]["metadata"].is_object());
        }
        assert_eq!(template(true, Version::V2).get("properties"), None, "kubectl would refuse all other fields");
    }
}
