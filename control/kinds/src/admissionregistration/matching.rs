//! What webhooks and policies have in common about the requests that they are for: match conditions, and `MatchResources` of policies.

use super::{
    expressions::{Use, expressions},
    rule,
};
use crate::{at::At, edit, edit::Fields, rules};
use api::Cause;
use serde_json::{Map, json};
use std::collections::HashSet;

/// Values of `failurePolicy`, sorted as upstream lists them; so are the others.
pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
/// Values of `matchPolicy`.
pub(super) const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
/// Values of `reinvocationPolicy`.
pub(super) const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];

/// The most match conditions of a webhook or policy.
const MAX_CONDITIONS: usize = 64;

/// A choice that was defaulted, so that only a wrong one is a fault.
pub(super) fn known(at: At<'_>, supported: &[&str], out: &mut Vec<Cause>) {
    if at.is_set() && !supported.contains(&at.str()) {
        out.push(at.not_supported(supported));
    }
}

/// A choice that must be there; an empty one is a wrong one.
pub(super) fn chosen(at: At<'_>, supported: &[&str], out: &mut Vec<Cause>) {
    if at.is_set() {
        known(at, supported, out);
    } else {
        out.push(at.required(""));
    }
}

/// The defaults that webhooks and `MatchResources` share.
pub(super) fn default(fields: &mut Fields) {
    edit::fill(fields, "matchPolicy", "Equivalent");
    for selector in ["namespaceSelector", "objectSelector"] {
        edit::fill(fields, selector, Map::new());
    }
}

/// The defaults of a `MatchResources`, if there is one.
pub(super) fn default_resources(fields: &mut Fields, name: &str) {
    if let Some(resources) = edit::object_if(fields, name) {
        default(resources);
        rule::default(resources, "resourceRules");
        rule::default(resources, "excludeResourceRules");
    }
}

/// The faults of a `MatchResources`.
pub(super) fn resources(at: At<'_>, out: &mut Vec<Cause>) {
    if !at.is_set() {
        return;
    }
    chosen(at.get("matchPolicy"), MATCH_POLICIES, out);
    for name in ["namespaceSelector", "objectSelector"] {
        let selector = at.get(name);
        if selector.is_set() {
            rules::label_selector(selector, out);
        } else {
            out.push(selector.required(""));
        }
    }
    rule::validate(at.get("resourceRules"), true, out);
    rule::validate(at.get("excludeResourceRules"), true, out);
}

/// The faults of match conditions. `fault` says what else is wrong with an expression.
pub(super) fn conditions(list: At<'_>, fault: impl Fn(&str) -> Option<String>, out: &mut Vec<Cause>) {
    if list.len() > MAX_CONDITIONS {
        out.push(Cause::too_many(&list.field(), list.len(), MAX_CONDITIONS));
    }
    let mut seen = HashSet::new();
    for condition in list.items() {
        if rules::full(out) {
            return;
        }
        let name = condition.get("name");
        let expression = condition.get("expression");
        expressions(expression, Use::MatchCondition, out);
        let text = expression.str().trim();
        if let Some(fault) = Some(text).filter(|text| !text.is_empty()).and_then(&fault) {
            out.push(Cause::invalid(&expression.field(), &json!(text), &fault));
        }
        if name.is_empty() {
            out.push(name.required(""));
            continue;
        }
        rules::qualified(name, out);
        if !seen.insert(name.str()) {
            out.push(name.duplicate());
        }
    }
}

/// Whether two lists of match conditions are the same.
pub(super) fn same_conditions(new: At<'_>, old: At<'_>) -> bool {
    edit::deep_equal(new.get("matchConditions").value(), old.get("matchConditions").value())
}
