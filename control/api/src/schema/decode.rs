//! Checks the types of a parsed value as Go's JSON decoder does, with its errors, and converts it to the form of Go's types.

use super::types::{Arena, Kind, NodeId, StructId};
use crate::{
    Cause, FieldPath,
    quantity::Quantity,
    time,
    tree::{MAX_PATH_BYTES, MAX_PROBLEMS},
};
use base64::Engine;
use serde_json::{Map, Number, Value};
use std::fmt::Write;

/// See [`super::Schema::decode_check_in`].
pub(super) fn check(arena: &Arena, node: NodeId, value: &mut Value, source: Source<'_>) -> Result<Vec<String>, String> {
    let mut walk = Walk {
        arena,
        path: String::new(),
        fields: Vec::new(),
        within: None,
        custom: None,
        problems: Vec::new(),
        listed: 0,
        silent: 0,
        mistakes: Vec::new(),
        converted: source == Source::Map,
        keep: false,
    };
    walk.value(node, value);
    match first(walk.mistakes, source) {
        Some(text) => Err(text),
        None => Ok(walk.problems),
    }
}

/// The source of a value, which determines the order and the texts of errors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// Text whose keys reach Go's decoder sorted (YAML).
    Sorted,
    /// This JSON text.
    Json(&'a [u8]),
    /// A map that upstream's converter of unstructured objects turns into a struct (a strategic merge patch).
    Map,
}

/// A value that does not fit its type.
struct Mistake {
    path: String,
    text: String,
    /// The type has a custom decoder.
    own: bool,
}

/// The mistake that Go reports. Go continues after a value of a wrong type and keeps the first such error, but stops at the first value that a
/// custom decoder (`UnmarshalJSON`) refuses, and reports that one.
fn first(mut mistakes: Vec<Mistake>, source: Source<'_>) -> Option<String> {
    if source != Source::Map && mistakes.iter().any(|m| m.own) {
        mistakes.retain(|m| m.own);
    }
    if let (Source::Json(document), [_, _, ..]) = (source, mistakes.as_slice()) {
        let ranks = crate::json::ranks(document, mistakes.iter().map(|m| m.path.clone()));
        let at = (0..mistakes.len()).min_by_key(|at| ranks[*at])?;
        return Some(mistakes.swap_remove(at).text);
    }
    mistakes.into_iter().next().map(|m| m.text)
}

struct Walk<'a> {
    arena: &'a Arena,
    /// The path with indexes, for unknown fields: `spec.containers[0]`.
    path: String,
    /// The path without indexes, for type errors.
    fields: Vec<&'a str>,
    /// The Go struct that is being decoded.
    within: Option<StructId>,
    /// The outermost struct with a field that a custom decoder reads, whose errors name it.
    custom: Option<StructId>,
    problems: Vec<String>,
    /// Bytes in `problems`.
    listed: usize,
    /// Greater than zero inside types with a custom decoder, which drops unknown fields silently.
    silent: usize,
    /// In the order of the walk.
    mistakes: Vec<Mistake>,
    /// See [`Source::Map`].
    converted: bool,
    /// The next value is an element of a list that keeps unknown fields.
    keep: bool,
}

