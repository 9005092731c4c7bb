//! The declared types of JSON: a structural schema of OpenAPI v3 as CEL sees it. What has no type that CEL knows is hidden from
//! expressions and still takes part in the equality of the objects that hold it.

use crate::{
    escape::{escape, is_reserved},
    types::{ObjectType, Type},
};
use serde_json::Value as Json;
use std::{collections::BTreeMap, sync::Arc};

/// The largest request that a server takes, by which sizes are estimated that a schema does not bound.
pub const MAX_REQUEST_SIZE: u64 = 3 << 20;

/// How deep a schema is read.
const MAX_DEPTH: usize = 128;

/// A property of an object.
#[derive(Debug)]
pub(crate) struct Property {
    pub(crate) schema: Arc<Schema>,
    /// Its name in expressions; nothing if they cannot name it.
    pub(crate) escaped: Option<String>,
}

/// How a list is compared and joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListType {
    Atomic,
    Set,
    /// By these keys of its elements.
    Map(Vec<String>),
}

/// What JSON is read as.
#[derive(Debug)]
pub(crate) enum Shape {
    /// An object with these properties; whether names in expressions are escaped ones.
    Object {
        properties: BTreeMap<String, Property>,
        is_object: bool,
    },
    Map(Arc<Schema>),
    List {
        items: Option<Arc<Schema>>,
        kind: ListType,
    },
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Duration,
    Date,
    DateTime,
    IntOrString,
    /// Anything, only to be compared.
    Preserved,
    Invalid(String),
}

/// A structural schema.
#[derive(Debug)]
pub struct Schema {
    pub(crate) shape: Shape,
    pub(crate) nullable: bool,
    exposed: bool,
    max_elements: u64,
    min_size: u64,
}

impl Schema {
    /// The schema of a part of an object. `x-kubernetes-embedded-resource` adds the metadata that each resource has.
    pub fn new(schema: &Json) -> Arc<Self> {
        Arc::new(read(schema, flag(schema, "x-kubernetes-embedded-resource"), 0))
    }

    /// The schema of a whole resource, which has `apiVersion`, `kind`, `metadata.name` and `metadata.generateName` in any case.
    pub fn root(schema: &Json) -> Arc<Self> {
        Arc::new(read(schema, true, 0))
    }

    /// The type for variables; nothing if expressions may not see it. The name is a prefix of names of objects in messages.
    pub fn to_type(self: &Arc<Self>, name: &str) -> Option<Type> {
        if !self.exposed {
            return None;
        }
        Some(match &self.shape {
            Shape::Object { .. } => Type::object(name, Arc::new(Declared(self.clone()))),
            Shape::Map(value) => Type::map(Type::String, value.to_type(&format!("{name}.@elem"))?),
            Shape::List { items, .. } => Type::list(items.as_ref()?.to_type(&format!("{name}.@idx"))?),
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Double => Type::Double,
            Shape::String => Type::String,
            Shape::Bytes => Type::Bytes,
            Shape::Duration => Type::Duration,
            Shape::Date | Shape::DateTime => Type::Timestamp,
            Shape::IntOrString => Type::Dyn,
            Shape::Preserved | Shape::Invalid(_) => return None,
        })
    }

    /// The most elements or letters that a value can have; 0 for what has none.
    pub fn max_elements(&self) -> u64 {
        self.max_elements
    }

    /// The fewest bytes that a value takes as JSON.
    pub fn min_serialized_size(&self) -> u64 {
        self.min_size
    }

    /// How often a value of this schema can be in one request at most.
    pub fn max_cardinality(&self) -> u64 {
        MAX_REQUEST_SIZE / (self.min_size + 1)
    }

    /// The schema of a property by its name in JSON.
    pub fn property(&self, name: &str) -> Option<&Arc<Schema>> {
        let Shape::Object { properties, .. } = &self.shape else { return None };
        properties.get(name).map(|property| &property.schema)
    }

