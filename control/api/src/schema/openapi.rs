//! OpenAPI definitions of the built-in kinds, built from the compressed data file on demand and not cached.

use super::data::builtin;
use crate::GroupVersionKind;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    io::Read,
};

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kubernetes.txt.gz"));

/// The OpenAPI version of definitions, which differ in their references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `#/definitions/NAME`.
    V2,
    /// `#/components/schemas/NAME`, within `allOf` if it has siblings.
    V3,
}

/// The OpenAPI name of a built-in kind's definition: `io.k8s.api.apps.v1.Deployment`.
pub fn definition_name(gvk: &GroupVersionKind) -> Option<&'static str> {
    builtin().definition_of(&gvk.group, &gvk.version, &gvk.kind)
}

/// Every built-in kind that has a schema, lists and options included.
pub fn kinds() -> impl Iterator<Item = GroupVersionKind> {
    builtin().kinds().filter_map(|key| {
        let mut parts = key.split('/');
        Some(GroupVersionKind::new(parts.next()?, parts.next()?, parts.next()?))
    })
}

/// The named definitions and all that they refer to, by name, as `components.schemas` (v3) or `definitions` (v2). Unknown names are ignored.
pub fn definitions<'a>(names: impl IntoIterator<Item = &'a str>, version: Version) -> Value {
    let text = unpack();
    let data = Data::index(&text);
    let mut wanted: Vec<&str> =
        names.into_iter().filter_map(|name| data.lines.get_key_value(name).map(|(k, _)| *k)).collect();
    let mut seen: BTreeSet<&str> = wanted.iter().copied().collect();
    let mut result = Map::new();
    while let Some(name) = wanted.pop() {
        let lines = &data.lines[name];
        for line in &lines[1..] {
            if let Some((_, reference)) = line.split('\t').nth(2).and_then(|shape| shape.split_once('@'))
                && seen.insert(reference)
            {
                wanted.push(reference);
            }
        }
        result.insert(name.to_owned(), data.definition(lines, version));
    }
    Value::Object(result)
}

fn unpack() -> String {
    let mut text = String::new();
    let mut reader = flate2::read::GzDecoder::new(PACKED);
    reader.read_to_string(&mut text).expect("the build packed this text");
    text
}

