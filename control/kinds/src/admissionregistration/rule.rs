//! Which operations on which resources a webhook or policy cares about: `RuleWithOperations` and its form with names of objects.

use crate::{
    at::At,
    edit,
    edit::Fields,
    rules::{self, full},
};
use api::Cause;
use std::collections::HashSet;

/// The operations of a rule, sorted as upstream lists them.
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

/// The defaults of the rules in a list.
pub(super) fn default(fields: &mut Fields, list: &str) {
    edit::objects(fields, list).for_each(|rule| edit::fill(rule, "scope", "*"));
}

/// The faults of the rules in a list.
pub(super) fn validate(list: At<'_>, named: bool, out: &mut Vec<Cause>) {
    for rule in list.items() {
        if full(out) {
            return;
        }
        if named {
            names(rule.get("resourceNames"), out);
        }
        with_operations(rule, out);
    }
}

fn names(list: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for name in list.items() {
        name.invalid_all(api::names::path_segment(name.str()), out);
        if !seen.insert(name.str()) {
            out.push(name.or_empty().duplicate());
        }
        if full(out) {
            return;
        }
    }
}

fn has_star(list: At<'_>) -> bool {
    list.items().any(|one| one.str() == "*")
}

/// A star stands alone.
fn star_alone(list: At<'_>, others: &str, out: &mut Vec<Cause>) {
    if list.len() > 1 && has_star(list) {
        out.push(list.invalid(&format!("if '*' is present, must not specify other {others}")));
    }
}

fn with_operations(rule: At<'_>, out: &mut Vec<Cause>) {
    let operations = rule.get("operations");
    required_list(operations, out);
    star_alone(operations, "operations", out);
    for operation in operations.items() {
        if !OPERATIONS.contains(&operation.str()) {
            out.push(operation.or_empty().not_supported(OPERATIONS));
        }
        if full(out) {
            return;
        }
    }
    let (groups, versions) = (rule.get("apiGroups"), rule.get("apiVersions"));
    required_list(groups, out);
    star_alone(groups, "API groups", out);
    required_list(versions, out);
    star_alone(versions, "API versions", out);
    required_items(versions, out);
    resources(rule.get("resources"), out);
    let scope = rule.get("scope");
    if scope.is_set() && !SCOPES.contains(&scope.str()) {
        out.push(scope.not_supported(SCOPES));
    }
}

fn required_list(list: At<'_>, out: &mut Vec<Cause>) {
    if list.is_empty() {
        out.push(list.required(""));
    }
}

fn required_items(list: At<'_>, out: &mut Vec<Cause>) {
    for one in list.items().filter(|one| one.str().is_empty()) {
        out.push(one.required(""));
        if full(out) {
            return;
        }
    }
}

/// Resources with subresources: `pods`, `pods/status`, `pods/*`, `*/status`, `*`, `*/*`.
fn resources(list: At<'_>, out: &mut Vec<Cause>) {
    required_list(list, out);
    let (mut whole, mut everywhere) = (HashSet::new(), HashSet::new());
    let (mut all, mut star, mut plain) = (false, false, false);
    for one in list.items() {
        if full(out) {
            return;
        }
        let text = one.str();
        if text.is_empty() {
            out.push(one.required(""));
            continue;
        }
        all |= text == "*/*";
        star |= text == "*";
        let Some((resource, subresource)) = text.split_once('/') else {
            // Upstream keeps what the last one was.
            plain = text != "*";
            continue;
        };
        if whole.contains(resource) {
            out.push(one.invalid(&format!("if '{resource}/*' is present, must not specify {text}")));
        }
        if everywhere.contains(subresource) {
            out.push(one.invalid(&format!("if '*/{subresource}' is present, must not specify {text}")));
        }
        if subresource == "*" {
            whole.insert(resource);
        }
        if resource == "*" {
            everywhere.insert(subresource);
        }
    }
    if list.len() > 1 && all {
        out.push(list.invalid("if '*/*' is present, must not specify other resources"));
    }
    if star && plain {
        out.push(list.invalid("if '*' is present, must not specify other resources without subresources"));
    }
}

/// A mutating policy is not asked about deletions: upstream says so without the index of the rule.
pub(super) fn mutating(list: At<'_>, out: &mut Vec<Cause>) {
    const MUTATING: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
    let place = list.field().child("operations");
    for operation in list.items().flat_map(|rule| rule.get("operations").items()) {
        if rules::full(out) {
            return;
        }
        if !MUTATING.contains(&operation.str()) {
            out.push(Cause::not_supported(&place, operation.or_empty().value(), MUTATING));
        }
    }
}
