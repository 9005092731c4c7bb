//! Protobuf to JSON, and back. Go clients send protobuf bodies for every built-in kind and do not fall back; answers are protobuf for a client
//! that accepts nothing else.
//!
//! Both ways read one table: the schema has the tags of each field, which message is inline, and which zeros Go writes that JSON omits.
//! Custom resources have no protobuf form. Every input may be hostile: lengths, nesting and the number of values are limited.
//!
//! Follows <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>.

mod encode;
mod special;
mod wire;

use crate::{
    GroupVersionKind,
    schema::{Arena, Field, Kind, NodeId, Schema, StructId},
    tree::{MAX_BRANCHES, MAX_DEPTH, nests_deeper},
};
use base64::Engine;
use serde_json::{Map, Value};
use wire::{MAGIC, Payload, Reader};

pub use encode::{ListEncoder, encode, has_form, watch_event};

/// Most values in one body, because two bytes on the wire may become kilobytes in memory.
const MAX_VALUES: usize = 1_000_000;

/// Whether a body is protobuf.
pub fn is_protobuf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Decodes a whole body, envelope included, to the JSON that the same client would have sent, with `apiVersion` and `kind`.
///
/// # Errors
/// A text for the client: no envelope, an unknown kind, or a malformed message (`proto: …`).
pub fn decode(bytes: &[u8]) -> Result<Value, String> {
    decode_as(bytes, None)
}

/// Like [`decode`]; `default` is the kind if the envelope names none.
///
/// # Errors
/// As [`decode`].
pub fn decode_as(bytes: &[u8], default: Option<&GroupVersionKind>) -> Result<Value, String> {
    let value = Decoder { values: 0, messages: 0 }.envelope(bytes, default, 0)?;
    // Raw JSON in a message may itself nest as deep as a whole body.
    if nests_deeper(&value, MAX_DEPTH) { Err("proto: exceeded max depth".into()) } else { Ok(value) }
}

struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
    content_type: String,
}

