//! StorageObjectInUseProtection: new volumes and claims get a finalizer, so that they stay as long as somebody uses them.

use api::{Object, Status};
use serde_json::{Value, json};
use server::admission::{Admission, Attributes};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

pub(super) struct StorageObjectInUseProtection;

#[async_trait::async_trait]
impl Admission for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.creates("", "persistentvolumeclaims") || attributes.creates("", "persistentvolumes")
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        let finalizer = if attributes.is("", "persistentvolumes") { VOLUME } else { CLAIM };
        let mut finalizers: Vec<Value> = object.list_at(&["metadata", "finalizers"]).to_vec();
        if !finalizers.iter().any(|one| one == finalizer) {
            finalizers.push(json!(finalizer));
            object.set(&["metadata", "finalizers"], finalizers);
        }
        Ok(())
    }
}
