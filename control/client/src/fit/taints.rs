//! Taints and tolerations.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether a toleration covers a taint: upstream's `ToleratesTaint`. No effect means every effect and no key every key; whether an operator
/// goes with that is for validation to say. `Lt` and `Gt` (`TaintTolerationComparisonOperators`, alpha) cover nothing.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &'_ Option<String>| value.as_deref().unwrap_or_default().to_owned();
    let fits = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w.is_empty() || w == found);
    if !fits(&toleration.effect, &taint.effect) || !fits(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_toleration_covers_what_upstreams_covers() {
        let taint = |value: &str, effect: &str| -> Taint {
            serde_json::from_value(json!({"key": "foo", "value": value, "effect": effect})).expect("a taint")
        };
        // The cases of upstream's TestTolerationToleratesTaint, and those of an empty key.
        for (toleration, taint, expected) in [
            (json!({"key": "foo", "operator": "Exists", "effect": "NoSchedule"}), taint("bar", "NoSchedule"), true),
            (json!({"key": "foo", "operator": "Exists", "effect": ""}), taint("bar", "NoSchedule"), true),
            (json!({"key": "foo", "operator": "Exists", "effect": "NoExecute"}), taint("bar", "NoSchedule"), false),
            (
                json!({"key": "foo", "operator": "Equal", "value": "bar", "effect": "NoSchedule"}),
                taint("bar", "NoSchedule"),
                true,
            ),
            (json!({"key": "foo", "value": "bar"}), taint("bar", "NoExecute"), true),
            (
                json!({"key": "foo", "operator": "Equal", "value": "bar1", "effect": "NoSchedule"}),
                taint("bar2", "NoSchedule"),
                false,
            ),
            (json!({"key": "foo", "operator": "Equal"}), taint("", "NoSchedule"), true),
            (json!({"key": "boo", "operator": "Exists"}), taint("bar", "NoSchedule"), false),
            (json!({"operator": "Exists"}), taint("bar", "NoExecute"), true),
            (json!({"operator": "Exists", "effect": "NoSchedule"}), taint("bar", "NoExecute"), false),
            (json!({"operator": "Equal", "value": "bar"}), taint("bar", "NoSchedule"), true),
            (json!({"value": "other"}), taint("bar", "NoSchedule"), false),
            (json!({"key": "foo", "operator": "Gt", "value": "1"}), taint("2", "NoSchedule"), false),
            (json!({"key": "foo", "operator": "Lt", "value": "2"}), taint("1", "NoSchedule"), false),
        ] {
            let read: Toleration = serde_json::from_value(toleration.clone()).expect("a toleration");
            assert_eq!(tolerates(&read, &taint), expected, "{toleration} {taint:?}");
        }
    }
}