    /// The schema of the elements of a list or of the values of a map.
    pub fn element(&self) -> Option<&Arc<Schema>> {
        match &self.shape {
            Shape::Map(value) => Some(value),
            Shape::List { items, .. } => items.as_ref(),
            _ => None,
        }
    }

    /// The schema at a path of an expression (names in expressions, `@items`, `@values`, `@keys`), which begins below this one; and how
    /// many elements it can have at most.
    pub(crate) fn size_at<'p>(&self, path: impl Iterator<Item = &'p str>) -> Option<u64> {
        let mut at = self;
        let mut is_key = false;
        for part in path {
            if is_key {
                return None;
            }
            match (part, &at.shape) {
                ("@items" | "@values", Shape::Map(next)) => at = next,
                ("@items" | "@values", Shape::List { items: Some(next), .. }) => at = next,
                ("@keys", Shape::Map(_)) => is_key = true,
                (name, Shape::Object { properties, .. }) => {
                    let mut found = properties.values();
                    let found = found.find(|property| property.escaped.as_deref() == Some(name))?;
                    if !found.schema.exposed {
                        return None;
                    }
                    at = &found.schema;
                }
                _ => return None,
            }
        }
        Some(if is_key { 0 } else { at.max_elements })
    }
}

/// A schema as an object type.
struct Declared(Arc<Schema>);

impl ObjectType for Declared {
    fn field(&self, type_name: &str, field: &str) -> Option<Type> {
        let Shape::Object { properties, .. } = &self.0.shape else { return None };
        // Most names are no escaped ones, so that the first look mostly finds it.
        let named = properties.get(field).filter(|property| property.escaped.as_deref() == Some(field));
        let mut all = properties.values();
        let found = named.or_else(|| all.find(|property| property.escaped.as_deref() == Some(field)));
        // A word of the language may stand as it is behind a dot.
        let found = found.or_else(|| properties.get(field).filter(|_| is_reserved(field)))?;
        found.schema.to_type(&format!("{type_name}.{field}"))
    }
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name).and_then(Json::as_bool).unwrap_or(false)
}

fn number(schema: &Json, name: &str) -> Option<u64> {
    let value = schema.get(name)?;
    value.as_u64().or_else(|| value.as_i64().map(|_| 0)).or_else(|| value.as_f64().map(float))
}

/// A whole number that was written with a dot.
fn float(value: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
    let value = value as u64;
    value
}

fn read(schema: &Json, is_root: bool, depth: usize) -> Schema {
    let nullable = flag(schema, "nullable");
    let max_string = MAX_REQUEST_SIZE - 2;
    let max_length = number(schema, "maxLength");
    let simple = |shape: Shape, max_elements: u64, min_size: u64| Schema {
        shape,
        nullable,
        exposed: true,
        max_elements,
        min_size,
    };
    if flag(schema, "x-kubernetes-int-or-string") {
        return simple(Shape::IntOrString, max_length.map_or(max_string, |length| length.saturating_mul(4)), 1);
    }
    let hidden = |shape: Shape| Schema { shape, nullable, exposed: false, max_elements: 0, min_size: 1 };
    if depth > MAX_DEPTH {
        return hidden(Shape::Preserved);
    }
    match schema.get("type").and_then(Json::as_str).unwrap_or_default() {
        "array" => Schema { nullable, ..read_list(schema, depth) },
        "object" => Schema { nullable, ..read_object(schema, is_root, depth) },
        "string" => match schema.get("format").and_then(Json::as_str).unwrap_or_default() {
            "byte" => simple(Shape::Bytes, max_length.unwrap_or(max_string), 2),
            "duration" => simple(Shape::Duration, 32, 3),
            "date" => simple(Shape::Date, 12, 12),
            "date-time" => simple(Shape::DateTime, 32, 21),
            _ => {
                let longest = || {
                    let values = schema.get("enum").and_then(Json::as_array).filter(|values| !values.is_empty())?;
                    Some(values.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0) as u64)
                };
                let bound = max_length.map(|length| length.saturating_mul(4)).or_else(longest);
                simple(Shape::String, bound.unwrap_or(max_string), 2)
            }
        },
        "boolean" => simple(Shape::Bool, 0, 4),
        "number" => simple(Shape::Double, 0, 1),
        "integer" => simple(Shape::Int, 0, 1),
        _ if flag(schema, "x-kubernetes-preserve-unknown-fields") => hidden(Shape::Preserved),
        other => hidden(Shape::Invalid(other.to_owned())),
    }
}

