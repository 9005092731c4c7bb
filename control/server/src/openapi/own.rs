//! Definitions of resources whose schema Kubernetes does not publish: custom and computed ones. Follows upstream's
//! `apiextensions-apiserver/pkg/controller/openapi/builder`.

use super::paths;
use crate::{Resource, resource::OwnSchema};
use api::schema::openapi::Version;
use serde_json::{Map, Value, json};

/// The metadata of an object, and of a list.
pub(super) const METADATA: [&str; 2] =
    ["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"];

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
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
    let mut definition = own.document();
    if version == Version::V2 {
        reduce(&mut definition);
    }
    definition["type"] = "object".into();
    definition["x-kubernetes-group-version-kind"] = known(&resource.kind);
    if !definition["properties"].is_object() {
        definition["properties"] = json!({});
    }
    if let Some(properties) = definition["properties"].as_object_mut() {
        type_meta(properties);
        properties.insert("metadata".into(), reference(METADATA[0], OF_OBJECT, version));
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

/// What OpenAPI v2 cannot say is left out: clients would refuse objects that the server takes.
fn reduce(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for name in ["oneOf", "anyOf", "not", "default"] {
        map.remove(name);
    }
    let flag = |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
    if flag(map, "nullable") {
        for name in ["nullable", "type", "items", "properties", "enum"] {
            map.remove(name);
        }
    }
    if flag(map, "x-kubernetes-preserve-unknown-fields") && map.get("type").is_none_or(|kind| kind != "object") {
        map.remove("type");
    }
    if flag(map, "x-kubernetes-int-or-string") {
        map.remove("type");
    }
    if flag(map, "x-kubernetes-preserve-unknown-fields") {
        for name in ["properties", "items"] {
            map.remove(name);
        }
    }
    if let Some(all) = map.get_mut("allOf").and_then(Value::as_array_mut) {
        all.iter_mut().for_each(reduce);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(name) {
            reduce(inner);
        }
    }
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(reduce);
    }
}
