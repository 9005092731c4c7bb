//! Writes the status of objects.

use crate::meta;
use client::{Client, Error, Kind};
use serde::Serialize;

/// Whether a status differs from another one; absent, null and an empty list are equal. A field that upstream omits when it is zero is absent
/// in both (see [`meta::counted`]).
pub(crate) fn differs<S: Serialize + Default>(old: Option<&S>, new: &S) -> bool {
    let json = |status: &S| serde_json::to_value(status).expect("a status is JSON");
    !meta::same(&old.map_or_else(|| json(&S::default()), json), &json(new))
}

/// Writes the status of `object`. An object that is gone is no error.
///
/// # Errors
/// The write fails.
pub(crate) async fn write<K: Kind>(client: &Client, object: &K) -> Result<(), Error> {
    match client.update_status(object).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::batch::v1::JobStatus;
    use serde_json::json;

    #[test]
    fn what_go_leaves_out_is_no_difference() {
        let status = |value: serde_json::Value| serde_json::from_value::<JobStatus>(value).expect("a status");
        let plain = status(json!({"active": 1}));
        assert!(!differs(None, &JobStatus::default()));
        assert!(!differs(Some(&plain), &status(json!({"active": 1, "conditions": [], "failed": null}))));
        assert!(differs(Some(&plain), &status(json!({"active": 2}))));
        assert!(differs(None, &plain) && differs(Some(&plain), &JobStatus::default()));
        // a pointer in Go: nobody counted is not none
        assert!(differs(Some(&plain), &status(json!({"active": 1, "ready": 0}))));
    }
}
