//! The OpenAPI v2 document in protobuf, which Go clients require: kubectl and Helm read it to check `kind: List`, and kinds that the v3
//! documents lack. Messages and field numbers are those of gnostic's `openapi.v2` package. This is no general protobuf encoder: tables
//! describe this one document.

use serde_json::Value;

/// The media type in Accept headers, without its version: most clients send `…@v1.0+protobuf`, and `….v1.0+protobuf` is the correct one.
pub(crate) const ACCEPTED: &str = "application/com.github.proto-openapi.spec.v2";
/// The Content-Type of the response.
pub(crate) const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A message: its fields by their JSON names, and the field number of its `x-` fields.
struct Message {
    fields: &'static [(&'static str, u32, Kind)],
    extensions: u32,
}

/// How the JSON of a field is encoded.
enum Kind {
    Text,
    Texts,
    Flag,
    Integer,
    Number,
    /// Any JSON, as YAML text.
    Any,
    Anys,
    Of(&'static Message),
    Many(&'static Message),
    /// An object whose members become repeated messages `{name = 1, value = 2}`.
    Named(u32, &'static Message),
    /// Encoded by a function.
    Made(fn(&Value) -> Vec<u8>),
    ManyMade(fn(&Value) -> Vec<u8>),
    NamedMade(u32, fn(&Value) -> Vec<u8>),
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Kind::Text),
        ("info", 2, Kind::Of(&INFO)),
        ("paths", 8, Kind::Named(2, &PATH)),
        ("definitions", 9, Kind::Named(1, &SCHEMA)),
        ("security", 12, Kind::ManyMade(requirement)),
        ("securityDefinitions", 13, Kind::NamedMade(1, scheme)),
    ],
    extensions: 16,
};

static INFO: Message = Message { fields: &[("title", 1, Kind::Text), ("version", 2, Kind::Text)], extensions: 7 };

static PATH: Message = Message {
    fields: &[
        ("get", 2, Kind::Of(&OPERATION)),
        ("put", 3, Kind::Of(&OPERATION)),
        ("post", 4, Kind::Of(&OPERATION)),
        ("delete", 5, Kind::Of(&OPERATION)),
        ("options", 6, Kind::Of(&OPERATION)),
        ("head", 7, Kind::Of(&OPERATION)),
        ("patch", 8, Kind::Of(&OPERATION)),
        ("parameters", 9, Kind::ManyMade(parameter)),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Kind::Texts),
        ("description", 3, Kind::Text),
        ("operationId", 5, Kind::Text),
        ("produces", 6, Kind::Texts),
        ("consumes", 7, Kind::Texts),
        ("parameters", 8, Kind::ManyMade(parameter)),
        ("responses", 9, Kind::NamedMade(1, answer)),
        ("schemes", 10, Kind::Texts),
        ("deprecated", 11, Kind::Flag),
    ],
    extensions: 13,
};

static RESPONSE: Message =
    Message { fields: &[("description", 1, Kind::Text), ("schema", 2, Kind::Made(whole_schema))], extensions: 5 };

