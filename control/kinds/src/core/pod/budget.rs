//! What PodDisruptionBudgets say to the eviction of a pod. Pure: the caller reads and writes the objects.

use api::{GroupVersionKind, GroupVersionResource, Object, Reason, Status, selector::Selector};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// Upstream's reason of the cause in a 429.
const CAUSE: &str = "DisruptionBudget";
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// Most evictions that the controller has not confirmed yet.
const MAX_DISRUPTED: usize = 2000;

/// What stands between an eviction and the pod.
#[derive(Debug)]
pub(super) enum Guard {
    /// Nothing: no budget covers the pod.
    None,
    /// This budget lets an unhealthy pod go without counting it, if the pod is still as it was seen.
    Unhealthy(Arc<Object>),
    /// This budget must be asked, and counts the pod.
    Budget(Arc<Object>),
}

/// Whether no budget is asked: the pod has ended, is ending, or has not begun.
pub(super) fn passes(pod: &Object) -> bool {
    is_over(pod) || pod.str_at(&["status", "phase"]) == Some("Pending")
}

/// Whether the pod has ended or is ending, so that it cannot become healthy meanwhile.
pub(super) fn is_over(pod: &Object) -> bool {
    pod.is_deleting() || matches!(pod.str_at(&["status", "phase"]), Some("Succeeded" | "Failed"))
}

/// The guard of a pod, of the budgets of its namespace.
///
/// # Errors
/// 500 where several budgets cover the pod.
pub(super) fn guard(budgets: Vec<Arc<Object>>, pod: &Object) -> Result<Guard, Status> {
    let mut covering = budgets.into_iter().filter(|budget| covers(budget, pod));
    let Some(budget) = covering.next() else { return Ok(Guard::None) };
    if covering.next().is_some() {
        let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status { code: 500, ..Status::new(Reason::Unknown, text) });
    }
    if is_ready(pod) {
        return Ok(Guard::Budget(budget));
    }
    let count = |name: &str| budget.int_at(&["status", name]).unwrap_or(0);
    let always = budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == Some("AlwaysAllow");
    let enough = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
    Ok(if always || enough { Guard::Unhealthy(budget) } else { Guard::Budget(budget) })
}

fn covers(budget: &Object, pod: &Object) -> bool {
    // A budget without a selector covers nothing, one with an empty selector everything.
    let selector = budget.at(&["spec", "selector"]).filter(|selector| !selector.is_null());
    let selector = selector.and_then(|selector| Selector::from_label_selector(selector).ok());
    selector.is_some_and(|selector| selector.matches(|key| pod.at(&["metadata", "labels"])?.get(key)?.as_str()))
}

fn is_ready(pod: &Object) -> bool {
    pod.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The 429 of a budget that is being changed.
pub(super) fn busy(budget: &str) -> Status {
    let why = format!("The disruption budget {budget} is still being processed by the server.");
    Status::too_many_requests(REFUSED, 10).with_cause(CAUSE, &why, "")
}

/// The budget after one more of its pods is evicted.
///
/// # Errors
/// 429 where it allows none, 403 where its status makes no sense.
pub(super) fn take(budget: &Object, pod: &str, now: Timestamp) -> Result<Object, Status> {
    let count = |name: &str| budget.int_at(&["status", name]).unwrap_or(0);
    if count("observedGeneration") < budget.generation() {
        return Err(busy(budget.name()));
    }
    let (allowed, disrupted) = (count("disruptionsAllowed"), budget.at(&["status", "disruptedPods"]));
    let forbidden = |why: &str| Err(Status::forbidden(&named(), budget.name(), why));
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if disrupted.and_then(Value::as_object).is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(Status::too_many_requests(REFUSED, 0).with_cause(CAUSE, &refusal(budget), ""));
    }
    let mut taken = budget.clone();
    let mut disrupted = disrupted.cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    disrupted[pod] = api::time::rfc3339(now).into();
    taken.set(&["status", "disruptedPods"], disrupted);
    taken.set(&["status", "disruptionsAllowed"], allowed - 1);
    if allowed == 1 {
        exhausted(&mut taken, now);
    }
    Ok(taken)
}