struct Data<'a> {
    shared: HashMap<&'a str, &'a str>,
    /// Definition name: its D line and its F lines.
    lines: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Data<'a> {
    fn index(text: &'a str) -> Self {
        let mut data = Self { shared: HashMap::new(), lines: HashMap::new() };
        let mut current = "";
        for line in text.lines() {
            if let Some((id, text)) = line.strip_prefix("T\t").and_then(|rest| rest.split_once('\t')) {
                data.shared.insert(id, text);
            } else if let Some(rest) = line.strip_prefix("D\t") {
                current = rest.split('\t').next().unwrap_or_default();
                data.lines.insert(current, vec![line]);
            } else if line.starts_with("F\t") {
                data.lines.entry(current).or_default().push(line);
            }
        }
        data
    }

    fn describe(&self, node: &mut Map<String, Value>, text: &str) {
        let text = text.strip_prefix('~').and_then(|id| self.shared.get(id).copied()).unwrap_or(text);
        if !text.is_empty() {
            node.insert("description".into(), unescape(text).into());
        }
    }

    fn definition(&self, lines: &[&str], version: Version) -> Value {
        let mut columns = lines[0].split('\t').skip(2);
        let (form, attributes, text) =
            (columns.next(), columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
        let mut node = scalar(form.unwrap_or_default(), version);
        self.describe(&mut node, text);
        let mut kinds = Vec::new();
        for attribute in attributes.split(' ') {
            match attribute.split_once(':') {
                Some(("gvk", key)) => {
                    let mut parts = key.split('/');
                    kinds.push(json!({"group": parts.next(), "version": parts.next(), "kind": parts.next()}));
                }
                Some(("map", map)) => drop(node.insert("x-kubernetes-map-type".into(), map.into())),
                Some(("unions", unions)) => {
                    let unions = serde_json::from_str(unions).expect("the generator wrote JSON");
                    node.insert("x-kubernetes-unions".into(), unions);
                }
                _ => {}
            }
        }
        if form == Some("struct") {
            let mut properties = Map::new();
            let mut required = Vec::new();
            for line in &lines[1..] {
                let mut columns = line.split('\t').skip(1);
                let mut next = || columns.next().unwrap_or_default();
                let (name, shape, attributes, text) = (next(), next(), next(), next());
                if attributes.split(' ').any(|a| a == "required") {
                    required.push(Value::from(name));
                }
                properties.insert(name.to_owned(), self.property(shape, attributes, text, version));
            }
            if !properties.is_empty() {
                node.insert("properties".into(), Value::Object(properties));
            }
            if !required.is_empty() {
                node.insert("required".into(), Value::Array(required));
            }
        }
        if !kinds.is_empty() {
            node.insert("x-kubernetes-group-version-kind".into(), Value::Array(kinds));
        }
        Value::Object(node)
    }

    fn property(&self, shape: &str, attributes: &str, text: &str, version: Version) -> Value {
        let mut node = shape_of(shape, version);
        self.describe(&mut node, text);
        for attribute in attributes.split(' ') {
            let Some((key, value)) = attribute.split_once(':') else { continue };
            let list = || value.split(',').map(Value::from).collect::<Vec<_>>();
            let (key, value) = match key {
                "list" => ("x-kubernetes-list-type", value.into()),
                "keys" => ("x-kubernetes-list-map-keys", list().into()),
                "map" => ("x-kubernetes-map-type", value.into()),
                "strategy" => ("x-kubernetes-patch-strategy", value.into()),
                "key" => ("x-kubernetes-patch-merge-key", value.into()),
                "default" => ("default", value.into()),
                "enum" => ("enum", list().into()),
                _ => continue,
            };
            node.insert(key.into(), value);
        }
        // In v3 a reference has no siblings.
        if version == Version::V3
            && node.len() > 1
            && let Some(reference) = node.remove("$ref")
        {
            node.insert("allOf".into(), json!([{"$ref": reference}]));
        }
        Value::Object(node)
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The form of a definition itself.
fn scalar(form: &str, version: Version) -> Map<String, Value> {
    object(match (form, version) {
        ("struct" | "raw" | "fields" | "any", _) => json!({"type": "object"}),
        ("quantity", Version::V2) => json!({"type": "string"}),
        ("quantity", Version::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ("intorstring", Version::V2) => json!({"type": "string", "format": "int-or-string"}),
        ("intorstring", Version::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        ("time" | "microtime", _) => json!({"type": "string", "format": "date-time"}),
        _ => json!({}),
    })
}

fn shape_of(shape: &str, version: Version) -> Map<String, Value> {
    if let Some(name) = shape.strip_prefix('@') {
        let place = if version == Version::V2 { "definitions" } else { "components/schemas" };
        return object(json!({"$ref": format!("#/{place}/{name}")}));
    }
    object(match shape.split_at(1) {
        ("[", item) => json!({"type": "array", "items": shape_of(item, version)}),
        ("{", "*") => json!({"type": "object"}),
        ("{", value) => json!({"type": "object", "additionalProperties": shape_of(value, version)}),
        ("s", _) => json!({"type": "string"}),
        ("b", _) => json!({"type": "boolean"}),
        ("i", _) => json!({"type": "integer", "format": "int32"}),
        ("l", _) => json!({"type": "integer", "format": "int64"}),
        ("d", _) => json!({"type": "number", "format": "double"}),
        ("y", _) => json!({"type": "string", "format": "byte"}),
        _ => json!({}),
    })
}

fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        result.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(other) => other,
                None => '\\',
            },
            c => c,
        });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_brings_what_it_refers_to() {
        let name = definition_name(&GroupVersionKind::new("apps", "v1", "Deployment")).expect("built in");
        assert_eq!(name, "io.k8s.api.apps.v1.Deployment");
        let v3 = definitions([name], Version::V3);
        assert_eq!(
            v3[name]["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
        );
        let containers = &v3["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["items"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
        assert_eq!(
            v3[name]["properties"]["spec"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
        );
        assert!(v3[name]["description"].as_str().expect("text").starts_with("Deployment enables"));
        assert!(v3[name]["properties"]["kind"]["description"].as_str().expect("text").starts_with("Kind is a string"));
        assert!(v3.get("io.k8s.apimachinery.pkg.api.resource.Quantity").is_some());
        assert!(v3.get("io.k8s.api.core.v1.Node").is_none());
        let v2 = definitions([name], Version::V2);
        assert_eq!(v2[name]["properties"]["spec"]["$ref"], "#/definitions/io.k8s.api.apps.v1.DeploymentSpec");
    }

    #[test]
    fn every_reference_is_defined() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|v| references(v, found));
                }
                Value::Array(list) => list.iter().for_each(|v| references(v, found)),
                _ => {}
            }
        }
        let names: Vec<_> = kinds().filter_map(|gvk| definition_name(&gvk)).collect();
        let all = definitions(names, Version::V3);
        let mut found = Vec::new();
        references(&all, &mut found);
        assert!(found.len() > 500);
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").expect("v3");
            assert!(all.get(name).is_some(), "{name}");
        }
    }
}
