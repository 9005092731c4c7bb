//! The form in which objects are read and written: in the served version, without what its schema does not know, with its defaults.

use super::conversion::Reviews;
use api::{Object, Status};
use server::{Convertor, resource::OwnSchema};
use std::sync::Arc;

/// Between a version and the storage.
pub(super) struct Form {
    schema: Arc<OwnSchema>,
    /// `apiVersion` of the version.
    served: String,
    /// That of the storage.
    stored: String,
    /// The webhook; without one the versions differ in nothing but their schemas.
    reviews: Option<Reviews>,
}

impl Form {
    pub(super) fn new(schema: Arc<OwnSchema>, served: String, stored: String, reviews: Option<Reviews>) -> Self {
        Self { schema, served, stored, reviews }
    }

    fn read(&self, object: Object) -> Object {
        let schema = self.schema.schema();
        let mut value = object.into_value();
        // The metadata was checked when it was written.
        if let Err(error) = schema.decode_check(&mut value) {
            tracing::warn!(error, "a stored object does not fit the schema of its version");
        }
        schema.default(&mut value);
        Object::from_value(value).unwrap_or_default()
    }
}

#[async_trait::async_trait]
impl Convertor for Form {
    async fn to_storage(&self, object: Object) -> Result<Object, Status> {
        match &self.reviews {
            Some(reviews) => {
                let made = reviews.convert(vec![object], &self.stored).await?;
                made.into_iter().next().ok_or_else(|| Status::internal("nothing was converted"))
            }
            None => Ok(object),
        }
    }

    async fn from_storage(&self, objects: Vec<Object>) -> Result<Vec<Object>, Status> {
        let objects = match &self.reviews {
            Some(reviews) => reviews.convert(objects, &self.served).await?,
            None => objects,
        };
        Ok(objects.into_iter().map(|object| self.read(object)).collect())
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
        let schema = Arc::new(OwnSchema::new(&schema));
        let form = Form::new(schema, "a.b/v1".to_owned(), "a.b/v1".to_owned(), None);
        let object = |spec: Value| {
            let value = json!({"apiVersion": "a.b/v1", "kind": "T", "metadata": {"name": "x"}, "spec": spec});
            Object::from_value(value).expect("an object")
        };
        let read = form.from_storage(vec![object(json!({"name": "n", "old": 1}))]).await.expect("read");
        assert_eq!(read, [object(json!({"name": "n", "size": 3}))]);
    }
}
