//! Values as JSON.

use crate::{
    time::duration_text,
    value::{Key, List, Map, Value},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value as Json;

/// How many values JSON that is made of one may have.
const MOST: usize = 2_000_000;

impl Value<'_> {
    /// The value as JSON: times and durations as text, bytes as base64, an empty optional as null.
    ///
    /// # Errors
    /// The value, or one in it, has no JSON, or it is too large.
    pub fn to_json(&self) -> Result<Json, String> {
        let mut left = MOST;
        json(self, &mut left)
    }
}

fn json(value: &Value<'_>, left: &mut usize) -> Result<Json, String> {
    *left = left.checked_sub(1).ok_or("the value is too large")?;
    Ok(match value {
        Value::Null | Value::Optional(None) => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Double(value) => {
            serde_json::Number::from_f64(*value).map(Json::Number).ok_or("a double that is no number has no JSON")?
        }
        Value::String(value) => {
            text(value.len(), left)?;
            Json::String(value.to_string())
        }
        Value::Bytes(bytes) => {
            text(bytes.len(), left)?;
            Json::String(STANDARD.encode(bytes))
        }
        Value::Timestamp(stamp) => Json::String(stamp.to_string()),
        Value::Duration(nanos) => Json::String(duration_text(*nanos)),
        Value::Optional(Some(value)) => json(value, left)?,
        Value::List(List::Json(elements, _)) => {
            Json::Array(elements.iter().map(|element| copy(element, left)).collect::<Result<_, _>>()?)
        }
        Value::List(List::Owned(elements, _)) => {
            Json::Array(elements.iter().map(|element| json(element, left)).collect::<Result<_, _>>()?)
        }
        Value::Map(map) => Json::Object(object(map, left)?),
        Value::Type(name) => Json::String(name.to_string()),
        Value::Opaque(opaque) => {
            let shown = format!("{opaque:?}");
            text(shown.len(), left)?;
            Json::String(shown)
        }
    })
}

/// Takes what so many bytes of text count.
fn text(bytes: usize, left: &mut usize) -> Result<(), String> {
    *left = left.checked_sub(bytes / 16).ok_or("the value is too large")?;
    Ok(())
}

/// JSON that an expression may hold many times.
fn copy(value: &Json, left: &mut usize) -> Result<Json, String> {
    *left = left.checked_sub(1).ok_or("the value is too large")?;
    text(value.as_str().map_or(0, str::len), left)?;
    Ok(match value {
        Json::Array(elements) => {
            Json::Array(elements.iter().map(|element| copy(element, left)).collect::<Result<_, _>>()?)
        }
        Json::Object(fields) => {
            let mut made = serde_json::Map::new();
            for (name, value) in fields.iter() {
                text(name.len(), left)?;
                made.insert(name.clone(), copy(value, left)?);
            }
            Json::Object(made)
        }
        other => other.clone(),
    })
}

fn object(map: &Map<'_>, left: &mut usize) -> Result<serde_json::Map<String, Json>, String> {
    let mut made = serde_json::Map::new();
    match map {
        Map::Json(fields, _) => {
            for (name, value) in fields.iter() {
                text(name.len(), left)?;
                made.insert(name.clone(), copy(value, left)?);
            }
        }
        Map::Owned(entries) => {
            for (key, value) in &**entries {
                let name = match key {
                    Key::Bool(value) => value.to_string(),
                    Key::Int(value) => value.to_string(),
                    Key::Uint(value) => value.to_string(),
                    Key::String(name) => name.to_string(),
                };
                text(name.len(), left)?;
                made.insert(name, json(value, left)?);
            }
        }
        Map::Object(_, fields) => {
            for (name, value) in &**fields {
                made.insert(name.to_string(), json(value, left)?);
            }
        }
        Map::Host(_) => return Err("an object whose fields are computed has no JSON".to_owned()),
    }
    Ok(made)
}
