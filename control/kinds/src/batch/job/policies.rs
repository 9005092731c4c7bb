//! The policies of a Job: `podFailurePolicy`, `successPolicy`, `podReplacementPolicy`.

use crate::{Capabilities, at::At, rules};
use api::Cause;
use serde_json::Value;
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

/// Warnings about fields that the Job controller does not honour, and what it does instead.
pub(in crate::batch) fn unenforced(capabilities: &Capabilities, spec: At<'_>) -> Vec<String> {
    const FIELDS: [(&str, &str); 4] = [
        ("podFailurePolicy", "every failed pod counts against backoffLimit"),
        ("successPolicy", "the Job is complete when all its completions are"),
        ("backoffLimitPerIndex", "a failed index is tried again until backoffLimit is reached"),
        ("maxFailedIndexes", "no index fails before the Job does"),
    ];
    let mut out = Vec::new();
    let mut warn = capabilities.warn("job.spec", spec, FIELDS.len(), &mut out);
    for (at, instead) in FIELDS.iter().map(|(name, instead)| (spec.get(name), instead)).filter(|(at, _)| at.is_set()) {
        warn.unless_honoured(at, &format!("is not honoured yet by sampan; {instead}"));
    }
    out
}

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
    out.push(rule.with(&Value::Null).invalid(text));
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
        let total = match indexes_total(indexes.str(), completions) {
            Ok(total) => total,
            Err(problem) => {
                out.push(indexes.invalid(&format!("error parsing succeededIndexes: {problem}")));
                0
            }
        };
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

/// The number of indexes in `1,3-5`; they must be ascending and below `completions`.
fn indexes_total(text: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut last: Option<i64> = None;
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let ends: Vec<&str> = part.split('-').collect();
        if ends.len() > 2 {
            return Err(format!(
                "the fragment \"{part}\" violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let number = |text: &str| {
            text.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: \"{text}\""))
        };
        let first = number(ends[0])?;
        let end = if ends.len() == 2 { number(ends[1])? } else { first };
        if first >= completions || end >= completions {
            return Err(format!(
                "too large index: \"{}\"",
                if first >= completions { ends[0] } else { ends[ends.len() - 1] }
            ));
        }
        if last.is_some_and(|last| first <= last) {
            return Err(format!("non-increasing order, previous: {}, current: {first}", last.unwrap_or(0)));
        }
        if ends.len() == 2 && end <= first {
            return Err(format!("non-increasing order, previous: {first}, current: {end}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::indexes_total;

    #[test]
    fn indexes_are_counted_and_ordered() {
        assert_eq!(indexes_total("", 5), Ok(0));
        assert_eq!(indexes_total("0,2-4", 5), Ok(4));
        assert!(indexes_total("3,2", 5).is_err());
        assert!(indexes_total("0-5", 5).is_err());
        assert!(indexes_total("a", 5).is_err());
    }
}