static BODY: Message = Message {
    fields: &[
        ("description", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("required", 4, Kind::Flag),
        ("schema", 5, Kind::Of(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY: Message = Message {
    fields: &[
        ("required", 1, Kind::Flag),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 6, Kind::Text),
        ("format", 7, Kind::Text),
        ("uniqueItems", 20, Kind::Flag),
    ],
    extensions: 23,
};

/// A parameter in a path or header; both have these field numbers.
static PLACED: Message = Message {
    fields: &[
        ("required", 1, Kind::Flag),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 5, Kind::Text),
        ("format", 6, Kind::Text),
        ("uniqueItems", 19, Kind::Flag),
    ],
    extensions: 22,
};

static API_KEY: Message = Message {
    fields: &[("type", 1, Kind::Text), ("name", 2, Kind::Text), ("in", 3, Kind::Text), ("description", 4, Kind::Text)],
    extensions: 5,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Kind::Text),
        ("format", 2, Kind::Text),
        ("title", 3, Kind::Text),
        ("description", 4, Kind::Text),
        ("default", 5, Kind::Any),
        ("multipleOf", 6, Kind::Number),
        ("maximum", 7, Kind::Number),
        ("exclusiveMaximum", 8, Kind::Flag),
        ("minimum", 9, Kind::Number),
        ("exclusiveMinimum", 10, Kind::Flag),
        ("maxLength", 11, Kind::Integer),
        ("minLength", 12, Kind::Integer),
        ("pattern", 13, Kind::Text),
        ("maxItems", 14, Kind::Integer),
        ("minItems", 15, Kind::Integer),
        ("uniqueItems", 16, Kind::Flag),
        ("maxProperties", 17, Kind::Integer),
        ("minProperties", 18, Kind::Integer),
        ("required", 19, Kind::Texts),
        ("enum", 20, Kind::Anys),
        ("additionalProperties", 21, Kind::Made(additional)),
        ("type", 22, Kind::Made(types)),
        ("items", 23, Kind::Made(whole_schema)),
        ("allOf", 24, Kind::Many(&SCHEMA)),
        ("properties", 25, Kind::Named(1, &SCHEMA)),
        ("readOnly", 27, Kind::Flag),
        ("example", 30, Kind::Any),
    ],
    extensions: 31,
};

/// Encodes the document.
pub(crate) fn document(json: &Value) -> Vec<u8> {
    message(json, &DOCUMENT)
}

fn message(json: &Value, shape: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(members) = json.as_object() else { return out };
    for (name, value) in members {
        if let Some((_, number, kind)) = shape.fields.iter().find(|(known, ..)| known == name) {
            field(&mut out, *number, kind, value);
        } else if name.starts_with("x-") {
            bytes(&mut out, shape.extensions, &named(name, &any(value)));
        }
    }
    out
}

fn field(out: &mut Vec<u8>, number: u32, kind: &Kind, value: &Value) {
    let items = || value.as_array().into_iter().flatten();
    let members = || value.as_object().into_iter().flatten();
    let map = |member: u32, make: &dyn Fn(&Value) -> Vec<u8>| {
        let mut inner = Vec::new();
        members().for_each(|(name, value)| bytes(&mut inner, member, &named(name, &make(value))));
        inner
    };
    match kind {
        Kind::Text => bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Kind::Texts => items().for_each(|v| bytes(out, number, v.as_str().unwrap_or_default().as_bytes())),
        Kind::Flag => integer(out, number, u64::from(value.as_bool().unwrap_or_default())),
        Kind::Integer => integer(out, number, value.as_i64().unwrap_or_default().cast_unsigned()),
        Kind::Number => {
            tag(out, number, 1);
            out.extend(value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Kind::Any => bytes(out, number, &any(value)),
        Kind::Anys => items().for_each(|v| bytes(out, number, &any(v))),
        Kind::Of(shape) => bytes(out, number, &message(value, shape)),
        Kind::Many(shape) => items().for_each(|v| bytes(out, number, &message(v, shape))),
        Kind::Named(member, shape) => bytes(out, number, &map(*member, &|v| message(v, shape))),
        Kind::Made(make) => bytes(out, number, &make(value)),
        Kind::ManyMade(make) => items().for_each(|v| bytes(out, number, &make(v))),
        Kind::NamedMade(member, make) => bytes(out, number, &map(*member, make)),
    }
}

/// One length-delimited field.
fn one(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    bytes(&mut out, number, content);
    out
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = one(1, name.as_bytes());
    bytes(&mut out, 2, value);
    out
}

fn any(value: &Value) -> Vec<u8> {
    one(2, value.to_string().as_bytes())
}

fn whole_schema(value: &Value) -> Vec<u8> {
    one(1, &message(value, &SCHEMA))
}

fn types(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let one = value.as_str().into_iter();
    let many = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    one.chain(many).for_each(|t| bytes(&mut out, 1, t.as_bytes()));
    out
}

fn additional(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match value.as_bool() {
        Some(flag) => integer(&mut out, 2, u64::from(flag)),
        None => bytes(&mut out, 1, &message(value, &SCHEMA)),
    }
    out
}

fn parameter(value: &Value) -> Vec<u8> {
    let made = match value["in"].as_str() {
        Some("body") => one(1, &message(value, &BODY)),
        Some("query") => one(2, &one(3, &message(value, &QUERY))),
        Some("header") => one(2, &one(1, &message(value, &PLACED))),
        _ => one(2, &one(4, &message(value, &PLACED))),
    };
    one(1, &made)
}

fn answer(value: &Value) -> Vec<u8> {
    one(1, &message(value, &RESPONSE))
}

fn scheme(value: &Value) -> Vec<u8> {
    one(2, &message(value, &API_KEY))
}

fn requirement(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, scopes) in value.as_object().into_iter().flatten() {
        let mut array = Vec::new();
        field(&mut array, 1, &Kind::Texts, scopes);
        bytes(&mut out, 1, &named(name, &array));
    }
    out
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    tag(out, number, 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn integer(out: &mut Vec<u8>, number: u32, value: u64) {
    tag(out, number, 0);
    varint(out, value);
}

fn tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_has_the_numbers_that_go_clients_read() {
        // members in the order of the alphabet: they are written in the order in which they are read
        let json = json!({
            "definitions": {"d": {
                "properties": {"a": {"items": {"$ref": "#/definitions/d"}, "type": "array"}},
                "required": ["a"],
                "type": "object",
            }},
            "paths": {"/p": {"patch": {
                "parameters": [{"in": "query", "name": "fieldValidation", "type": "string", "uniqueItems": true}],
                "x-kubernetes-group-version-kind": {"kind": "K"},
            }}},
            "swagger": "2.0",
        });
        let list = [one(23, &one(1, &one(1, b"#/definitions/d"))), one(22, &one(1, b"array"))].concat();
        let schema = [one(25, &one(1, &named("a", &list))), one(19, b"a"), one(22, &one(1, b"object"))].concat();
        let query = [one(2, b"query"), one(4, b"fieldValidation"), one(6, b"string"), vec![0xa0, 0x01, 0x01]].concat();
        let kind = named("x-kubernetes-group-version-kind", &one(2, br#"{"kind":"K"}"#));
        let operation = [one(8, &one(1, &one(2, &one(3, &query)))), one(13, &kind)].concat();
        let path = named("/p", &one(8, &operation));
        let expected = [one(9, &one(1, &named("d", &schema))), one(8, &one(2, &path)), one(1, b"2.0")].concat();
        assert_eq!(document(&json), expected);
    }

    #[test]
    fn lengths_beyond_a_byte_are_varints() {
        assert_eq!(one(1, &[7; 300])[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(one(31, b"x"), [0xfa, 0x01, 1, b'x']);
    }
}
