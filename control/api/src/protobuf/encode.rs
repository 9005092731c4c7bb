//! JSON to protobuf: the way back of the decoder, by the same table. A message is written from its end to its start: each length is known
//! when it is written, and nothing is moved or measured twice.

use super::{
    special,
    wire::{MAGIC, Writer},
};
use crate::{
    GroupVersionKind,
    schema::{Arena, Field, Kind, NodeId, Schema, StructId, json_kind},
    tree::MAX_DEPTH,
};
use serde_json::{Map, Value};
use std::cmp::Reverse;

/// What stands behind the object in its envelope: no content encoding and no content type, which Go writes though they are empty.
const TAIL: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// Whether objects of a kind can be encoded: built-in kinds can, custom resources and tables cannot.
pub fn has_form(gvk: &GroupVersionKind) -> bool {
    structure(gvk).is_some()
}

fn structure(gvk: &GroupVersionKind) -> Option<(Schema, StructId)> {
    let schema = Schema::for_answer(gvk)?;
    let Kind::Struct(id) = schema.facts().kind else { return None };
    Some((schema, id))
}

/// Encodes an object of a built-in kind, envelope included. Values that are null or unknown to the schema are left out, as Go's types have no
/// place for them.
///
/// # Errors
/// The kind has no protobuf form, a value has the wrong type, or the object nests too deep.
pub fn encode(object: &Value) -> Result<Vec<u8>, String> {
    let target = Target::of(object)?;
    let mut out = Writer::default();
    out.bytes(TAIL);
    target.write(&mut out, object, 0)?;
    Ok(out.finish())
}

/// The type of an object that is to be encoded.
struct Target<'a> {
    api_version: &'a str,
    kind: &'a str,
    schema: Schema,
    id: StructId,
}

impl<'a> Target<'a> {
    fn of(object: &'a Value) -> Result<Self, String> {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        // Upstream leaves the version out of the oldest discovery documents.
        let known = if api_version.is_empty() { "v1" } else { api_version };
        let gvk = GroupVersionKind::from_api_version(known, kind);
        let (schema, id) = structure(&gvk).ok_or_else(|| format!("{kind} in {api_version:?} has no protobuf form"))?;
        Ok(Self { api_version, kind, schema, id })
    }

    /// Writes the object and what stands before it. `more` bytes of the object follow already.
    fn write(&self, out: &mut Writer, object: &Value, more: usize) -> Result<(), String> {
        let end = out.len();
        Encoder { arena: &self.schema.arena, out }.message(self.id, object, 0)?;
        out.length(2, out.len() - end + more);
        let end = out.len();
        out.text(2, self.kind);
        out.text(1, self.api_version);
        out.length(1, out.len() - end);
        out.bytes(MAGIC);
        Ok(())
    }
}

/// The body of a list that is made item by item: a head, the items, and [`ListEncoder::TAIL`]. The length of all items is part of the head.
pub struct ListEncoder {
    schema: Schema,
    item: NodeId,
    tag: u16,
    scratch: Writer,
}

impl ListEncoder {
    /// What stands behind the items.
    pub const TAIL: &[u8] = TAIL;

    /// For a kind of list, as `PodList`.
    ///
    /// # Errors
    /// It is no list, or has no protobuf form.
    pub fn new(gvk: &GroupVersionKind) -> Result<Self, String> {
        let found = structure(gvk).and_then(|(schema, id)| {
            let items = schema.arena.field(id, "items")?;
            let Kind::List(item) = schema.arena.node(items.node).kind else { return None };
            let [tag] = *items.tags.as_slice() else { return None };
            Some(Self { schema: schema.clone(), item, tag, scratch: Writer::default() })
        });
        found.ok_or_else(|| format!("{} in {:?} has no protobuf form", gvk.kind, gvk.api_version()))
    }

    /// Appends an item; nothing if it cannot be encoded.
    ///
    /// # Errors
    /// As [`encode`].
    pub fn item(&mut self, out: &mut Vec<u8>, item: &Value) -> Result<(), String> {
        self.scratch.clear();
        Encoder { arena: &self.schema.arena, out: &mut self.scratch }.value(self.item, self.tag, item, 0)?;
        self.scratch.copy_to(out);
        Ok(())
    }

    /// What stands before items of this length, bytes. `list` has the type and the metadata.
    ///
    /// # Errors
    /// As [`encode`].
    pub fn head(list: &Value, length: usize) -> Result<Vec<u8>, String> {
        let mut out = Writer::default();
        Target::of(list)?.write(&mut out, list, length)?;
        Ok(out.finish())
    }
}

/// `WatchEvent` {1 type, 2 `RawExtension` {1 raw}} without an envelope, as upstream streams it. `object` has its own envelope.
pub fn watch_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.field(1, object);
    out.length(2, out.len());
    out.text(1, kind);
    out.finish()
}

struct Encoder<'a, 'w> {
    arena: &'a Arena,
    out: &'w mut Writer,
}

