//! Limits a write to its scope.

use crate::{Resource, metadata, scope::Scope};
use api::Object;

/// Restores what a write in the scope may not change.
pub(super) fn restrict(scope: Scope, resource: &Resource, object: &mut Object, old: &Object) {
    match scope {
        Scope::Main => {
            if resource.subresource("status").is_some() {
                metadata::copy(object, old, &["status"]);
            }
        }
        Scope::Status => {
            let status = object.remove(&["status"]);
            let metadata = object.remove(&["metadata"]);
            *object = old.clone();
            object.remove(&["status"]);
            if let Some(status) = status {
                object.set(&["status"], status);
            }
            if let Some(metadata) = metadata {
                object.set(&["metadata"], metadata);
            }
            for field in ["ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds"] {
                metadata::copy(object, old, &["metadata", field]);
            }
        }
        Scope::Fields(paths) => {
            let changed = std::mem::replace(object, old.clone());
            for path in paths {
                metadata::copy(object, &changed, path);
            }
        }
        Scope::Action => {}
    }
}
