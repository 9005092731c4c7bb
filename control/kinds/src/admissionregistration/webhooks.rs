//! The webhooks of both configurations. On an update upstream is as strict as the stored webhooks were.

use super::{matching, matching::known, rule};
use crate::{admission::webhooks::conditions, at::At, clientconfig, edit, rules};
use api::{Cause, Object, names};
use serde_json::{Value, json};
use server::Column;
use std::collections::HashSet;

/// The columns of both kinds.
pub(super) const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration").integer(),
    Column::age(),
];

/// Versions of the review that upstream's server of the version before understands.
const REVIEWS: &[&str] = &["v1", "v1beta1"];
/// Side effects of a webhook that is new.
const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];

/// The defaults of every webhook.
pub(super) fn default(object: &mut Object, mutating: bool) {
    for webhook in edit::objects(&mut object.0, "webhooks") {
        edit::fill(webhook, "failurePolicy", "Fail");
        matching::default(webhook);
        edit::fill(webhook, "timeoutSeconds", 10);
        if mutating {
            edit::fill(webhook, "reinvocationPolicy", "Never");
        }
        if let Some(config) = edit::object_if(webhook, "clientConfig") {
            clientconfig::default(config);
        }
        rule::default(webhook, "rules");
    }
}

/// What is asked of webhooks.
struct Strictness {
    conditions: bool,
    no_side_effects: bool,
    known_review: bool,
    unique_names: bool,
    right_values: bool,
}

impl Strictness {
    const NEW: Self =
        Self { conditions: true, no_side_effects: true, known_review: true, unique_names: true, right_values: true };

    /// As strict as the stored webhooks allow.
    fn of(new: At<'_>, old: At<'_>) -> Self {
        let mut seen = HashSet::new();
        let same = |(new, old): (At<'_>, At<'_>)| matching::same_conditions(new, old);
        let knows = |webhook: At<'_>| {
            let versions = webhook.get("admissionReviewVersions");
            versions.is_empty() || versions.items().any(|version| REVIEWS.contains(&version.str()))
        };
        let selects = |webhook: At<'_>| {
            let mut faults = Vec::new();
            rules::label_selector(webhook.get("namespaceSelector"), &mut faults);
            rules::label_selector(webhook.get("objectSelector"), &mut faults);
            faults.is_empty()
        };
        Self {
            conditions: new.len() != old.len() || !new.items().zip(old.items()).all(same),
            no_side_effects: old.items().all(|webhook| NO_SIDE_EFFECTS.contains(&webhook.get("sideEffects").str())),
            known_review: old.items().all(knows),
            unique_names: old.items().all(|webhook| seen.insert(webhook.get("name").str())),
            right_values: old.items().all(selects),
        }
    }
}

/// The cells of a configuration.
pub(super) fn cells(object: &Object) -> Vec<Value> {
    vec![json!(object.name()), json!(object.list_at(&["webhooks"]).len())]
}

/// The faults of webhooks that are new, or changed.
pub(super) fn faults(object: &Object, old: Option<&Object>, mutating: bool) -> Vec<Cause> {
    let new = At::of(object, "webhooks");
    let strict = old.map_or(Strictness::NEW, |old| Strictness::of(new, At::of(old, "webhooks")));
    all(new, mutating, &strict)
}

fn all(webhooks: At<'_>, mutating: bool, strict: &Strictness) -> Vec<Cause> {
    let (mut out, mut seen) = (Vec::new(), HashSet::new());
    for webhook in webhooks.items() {
        if rules::full(&out) {
            break;
        }
        one(webhook, mutating, strict, &mut out);
        review_versions(webhook.get("admissionReviewVersions"), strict.known_review, &mut out);
        let name = webhook.get("name");
        if strict.unique_names && !name.is_empty() && !seen.insert(name.str()) {
            out.push(name.duplicate());
        }
    }
    out
}

fn one(webhook: At<'_>, mutating: bool, strict: &Strictness, out: &mut Vec<Cause>) {
    qualified_domain(webhook.get("name"), out);
    rule::validate(webhook.get("rules"), false, out);
    known(webhook.get("failurePolicy"), matching::FAILURE_POLICIES, out);
    known(webhook.get("matchPolicy"), matching::MATCH_POLICIES, out);
    let effects = webhook.get("sideEffects");
    let allowed = if strict.no_side_effects { NO_SIDE_EFFECTS } else { SIDE_EFFECTS };
    if !effects.is_set() {
        out.push(effects.required(&format!("must specify one of {}", allowed.join(", "))));
    }
    known(effects, allowed, out);
    let timeout = webhook.get("timeoutSeconds");
    if timeout.int().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        out.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    for name in ["namespaceSelector", "objectSelector"] {
        rules::label_selector_of(webhook.get(name), strict.right_values, out);
    }
    if mutating {
        known(webhook.get("reinvocationPolicy"), matching::REINVOCATION_POLICIES, out);
    }
    clientconfig::validate(webhook.get("clientConfig"), out);
    if strict.conditions {
        matching::conditions(webhook.get("matchConditions"), conditions::fault, out);
    }
}

/// A domain of at least three parts.
fn qualified_domain(name: At<'_>, out: &mut Vec<Cause>) {
    let problems = names::dns1123_subdomain(name.str());
    if name.is_empty() {
        out.push(name.required(""));
    } else if !problems.is_empty() {
        out.push(name.invalid(&problems.join(",")));
    } else if name.str().split('.').count() < 3 {
        out.push(name.invalid("should be a domain with at least three segments separated by dots"));
    }
}

fn review_versions(list: At<'_>, known: bool, out: &mut Vec<Cause>) {
    let accepted = REVIEWS.join(", ");
    if list.is_empty() {
        out.push(list.required(&format!("must specify one of {accepted}")));
        return;
    }
    let (mut seen, mut understood) = (HashSet::new(), false);
    for version in list.items() {
        if rules::full(out) {
            return;
        }
        if !seen.insert(version.str()) {
            out.push(version.or_empty().invalid("duplicate version"));
            continue;
        }
        version.invalid_all(names::dns1035_label(version.str()), out);
        understood |= REVIEWS.contains(&version.str());
    }
    if known && !understood {
        out.push(list.invalid(&format!("must include at least one of {accepted}")));
    }
}
