//! What `podFailurePolicy` says of a failed pod, and whether `successPolicy` is met. Pure.

use super::indexes::Indexes;
use crate::meta;
use k8s_openapi::api::{
    batch::v1::{
        PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
        PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
    },
    core::v1::{ContainerStatus, Pod},
};

/// What a failure of a pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts against `backoffLimit` and `backoffLimitPerIndex`; so does a failure that no rule names.
    Count,
    /// It does not count; the pod is replaced.
    Ignore,
    /// It counts, and the pod's index is not tried again.
    FailIndex,
    /// It counts, and the Job fails with this message.
    FailJob(String),
}

impl Verdict {
    /// Whether the failure counts.
    pub(super) fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// What the first rule that matches the failed `pod` says.
pub(super) fn verdict(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.into_iter().flat_map(|p| p.rules.iter().enumerate());
    rules.into_iter().find_map(|(at, rule)| judge(rule, at, pod)).unwrap_or(Verdict::Count)
}

/// What a rule says, if it matches. An action of a later version matches nothing.
fn judge(rule: &PodFailurePolicyRule, at: usize, pod: &Pod) -> Option<Verdict> {
    let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
    let message = if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = matching_exit(codes, pod)?;
        format!("Container {} for pod {namespace}/{name} failed with exit code {code}", container.name)
    } else {
        format!("Pod {namespace}/{name} has condition {}", matching_condition(rule, pod)?)
    };
    match rule.action.as_str() {
        "Count" => Some(Verdict::Count),
        "Ignore" => Some(Verdict::Ignore),
        "FailIndex" => Some(Verdict::FailIndex),
        "FailJob" => Some(Verdict::FailJob(format!("{message} matching FailJob rule at index {at}"))),
        _ => None,
    }
}

/// The first container that ended with a code that the requirement names; init containers come last.
fn matching_exit<'a>(
    codes: &PodFailurePolicyOnExitCodesRequirement,
    pod: &'a Pod,
) -> Option<(&'a ContainerStatus, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let named = all.filter(|c| codes.container_name.as_ref().is_none_or(|name| *name == c.name));
    let mut failed = named.filter_map(|c| Some((c, c.state.as_ref()?.terminated.as_ref()?.exit_code)));
    failed.find(|(_, code)| match codes.operator.as_str() {
        _ if *code == 0 => false,
        "In" => codes.values.contains(code),
        "NotIn" => !codes.values.contains(code),
        _ => false,
    })
}

/// The type of the pod's first condition that the rule names.
fn matching_condition<'a>(rule: &PodFailurePolicyRule, pod: &'a Pod) -> Option<&'a str> {
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let mut conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let wanted = |pattern: &PodFailurePolicyOnPodConditionsPattern| {
        (pattern.type_.clone(), pattern.status.clone().unwrap_or_else(|| "True".to_owned()))
    };
    let wanted: Vec<(String, String)> = patterns.iter().map(wanted).collect();
    let condition = conditions.find(|c| wanted.iter().any(|(type_, status)| *type_ == c.type_ && *status == c.status));
    condition.map(|c| c.type_.as_str())
}