impl<'a> Walk<'a> {
    fn value(&mut self, node: NodeId, value: &mut Value) {
        if self.arena.node(node).lenient {
            return self.lenient(node, value);
        }
        let outcome = match (self.arena.node(node).kind, &mut *value) {
            (Kind::Any | Kind::Raw | Kind::Json | Kind::Fields, _) => Ok(()),
            (_, Value::Null) => {
                // Only elements: a null field is dropped by its parent.
                *value = self.zero(node);
                Ok(())
            }
            (Kind::Struct(id), Value::Object(map)) => {
                self.object(id, map, self.arena.node(node).preserve);
                Ok(())
            }
            (Kind::Map(_), Value::Object(_)) | (Kind::List(_), Value::Array(_)) => {
                self.elements(node, value, false);
                Ok(())
            }
            (Kind::String, Value::String(_)) | (Kind::Bool, Value::Bool(_)) | (Kind::Double, Value::Number(_)) => {
                Ok(())
            }
            (Kind::Int32 | Kind::Int64, Value::Number(n)) if self.converted => match wrapped(n) {
                Some(n) if self.arena.node(node).kind == Kind::Int32 => {
                    #[allow(clippy::cast_possible_truncation, reason = "upstream's converter wraps around, too")]
                    let n = n as i32;
                    *value = n.into();
                    Ok(())
                }
                Some(n) => {
                    *value = n.into();
                    Ok(())
                }
                None => Err(self.unconverted(node, &Value::Number(n.clone()))),
            },
            (Kind::Int32, Value::Number(n)) => self.integer(node, n, i32::MIN.into(), i32::MAX.into()),
            (Kind::Int64, Value::Number(n)) => self.integer(node, n, i64::MIN, i64::MAX),
            (Kind::IntOrString, Value::String(_)) => Ok(()),
            (Kind::IntOrString, Value::Number(n)) => self.integer(node, n, i32::MIN.into(), i32::MAX.into()),
            (Kind::Bytes, Value::String(text)) => canonical_base64(text).map_err(|error| match self.converted {
                true => format!("error decoding from json: {error}"),
                false => error,
            }),
            (Kind::Bytes, Value::Array(list)) => self.byte_list(list).map(|text| *value = text),
            (Kind::Quantity, found) => self.quantity(found).map(|text| *value = text),
            (Kind::Time, Value::String(text)) => time::parse(text).map(|t| *text = time::rfc3339(t)),
            (Kind::MicroTime, Value::String(text)) => time::parse_micro(text).map(|t| *text = time::rfc3339_micro(t)),
            (Kind::SchemaOrArray(_) | Kind::SchemaOrBool(_) | Kind::SchemaOrStrings(_), found) => {
                let outer = self.custom;
                self.custom = outer.or(self.within);
                self.silent += 1;
                let result = self.wrapped(node, found);
                self.silent -= 1;
                self.custom = outer;
                result
            }
            (_, found) => Err(self.mismatch(node, found)),
        };
        if let Err(text) = outcome {
            self.refuse(node, text);
        }
    }

    fn refuse(&mut self, node: NodeId, text: String) {
        if self.mistakes.len() >= MAX_PROBLEMS {
            return;
        }
        let own = self.silent > 0
            || matches!(
                self.arena.node(node).kind,
                Kind::Quantity
                    | Kind::Time
                    | Kind::MicroTime
                    | Kind::IntOrString
                    | Kind::SchemaOrArray(_)
                    | Kind::SchemaOrBool(_)
                    | Kind::SchemaOrStrings(_)
            );
        self.mistakes.push(Mistake { path: self.path.clone(), text, own });
    }

    /// Custom resources are only pruned: validation reports values that do not fit the schema. Such values have no known fields.
    fn lenient(&mut self, node: NodeId, value: &mut Value) {
        let facts = self.arena.node(node);
        let keep = std::mem::take(&mut self.keep) || facts.preserve;
        match (facts.kind, &mut *value) {
            (Kind::Struct(id), Value::Object(map)) => self.object(id, map, keep),
            (Kind::List(_), Value::Array(_)) => self.elements(node, value, keep),
            (Kind::Map(_), Value::Object(_)) => self.elements(node, value, false),
            (Kind::Any, _) if !facts.bare => {}
            (_, value) if !keep => self.strip(value),
            _ => {}
        }
    }

