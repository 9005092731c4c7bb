//! The conditions of a definition.

use api::Object;

/// Whether a condition is true.
pub(crate) fn is_true(definition: &Object, condition: &str) -> bool {
    let conditions = definition.list_at(&["status", "conditions"]);
    conditions.iter().any(|one| one["type"] == condition && one["status"] == "True")
}
