//! The type of a kind by an OpenAPI v3 document: its references are followed, and only what makes a type is taken. Follows upstream's
//! `apiserver/pkg/cel/openapi/resolver`.

use api::GroupVersionKind;
use cel::{Schema, Type};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use std::collections::{BTreeMap, HashMap};

/// How many parts the schema of a kind may have with all that it refers to: a Pod has 3,000. Documents of aggregated API servers may be hostile.
const MAX_PARTS: usize = 100_000;

/// How deep references may lead.
const MAX_DEPTH: usize = 100;

const REFERENCE: &str = "#/components/schemas/";

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow, default)]
    components: Components<'a>,
}

#[derive(Default, Deserialize)]
struct Components<'a> {
    #[serde(borrow, default)]
    schemas: BTreeMap<String, &'a RawValue>,
}

#[derive(Deserialize)]
struct Marked {
    #[serde(rename = "x-kubernetes-group-version-kind", default)]
    kinds: Vec<GroupVersionKind>,
}

/// The type of a kind. The outer none: the document does not have it; the inner: it has no type that expressions know.
///
/// # Errors
/// The document cannot be read, is incomplete, or has too many parts.
pub(super) fn find_type(document: &[u8], wanted: &GroupVersionKind) -> Result<Option<Option<Type>>, String> {
    let document: Document<'_> = serde_json::from_slice(document).map_err(|error| error.to_string())?;
    let schemas = &document.components.schemas;
    let is_wanted = |schema: &&RawValue| {
        let marked = serde_json::from_str(schema.get()).unwrap_or(Marked { kinds: Vec::new() });
        marked.kinds.contains(wanted)
    };
    let Some((name, _)) = schemas.iter().find(|(_, schema)| is_wanted(schema)) else { return Ok(None) };
    let mut reading = Reading { schemas, parsed: HashMap::new(), parts: 0 };
    let schema = reading.referred(name, &mut Vec::new())?;
    Ok(Some(Schema::root(&schema).to_type(&wanted.kind)))
}

/// A schema that is being read.
struct Reading<'a> {
    schemas: &'a BTreeMap<String, &'a RawValue>,
    parsed: HashMap<String, std::sync::Arc<Value>>,
    parts: usize,
}

impl Reading<'_> {
    /// A definition. One that is within itself is an object without fields.
    fn referred(&mut self, name: &str, within: &mut Vec<String>) -> Result<Value, String> {
        if within.iter().any(|outer| outer == name) {
            return Ok(json!({"type": "object"}));
        }
        let parsed = match self.parsed.get(name) {
            Some(parsed) => parsed.clone(),
            None => {
                let text = self.schemas.get(name).ok_or_else(|| format!("cannot resolve Ref {REFERENCE}{name}"))?;
                let parsed: Value = serde_json::from_str(text.get()).map_err(|error| error.to_string())?;
                self.parsed.entry(name.to_owned()).or_insert(parsed.into()).clone()
            }
        };
        within.push(name.to_owned());
        let made = self.resolved(&parsed, within, 0);
        within.pop();
        made
    }

    /// What makes the type of a schema, with what it refers to in place of references.
    fn resolved(&mut self, schema: &Value, within: &mut Vec<String>, depth: usize) -> Result<Value, String> {
        self.parts += 1;
        if self.parts > MAX_PARTS || within.len() + depth > MAX_DEPTH {
            return Err("the schema has too many parts".to_owned());
        }
        if let Some(name) = reference(schema) {
            return self.referred(name.strip_prefix(REFERENCE).unwrap_or(name), within);
        }
        let mut made = Map::new();
        for key in ["type", "format", "x-kubernetes-embedded-resource", "x-kubernetes-preserve-unknown-fields"] {
            if let Some(value) = schema.get(key) {
                made.insert(key.to_owned(), value.clone());
            }
        }
        // Definitions of resources have the extension, built-in kinds the format.
        let is_either = |schema: &Value| {
            schema.get("format").is_some_and(|format| format == "int-or-string")
                || schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true))
        };
        if is_either(schema) {
            made.insert("x-kubernetes-int-or-string".to_owned(), true.into());
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let mut all = Map::new();
            for (name, property) in properties {
                all.insert(name.clone(), self.resolved(property, within, depth + 1)?);
            }
            made.insert("properties".to_owned(), all.into());
        }
        for key in ["additionalProperties", "items"] {
            if let Some(inner) = schema.get(key).filter(|inner| inner.is_object()) {
                made.insert(key.to_owned(), self.resolved(inner, within, depth + 1)?);
            }
        }
        Ok(made.into())
    }
}

/// What a schema refers to: itself, or within `allOf`, which is there to add a description.
fn reference(schema: &Value) -> Option<&str> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        return Some(name);
    }
    schema.get("allOf").and_then(Value::as_array).into_iter().flatten().find_map(reference)
}
