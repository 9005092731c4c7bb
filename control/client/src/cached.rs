//! What an informer caches of an object: the typed object, or its metadata only.

use crate::{Key, Kind, Undecodable, decode, shrink::shrink};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::{Deserialize, Deserializer};

/// The decoder of an informer: a typed object ([`Kind`]), or [`PartialObjectMetadata`] of an object of any kind.
pub trait Cached: Sized + Send + Sync + 'static {
    /// The `Accept` headers: for one object and for a watch, and for a list.
    const ACCEPT: (&'static str, &'static str);
    /// Whether this is the whole object. Such objects are shared by informers of several targets.
    const TYPED: bool;

    /// Namespace and name.
    fn key(&self) -> Key;
    /// The uid, or empty.
    fn uid(&self) -> &str;
    /// The resourceVersion, if it is a number.
    fn revision(&self) -> Option<u64>;
    /// Whether deletion has begun.
    fn is_deleting(&self) -> bool;
    /// The owner with `controller: true`.
    fn controller(&self) -> Option<&OwnerReference>;
    /// Decodes an object without its managedFields. A missing or null field is zero, as in Go.
    ///
    /// # Errors
    /// The object cannot be decoded.
    fn read(json: &str) -> Result<Self, String>;
}

impl<K: Kind> Cached for K {
    const ACCEPT: (&'static str, &'static str) = ("application/json", "application/json");
    const TYPED: bool = true;

    fn key(&self) -> Key {
        let meta = self.metadata();
        Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }

    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }

    fn revision(&self) -> Option<u64> {
        self.metadata().resource_version.as_deref()?.parse().ok()
    }

    fn is_deleting(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }

    fn controller(&self) -> Option<&OwnerReference> {
        crate::meta::controller_of(self.metadata())
    }

    fn read(json: &str) -> Result<Self, String> {
        let mut object: Self = decode::object(&decode::without_managed_fields(json))?;
        object.metadata_mut().managed_fields = None;
        shrink(&mut object);
        Ok(object)
    }
}

/// The metadata of an object of any kind that generic controllers need; labels, annotations and managedFields are skipped. The request is for
/// `meta.k8s.io/v1` `PartialObjectMetadata`; a server that sends whole objects is understood too.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PartialObjectMetadata {
    /// Namespace, or empty.
    #[serde(deserialize_with = "or_zero")]
    pub namespace: String,
    /// Name.
    #[serde(deserialize_with = "or_zero")]
    pub name: String,
    /// Uid.
    #[serde(deserialize_with = "or_zero")]
    pub uid: String,
    /// resourceVersion.
    #[serde(deserialize_with = "or_zero")]
    pub resource_version: String,
    /// Set while the object is being deleted.
    pub deletion_timestamp: Option<String>,
    /// Grace period of the deletion, seconds.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Finalizers.
    #[serde(deserialize_with = "or_zero")]
    pub finalizers: Vec<String>,
    /// Owner references.
    #[serde(deserialize_with = "or_zero")]
    pub owner_references: Vec<OwnerReference>,
}

fn or_zero<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Cached for PartialObjectMetadata {
    // An API server without this representation answers whole objects.
    const ACCEPT: (&'static str, &'static str) = (
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
    );
    const TYPED: bool = false;

    fn key(&self) -> Key {
        Key::new(self.namespace.clone(), self.name.clone())
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn revision(&self) -> Option<u64> {
        self.resource_version.parse().ok()
    }

    fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller == Some(true))
    }

    fn read(json: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Object {
            #[serde(default, deserialize_with = "or_zero")]
            metadata: PartialObjectMetadata,
        }
        serde_json::from_str::<Object>(json).map(|object| object.metadata).map_err(|error| error.to_string())
    }
}

/// Decodes an item of a list or watch.
///
/// # Errors
/// What is known of an object that cannot be decoded.
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

/// The metadata that the server writes into each object; everything else is skipped, at any depth.
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
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn metadata_are_read_as_go_reads_them_and_nothing_else_is() {
        let deep = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
        let json = format!(
            r#"{{"metadata":{{"name":"a","namespace":null,"uid":"u","resourceVersion":"7","finalizers":null,"annotations":{{"x":"y"}},
                "managedFields":[{{"fieldsV1":{deep}}}],"ownerReferences":[{{"kind":"Job","uid":"o","controller":true}}]}},"spec":{deep}}}"#
        );
        let read = PartialObjectMetadata::read(&json).expect("Go reads it");
        assert_eq!((read.key(), read.uid(), read.revision()), (Key::new("", "a"), "u", Some(7)));
        assert_eq!(read.controller().map(|owner| owner.uid.as_str()), Some("o"));
        assert!(!read.is_deleting() && read.finalizers.is_empty());
        assert_eq!(PartialObjectMetadata::read("{}"), Ok(PartialObjectMetadata::default()));
        assert!(PartialObjectMetadata::read(r#"{"metadata":{"name":7}}"#).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let deep = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","x":{deep},"metadata":{{"name":"c","namespace":"n","uid":"u","resourceVersion":"7","managedFields":[{{"fieldsV1":{deep}}}]}},"data":7}}"#
        );
        let bad = item::<ConfigMap>(&text).expect_err("no data");
        assert_eq!((bad.key.to_string().as_str(), bad.uid.as_str(), bad.revision), ("n/c", "u", Some(7)));
        assert!(bad.error.contains("invalid type: integer `7`"), "{}", bad.error);
        let bad = item::<ConfigMap>("[]").expect_err("no object");
        assert_eq!((bad.key, bad.revision), (Key::default(), None));
    }
}
