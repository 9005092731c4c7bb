//! The arithmetic of a rolling update: surge, unavailability, proportions. Pure.
//!
//! Follows "Rolling Update Deployment" and "Proportional scaling" of
//! <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>.

use crate::meta::{self, scaled};
use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// The Deployment's size when the ReplicaSet was last scaled.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// That size and the surge.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// An annotation that holds a count.
pub(super) fn count_annotation(rs: &ReplicaSet, key: &str) -> Option<i32> {
    meta::annotation(&rs.metadata, key)?.parse().ok().filter(|n| *n >= 0)
}

/// `spec.replicas` of a Deployment, 1 where absent.
pub(super) fn desired(d: &Deployment) -> i32 {
    d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// `spec.replicas` of a ReplicaSet, 1 where absent.
pub(super) fn replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// The available replicas that the ReplicaSet reports.
pub(super) fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Whether pods of two revisions may run side by side.
pub(super) fn is_rolling(d: &Deployment) -> bool {
    let strategy = d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref());
    strategy.unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// (maxSurge, maxUnavailable) in pods. Where both would be zero, one pod may be unavailable, because no rollout could progress.
fn fenceposts(d: &Deployment) -> (i32, i32) {
    let rolling = d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let of = |v: Option<&IntOrString>, up| scaled(v.unwrap_or(&quarter), desired(d), up).unwrap_or(0);
    let surge = of(rolling.and_then(|r| r.max_surge.as_ref()), true);
    let unavailable = of(rolling.and_then(|r| r.max_unavailable.as_ref()), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// How many pods there may be above the desired number.
pub(super) fn max_surge(d: &Deployment) -> i32 {
    if is_rolling(d) { fenceposts(d).0 } else { 0 }
}

/// How many of the desired pods may be missing.
pub(super) fn max_unavailable(d: &Deployment) -> i32 {
    if !is_rolling(d) || desired(d) == 0 { 0 } else { fenceposts(d).1.min(desired(d)) }
}

/// The size the new ReplicaSet may have now, given the pods of `all` (itself included).
pub(super) fn new_size(d: &Deployment, current: i32, new: i32) -> i32 {
    if !is_rolling(d) {
        return desired(d);
    }
    let room = desired(d) + max_surge(d) - current;
    if room <= 0 { new } else { new + room.min(desired(d) - new) }
}

/// The share of `rs` in the `to_add` pods (negative: to remove), of which `added` are already assigned.
pub(super) fn proportion(rs: &ReplicaSet, d: &Deployment, to_add: i32, added: i32) -> i32 {
    if replicas(rs) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let allowed = to_add - added;
    if to_add > 0 { fraction(rs, d).min(allowed) } else { fraction(rs, d).max(allowed) }
}

fn fraction(rs: &ReplicaSet, d: &Deployment) -> i32 {
    let size = replicas(rs);
    if desired(d) == 0 {
        return -size;
    }
    let before = count_annotation(rs, MAX_REPLICAS).filter(|n| *n != 0).or(d.status.as_ref().and_then(|s| s.replicas));
    let Some(before) = before.filter(|n| *n != 0) else { return 0 };
    let share = f64::from(size) * f64::from(desired(d) + max_surge(d)) / f64::from(before);
    share.round() as i32 - size
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Deployment {
        serde_json::from_value(json!({"spec": {"replicas": replicas, "selector": {}, "template": {},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}))
        .expect("a Deployment")
    }

    #[test]
    fn surge_rounds_up_and_unavailable_rounds_down_and_never_are_both_zero() {
        for (replicas, surge, unavailable, expected) in [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (3, json!(0), json!("10%"), (0, 1)),
            (4, json!(2), json!(1), (2, 1)),
            (2, json!(0), json!(5), (0, 2)),
            (0, json!("25%"), json!(1), (0, 0)),
        ] {
            let d = deployment(replicas, surge, unavailable);
            assert_eq!((max_surge(&d), max_unavailable(&d)), expected, "{replicas}");
        }
    }

    #[test]
    fn the_new_replica_set_grows_into_the_room_that_is_left() {
        for (desired, surge, current, new, expected) in [
            (10, 3, 0, 0, 10),
            (10, 3, 10, 0, 3),
            (10, 3, 13, 3, 3),
            (10, 3, 11, 3, 5),
            (10, 3, 9, 9, 10),
            (10, 0, 10, 0, 0),
        ] {
            let d = deployment(desired, json!(surge), json!(1));
            assert_eq!(new_size(&d, current, new), expected, "{current} {new}");
        }
    }

    #[test]
    fn proportions_never_exceed_what_is_left_to_give() {
        let d = deployment(20, json!(0), json!(1));
        let rs = |n: i32| -> ReplicaSet {
            serde_json::from_value(json!({"metadata": {"annotations": {MAX_REPLICAS: "10"}},
                "spec": {"replicas": n, "selector": {}}}))
            .expect("a ReplicaSet")
        };
        assert_eq!(proportion(&rs(7), &d, 10, 0), 7);
        assert_eq!(proportion(&rs(7), &d, 10, 5), 5);
        assert_eq!(proportion(&rs(0), &d, 10, 0), 0);
        assert_eq!(proportion(&rs(7), &deployment(5, json!(0), json!(1)), -5, 0), -3);
        assert_eq!(proportion(&rs(7), &deployment(0, json!(0), json!(1)), -10, 0), -7);
    }
}
