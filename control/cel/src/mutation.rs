//! The types of mutating policies: objects whose types are named by the path of their fields, and JSON patches.

use crate::{
    types::{ObjectType, Type},
    value::{List, Map, Value},
};
use std::sync::Arc;

/// How many values are looked at.
const MOST: usize = 100_000;

/// `Object`, `Object.spec`, …: any field, of any type.
struct Anything;

impl ObjectType for Anything {
    fn field(&self, _: &str, _: &str) -> Option<Type> {
        Some(Type::Dyn)
    }

    fn is_constructible(&self) -> bool {
        true
    }
}

/// `JSONPatch`
struct JsonPatch;

impl ObjectType for JsonPatch {
    fn field(&self, _: &str, field: &str) -> Option<Type> {
        match field {
            "op" | "path" | "from" => Some(Type::String),
            "value" => Some(Type::Dyn),
            _ => None,
        }
    }

    fn is_constructible(&self) -> bool {
        true
    }
}

/// The type by a name that mutating policies know.
pub(crate) fn resolve(name: &str) -> Option<Type> {
    match name {
        "JSONPatch" => Some(json_patch()),
        "Object" => Some(object()),
        name if name.starts_with("Object.") => Some(Type::object(name, Arc::new(Anything))),
        _ => None,
    }
}

/// The type `Object`, which an apply configuration must be of.
pub fn object() -> Type {
    Type::object("Object", Arc::new(Anything))
}

/// The type `JSONPatch`; a patch must be a list of them.
pub fn json_patch() -> Type {
    Type::object("JSONPatch", Arc::new(JsonPatch))
}

impl Value<'_> {
    /// What is wrong with the names of types of objects that an expression made: each must be the path of its field from the type of the whole
    /// value, which is `Object` or, in a JSON patch, that of a part of it.
    pub fn misnamed_types(&self) -> Vec<String> {
        let (mut found, mut left) = (Vec::new(), MOST);
        let root = if let Value::Map(Map::Object(object, _)) = self { object.name() } else { "Object" };
        look(self, &mut vec![root.to_owned()], &mut found, &mut left);
        found
    }
}

fn look(value: &Value<'_>, path: &mut Vec<String>, found: &mut Vec<String>, left: &mut usize) {
    let Some(rest) = left.checked_sub(1) else { return };
    *left = rest;
    match value {
        Value::Map(Map::Object(object, fields)) => {
            let expected = path.join(".");
            if object.name() != expected {
                found.push(format!(
                    "unexpected type name {:?}, expected {expected:?}, which matches field name path from root Object type",
                    object.name()
                ));
            }
            for (name, value) in &**fields {
                path.push(name.to_string());
                look(value, path, found, left);
                path.pop();
            }
        }
        Value::Map(Map::Owned(entries)) => entries.values().for_each(|value| look(value, path, found, left)),
        Value::List(List::Owned(elements, _)) => elements.iter().for_each(|value| look(value, path, found, left)),
        _ => {}
    }
}
