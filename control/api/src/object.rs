//! Group, version, kind and resource of objects; and objects as JSON.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// Group, version and kind: what an object is. The core group is `""`. In JSON as in discovery and OpenAPI, where what is left out is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupVersionKind {
    /// `apps`, or empty for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `Deployment`.
    pub kind: String,
}

impl GroupVersionKind {
    /// From its three parts.
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// From `apiVersion` (`v1`, `apps/v1`) and `kind`.
    pub fn from_api_version(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self::new(group, version, kind)
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        join_group_version(&self.group, &self.version)
    }
}

impl fmt::Display for GroupVersionKind {
    /// As Go prints it: `apps/v1, Kind=Deployment`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// Group, version and resource (plural, lower case): where objects are served.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    /// `apps`, or empty for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `deployments`.
    pub resource: String,
}

impl GroupVersionResource {
    /// From its three parts.
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        Self { group: group.into(), version: version.into(), resource: resource.into() }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        join_group_version(&self.group, &self.version)
    }

    /// `deployments.apps`, or `pods` in the core group: how error messages name it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }
}

fn join_group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// One API object: a JSON object of any kind. The accessors read and write paths and treat a value of the wrong type as absent; the schema
/// check has reported such values to the user before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Map<String, Value>);

impl Object {
    /// From a JSON value; `None` unless it is an object.
    pub fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self(map)),
            _ => None,
        }
    }

    /// As a JSON value.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// The value at a path of field names.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let mut value = self.0.get(*first)?;
        for name in rest {
            value = value.as_object()?.get(*name)?;
        }
        Some(value)
    }

    /// The string at a path.
    pub fn str_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path)?.as_str()
    }

    /// The integer at a path.
    pub fn int_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path)?.as_i64()
    }

    /// The boolean at a path; absent is false.
    pub fn bool_at(&self, path: &[&str]) -> bool {
        self.at(path).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The array at a path; absent is empty.
    pub fn list_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The value at a path, for writing; parents are created (and replaced if they are not objects), and an absent value is `null`.
    pub fn entry(&mut self, path: &[&str]) -> &mut Value {
        let (last, parents) = path.split_last().expect("a path names at least one field");
        let mut map = &mut self.0;
        for name in parents {
            let value = map.entry(*name).or_insert_with(|| Value::Object(Map::new()));
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            map = value.as_object_mut().expect("made an object above");
        }
        map.entry(*last).or_insert(Value::Null)
    }

    /// Sets the value at a path, and creates its parents.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        *self.entry(path) = value.into();
    }

    /// Removes and returns the value at a path.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let mut map = &mut self.0;
        for name in parents {
            map = map.get_mut(*name)?.as_object_mut()?;
        }
        map.remove(*last)
    }

    /// `apiVersion`, or empty.
    pub fn api_version(&self) -> &str {
        self.str_at(&["apiVersion"]).unwrap_or_default()
    }

    /// `kind`, or empty.
    pub fn kind(&self) -> &str {
        self.str_at(&["kind"]).unwrap_or_default()
    }

    /// Group, version and kind from `apiVersion` and `kind`.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::from_api_version(self.api_version(), self.kind())
    }

    /// `metadata.name`, or empty.
    pub fn name(&self) -> &str {
        self.str_at(&["metadata", "name"]).unwrap_or_default()
    }

    /// `metadata.namespace`, or empty.
    pub fn namespace(&self) -> &str {
        self.str_at(&["metadata", "namespace"]).unwrap_or_default()
    }

    /// `metadata.uid`, or empty.
    pub fn uid(&self) -> &str {
        self.str_at(&["metadata", "uid"]).unwrap_or_default()
    }

    /// `metadata.resourceVersion`, or empty.
    pub fn resource_version(&self) -> &str {
        self.str_at(&["metadata", "resourceVersion"]).unwrap_or_default()
    }

    /// `metadata.generation`, or 0.
    pub fn generation(&self) -> i64 {
        self.int_at(&["metadata", "generation"]).unwrap_or(0)
    }

    /// Whether deletion has begun.
    pub fn is_deleting(&self) -> bool {
        self.at(&["metadata", "deletionTimestamp"]).is_some_and(|v| !v.is_null())
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs(&["metadata", "labels"])
    }

    /// One label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.str_at(&["metadata", "labels", key])
    }

    /// `metadata.annotations`.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs(&["metadata", "annotations"])
    }

    /// One annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.str_at(&["metadata", "annotations", key])
    }

    /// `metadata.finalizers`.
    pub fn finalizers(&self) -> Vec<&str> {
        self.list_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect()
    }

    /// The string pairs of a map at a path.
    pub fn pairs(&self, path: &[&str]) -> impl Iterator<Item = (&str, &str)> {
        let map = self.at(path).and_then(Value::as_object);
        map.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_made_read_and_removed() {
        let mut object = Object::default();
        object.set(&["metadata", "labels", "a"], "b");
        object.set(&["spec", "replicas"], 3);
        assert_eq!(object.label("a"), Some("b"));
        assert_eq!(object.int_at(&["spec", "replicas"]), Some(3));
        assert_eq!(object.remove(&["spec", "replicas"]), Some(json!(3)));
        assert_eq!(object.into_value(), json!({"metadata": {"labels": {"a": "b"}}, "spec": {}}));
    }

    #[test]
    fn wrong_types_read_as_absent() {
        let object = Object::from_value(json!({"metadata": "x", "spec": {"replicas": "3"}})).expect("an object");
        assert_eq!(object.name(), "");
        assert_eq!(object.int_at(&["spec", "replicas"]), None);
        assert!(object.finalizers().is_empty());
    }

    #[test]
    fn group_versions_round_trip() {
        for text in ["v1", "apps/v1"] {
            assert_eq!(GroupVersionKind::from_api_version(text, "K").api_version(), text);
        }
        assert_eq!(GroupVersionResource::new("apps", "v1", "deployments").group_resource(), "deployments.apps");
        assert_eq!(GroupVersionResource::new("", "v1", "pods").group_resource(), "pods");
    }
}
