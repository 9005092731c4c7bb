//! The policies of a Job: `podFailurePolicy`, `successPolicy`, `podReplacementPolicy`.

use super::indexes;
use crate::{at::At, rules};
use api::Cause;
use std::collections::HashSet;

pub(super) fn validate(spec: At<'_>, out: &mut Vec<Cause>) {
    let failure = spec.get("podFailurePolicy");
    if failure.is_set() {
        let list = failure.get("rules");
        if list.len() > 20 {
            out.push(Cause::too_many(&list.field(), list.len(), 20));
        }
        let pod = spec.down(&["template", "spec"]);
        let containers: HashSet<&str> = ["containers", "initContainers"]
            .into_iter()
            .flat_map(|kind| pod.get(kind).items())
            .map(|container| container.get("name").str())
            .collect();
        for rule in list.items() {
            if rules::full(out) {
                return;
            }
            failure_rule(spec, &containers, rule, out);
        }
    }
    let success = spec.get("successPolicy");
    if success.is_set() {
        if spec.get("completionMode").str() == "Indexed" {
            success_policy(spec, success, out);
        } else {
            out.push(success.invalid("requires indexed completion mode"));
        }
    }
    let replacement = spec.get("podReplacementPolicy");
    let supported: &[&str] = if failure.is_set() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if replacement.is_set() && !supported.contains(&replacement.str()) {
        out.push(replacement.not_supported(supported));
    }
}

/// The longest `succeededIndexes`, in bytes.
const MAX_INDEXES_TEXT: usize = 64 << 10;

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];

fn failure_rule(spec: At<'_>, containers: &HashSet<&str>, rule: At<'_>, out: &mut Vec<Cause>) {
    let action = rule.get("action");
    match action.str() {
        "" => out.push(action.required("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]")),
        "FailIndex" if !spec.get("backoffLimitPerIndex").is_set() => {
            out.push(action.invalid("requires the backoffLimitPerIndex to be set"));
        }
        other if !ACTIONS.contains(&other) => out.push(action.not_supported(ACTIONS)),
        _ => {}
    }
    let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
    if codes.is_set() {
        exit_codes(containers, codes, out);
    }
    if conditions.len() > 20 {
        out.push(Cause::too_many(&conditions.field(), conditions.len(), 20));
    }
    for pattern in conditions.items() {
        rules::qualified(pattern.get("type"), out);
        let status = pattern.get("status");
        match status.str() {
            "" => out.push(status.required("valid values: [\"False\" \"True\" \"Unknown\"]")),
            "False" | "True" | "Unknown" => {}
            _ => out.push(status.not_supported(&["False", "True", "Unknown"])),
        }
    }
    let text = match (codes.is_set(), !conditions.is_empty()) {
        (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    out.push(Cause::invalid_unshown(&rule.field(), text));
}

fn exit_codes(containers: &HashSet<&str>, codes: At<'_>, out: &mut Vec<Cause>) {
    let operator = codes.get("operator");
    match operator.str() {
        "" => out.push(operator.required("valid values: [\"In\" \"NotIn\"]")),
        "In" | "NotIn" => {}
        _ => out.push(operator.not_supported(&["In", "NotIn"])),
    }
    let name = codes.get("containerName");
    if name.is_set() && !containers.contains(name.str()) {
        out.push(name.invalid("must be one of the container or initContainer names in the pod template"));
    }
    let values = codes.get("values");
    if values.is_empty() {
        out.push(values.invalid("at least one value is required"));
    } else if values.len() > 255 {
        out.push(Cause::too_many(&values.field(), values.len(), 255));
    }
    let numbers: Vec<i64> = values.items().filter_map(At::int).collect();
    let mut seen = HashSet::new();
    for value in values.items() {
        if operator.str() == "In" && value.int() == Some(0) {
            out.push(value.invalid("must not be 0 for the In operator"));
        }
        if value.int().is_some_and(|number| !seen.insert(number)) {
            out.push(value.duplicate());
        }
    }
    if !numbers.is_sorted() {
        out.push(values.invalid("must be ordered"));
    }
}

fn success_policy(spec: At<'_>, policy: At<'_>, out: &mut Vec<Cause>) {
    let list = policy.get("rules");
    if list.is_empty() {
        out.push(list.required("at least one rules must be specified when the successPolicy is specified"));
    }
    if list.len() > 20 {
        out.push(Cause::too_many(&list.field(), list.len(), 20));
    }
    let completions = spec.get("completions").int().unwrap_or(0);
    for rule in list.items() {
        let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            out.push(rule.required("at least one of succeededCount or succeededIndexes must be specified"));
        }
        if indexes.str().len() > MAX_INDEXES_TEXT {
            out.push(Cause::too_long(&indexes.field(), MAX_INDEXES_TEXT));
        }
        let total = indexes::total(indexes.str(), completions).unwrap_or_else(|problem| {
            out.push(indexes.invalid(&format!("error parsing succeededIndexes: {problem}")));
            0
        });
        count.not_negative(out);
        let Some(wanted) = count.int() else { continue };
        if wanted > completions {
            out.push(count.invalid(&format!(
                "must be less than or equal to {completions} (the number of specified completions)"
            )));
        }
        if indexes.is_set() && wanted > total {
            out.push(count.invalid(&format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            )));
        }
    }
}