impl<'a> Envelope<'a> {
    /// `runtime.Unknown`: 1 TypeMeta {1 apiVersion, 2 kind}, 2 raw, 3 contentEncoding, 4 contentType.
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let Some(bytes) = bytes.strip_prefix(MAGIC) else {
            return Err("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".into());
        };
        let mut envelope =
            Self { api_version: String::new(), kind: String::new(), raw: &[], content_type: String::new() };
        let mut reader = Reader::new(bytes);
        while let Some((tag, payload)) = reader.next()? {
            match tag {
                1 => {
                    let mut meta = Reader::new(payload.bytes(tag)?);
                    while let Some((tag, payload)) = meta.next()? {
                        match tag {
                            1 => envelope.api_version = payload.text(tag)?,
                            2 => envelope.kind = payload.text(tag)?,
                            _ => {}
                        }
                    }
                }
                2 => envelope.raw = payload.bytes(tag)?,
                // A content encoding such as gzip: no Kubernetes client sends one, and the content must not be read as plain.
                3 if !payload.bytes(tag)?.is_empty() => {
                    return Err(format!("the content encoding {:?} is not supported", payload.text(tag)?));
                }
                4 => envelope.content_type = payload.text(tag)?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

struct Decoder {
    values: usize,
    messages: usize,
}

impl Decoder {
    fn envelope(&mut self, bytes: &[u8], default: Option<&GroupVersionKind>, depth: usize) -> Result<Value, String> {
        let envelope = Envelope::read(bytes)?;
        let gvk = match (envelope.kind.as_str(), default) {
            ("", Some(default)) => default.clone(),
            ("", None) => return Err("Object 'Kind' is missing in the protobuf envelope".into()),
            (kind, _) => GroupVersionKind::from_api_version(&envelope.api_version, kind),
        };
        if envelope.content_type == "application/json" {
            return crate::json::parse(envelope.raw).map(|(value, _)| value);
        }
        let schema = schema_of(&gvk)?;
        let Kind::Struct(id) = schema.facts().kind else {
            return Err(format!("{} has no protobuf form", gvk.kind));
        };
        let mut map = Map::new();
        self.message(&schema.arena, id, &[], envelope.raw, &mut map, depth)?;
        map.insert("apiVersion".into(), gvk.api_version().into());
        map.insert("kind".into(), gvk.kind.into());
        Ok(Value::Object(map))
    }

    fn count(&mut self) -> Result<(), String> {
        self.values += 1;
        if self.values > MAX_VALUES { Err("proto: too many values".into()) } else { Ok(()) }
    }

    /// Decodes one message into `map`. `inline` is the path of tags to a message that JSON inlines here.
    fn message(
        &mut self,
        arena: &Arena,
        id: StructId,
        inline: &[u16],
        bytes: &[u8],
        map: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("proto: exceeded max depth".into());
        }
        self.messages += 1;
        if self.messages > MAX_BRANCHES {
            return Err("proto: too many messages".into());
        }
        let fields = &arena.structure(id).fields;
        let level = inline.len();
        let mut reader = Reader::new(bytes);
        while let Some((tag, payload)) = reader.next()? {
            let Ok(wanted) = u16::try_from(tag) else { continue };
            let here = |tags: &[u16]| tags.get(level) == Some(&wanted) && tags.starts_with(inline);
            let Some(field) = fields.iter().find(|f| here(f.tags.as_slice())) else { continue };
            let way = field.tags.as_slice();
            if way.len() > level + 1 {
                self.message(arena, id, &way[..=level], payload.bytes(tag)?, map, depth + 1)?;
            } else {
                self.field(arena, field, tag, payload, map, depth)?;
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        arena: &Arena,
        field: &Field,
        tag: u32,
        payload: Payload<'_>,
        map: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), String> {
        match arena.node(field.node).kind {
            Kind::List(item) => {
                let list = map.entry(field.name.as_ref()).or_insert_with(|| Value::Array(Vec::new()));
                let list = list.as_array_mut().expect("only this field writes here");
                self.element(arena, item, tag, payload, list, depth)
            }
            Kind::Map(value) => {
                let entries = map.entry(field.name.as_ref()).or_insert_with(|| Value::Object(Map::new()));
                let entries = entries.as_object_mut().expect("only this field writes here");
                self.entry(arena, value, payload.bytes(tag)?, entries, depth)
            }
            _ => {
                let value = self.value(arena, field.node, tag, payload, depth)?;
                if is_absent(arena, field, &value) {
                    map.remove(field.name.as_ref());
                } else {
                    map.insert(field.name.to_string(), value);
                }
                Ok(())
            }
        }
    }

    fn element(
        &mut self,
        arena: &Arena,
        item: NodeId,
        tag: u32,
        payload: Payload<'_>,
        list: &mut Vec<Value>,
        depth: usize,
    ) -> Result<(), String> {
        // Numbers may come packed.
        let number = matches!(arena.node(item).kind, Kind::Int32 | Kind::Int64 | Kind::Bool);
        if let (true, Payload::Bytes(packed)) = (number, payload) {
            let mut reader = Reader::new(packed);
            while !reader.is_empty() {
                let varint = Payload::Varint(reader.varint()?);
                list.push(self.value(arena, item, tag, varint, depth)?);
            }
            return Ok(());
        }
        list.push(self.value(arena, item, tag, payload, depth)?);
        Ok(())
    }

    /// One entry of a map: a message {1 key, 2 value}.
    fn entry(
        &mut self,
        arena: &Arena,
        node: NodeId,
        bytes: &[u8],
        entries: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), String> {
        let (mut key, mut found) = (String::new(), Payload::Missing);
        let mut reader = Reader::new(bytes);
        while let Some((tag, payload)) = reader.next()? {
            match tag {
                1 => key = payload.text(tag)?,
                2 => found = payload,
                _ => {}
            }
        }
        let value = match arena.node(node).kind {
            // A named list type as a value is a message {1 items}.
            Kind::List(item) => self.wrapped_list(arena, item, found.bytes(2)?, depth)?,
            _ => self.value(arena, node, 2, found, depth)?,
        };
        entries.insert(key, value);
        Ok(())
    }

    fn wrapped_list(&mut self, arena: &Arena, item: NodeId, bytes: &[u8], depth: usize) -> Result<Value, String> {
        self.count()?;
        let mut list = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some((tag, payload)) = reader.next()? {
            if tag == 1 {
                self.element(arena, item, tag, payload, &mut list, depth)?;
            }
        }
        Ok(Value::Array(list))
    }

    fn value(
        &mut self,
        arena: &Arena,
        node: NodeId,
        tag: u32,
        payload: Payload<'_>,
        depth: usize,
    ) -> Result<Value, String> {
        self.count()?;
        Ok(match arena.node(node).kind {
            Kind::String => payload.text(tag)?.into(),
            Kind::Bool => (payload.varint(tag)? != 0).into(),
            // A negative number comes as ten bytes; Go cuts it to its type as well.
            Kind::Int32 => (payload.varint(tag)? as i32).into(),
            Kind::Int64 => (payload.varint(tag)? as i64).into(),
            Kind::Double => Value::from(payload.double(tag)?),
            Kind::Bytes => base64::engine::general_purpose::STANDARD.encode(payload.bytes(tag)?).into(),
            Kind::Quantity => special::quantity(payload.bytes(tag)?)?,
            Kind::Time => special::time(payload.bytes(tag)?, false)?,
            Kind::MicroTime => special::time(payload.bytes(tag)?, true)?,
            Kind::IntOrString => special::int_or_string(payload.bytes(tag)?)?,
            Kind::Raw | Kind::Any => self.raw(payload.bytes(tag)?, depth)?,
            Kind::Json => special::json(payload.bytes(tag)?)?.unwrap_or(Value::Null),
            Kind::Fields => special::json(payload.bytes(tag)?)?.unwrap_or_else(|| Value::Object(Map::new())),
            Kind::SchemaOrArray(schema) => self.schema_or(arena, schema, payload.bytes(tag)?, Or::Array, depth)?,
            Kind::SchemaOrBool(schema) => self.schema_or(arena, schema, payload.bytes(tag)?, Or::Bool, depth)?,
            Kind::SchemaOrStrings(schema) => self.schema_or(arena, schema, payload.bytes(tag)?, Or::Strings, depth)?,
            Kind::Struct(id) => {
                let mut map = Map::new();
                self.message(arena, id, &[], payload.bytes(tag)?, &mut map, depth + 1)?;
                Value::Object(map)
            }
            Kind::List(_) | Kind::Map(_) => return Err("proto: lists of lists are not supported".into()),
        })
    }

    /// `runtime.RawExtension` {1 raw}: JSON, or an envelope of its own.
    fn raw(&mut self, bytes: &[u8], depth: usize) -> Result<Value, String> {
        let raw = special::only(bytes)?;
        if is_protobuf(raw) {
            if depth >= MAX_DEPTH {
                return Err("proto: exceeded max depth".into());
            }
            return self.envelope(raw, None, depth + 1);
        }
        if raw.is_empty() { Ok(Value::Null) } else { crate::json::parse(raw).map(|(value, _)| value) }
    }

    /// `JSONSchemaPropsOrArray` {1 schema, 2 schemas}, `…OrBool` {1 allows, 2 schema}, `…OrStringArray` {1 schema, 2 property}.
    fn schema_or(
        &mut self,
        arena: &Arena,
        schema: NodeId,
        bytes: &[u8],
        or: Or,
        depth: usize,
    ) -> Result<Value, String> {
        let (mut single, mut list, mut allows) = (None, Vec::new(), false);
        let mut reader = Reader::new(bytes);
        while let Some((tag, payload)) = reader.next()? {
            match (tag, or) {
                (1, Or::Bool) => allows = payload.varint(tag)? != 0,
                (2, Or::Bool) | (1, _) => single = Some(self.value(arena, schema, tag, payload, depth + 1)?),
                (2, Or::Array) => list.push(self.value(arena, schema, tag, payload, depth + 1)?),
                (2, Or::Strings) => {
                    self.count()?;
                    list.push(payload.text(tag)?.into());
                }
                _ => {}
            }
        }
        Ok(match (single, or) {
            (Some(single), _) => single,
            (None, Or::Bool) => allows.into(),
            (None, _) => Value::Array(list),
        })
    }
}

#[derive(Clone, Copy)]
enum Or {
    Array,
    Bool,
    Strings,
}

fn schema_of(gvk: &GroupVersionKind) -> Result<Schema, String> {
    // DeleteOptions may come in any group's name, a custom one included.
    let options = || (gvk.kind == "DeleteOptions").then(|| GroupVersionKind::new("", "v1", "DeleteOptions"));
    Schema::for_kind(gvk).or_else(|| Schema::for_kind(&options()?)).ok_or_else(|| {
        let (kind, version) = (&gvk.kind, gvk.api_version());
        format!(
            "no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        )
    })
}

/// Whether Go's JSON omits this value, which Go's protobuf writes for an unset field.
fn is_absent(arena: &Arena, field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => true,
        // An empty IntOrString, or JSON that is an empty text, is a value.
        Value::String(text) => {
            text.is_empty() && !field.pointer && matches!(arena.node(field.node).kind, Kind::String | Kind::Bytes)
        }
        Value::Bool(_) | Value::Number(_) => {
            field.omit_zero && (*value == Value::Bool(false) || value.as_i64() == Some(0))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