impl Encoder<'_, '_> {
    fn message(&mut self, id: StructId, value: &Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("proto: exceeded max depth".into());
        }
        let Value::Object(map) = value else {
            return Err(format!("proto: {} is no {}", json_kind(value), self.arena.struct_name(id)));
        };
        let known = map.iter().filter_map(|(name, value)| Some((self.arena.field(id, name)?, value)));
        let mut fields: Vec<(&Field, &Value)> = known.collect();
        fields.retain(|(field, value)| !value.is_null() && !field.tags.as_slice().is_empty());
        fields.sort_unstable_by_key(|(field, _)| Reverse(field.tags.as_slice()));
        self.fields(&fields, 0, depth)
    }

    /// Writes fields that have the first `level` tags in common, the greatest tag first. Those that share one more tag and go on are the fields
    /// of a message that JSON inlines.
    fn fields(&mut self, fields: &[(&Field, &Value)], level: usize, depth: usize) -> Result<(), String> {
        let tag = |(field, _): &(&Field, &Value)| field.tags.as_slice()[level];
        for group in fields.chunk_by(|a, b| tag(a) == tag(b)) {
            if group[0].0.tags.as_slice().len() > level + 1 {
                let end = self.out.len();
                self.fields(group, level + 1, depth)?;
                self.out.length(tag(&group[0]), self.out.len() - end);
                continue;
            }
            for (field, value) in group {
                self.field(field, tag(&group[0]), value, depth)?;
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, tag: u16, value: &Value, depth: usize) -> Result<(), String> {
        match (self.arena.node(field.node).kind, value) {
            (Kind::List(item), Value::Array(list)) => self.list(item, tag, list, depth),
            (Kind::Map(item), Value::Object(entries)) => self.entries(item, tag, entries, depth),
            _ => self.value(field.node, tag, value, depth),
        }
    }

    fn list(&mut self, item: NodeId, tag: u16, list: &[Value], depth: usize) -> Result<(), String> {
        list.iter().rev().try_for_each(|value| self.value(item, tag, value, depth))
    }

    /// Each entry of a map is a message {1 key, 2 value}.
    fn entries(&mut self, item: NodeId, tag: u16, map: &Map<String, Value>, depth: usize) -> Result<(), String> {
        for (key, value) in map.iter().rev() {
            let end = self.out.len();
            match (self.arena.node(item).kind, value) {
                // A named list type as a value is a message {1 items}.
                (Kind::List(item), Value::Array(list)) => {
                    self.list(item, 1, list, depth)?;
                    self.out.length(2, self.out.len() - end);
                }
                (Kind::List(_), Value::Null) => self.out.length(2, 0),
                _ => self.value(item, 2, value, depth)?,
            }
            self.out.text(1, key);
            self.out.length(tag, self.out.len() - end);
        }
        Ok(())
    }

    /// Writes one value. A null, which is an element or the value of a map here, is the zero of its type.
    fn value(&mut self, node: NodeId, tag: u16, value: &Value, depth: usize) -> Result<(), String> {
        let (arena, kind) = (self.arena, self.arena.node(node).kind);
        let wrong = || format!("proto: {} is no {}", json_kind(value), arena.go_type(node));
        match (kind, value) {
            (Kind::Bool | Kind::Int32 | Kind::Int64, Value::Null) => self.out.number(tag, 0),
            (Kind::Bool, _) => self.out.number(tag, value.as_bool().ok_or_else(wrong)?.into()),
            // A negative number is extended to 64 bits.
            (Kind::Int32 | Kind::Int64, _) => self.out.number(tag, special::integer(value).ok_or_else(wrong)? as u64),
            (Kind::Double, Value::Null) => self.out.double(tag, 0.0),
            (Kind::Double, _) => self.out.double(tag, value.as_f64().ok_or_else(wrong)?),
            // Of these only `apiextensions.JSON` can be null.
            (Kind::Json, _) => self.nested(tag, |encoder| special::write_json(encoder.out, value))?,
            (_, Value::Null) => self.out.length(tag, 0),
            (Kind::Raw | Kind::Any | Kind::Fields, _) => {
                self.nested(tag, |encoder| special::write_json(encoder.out, value))?;
            }
            (Kind::String, _) => self.out.text(tag, value.as_str().ok_or_else(wrong)?),
            (Kind::Bytes, _) => self.out.field(tag, &special::base64(value.as_str().ok_or_else(wrong)?)?),
            (Kind::Quantity, Value::String(text)) => self.only_text(tag, text),
            (Kind::Quantity, Value::Number(number)) => self.only_text(tag, &number.to_string()),
            (Kind::Time | Kind::MicroTime, Value::String(text)) => {
                self.nested(tag, |encoder| special::write_time(encoder.out, text, kind == Kind::MicroTime))?;
            }
            (Kind::IntOrString, _) => {
                self.nested(tag, |encoder| special::write_int_or_string(encoder.out, value).ok_or_else(wrong))?;
            }
            (Kind::SchemaOrArray(schema) | Kind::SchemaOrStrings(schema), Value::Object(_)) => {
                self.nested(tag, |encoder| encoder.value(schema, 1, value, depth + 1))?;
            }
            (Kind::SchemaOrArray(schema), Value::Array(list)) => {
                self.nested(tag, |encoder| encoder.list(schema, 2, list, depth + 1))?;
            }
            (Kind::SchemaOrStrings(_), Value::Array(list)) => self.nested(tag, |encoder| {
                for text in list.iter().rev() {
                    encoder.out.text(2, text.as_str().ok_or_else(wrong)?);
                }
                Ok(())
            })?,
            (Kind::SchemaOrBool(_), Value::Bool(allows)) => self.nested(tag, |encoder| {
                encoder.out.number(1, u64::from(*allows));
                Ok(())
            })?,
            (Kind::SchemaOrBool(schema), Value::Object(_)) => self.nested(tag, |encoder| {
                encoder.value(schema, 2, value, depth + 1)?;
                // Go sets it where there is a schema.
                encoder.out.number(1, 1);
                Ok(())
            })?,
            (Kind::Struct(id), _) => self.nested(tag, |encoder| encoder.message(id, value, depth + 1))?,
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// A message {1 text}.
    fn only_text(&mut self, tag: u16, text: &str) {
        let end = self.out.len();
        self.out.text(1, text);
        self.out.length(tag, self.out.len() - end);
    }

    /// Writes a message by `write`, then its length and tag.
    fn nested(&mut self, tag: u16, write: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let end = self.out.len();
        write(self)?;
        self.out.length(tag, self.out.len() - end);
        Ok(())
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