/// The message of SuccessCriteriaMet, if the indexes that succeeded satisfy a rule.
pub(super) fn success(policy: Option<&SuccessPolicy>, completions: i32, done: &Indexes) -> Option<String> {
    let succeeded = done.total();
    let met = |rule: &&SuccessPolicyRule| match (&rule.succeeded_indexes, rule.succeeded_count) {
        (Some(text), count) => {
            let wanted = Indexes::parse(text, completions);
            let have = wanted.shared(done);
            wanted != Indexes::default() && (have == wanted.total() || count.is_some_and(|count| have >= count))
        }
        (None, Some(count)) => succeeded >= count,
        (None, None) => false,
    };
    let rules = policy.filter(|_| succeeded > 0).map(|p| p.rules.as_slice()).unwrap_or_default();
    let at = rules.iter().position(|rule| met(&rule))?;
    Some(format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "status": status})).expect("a pod")
    }

    fn ended(kind: &str, codes: &[(&str, i32)]) -> Value {
        let one = |(name, code): &(&str, i32)| {
            json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}})
        };
        json!({kind: codes.iter().map(one).collect::<Vec<_>>()})
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let exit = |action: &str, operator: &str, values: &[i32]| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        let named =
            json!({"action": "FailJob", "onExitCodes": {"containerName": "a", "operator": "In", "values": [3]}});
        let disrupted = |action: &str, status: &str| json!({"action": action, "onPodConditions": [{"type": "Other", "status": "True"}, {"type": "DisruptionTarget", "status": status}]});
        let containers = |codes: &[(&str, i32)]| ended("containerStatuses", codes);
        let condition = |status: &str| json!({"conditions": [{"type": "Ready", "status": "False"}, {"type": "DisruptionTarget", "status": status}]});
        let fails = |text: &str| Verdict::FailJob(text.to_owned());
        for (what, rules, status, expected) in [
            ("no rule", json!([]), containers(&[("a", 1)]), Verdict::Count),
            ("in", json!([exit("Ignore", "In", &[1, 2])]), containers(&[("a", 2)]), Verdict::Ignore),
            ("not in", json!([exit("Ignore", "NotIn", &[1, 2])]), containers(&[("a", 2)]), Verdict::Count),
            ("zero is no failure", json!([exit("Ignore", "NotIn", &[1])]), containers(&[("a", 0)]), Verdict::Count),
            (
                "the second container",
                json!([exit("FailIndex", "NotIn", &[1])]),
                containers(&[("a", 1), ("b", 9)]),
                Verdict::FailIndex,
            ),
            ("another container", json!([named]), containers(&[("b", 3)]), Verdict::Count),
            (
                "the container",
                json!([exit("Ignore", "In", &[7]), named]),
                containers(&[("b", 3), ("a", 3)]),
                fails("Container a for pod ns/p failed with exit code 3 matching FailJob rule at index 1"),
            ),
            (
                "an init container",
                json!([exit("FailJob", "In", &[5])]),
                ended("initContainerStatuses", &[("i", 5)]),
                fails("Container i for pod ns/p failed with exit code 5 matching FailJob rule at index 0"),
            ),
            ("a condition", json!([disrupted("Ignore", "True")]), condition("True"), Verdict::Ignore),
            ("another status", json!([disrupted("Ignore", "True")]), condition("False"), Verdict::Count),
            (
                "a condition that fails the Job",
                json!([disrupted("FailJob", "False")]),
                condition("False"),
                fails("Pod ns/p has condition DisruptionTarget matching FailJob rule at index 0"),
            ),
            (
                "the first rule",
                json!([exit("Count", "In", &[1]), exit("Ignore", "In", &[1])]),
                containers(&[("a", 1)]),
                Verdict::Count,
            ),
            (
                "an unknown action",
                json!([exit("Later", "In", &[1]), exit("Ignore", "In", &[1])]),
                containers(&[("a", 1)]),
                Verdict::Ignore,
            ),
        ] {
            let policy: PodFailurePolicy = serde_json::from_value(json!({ "rules": rules })).expect("a policy");
            assert_eq!(verdict(Some(&policy), &pod(status)), expected, "{what}");
        }
        let running = json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}}]});
        let policy: PodFailurePolicy =
            serde_json::from_value(json!({"rules": [exit("Ignore", "In", &[1])]})).expect("a policy");
        assert_eq!(verdict(Some(&policy), &pod(running)), Verdict::Count, "one that runs has not ended");
        assert_eq!(verdict(None, &pod(json!({}))), Verdict::Count);
    }

    #[test]
    fn a_rule_of_success_counts_all_or_enough_of_its_indexes() {
        for (rules, done, expected) in [
            (json!([{"succeededCount": 2}]), "0", None),
            (json!([{"succeededCount": 2}]), "0,7", Some(0)),
            (json!([{"succeededIndexes": "0-2"}]), "0,1,5", None),
            (json!([{"succeededIndexes": "0-2"}]), "0-5", Some(0)),
            (json!([{"succeededIndexes": "0-2", "succeededCount": 1}]), "4,5", None),
            (json!([{"succeededIndexes": "0-2", "succeededCount": 1}]), "2,5", Some(0)),
            (json!([{"succeededIndexes": "7-9"}, {"succeededCount": 1}]), "3", Some(1)),
            (json!([{"succeededIndexes": "20"}, {"succeededIndexes": "x"}]), "3", None),
            (json!([{"succeededCount": 0}]), "", None),
        ] {
            let policy: SuccessPolicy = serde_json::from_value(json!({ "rules": rules })).expect("a policy");
            let message = success(Some(&policy), 10, &Indexes::parse(done, 10));
            assert_eq!(message, expected.map(|at: usize| format!("Matched rules at index {at}")), "{rules} {done}");
        }
        assert_eq!(success(None, 10, &Indexes::parse("0-9", 10)), None);
    }
}
