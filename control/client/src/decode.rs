//! Typed decoding as Go does it, one object at a time: no object that the API stores may keep the others from being read.

use crate::{Cached, Key, Kind};
use api::{GroupVersionKind, schema::Schema};
use serde::Deserialize;
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

/// Reads an object among others.
///
/// # Errors
/// What is known of it nevertheless.
pub(crate) fn item<K: Cached>(json: &str) -> Result<K, Undecodable> {
    K::read(json).map_err(|error| {
        let meta = serde_json::from_str::<Bare>(json).unwrap_or_default().metadata;
        Undecodable {
            key: Key::new(meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default()),
            uid: meta.uid.unwrap_or_default(),
            revision: meta.resource_version.and_then(|revision| revision.parse().ok()),
            error,
        }
    })
}

/// What the server itself writes into each object; everything else is skipped unread, however deep it nests.
#[derive(Deserialize, Default)]
struct Bare {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Service};
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

    #[test]
    fn what_cannot_be_read_is_named() {
        let deep = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","x":{deep},"metadata":{{"name":"c","namespace":"n","uid":"u","resourceVersion":"7","managedFields":[{{"fieldsV1":{deep}}}]}}}}"#
        );
        let bad = item::<ConfigMap>(&text).expect_err("too deep");
        assert_eq!((bad.key.to_string().as_str(), bad.uid.as_str(), bad.revision), ("n/c", "u", Some(7)));
        assert!(bad.error.contains("recursion limit exceeded"), "{}", bad.error);
        let bad = item::<ConfigMap>("[]").expect_err("no object");
        assert_eq!((bad.key, bad.revision), (Key::default(), None));
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod every_kind;
