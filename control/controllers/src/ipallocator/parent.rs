//! What an IPAddress names.

use k8s_openapi::api::networking::v1::{IPAddress, ParentReference};

/// What has the address.
pub(super) fn parent(address: &IPAddress) -> &ParentReference {
    &address.spec.parent_ref
}

/// Whether that is a Service.
pub(super) fn names_service(parent: &ParentReference) -> bool {
    text_of(&parent.group).is_empty() && parent.resource == "services"
}

/// A field that may be left out.
pub(super) fn text_of(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}