/// In this error upstream names the resource in the singular.
fn named() -> GroupVersionResource {
    let kind = GroupVersionKind::new("policy", "v1", "PodDisruptionBudget");
    GroupVersionResource { group: kind.group, version: kind.version, resource: "poddisruptionbudget".to_owned() }
}

/// Why a budget allows none.
fn refusal(budget: &Object) -> String {
    let name = budget.name();
    let count = |field: &str| budget.int_at(&["status", field]).unwrap_or(0);
    let (healthy, desired) = (count("currentHealthy"), count("desiredHealthy"));
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let told = condition(budget).filter(|c| c["status"] == "False" && !text(c, "message").is_empty());
    match told {
        Some(c) if c["reason"] == "SyncFailed" => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            text(c, "message")
        ),
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        Some(c) => format!(
            "The disruption budget {name} does not allow evicting pods currently ({}): {}",
            text(c, "reason"),
            text(c, "message")
        ),
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

fn condition(budget: &Object) -> Option<&Value> {
    budget.list_at(&["status", "conditions"]).iter().find(|c| c["type"] == "DisruptionAllowed")
}

/// Sets the condition of a budget that allows no more.
fn exhausted(budget: &mut Object, now: Timestamp) {
    let old = condition(budget).filter(|c| c["status"] == "False").map(|c| c["lastTransitionTime"].clone());
    let since = old.filter(|time| !time.is_null()).unwrap_or_else(|| json!(api::time::rfc3339(now)));
    let mut new = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": since});
    if let Some(seen) = budget.int_at(&["status", "observedGeneration"]).filter(|seen| *seen != 0) {
        new["observedGeneration"] = seen.into();
    }
    let mut conditions = budget.list_at(&["status", "conditions"]).to_vec();
    match conditions.iter_mut().find(|c| c["type"] == "DisruptionAllowed") {
        Some(place) => *place = new,
        None => conditions.push(new),
    }
    budget.set(&["status", "conditions"], conditions);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{now, parse};

    fn budget(spec: &str, status: &str) -> Object {
        let meta = "{name: b, namespace: ns, generation: 2}";
        let mut budget = parse(&format!("{{metadata: {meta}, spec: {spec}, status: {{{status}}}}}"));
        if budget.int_at(&["status", "observedGeneration"]).is_none() {
            budget.set(&["status", "observedGeneration"], 2);
        }
        budget
    }

    fn pod(more: &str) -> Object {
        parse(&format!("{{metadata: {{name: p, namespace: ns, labels: {{app: web}}}}, {more}}}"))
    }

    #[test]
    fn pods_that_no_eviction_disrupts_ask_nobody() {
        for (status, passing, over) in [
            ("{phase: Running}", false, false),
            ("{phase: Pending}", true, false),
            ("{phase: Succeeded}", true, true),
            ("{phase: Failed}", true, true),
            ("{}", false, false),
        ] {
            let pod = pod(&format!("status: {status}"));
            assert_eq!((passes(&pod), is_over(&pod)), (passing, over), "{status}");
        }
        let mut leaving = pod("status: {phase: Running}");
        leaving.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        assert!(passes(&leaving) && is_over(&leaving));
    }

    #[test]
    fn a_pod_is_guarded_by_the_budget_that_selects_it() {
        let ready = "status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}";
        let web = "selector: {matchLabels: {app: web}}";
        for (what, spec, status, pod_status, expected) in [
            ("no selector", "", "", ready, "none"),
            ("an empty selector", "selector: {}", "", ready, "budget"),
            ("another's", "selector: {matchLabels: {app: db}}", "", ready, "none"),
            ("an odd selector", "selector: {matchExpressions: [{key: app, operator: Odd}]}", "", ready, "none"),
            ("its own", web, "", ready, "budget"),
            ("unhealthy, and enough", web, "currentHealthy: 2, desiredHealthy: 2", "status: {}", "unhealthy"),
            ("unhealthy, and nothing desired", web, "currentHealthy: 2, desiredHealthy: 0", "status: {}", "budget"),
            ("unhealthy, and too few", web, "currentHealthy: 1, desiredHealthy: 2", "status: {}", "budget"),
            ("always", "unhealthyPodEvictionPolicy: AlwaysAllow, selector: {}", "", "status: {}", "unhealthy"),
            ("always, but healthy", "unhealthyPodEvictionPolicy: AlwaysAllow, selector: {}", "", ready, "budget"),
        ] {
            let budget = Arc::new(budget(&format!("{{{spec}}}"), status));
            let guard = match guard(vec![budget], &pod(pod_status)).expect("one budget") {
                Guard::None => "none",
                Guard::Unhealthy(_) => "unhealthy",
                Guard::Budget(_) => "budget",
            };
            assert_eq!(guard, expected, "{what}");
        }
        let all = || Arc::new(budget("{selector: {}}", ""));
        let error = guard(vec![all(), all()], &pod(ready)).expect_err("two budgets");
        assert_eq!((error.code, error.reason), (500, Reason::Unknown));
        assert!(error.message.starts_with("This pod has more than one PodDisruptionBudget"), "{error}");
    }

    #[test]
    fn a_budget_counts_down_and_says_why_it_refuses() {
        let failed = |reason: &str| {
            format!("conditions: [{{type: DisruptionAllowed, status: 'False', reason: {reason}, message: why}}]")
        };
        for (status, expected) in [
            (
                "desiredHealthy: 2, currentHealthy: 1".to_owned(),
                "The disruption budget b needs 2 healthy pods and has 1 currently",
            ),
            (
                "desiredHealthy: 1, currentHealthy: 2".to_owned(),
                "The disruption budget b does not allow evicting pods currently",
            ),
            (
                format!("desiredHealthy: 2, currentHealthy: 1, {}", failed("SyncFailed")),
                "The disruption budget b does not allow evicting pods currently because it failed sync: why",
            ),
            (
                format!("desiredHealthy: 1, currentHealthy: 2, {}", failed("Other")),
                "The disruption budget b does not allow evicting pods currently (Other): why",
            ),
            ("observedGeneration: 1".to_owned(), "The disruption budget b is still being processed by the server."),
        ] {
            let budget = budget("{}", &status);
            let error = take(&budget, "p", now()).expect_err("refused");
            assert_eq!((error.code, error.message.as_str()), (429, REFUSED));
            let cause = &error.details.as_ref().expect("details").causes[0];
            assert_eq!((cause.reason.as_str(), cause.message.as_str()), (CAUSE, expected));
        }
        let error = take(&budget("{}", "disruptionsAllowed: -1"), "p", now()).expect_err("negative");
        assert_eq!(error.message, "poddisruptionbudget.policy \"b\" is forbidden: pdb disruptions allowed is negative");
        let two = take(&budget("{}", "disruptionsAllowed: 2"), "p", now()).expect("allowed");
        assert_eq!(two.at(&["status", "disruptedPods"]), Some(&json!({"p": "2026-01-01T00:01:00Z"})));
        assert_eq!((two.int_at(&["status", "disruptionsAllowed"]), condition(&two)), (Some(1), None));
        let none = take(&two, "q", now()).expect("allowed");
        assert_eq!(none.at(&["status", "disruptedPods"]).and_then(Value::as_object).map(serde_json::Map::len), Some(2));
        assert_eq!(
            condition(&none).map(|c| (&c["status"], &c["reason"])),
            Some((&json!("False"), &json!("InsufficientPods")))
        );
        assert_eq!(take(&none, "r", now()).expect_err("exhausted").code, 429);
    }
}
