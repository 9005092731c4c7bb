//! Typed decoding as in Go, one object at a time: no stored object may prevent that the others are decoded.

use crate::{Key, Kind};
use api::{GroupVersionKind, schema::Schema};
use serde_json::Value;

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

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

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
