//! What parameterizes a policy: the kind of its parameters, and to which of them a binding refers.

use crate::{at::At, rules};
use api::{Cause, Object, names};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The faults of a policy's `paramKind`.
pub(super) fn kind(at: At<'_>, out: &mut Vec<Cause>) {
    if !at.is_set() {
        return;
    }
    let (version, kind) = (at.get("apiVersion"), at.get("kind"));
    if version.is_empty() {
        out.push(version.required(""));
    } else {
        api_version(version, out);
    }
    if kind.is_empty() {
        out.push(kind.required(""));
        return;
    }
    let problems = names::dns1035_label(&kind.str().to_lowercase());
    if !problems.is_empty() {
        let text = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        out.push(kind.invalid(&text));
    }
}

fn api_version(at: At<'_>, out: &mut Vec<Cause>) {
    let text = at.str();
    let (group, version) = match text.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            out.push(at.invalid(&format!("unexpected GroupVersion string: {text}")));
            return;
        }
        Some(parts) => parts,
        None => ("", text),
    };
    let mut bad = |value: &str, detail: &str| out.push(Cause::invalid(&at.field(), &json!(value), detail));
    let problems = names::dns1123_subdomain(group);
    if !group.is_empty() && !problems.is_empty() {
        bad(group, &problems.join(","));
    }
    let problems = names::dns1035_label(version);
    if version.is_empty() {
        bad(text, "version must be specified");
    } else if !problems.is_empty() {
        bad(version, &problems.join(","));
    }
}

/// The faults of a binding's `paramRef`.
pub(super) fn reference(at: At<'_>, out: &mut Vec<Cause>) {
    const BOTH: &str = "name and selector are mutually exclusive";
    if !at.is_set() {
        return;
    }
    let (name, selector, action) = (at.get("name"), at.get("selector"), at.get("parameterNotFoundAction"));
    let both = !name.is_empty() && selector.is_set();
    if !name.is_empty() {
        name.invalid_all(names::path_segment(name.str()), out);
    }
    if both {
        out.push(name.forbidden(BOTH));
    }
    rules::label_selector(selector, out);
    if both {
        out.push(selector.forbidden(BOTH));
    }
    if name.is_empty() && !selector.is_set() {
        out.push(at.required("one of name or selector must be specified"));
    }
    if action.is_empty() {
        out.push(action.required(""));
    } else if !matches!(action.str(), "Allow" | "Deny") {
        out.push(action.not_supported(&["Deny", "Allow"]));
    }
}

/// The cell of a policy's `paramKind`.
pub(super) fn kind_cell(object: &Object) -> String {
    let kind = At::of(object, "spec").get("paramKind");
    match kind.is_set() {
        true => format!("{}/{}", kind.get("apiVersion").str(), kind.get("kind").str()),
        false => UNSET.to_owned(),
    }
}

const UNSET: &str = "<unset>";

/// The cell of a binding's `paramRef`.
pub(super) fn reference_cell(object: &Object) -> String {
    let reference = At::of(object, "spec").get("paramRef");
    let (name, namespace, selector) = (reference.get("name"), reference.get("namespace"), reference.get("selector"));
    if !name.is_empty() {
        // Whether the parameter is of a namespace is not known here.
        let namespace = if namespace.is_empty() { "*" } else { namespace.str() };
        return format!("{namespace}/{}", name.str());
    }
    if selector.is_set() { go_text(selector) } else { UNSET.to_owned() }
}

/// A label selector as Go prints its type.
fn go_text(selector: At<'_>) -> String {
    let labels: BTreeMap<&str, &str> = selector.get("matchLabels").entries().map(|(key, at)| (key, at.str())).collect();
    let labels: String = labels.iter().map(|(key, value)| format!("{key}: {value},")).collect();
    let requirement = |one: At<'_>| {
        let values: Vec<&str> = one.get("values").items().map(At::str).collect();
        let (key, operator) = (one.get("key").str(), one.get("operator").str());
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "))
    };
    let requirements: String = selector.get("matchExpressions").items().map(requirement).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{requirements}}},}}"
    )
}

/// Whether a binding is to no policy, or to one that cannot be.
pub(super) fn policy_name(name: At<'_>, out: &mut Vec<Cause>) {
    if name.is_empty() {
        out.push(name.required(""));
    } else {
        rules::subdomain_name(name, out);
    }
}

/// The cells of both bindings, but for the age.
pub(super) fn binding_cells(object: &Object) -> Vec<Value> {
    let policy = object.str_at(&["spec", "policyName"]).unwrap_or_default();
    vec![json!(object.name()), json!(policy), json!(reference_cell(object))]
}
