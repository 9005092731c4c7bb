//! Limits a write to its scope.

use crate::{Resource, metadata, scope::Scope};
use api::Object;

/// The fields that a write of a status may change.
const PARTS: [&str; 2] = ["metadata", "status"];

/// The part of an object that a write of its status may change, with its type.
pub(super) fn status_part(object: &Object) -> Object {
    let own = |field: &str| PARTS.contains(&field) || ["apiVersion", "kind"].contains(&field);
    let own = object.0.iter().filter(|(field, _)| own(field));
    Object(own.map(|(field, value)| (field.clone(), value.clone())).collect())
}

/// Restores what a write in the scope may not change.
pub(super) fn restrict(scope: Scope, resource: &Resource, object: &mut Object, old: &Object) {
    match scope {
        Scope::Main => {
            if resource.subresource("status").is_some() {
                metadata::copy(object, old, &["status"]);
            }
        }
        Scope::Status => {
            object.0.retain(|field, _| PARTS.contains(&field.as_str()));
            let others = old.0.iter().filter(|(field, _)| !PARTS.contains(&field.as_str()));
            object.0.extend(others.map(|(field, value)| (field.clone(), value.clone())));
            if !object.0.contains_key("metadata") {
                metadata::copy(object, old, &["metadata"]);
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
