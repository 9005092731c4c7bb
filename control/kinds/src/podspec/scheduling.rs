//! Scheduling fields of a pod: affinity, tolerations, topology spread, gates.

use crate::{at::At, rules};
use api::{Cause, names};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// Effects of taints, in the order that upstream lists them.
pub(crate) const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(affinity: At<'_>, out: &mut Vec<Cause>) {
    let node = affinity.get("nodeAffinity");
    let required = node.get(REQUIRED);
    if required.is_set() {
        node_selector(required, out);
    }
    for preferred in node.get(PREFERRED).items() {
        weight(preferred.get("weight"), out);
        node_term(preferred.get("preference"), false, out);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pod = affinity.get(kind);
        pod.get(REQUIRED).items().for_each(|term| pod_term(term, out));
        for preferred in pod.get(PREFERRED).items() {
            weight(preferred.get("weight"), out);
            pod_term(preferred.get("podAffinityTerm"), out);
        }
    }
}

/// A `v1.NodeSelector`.
pub(crate) fn node_selector(selector: At<'_>, out: &mut Vec<Cause>) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.is_empty() {
        out.push(terms.required("must have at least one node selector term"));
    }
    terms.items().for_each(|term| node_term(term, true, out));
}

fn weight(at: At<'_>, out: &mut Vec<Cause>) {
    if !(1..=100).contains(&at.int().unwrap_or(0)) {
        out.push(Cause::invalid(&at.field(), &json!(at.int().unwrap_or(0)), "must be in the range 1-100"));
    }
}