    /// Removes the fields of all objects.
    fn strip(&mut self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.keys().for_each(|name| self.unknown(name));
                map.clear();
            }
            Value::Array(list) => {
                for (index, child) in list.iter_mut().enumerate() {
                    let mark = self.path.len();
                    write!(self.path, "[{index}]").expect("a String takes all");
                    self.strip(child);
                    self.path.truncate(mark);
                }
            }
            _ => {}
        }
    }

    /// `keep`: unknown fields of the elements of a list stay.
    fn elements(&mut self, node: NodeId, value: &mut Value, keep: bool) {
        match (self.arena.node(node).kind, value) {
            (Kind::Map(item), Value::Object(map)) => {
                for (key, child) in map.iter_mut() {
                    let mark = self.enter(key);
                    self.value(item, child);
                    self.path.truncate(mark);
                }
            }
            (Kind::List(item), Value::Array(list)) => {
                for (index, child) in list.iter_mut().enumerate() {
                    let mark = self.path.len();
                    write!(self.path, "[{index}]").expect("a String takes all");
                    self.keep = keep;
                    self.value(item, child);
                    self.path.truncate(mark);
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, id: StructId, map: &mut Map<String, Value>, keep: bool) {
        let outer = self.within.replace(id);
        let additional = self.arena.structure(id).additional;
        map.retain(|name, child| {
            let Some(field) = self.arena.field(id, name) else {
                if let Some(additional) = additional {
                    let mark = self.enter(name);
                    self.value(additional, child);
                    self.path.truncate(mark);
                } else if !keep {
                    self.unknown(name);
                }
                return keep || additional.is_some();
            };
            if child.is_null() {
                return self.arena.node(field.node).lenient;
            }
            let mark = self.enter(name);
            if self.arena.structure(id).name.is_empty() && !self.arena.node(field.node).lenient {
                self.apart(field.node, child);
            } else {
                let depth = self.fields.len();
                self.fields.extend(self.arena.embedded(id, field));
                self.fields.push(&field.name);
                self.value(field.node, child);
                self.fields.truncate(depth);
            }
            self.path.truncate(mark);
            true
        });
        self.within = outer;
    }

    /// The type or the metadata of a custom resource, which upstream decodes by themselves, and names only if they are those of an object
    /// within.
    fn apart(&mut self, node: NodeId, value: &mut Value) {
        let within = !matches!(self.path.as_str(), "apiVersion" | "kind" | "metadata");
        let original = within.then(|| value.clone());
        let (fields, outer, known) = (std::mem::take(&mut self.fields), self.within.take(), self.mistakes.len());
        self.value(node, value);
        (self.fields, self.within) = (fields, outer);
        // Go decodes it from sorted keys.
        let found = self.mistakes.split_off(known);
        if let Some(text) = first(found, Source::Sorted) {
            let text = match &original {
                Some(original) => {
                    let scalar = self.arena.node(node).kind == Kind::String;
                    let text = if scalar { "must be a string" } else { &text };
                    Cause::invalid(&FieldPath::new(&self.path), original, text).to_string()
                }
                None => text,
            };
            self.mistakes.push(Mistake { path: self.path.clone(), text, own: false });
        }
    }

    fn wrapped(&mut self, node: NodeId, value: &mut Value) -> Result<(), String> {
        match (self.arena.node(node).kind, value) {
            (Kind::SchemaOrArray(schema), Value::Array(list)) => {
                list.iter_mut().for_each(|child| self.value(schema, child));
                Ok(())
            }
            (Kind::SchemaOrBool(_), Value::Bool(_)) => Ok(()),
            (
                Kind::SchemaOrBool(schema) | Kind::SchemaOrArray(schema) | Kind::SchemaOrStrings(schema),
                found @ Value::Object(_),
            ) => {
                self.value(schema, found);
                Ok(())
            }
            (Kind::SchemaOrStrings(_), Value::Array(list)) if list.iter().all(Value::is_string) => Ok(()),
            (Kind::SchemaOrBool(_), _) => Err("boolean or JSON schema expected".into()),
            // Go's decoder looks at the first byte, and leaves it empty where that begins neither.
            (Kind::SchemaOrArray(_), found) => {
                *found = Value::Array(Vec::new());
                Ok(())
            }
            (_, found) => Err(self.mismatch(node, found)),
        }
    }

    fn enter(&mut self, name: &str) -> usize {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        mark
    }

    fn unknown(&mut self, name: &str) {
        let length = self.path.len() + name.len();
        if self.problems.len() < MAX_PROBLEMS
            && self.silent == 0
            && (self.listed == 0 || self.listed + length <= MAX_PATH_BYTES)
        {
            self.listed += length;
            let dot = if self.path.is_empty() { "" } else { "." };
            self.problems.push(format!("unknown field \"{}{dot}{name}\"", self.path));
        }
    }

    fn integer(&self, node: NodeId, number: &Number, low: i64, high: i64) -> Result<(), String> {
        match number.as_i64() {
            Some(n) if (low..=high).contains(&n) => Ok(()),
            _ if self.converted => Err(self.unconverted(node, &Value::Number(number.clone()))),
            _ => {
                let wanted = match self.arena.node(node).kind {
                    Kind::IntOrString => "int32".to_owned(),
                    _ => self.arena.go_type(node),
                };
                Err(self.cannot(&format!("number {number}"), &wanted))
            }
        }
    }

    fn quantity(&self, value: &Value) -> Result<Value, String> {
        // Go passes the raw JSON without its quotes.
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            other => other.to_string(),
        };
        Quantity::canonical(&text).map(Value::from).map_err(|e| e.to_string())
    }

    /// Go also decodes a list of numbers as bytes.
    fn byte_list(&self, list: &[Value]) -> Result<Value, String> {
        let mut bytes = Vec::with_capacity(list.len());
        for item in list {
            // null leaves the zero.
            if item.is_null() {
                bytes.push(0);
                continue;
            }
            match item.as_u64().and_then(|n| u8::try_from(n).ok()) {
                Some(byte) => bytes.push(byte),
                None if item.is_number() => return Err(self.cannot(&format!("number {item}"), "uint8")),
                None => return Err(self.cannot(kind_of(item), "uint8")),
            }
        }
        Ok(Value::from(base64::engine::general_purpose::STANDARD.encode(bytes)))
    }

    /// The error of upstream's converter.
    fn unconverted(&self, node: NodeId, value: &Value) -> String {
        let found = match value {
            Value::Number(n) if n.is_f64() => "float64",
            Value::Number(_) => "int64",
            Value::Array(_) => "slice",
            Value::Object(_) => "map",
            other => kind_of(other),
        };
        match (self.arena.node(node).kind, value) {
            (Kind::Struct(_), _) => format!("cannot restore struct from: {found}"),
            (Kind::Map(_), _) => format!("cannot restore map from {found}"),
            (Kind::List(_) | Kind::Bytes, _) => format!("cannot restore slice from {found}"),
            (Kind::Time | Kind::MicroTime, _) => {
                format!("json: cannot unmarshal {} into Go value of type string", kind_of(value))
            }
            (Kind::IntOrString, _) => {
                format!("json: cannot unmarshal {} into Go value of type int32", shown_kind(value))
            }
            (Kind::String, Value::Number(n)) if !n.is_f64() => {
                format!("cannot convert int64 to {}", self.arena.go_type(node))
            }
            (Kind::Int32 | Kind::Int64, Value::Number(_)) => {
                format!("cannot convert {found} to {}", self.arena.go_type(node))
            }
            (Kind::String, _) => "unrecognized type: string".to_owned(),
            (Kind::Bool, _) => "unrecognized type: bool".to_owned(),
            (Kind::Int32, _) => "unrecognized type: int32".to_owned(),
            (Kind::Int64, _) => "unrecognized type: int64".to_owned(),
            _ => format!("cannot convert {found} to {}", self.arena.go_type(node)),
        }
    }

    fn mismatch(&self, node: NodeId, value: &Value) -> String {
        if self.converted {
            return self.unconverted(node, value);
        }
        let wanted = match self.arena.node(node).kind {
            Kind::Time | Kind::MicroTime => "string".to_owned(),
            Kind::IntOrString => "int32".to_owned(),
            _ => self.arena.go_type(node),
        };
        self.cannot(kind_of(value), &wanted)
    }

    fn cannot(&self, what: &str, wanted: &str) -> String {
        match self.custom.or(self.within) {
            Some(id) if !self.fields.is_empty() => {
                let (name, fields) = (self.arena.struct_name(id), self.fields.join("."));
                format!("json: cannot unmarshal {what} into Go struct field {name}.{fields} of type {wanted}")
            }
            _ => format!("json: cannot unmarshal {what} into Go value of type {wanted}"),
        }
    }

    fn zero(&self, node: NodeId) -> Value {
        match self.arena.node(node).kind {
            Kind::String => Value::from(""),
            Kind::Bool => Value::Bool(false),
            Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString => Value::from(0),
            Kind::Quantity => Value::from("0"),
            // No bytes, which JSON shows as an empty string.
            Kind::Bytes => Value::from(""),
            // Go writes all fields without `omitempty`.
            Kind::Struct(id) => {
                let required = self.arena.structure(id).fields.iter().filter(|field| field.required && !field.pointer);
                let zeros = required.map(|field| (field.name.to_string(), self.zero(field.node)));
                Value::Object(zeros.filter(|(_, zero)| !zero.is_null() && !zero.is_object()).collect())
            }
            _ => Value::Null,
        }
    }
}

/// The integer that upstream's converter makes of a number; `None` for one with a fraction.
fn wrapped(number: &Number) -> Option<i64> {
    const END: f64 = 9_223_372_036_854_775_808.0;
    match (number.as_i64(), number.as_f64()) {
        (Some(n), _) => Some(n),
        (None, Some(x)) if x.fract() != 0.0 => None,
        #[allow(clippy::cast_possible_truncation, reason = "it is in range")]
        (None, Some(x)) if (-END..END).contains(&x) => Some(x as i64),
        // As Go's conversion on common processors.
        (None, Some(_)) => Some(i64::MIN),
        (None, None) => None,
    }
}

/// As [`kind_of`], with the value of numbers.
fn shown_kind(value: &Value) -> String {
    match value {
        Value::Number(n) => format!("number {n}"),
        other => kind_of(other).to_owned(),
    }
}

/// The kind of a JSON value, as Go's errors name it.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks standard base64 as Go does (line breaks are skipped, spare bits ignored), and makes it canonical.
fn canonical_base64(text: &mut String) -> Result<(), String> {
    let bytes = text.as_bytes();
    let illegal = |at: usize| Err(format!("illegal base64 data at input byte {at}"));
    let line_break = |at: usize| matches!(bytes.get(at), Some(b'\n' | b'\r'));
    let (mut at, mut filled) = (0, 0);
    let mut clean = true;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\n' | b'\r' => clean = false,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => filled = (filled + 1) % 4,
            b'=' if filled < 2 => return illegal(at),
            b'=' => {
                clean = false; // spare bits
                let mut next = at + 1;
                if filled == 2 {
                    while line_break(next) {
                        next += 1;
                    }
                    match bytes.get(next) {
                        None => return illegal(bytes.len()),
                        Some(b'=') => next += 1,
                        Some(_) => return illegal(next - 1),
                    }
                }
                while line_break(next) {
                    next += 1;
                }
                if next < bytes.len() {
                    return illegal(next);
                }
                filled = 0;
                break;
            }
            _ => return illegal(at),
        }
        at += 1;
    }
    if filled != 0 {
        return illegal(bytes.len() - filled);
    }
    if !clean {
        use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
        let lenient = GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
        let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
        let plain: Vec<u8> = bytes.iter().copied().filter(|b| !matches!(b, b'\n' | b'\r')).collect();
        let data = engine.decode(plain).map_err(|_| format!("illegal base64 data at input byte {}", bytes.len()))?;
        *text = engine.encode(data);
    }
    Ok(())
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
