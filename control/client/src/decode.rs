//! Typed decoding as in Go, one object at a time: no stored object may prevent that the others are decoded.

use crate::{Key, Kind};
use api::{GroupVersionKind, schema::Schema};
use serde_json::Value;
use std::borrow::Cow;

/// A received object that cannot be decoded as its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable {
    /// Its key; empty where not even the metadata can be decoded.
    pub key: Key,
    /// Its uid, or empty.
    pub uid: String,
    /// Its resourceVersion, if that can be decoded.
    pub revision: Option<u64>,
    /// What is wrong with it.
    pub error: String,
}

/// Decodes an object of a kind. A missing or null field is zero, as in Go.
///
/// # Errors
/// The object cannot be decoded.
pub(crate) fn object<K: Kind>(json: &str) -> Result<K, String> {
    let error = match K::from_json(json) {
        Ok(object) => return Ok(object),
        Err(error) => error,
    };
    // The Rust types require more fields than those of Go, which seldom matters.
    let kind = GroupVersionKind::new(K::GROUP, K::VERSION, K::KIND);
    let filled =
        Schema::for_kind(&kind).zip(serde_json::from_str::<Value>(json).ok()).and_then(|(schema, mut value)| {
            schema.fill_zeros(&mut value);
            K::from_json(&value.to_string()).ok()
        });
    filled.ok_or_else(|| error.to_string())
}

/// The text of an object without `metadata.managedFields`, which is a third of a pod and the costliest part to decode. Whatever is not found
/// where a server writes it stays.
pub(crate) fn without_managed_fields(json: &str) -> Cow<'_, str> {
    const NAME: &str = "\"managedFields\":[";
    const METADATA: &str = "\"metadata\":{";
    // Quotes inside of strings are escaped, so that both are found as names of fields only; braces tell whose they are.
    let Some(at) = json.find(NAME) else { return json.into() };
    let Some(metadata) = json[..at].rfind(METADATA) else { return json.into() };
    let (mut depth, inside) = (Depth::default(), metadata + METADATA.len() - 1);
    for (index, byte) in json[..at].bytes().enumerate() {
        depth.read(byte);
        if index >= inside && depth.open < 2 {
            return json.into();
        }
    }
    if depth.open != 2 {
        return json.into();
    }
    let mut list = Depth::default();
    let start = at + NAME.len() - 1;
    let Some(length) = json[start..].bytes().position(|byte| list.read(byte)) else { return json.into() };
    let (head, tail) = (&json[..at], &json[start + length + 1..]);
    let (head, tail) = match (head.strip_suffix(','), tail.strip_prefix(',')) {
        (_, Some(tail)) => (head, tail),
        (Some(head), None) => (head, tail),
        (None, None) => (head, tail),
    };
    format!("{head}{tail}").into()
}

/// How many objects and lists are open at a place of a text.
#[derive(Default)]
struct Depth {
    open: usize,
    quoted: bool,
    escaped: bool,
}

impl Depth {
    /// Reads the next byte; true if it closes the outermost one.
    fn read(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.quoted => self.escaped = true,
            b'"' => self.quoted = !self.quoted,
            b'{' | b'[' if !self.quoted => self.open += 1,
            b'}' | b']' if !self.quoted => {
                self.open = self.open.saturating_sub(1);
                return self.open == 0;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    #[test]
    fn an_object_is_decoded_without_its_managed_fields() {
        let object = |metadata: &str| format!(r#"{{"kind":"ConfigMap","metadata":{metadata},"data":{{"a":"}}]"}}}}"#);
        for (given, expected) in [
            (r#"{"managedFields":[{"fieldsV1":{"f:x":{"}]\"":[]}}}],"name":"c"}"#, r#"{"name":"c"}"#),
            (r#"{"labels":{"a":"}"},"managedFields":[]}"#, r#"{"labels":{"a":"}"}}"#),
            (r#"{"managedFields":[{"manager":"m"}]}"#, "{}"),
            (r#"{"annotations":{"a":"\"managedFields\":["},"name":"c"}"#, ""),
            (r#"{"annotations":{"managedFields":"["},"name":"c"}"#, ""),
            (r#"{"name":"c","x":{"managedFields":[1]}}"#, ""),
            (r#"{"managedFields":null,"name":"c"}"#, ""),
        ] {
            let expected = if expected.is_empty() { given } else { expected };
            assert_eq!(without_managed_fields(&object(given)), object(expected), "{given}");
        }
        let template = r#"{"metadata":{"name":"d"},"spec":{"template":{"metadata":{"managedFields":[1]}}}}"#;
        assert_eq!(without_managed_fields(template), template);
        let later = r#"{"spec":{"metadata":{}},"managedFields":[1]}"#;
        assert_eq!(without_managed_fields(later), later);
    }

    #[test]
    fn what_is_missing_is_zero() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "status": {"conditions": [{"type": "Foo", "status": "True"}]}});
        let service: Service = object(&service.to_string()).expect("Go reads it");
        let condition = &service.status.expect("there").conditions.expect("there")[0];
        assert_eq!(condition.last_transition_time.0.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!((condition.type_.as_str(), condition.reason.as_str()), ("Foo", ""));
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod every_kind;