fn node_term(term: At<'_>, strict: bool, out: &mut Vec<Cause>) {
    for requirement in term.get("matchExpressions").items() {
        if rules::full(out) {
            return;
        }
        let (operator, values) = (requirement.get("operator"), requirement.get("values"));
        rules::set_values(operator.str(), values, out);
        match operator.str() {
            "Gt" | "Lt" if values.len() != 1 => {
                out.push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => out.push(operator.or_empty().invalid("not a valid selector operator")),
        }
        rules::qualified(requirement.get("key"), out);
        for value in values.items().filter(|_| strict) {
            rules::label_value(value, out);
        }
    }
    for requirement in term.get("matchFields").items() {
        if rules::full(out) {
            return;
        }
        let (key, operator, values) = (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
        match operator.str() {
            "In" | "NotIn" if values.len() != 1 => {
                out.push(
                    values
                        .required("must be only one value when `operator` is 'In' or 'NotIn' for node field selector"),
                );
            }
            "In" | "NotIn" => {}
            _ => out.push(operator.or_empty().invalid("not a valid selector operator")),
        }
        if key.str() == "metadata.name" {
            values.items().for_each(|value| rules::subdomain_name(value, out));
        } else {
            out.push(key.or_empty().invalid("not a valid field selector key"));
        }
    }
}

fn pod_term(term: At<'_>, out: &mut Vec<Cause>) {
    if rules::full(out) {
        return;
    }
    for selector in ["labelSelector", "namespaceSelector"] {
        rules::label_selector(term.get(selector), out);
    }
    for name in term.get("namespaces").items() {
        let problems = names::dns1123_label(name.str());
        out.extend(problems.iter().map(|text| Cause::invalid(&term.get("namespace").field(), name.value(), text)));
    }
    label_keys(term, out);
    let topology = term.get("topologyKey");
    if topology.is_empty() {
        out.push(topology.required("can not be empty"));
    }
    let value = json!(topology.str());
    out.extend(
        names::qualified_name(topology.str()).iter().map(|text| Cause::invalid(&topology.field(), &value, text)),
    );
}

/// `matchLabelKeys` and `mismatchLabelKeys` narrow a selector and exclude each other.
fn label_keys(term: At<'_>, out: &mut Vec<Cause>) {
    let (matching, mismatching) = (term.get("matchLabelKeys"), term.get("mismatchLabelKeys"));
    for keys in [matching, mismatching] {
        if keys.is_empty() {
            continue;
        }
        if !term.get("labelSelector").is_set() {
            out.push(keys.forbidden("must not be specified when labelSelector is not set"));
        }
        keys.items().for_each(|key| rules::qualified(key, out));
    }
    let other: HashSet<&str> = mismatching.items().map(At::str).collect();
    for key in matching.items() {
        if other.contains(key.str()) {
            out.push(key.invalid("exists in both matchLabelKeys and mismatchLabelKeys"));
        }
    }
}

/// Tolerations of a pod or RuntimeClass.
pub(crate) fn tolerations(tolerations: At<'_>, out: &mut Vec<Cause>) {
    for toleration in tolerations.items() {
        let [key, operator, value, effect] = ["key", "operator", "value", "effect"].map(|name| toleration.get(name));
        if !key.is_empty() {
            rules::qualified(key, out);
        }
        if key.is_empty() && operator.str() != "Exists" {
            let text = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            out.push(Cause::invalid(&operator.field(), &json!(operator.str()), text));
        }
        if toleration.get("tolerationSeconds").is_set() && effect.str() != "NoExecute" {
            let text = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            out.push(Cause::invalid(&effect.field(), &json!(effect.str()), text));
        }
        match operator.str() {
            "" | "Equal" => {
                let problems = names::label_value(value.str());
                if !problems.is_empty() {
                    out.push(operator.with(value.value()).invalid(&problems.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                out.push(operator.with(value.value()).invalid("value must be empty when `operator` is 'Exists'"));
            }
            "Exists" => {}
            "Lt" | "Gt" => out.push(operator.not_supported(&["Equal", "Exists", "Lt", "Gt"])),
            _ => out.push(operator.not_supported(&["Equal", "Exists"])),
        }
        if !effect.is_empty() && !TAINT_EFFECTS.contains(&effect.str()) {
            out.push(effect.not_supported(TAINT_EFFECTS));
        }
    }
}

pub(super) fn gates(gates: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for gate in gates.items() {
        let name = gate.get("name");
        let value = json!(name.str());
        out.extend(names::qualified_name(name.str()).iter().map(|text| Cause::invalid(&gate.field(), &value, text)));
        if !seen.insert(name.str()) {
            out.push(Cause::duplicate(&gate.field(), &value));
        }
    }
}

pub(super) fn spread(constraints: At<'_>, out: &mut Vec<Cause>) {
    const POSITIVE: &str = "must be greater than zero";
    // Upstream reports the first of several equal ones.
    let mut left: HashMap<(&str, &str), usize> = HashMap::new();
    for constraint in constraints.items() {
        let pair = (constraint.get("topologyKey").str(), constraint.get("whenUnsatisfiable").str());
        *left.entry(pair).or_default() += 1;
    }
    for constraint in constraints.items() {
        if rules::full(out) {
            return;
        }
        let skew = constraint.get("maxSkew");
        if skew.int().unwrap_or(0) <= 0 {
            out.push(Cause::invalid(&skew.field(), &json!(skew.int().unwrap_or(0)), POSITIVE));
        }
        let (key, action) = (constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if key.is_empty() {
            out.push(key.required("can not be empty"));
        }
        if !matches!(action.str(), "DoNotSchedule" | "ScheduleAnyway") {
            let value = json!(action.str());
            out.push(Cause::not_supported(&action.field(), &value, &["DoNotSchedule", "ScheduleAnyway"]));
        }
        let later = left.entry((key.str(), action.str())).or_default();
        *later -= 1;
        if *later > 0 {
            let place = constraint.field().child("{topologyKey, whenUnsatisfiable}");
            out.push(Cause::duplicate(&place, &json!(format!("{{{}, {}}}", key.str(), action.str()))));
        }
        let domains = constraint.get("minDomains");
        if domains.is_set() {
            if domains.int().unwrap_or(0) <= 0 {
                out.push(domains.invalid(POSITIVE));
            }
            if action.str() != "DoNotSchedule" {
                let text = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", action.str());
                out.push(domains.invalid(&text));
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"].map(|name| constraint.get(name)) {
            if policy.is_set() && !matches!(policy.str(), "Honor" | "Ignore") {
                out.push(policy.not_supported(&["Honor", "Ignore"]));
            }
        }
        label_keys(constraint, out);
        rules::label_selector(constraint.get("labelSelector"), out);
    }
}
