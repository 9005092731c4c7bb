//! The three patches that are not server-side apply: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' own
//! strategic merge patch. All are pure: they take a document and a patch and return the new document.
//!
//! Follows <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/>.

mod lists;
mod operations;
mod strategic;

use crate::Status;
use serde_json::Value;

pub use crate::show::go as go_text;
pub use operations::json;
pub use strategic::strategic;

/// Why a patch could not be applied. `Display` is upstream's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the document (a path is missing, a test failed): 422.
    #[error("{0}")]
    Unprocessable(String),
    /// More operations than upstream allows: 413.
    #[error("The allowed maximum operations in a JSON patch is {limit}, got {count}")]
    TooMany {
        /// The allowed number.
        limit: usize,
        /// The number in the patch.
        count: usize,
    },
    /// An error that upstream answers as an internal error: 500.
    #[error("{0}")]
    Internal(String),
}

impl PatchError {
    /// Whether a `test` of a JSON patch does not hold.
    pub fn is_failed_test(&self) -> bool {
        matches!(self, Self::Unprocessable(text) if text.starts_with("testing value "))
    }

    /// The Status of the response.
    pub fn status(&self) -> Status {
        use crate::Reason;
        match self {
            Self::Malformed(text) => Status::bad_request(text.clone()),
            Self::TooMany { .. } => Status::new(Reason::RequestEntityTooLarge, self.to_string()),
            // Without a reason and a prefix, because upstream returns the error of its merge unchanged.
            Self::Internal(text) => Status::new(Reason::Unknown, text.clone()),
            // As upstream, whose generic message does not contain the text.
            Self::Unprocessable(_) => {
                let mut status =
                    Status::new(Reason::Invalid, "the server rejected our request due to an error in our request");
                status.details = Some(Box::default());
                status
            }
        }
    }
}

/// Applies a JSON merge patch (RFC 7386): null removes, objects merge, everything else replaces. As in upstream's library, nulls in objects
/// within lists are removed where the document had no list.
pub fn merge(document: &Value, patch: &Value) -> Value {
    match (document, patch) {
        (Value::Object(old), Value::Object(new)) => {
            let mut merged = old.clone();
            for (name, change) in new {
                match merged.get(name) {
                    _ if change.is_null() => drop(merged.remove(name)),
                    None | Some(Value::Null) => drop(merged.insert(name.clone(), without_nulls(change))),
                    Some(old) => {
                        let value = merge(old, change);
                        merged.insert(name.clone(), value);
                    }
                }
            }
            Value::Object(merged)
        }
        (Value::Object(_), other) => other.clone(),
        (_, new) => without_nulls(new),
    }
}

/// A value without the fields that are null; elements of lists stay.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect()
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patches_follow_the_rfc() {
        for (document, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!([1]), json!({"a": "b"}), json!({"a": "b"})),
            (json!({"a": [1]}), json!({"a": [{"b": null}, null]}), json!({"a": [{}, null]})),
            (json!({"a": {"b": 1}}), json!({"a": [{"b": null}]}), json!({"a": [{"b": null}]})),
        ] {
            assert_eq!(merge(&document, &patch), result);
        }
    }

    #[test]
    fn errors_become_statuses() {
        for (error, code) in [
            (PatchError::Malformed("x".into()), 400),
            (PatchError::Unprocessable("x".into()), 422),
            (PatchError::TooMany { limit: 1, count: 2 }, 413),
            (PatchError::Internal("x".into()), 500),
        ] {
            assert_eq!(error.status().code, code);
        }
    }
}
