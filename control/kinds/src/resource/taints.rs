//! Taints of devices, who tolerates them, and the conditions of a binding.

use super::lists;
use crate::{at::At, rules};
use api::Cause;
use std::collections::HashSet;

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];
/// The most taints of a device.
const MAX_TAINTS: usize = 16;
/// The most conditions of a binding.
const MAX_CONDITIONS: usize = 4;

/// The taints of a device.
pub(super) fn taints(list: At<'_>, out: &mut Vec<Cause>) {
    lists::each(list, MAX_TAINTS, taint, out);
}

fn taint(taint: At<'_>, out: &mut Vec<Cause>) {
    rules::qualified(taint.get("key"), out);
    rules::label_value(taint.get("value"), out);
    taint.get("effect").one_of(EFFECTS, out);
}

/// What a request tolerates.
pub(super) fn tolerations(list: At<'_>, out: &mut Vec<Cause>) {
    for toleration in list.items() {
        if rules::full(out) {
            return;
        }
        let (key, operator, value) = (toleration.get("key"), toleration.get("operator"), toleration.get("value"));
        if !key.is_empty() {
            rules::qualified(key, out);
        }
        match operator.str() {
            "Exists" if !value.is_empty() => out.push(value.invalid("must be empty for operator `Exists`")),
            "Exists" => {}
            "Equal" => rules::label_value(value, out),
            _ => operator.one_of(&["Equal", "Exists"], out),
        }
        let effect = toleration.get("effect");
        if !effect.is_empty() && !EFFECTS.contains(&effect.str()) {
            out.push(effect.not_supported(EFFECTS));
        }
    }
}

/// The conditions for which a binding waits, and those with which it fails: both or none, and different ones.
pub(super) fn binding(device: At<'_>, out: &mut Vec<Cause>) {
    let (wanted, failing) = (device.get("bindingConditions"), device.get("bindingFailureConditions"));
    lists::each(wanted, MAX_CONDITIONS, rules::qualified, out);
    lists::each(failing, MAX_CONDITIONS, rules::qualified, out);
    let all: HashSet<&str> = wanted.items().map(At::str).collect();
    for (list, others) in [(wanted, None), (failing, Some(&all))] {
        let mut seen = HashSet::new();
        for condition in list.items() {
            if rules::full(out) {
                return;
            }
            if !seen.insert(condition.str()) {
                out.push(condition.or_empty().duplicate());
            }
            if others.is_some_and(|others| others.contains(condition.str())) {
                let text = "bindingFailureConditions must not overlap with bindingConditions";
                out.push(condition.or_empty().invalid(text));
            }
        }
    }
    for (there, missing, text) in [
        (failing, wanted, "bindingConditions are required to use bindingFailureConditions"),
        (wanted, failing, "bindingFailureConditions are required to use bindingConditions"),
    ] {
        if missing.is_empty() && !there.is_empty() {
            out.push(missing.invalid(text));
        }
    }
}
