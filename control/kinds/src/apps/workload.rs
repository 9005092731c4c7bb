//! Rules that the workloads share.

use crate::{Capabilities, annotations, at::At, edit, podspec, rules};
use api::{Cause, Object};
use serde_json::{Value, json};

/// Warnings about a workload's name (when new) and template (when new or changed).
pub(crate) fn warnings(
    capabilities: &Capabilities,
    object: &Object,
    old: Option<&Object>,
    used_in: &str,
) -> Vec<String> {
    let mut out = Vec::new();
    if old.is_none() {
        rules::host_name_warning(object, used_in, &mut out);
    }
    out.extend(template_warnings(capabilities, object, old));
    out
}

/// Warnings about the template of a workload, when it is new or changed.
pub(crate) fn template_warnings(capabilities: &Capabilities, object: &Object, old: Option<&Object>) -> Vec<String> {
    let mut out = Vec::new();
    let changed = |path: &[&str]| old.is_none_or(|old| !edit::deep_equal_at(object, old, path));
    if changed(&["metadata", "annotations"]) {
        out.extend(annotations::of_workload(object));
    }
    if changed(&["spec"]) {
        out.extend(podspec::template_warnings(capabilities, At::of(object, "spec").get("template")));
    }
    out
}

/// No count may exceed the replicas, and availableReplicas may not exceed readyReplicas.
pub(crate) fn replica_counts(status: At<'_>, names: &[&'static str], out: &mut Vec<Cause>) {
    let count = |name: &'static str| status.get(name).int().unwrap_or(0);
    for name in names {
        if count(name) > count("replicas") {
            let (field, value) = (status.get(name).field(), json!(count(name)));
            out.push(Cause::invalid(&field, &value, "cannot be greater than status.replicas"));
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let (field, value) = (status.get("availableReplicas").field(), json!(count("availableReplicas")));
        out.push(Cause::invalid(&field, &value, "cannot be greater than readyReplicas"));
    }
}

/// The pods of a workload that runs for ever are restarted for ever.
pub(crate) fn runs_for_ever(template: At<'_>, kind: &str, out: &mut Vec<Cause>) {
    let policy = template.down(&["spec", "restartPolicy"]);
    if policy.str() != "Always" {
        out.push(policy.not_supported(&["Always"]));
    }
    let deadline = template.down(&["spec", "activeDeadlineSeconds"]);
    if deadline.is_set() {
        out.push(deadline.forbidden(&format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

/// `status.collisionCount` never falls.
pub(crate) fn collisions(status: At<'_>, old: &Object, out: &mut Vec<Cause>) {
    let collisions = status.get("collisionCount");
    if collisions.int().unwrap_or(0) < old.int_at(&["status", "collisionCount"]).unwrap_or(0) {
        let value = json!(collisions.int().unwrap_or(0));
        out.push(Cause::invalid(&collisions.field(), &value, "cannot be decremented"));
    }
}

/// A percentage is at most 100.
pub(crate) fn at_most_all(at: At<'_>, out: &mut Vec<Cause>) {
    if at.str().ends_with('%') && amount(at) > 100 {
        out.push(at.invalid("must not be greater than 100%"));
    }
}

/// The number in a number or percentage.
pub(crate) fn amount(at: At<'_>) -> i64 {
    match at.value() {
        Value::String(text) => text.trim_end_matches('%').parse().unwrap_or(0),
        _ => at.int().unwrap_or(0),
    }
}

/// A rolling update as Go prints the server's own type. A field that is a pointer there is null where it is absent.
pub(crate) fn rolling_text(rolling: At<'_>, fields: &[&'static str]) -> String {
    if !rolling.is_set() {
        return "null".to_owned();
    }
    let name = |field: &str| format!("{}{}", field[..1].to_lowercase(), &field[1..]);
    let part = |field: &&'static str| match rolling.value().get(name(field)) {
        None | Some(Value::Null) if *field == "MaxUnavailable" && fields.contains(&"Partition") => json!(null),
        None | Some(Value::Null) => json!(0),
        Some(given) => given.clone(),
    };
    let parts: Vec<String> = fields.iter().map(|field| format!("{field:?}:{}", part(field))).collect();
    format!("{{{}}}", parts.join(","))
}
