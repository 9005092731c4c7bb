//! PersistentVolumeClaimResize: only a bound claim grows, and only if its class allows it.

use crate::{claims, quantities};
use api::{Object, Status};
use server::admission::{Admission, Attributes, Operation, forbidden};

pub(super) struct PersistentVolumeClaimResize;

#[async_trait::async_trait]
impl Admission for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.context.operation == Operation::Update && attributes.is("", "persistentvolumeclaims")
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let Some(old) = &attributes.old else { return Ok(()) };
        let path = ["spec", "resources", "requests", "storage"];
        let size = |object: &Object| object.at(&path).and_then(quantities::parse).unwrap_or_default();
        if size(object) <= size(old) {
            return Ok(());
        }
        if old.str_at(&["status", "phase"]) != Some("Bound") {
            return Err(forbidden(attributes, object, "Only bound persistent volume claims can be expanded"));
        }
        let (class, was) = (claims::class_of(object), claims::class_of(old));
        let found = attributes.context.objects.get("storage.k8s.io", "storageclasses", "", class);
        let grows = found.is_some_and(|class| class.bool_at(&["allowVolumeExpansion"]));
        if class != was || class.is_empty() || !grows {
            let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
            return Err(forbidden(attributes, object, why));
        }
        Ok(())
    }
}
