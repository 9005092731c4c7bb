//! Typed decoding as Go does it, one object at a time: no object that the API stores may keep the others from being read.

use crate::{Key, Kind};
use api::{GroupVersionKind, schema::Schema};
use serde_json::Value;

/// An object that was received and cannot be read as its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable {
    /// Which it is; empty where not even the metadata can be read.
    pub key: Key,
    /// Its uid, or empty.
    pub uid: String,
    /// Its resourceVersion, if it can be read.
    pub revision: Option<u64>,
    /// What is wrong with it.
    pub error: String,
}

/// Reads an object of a kind. What is missing or null is zero, as in Go.
///
/// # Errors
/// Why that cannot be done.
pub(crate) fn object<K: Kind>(json: &str) -> Result<K, String> {
    let error = match K::from_json(json) {
        Ok(object) => return Ok(object),
        Err(error) => error,
    };
    // The types of Rust demand more than those of Go; it is seldom that this matters.
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
