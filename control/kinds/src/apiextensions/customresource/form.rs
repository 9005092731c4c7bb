//! The form in which objects are read and written: in the served version, without what its schema does not know, with its defaults.

use super::conversion::Reviews;
use api::{Object, Status};
use server::{Convertor, resource::OwnSchema};
use std::{collections::BTreeMap, sync::Arc};

/// Between a version and the storage.
pub(super) struct Form {
    /// By version.
    schemas: Arc<BTreeMap<String, Arc<OwnSchema>>>,
    /// `apiVersion` of the version.
    served: String,
    /// That of the storage.
    stored: String,
    /// The webhook; without one the versions differ in nothing but their schemas.
    reviews: Option<Reviews>,
}

impl Form {
    pub(super) fn new(
        schemas: Arc<BTreeMap<String, Arc<OwnSchema>>>,
        served: String,
        stored: String,
        reviews: Option<Reviews>,
    ) -> Self {
        Self { schemas, served, stored, reviews }
    }

    /// An object without what the schema of its version (`apiVersion`) does not know; with its defaults, if it is read from the storage.
    fn coerced(&self, object: Object, api_version: &str, defaults: bool) -> Object {
        let version = api_version.rsplit('/').next().unwrap_or_default();
        let Some(schema) = self.schemas.get(version).map(|schema| schema.schema()) else { return object };
        let mut value = object.into_value();
        // The metadata was checked when it was written.
        if let Err(error) = schema.decode_check(&mut value) {
            tracing::warn!(error, "a stored object does not fit the schema of its version");
        }
        if defaults {
            schema.default(&mut value);
        }
        Object::from_value(value).unwrap_or_default()
    }
}

#[async_trait::async_trait]
impl Convertor for Form {
    async fn to_storage(&self, object: Object) -> Result<Object, Status> {
        let made = match &self.reviews {
            Some(reviews) => reviews.convert(vec![object], &self.stored).await?.into_iter().next(),
            None => Some(object),
        };
        let made = made.ok_or_else(|| Status::internal("nothing was converted"))?;
        Ok(if self.stored == self.served { made } else { self.coerced(made, &self.stored, false) })
    }

    async fn from_storage(&self, objects: Vec<Object>) -> Result<Vec<Object>, Status> {
        // Defaults are those of the version in which an object was stored, and nothing is added after it is converted.
        let read = |object: Object| {
            let version = object.str_at(&["apiVersion"]).unwrap_or(&self.stored).to_owned();
            self.coerced(object, &version, true)
        };
        let objects: Vec<Object> = objects.into_iter().map(read).collect();
        let objects = match &self.reviews {
            Some(reviews) => reviews.convert(objects, &self.served).await?,
            None => objects,
        };
        Ok(objects.into_iter().map(|object| self.coerced(object, &self.served, false)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn what_was_written_by_an_older_schema_is_pruned_and_defaulted() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "size": {"type": "integer", "default": 3}, "name": {"type": "string"}}}}});
        let schemas = BTreeMap::from([("v1".to_owned(), Arc::new(OwnSchema::new(&schema)))]);
        let form = Form::new(Arc::new(schemas), "a.b/v1".to_owned(), "a.b/v1".to_owned(), None);
        let object = |spec: Value| {
            let value = json!({"apiVersion": "a.b/v1", "kind": "T", "metadata": {"name": "x"}, "spec": spec});
            Object::from_value(value).expect("an object")
        };
        let read = form.from_storage(vec![object(json!({"name": "n", "old": 1}))]).await.expect("read");
        assert_eq!(read, [object(json!({"name": "n", "size": 3}))]);
    }

    #[tokio::test]
    async fn each_version_keeps_what_both_know() {
        let schema = |property: &str, default: u8| {
            let schema = json!({"type": "object", "properties": {"both": {"type": "string"},
                property: {"type": "integer", "default": default}}});
            Arc::new(OwnSchema::new(&schema))
        };
        let schemas = BTreeMap::from([("v1".to_owned(), schema("new", 1)), ("v0".to_owned(), schema("old", 2))]);
        let form = Form::new(Arc::new(schemas), "a.b/v0".to_owned(), "a.b/v1".to_owned(), None);
        let object = |value: Value| Object::from_value(value).expect("an object");
        let given = json!({"apiVersion": "a.b/v0", "kind": "T", "both": "x", "old": 2});
        let stored = form.to_storage(object(given)).await.expect("converted");
        assert_eq!(stored, object(json!({"apiVersion": "a.b/v0", "kind": "T", "both": "x"})));
        // Defaults are those of the stored version.
        let read = form.from_storage(vec![object(json!({"apiVersion": "a.b/v1", "kind": "T", "both": "x"}))]).await;
        assert_eq!(read.expect("read"), [object(json!({"apiVersion": "a.b/v1", "kind": "T", "both": "x"}))]);
    }
}
