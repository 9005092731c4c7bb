//! What a ResourceQuota's status must be. Pure.

use api::quota::{self, Usage};
use k8s_openapi::{
    api::core::v1::{Pod, ResourceQuota, ResourceQuotaStatus},
    apimachinery::pkg::api::resource::Quantity,
};
use serde_json::Value;
use std::collections::BTreeMap;

type Amounts = Option<BTreeMap<String, Quantity>>;

fn usage(amounts: &Amounts) -> Usage {
    quota::amounts(&serde_json::to_value(amounts).unwrap_or(Value::Null))
}

/// The status with what was counted, if it differs from the present one. What was not counted stays as it was.
pub(super) fn status(quota: &ResourceQuota, counted: &Usage) -> Option<ResourceQuotaStatus> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let old = quota.status.clone().unwrap_or_default();
    let mut used = usage(&old.used);
    used.extend(counted.iter().map(|(name, amount)| (name.clone(), *amount)));
    used.retain(|name, _| hard.contains_key(name));
    let hard = Some(hard);
    let same = usage(&old.hard) == usage(&hard) && usage(&old.used) == used && old.used.is_some();
    let text = |(name, amount): (String, api::quantity::Quantity)| (name, Quantity(amount.to_string()));
    (!same).then(|| ResourceQuotaStatus { hard, used: Some(used.into_iter().map(text).collect()) })
}

/// Whether a change of a pod changes what quotas count.
pub(super) fn concerns(old: &Pod, new: &Pod) -> bool {
    let face = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        let ended = client::pod::is_finished(pod);
        let deadline = spec.is_some_and(|spec| spec.active_deadline_seconds.is_some());
        (ended, deadline, pod.metadata.deletion_timestamp.is_some())
    };
    face(old) != face(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_written_where_something_differs() {
        let quota = |status: Value| -> ResourceQuota {
            let spec = json!({"hard": {"pods": "3", "cpu": "1", "count/other": "1"}});
            serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": spec, "status": status})).expect("a quota")
        };
        let counted = quota::amounts(&json!({"pods": 2, "cpu": "500m"}));
        let hard = json!({"pods": "3", "cpu": "1", "count/other": "1"});
        for (what, old, expected) in [
            ("new", json!({}), Some(json!({"pods": "2", "cpu": "500m"}))),
            ("the same", json!({"hard": hard, "used": {"pods": "2", "cpu": "0.5"}}), None),
            (
                "other limits",
                json!({"hard": {"pods": "3"}, "used": {"pods": "2", "cpu": "500m"}}),
                Some(json!({"pods": "2", "cpu": "500m"})),
            ),
            (
                "other use; what was not counted stays, what is not limited goes",
                json!({"hard": hard, "used": {"pods": "3", "cpu": "500m", "count/other": "1", "gone": "7"}}),
                Some(json!({"pods": "2", "cpu": "500m", "count/other": "1"})),
            ),
        ] {
            let new = status(&quota(old), &counted).map(|status| serde_json::to_value(status.used).expect("JSON"));
            assert_eq!(new, expected, "{what}");
        }
        assert!(status(&quota(json!(null)), &Usage::new()).is_some(), "an empty status is one");
    }

    #[test]
    fn pods_concern_quotas_when_they_end() {
        let pod = |value: Value| serde_json::from_value::<Pod>(value).expect("a pod");
        let running = pod(json!({"metadata": {}, "status": {"phase": "Running"}}));
        for (what, new, expected) in [
            ("runs", json!({"metadata": {}, "status": {"phase": "Running", "podIP": "1.2.3.4"}}), false),
            ("failed", json!({"metadata": {}, "status": {"phase": "Failed"}}), true),
            ("is being deleted", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), true),
            ("has a deadline", json!({"metadata": {}, "spec": {"containers": [], "activeDeadlineSeconds": 5}}), true),
        ] {
            assert_eq!(concerns(&running, &pod(new)), expected, "{what}");
        }
    }
}