fn read_list(schema: &Json, depth: usize) -> Schema {
    let items = schema.get("items").filter(|items| items.is_object());
    let items = items.map(|items| Arc::new(read(items, flag(items, "x-kubernetes-embedded-resource"), depth + 1)));
    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
    let kind = match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
        Some("map") => ListType::Map(keys.into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()),
        Some("set") => ListType::Set,
        _ => ListType::Atomic,
    };
    let max_elements = items
        .as_ref()
        .map_or(0, |items| number(schema, "maxItems").unwrap_or_else(|| (MAX_REQUEST_SIZE - 2) / (items.min_size + 1)));
    let exposed = items.as_ref().is_some_and(|items| items.exposed);
    Schema { shape: Shape::List { items, kind }, nullable: false, exposed, max_elements, min_size: 2 }
}

fn read_object(schema: &Json, is_root: bool, depth: usize) -> Schema {
    let additional = schema.get("additionalProperties").filter(|additional| additional.is_object());
    let given = schema.get("properties").and_then(Json::as_object);
    if let Some(additional) = additional.filter(|_| given.is_none() && !is_root) {
        let value = read(additional, flag(additional, "x-kubernetes-embedded-resource"), depth + 1);
        let most = (MAX_REQUEST_SIZE - 2) / (value.min_size + 6);
        let max_elements = number(schema, "maxProperties").unwrap_or(most);
        let exposed = value.exposed;
        return Schema { shape: Shape::Map(Arc::new(value)), nullable: false, exposed, max_elements, min_size: 2 };
    }
    let required: Vec<&str> =
        schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    let mut properties = BTreeMap::new();
    let mut min_size = 2;
    let extended = if is_root { with_metadata(given) } else { None };
    for (name, property) in extended.as_ref().or(given).into_iter().flatten() {
        let read = read(property, flag(property, "x-kubernetes-embedded-resource"), depth + 1);
        if read.exposed && required.contains(&name.as_str()) && property.get("default").is_none_or(Json::is_null) {
            min_size += name.len() as u64 + read.min_size + 4;
        }
        properties.insert(name.clone(), Property { schema: Arc::new(read), escaped: escape(name) });
    }
    let is_object = given.is_some() || is_root;
    Schema { shape: Shape::Object { properties, is_object }, nullable: false, exposed: true, max_elements: 0, min_size }
}

/// The properties and those of each resource, unless it has them all.
fn with_metadata(given: Option<&serde_json::Map<String, Json>>) -> Option<serde_json::Map<String, Json>> {
    let has = |path: &[&str], kind: &str| {
        let mut at = given.and_then(|given| given.get(*path.first()?));
        for part in path.iter().skip(1) {
            at = at.and_then(|at| at.get("properties")?.get(*part));
        }
        at.and_then(|at| at.get("type")).and_then(Json::as_str) == Some(kind)
    };
    if has(&["kind"], "string")
        && has(&["apiVersion"], "string")
        && has(&["metadata"], "object")
        && has(&["metadata", "name"], "string")
        && has(&["metadata", "generateName"], "string")
    {
        return None;
    }
    let string = serde_json::json!({"type": "string"});
    let metadata =
        serde_json::json!({"type": "object", "properties": {"name": string.clone(), "generateName": string.clone()}});
    let mut properties = given.cloned().unwrap_or_default();
    properties.insert("kind".to_owned(), string.clone());
    properties.insert("apiVersion".to_owned(), string);
    properties.insert("metadata".to_owned(), metadata);
    Some(properties)
}
