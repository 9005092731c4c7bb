//! What is claimed: requests for devices, constraints between them, and configuration for their drivers. Claims have it, and templates of claims.

use super::{config, lists, names, taints};
use crate::{at::At, edit, edit::Fields, quantities, rules};
use api::{Cause, FieldPath, Object};
use serde_json::Value;
use server::Context;
use std::collections::{HashMap, HashSet};

/// The most requests of a claim.
pub(super) const MAX_REQUESTS: usize = 32;
/// The most constraints, and the most configurations.
pub(super) const MAX_CONFIGS: usize = 32;
/// The most alternatives of a request.
const MAX_ALTERNATIVES: usize = 8;
/// A namespace with this label may have claims with administrative access.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";

/// The defaults of a claim's spec.
pub(super) fn default(spec: &mut Fields) {
    let Some(devices) = edit::object_if(spec, "devices") else { return };
    for request in edit::objects(devices, "requests") {
        edit::object_if(request, "exactly").into_iter().for_each(default_request);
        edit::objects(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Fields) {
    edit::fill_str(request, "allocationMode", "ExactCount");
    if request.get("allocationMode").and_then(Value::as_str) == Some("ExactCount") {
        edit::fill_int(request, "count", 1);
    }
    let amounts = edit::object_if(request, "capacity").and_then(|capacity| edit::object_if(capacity, "requests"));
    amounts.into_iter().flatten().for_each(|(_, amount)| quantities::canonicalize_one(amount));
}

/// The names of a claim's requests, each with those of its alternatives.
pub(super) struct Requests<'a>(HashMap<&'a str, HashSet<&'a str>>);

impl<'a> Requests<'a> {
    /// Those of a claim's spec.
    pub(super) fn of(spec: At<'a>) -> Self {
        let requests = spec.down(&["devices", "requests"]).items().map(|request| {
            let alternatives = request.get("firstAvailable").items().map(|one| one.get("name").str());
            (request.get("name").str(), alternatives.collect())
        });
        Self(requests.collect())
    }

    /// A reference to a request or an alternative of one: `a` or `a/b`.
    pub(super) fn reference(&self, at: At<'_>, out: &mut Vec<Cause>) {
        const TEXT: &str =
            "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        let mut parts = at.str().split('/');
        let (request, alternative) = (parts.next().unwrap_or_default(), parts.next());
        if parts.next().is_some() {
            out.push(at.invalid(TEXT));
            return;
        }
        for part in [Some(request), alternative].into_iter().flatten() {
            let problems = api::names::dns1123_label(part);
            out.extend(problems.iter().map(|text| Cause::invalid(&at.field(), &part.into(), text)));
        }
        let known = self.0.get(request).is_some_and(|all| alternative.is_none_or(|one| all.contains(one)));
        if !known {
            out.push(at.or_empty().invalid(TEXT));
        }
    }

    /// A list of references.
    pub(super) fn references(&self, list: At<'_>, out: &mut Vec<Cause>) {
        lists::set(list, MAX_REQUESTS, |at, out| self.reference(at, out), lists::itself, out);
    }
}

/// The faults of a claim's spec.
pub(super) fn validate(spec: At<'_>, out: &mut Vec<Cause>) {
    let (devices, known) = (spec.get("devices"), Requests::of(spec));
    lists::set(devices.get("requests"), MAX_REQUESTS, request, lists::by("name"), out);
    let constraint = |at: At<'_>, out: &mut Vec<Cause>| constraint(at, &known, out);
    lists::each(devices.get("constraints"), MAX_CONFIGS, constraint, out);
    let configuration = |at: At<'_>, out: &mut Vec<Cause>| {
        known.references(at.get("requests"), out);
        config::configuration(at, out);
    };
    lists::each(devices.get("config"), MAX_CONFIGS, configuration, out);
}

fn request(request: At<'_>, out: &mut Vec<Cause>) {
    const TEXT: &str = "exactly one of `exactly` or `firstAvailable` is required";
    rules::label_name(request.get("name"), out);
    let (exactly, first) = (request.get("exactly"), request.get("firstAvailable"));
    match (exactly.is_set(), !first.is_empty()) {
        (false, false) => out.push(request.required(TEXT)),
        (true, true) => {
            let text = format!("{TEXT}, but multiple fields are set");
            out.push(Cause::invalid(&request.field(), &Value::Null, &text));
        }
        (false, true) => {
            let alternative = |at: At<'_>, out: &mut Vec<Cause>| {
                rules::label_name(at.get("name"), out);
                exact(at, out);
            };
            lists::set(first, MAX_ALTERNATIVES, alternative, lists::by("name"), out);
        }
        (true, false) => exact(exactly, out),
    }
}

/// What a request and an alternative of one have in common.
fn exact(request: At<'_>, out: &mut Vec<Cause>) {
    let class = request.get("deviceClassName");
    if class.is_empty() {
        out.push(class.required(""));
    } else {
        rules::subdomain_name(class, out);
    }
    config::selectors(request.get("selectors"), out);
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    let number = count.int().unwrap_or(0);
    let mut bad = |text: &str| out.push(Cause::invalid(&count.field(), &number.into(), text));
    match mode.str() {
        "All" if number != 0 => bad("must not be specified when allocationMode is 'All'"),
        "ExactCount" if number <= 0 => bad("must be greater than zero"),
        "All" | "ExactCount" => {}
        _ => out.push(mode.or_empty().not_supported(&["All", "ExactCount"])),
    }
    taints::tolerations(request.get("tolerations"), out);
}

fn constraint(constraint: At<'_>, known: &Requests<'_>, out: &mut Vec<Cause>) {
    known.references(constraint.get("requests"), out);
    let (same, different) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
    if same.is_set() {
        names::fully_qualified(same, out);
    } else if different.is_set() {
        names::fully_qualified(different, out);
    } else {
        out.push(constraint.required(
            "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
        ));
    }
}

/// Only some namespaces may have claims with administrative access.
pub(super) fn admin_requests(cx: &Context, object: &Object, spec: At<'_>, out: &mut Vec<Cause>) {
    let mut requests = spec.down(&["devices", "requests"]).items();
    if let Some(at) = requests.position(|request| request.down(&["exactly", "adminAccess"]).bool()) {
        // Upstream names it so in a template, too.
        let field = ["devices", "requests"].iter().fold(FieldPath::new("spec"), |path, name| path.child(name));
        admin(cx, object, &field.index(at).child("adminAccess"), out);
    }
}

/// Administrative access at a place needs a label of the object's namespace.
pub(super) fn admin(cx: &Context, object: &Object, field: &FieldPath, out: &mut Vec<Cause>) {
    let namespace = cx.objects.get("", "namespaces", "", object.namespace());
    if namespace.is_none_or(|namespace| namespace.label(ADMIN_LABEL) != Some("true")) {
        let text =
            format!("admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace");
        out.push(Cause::forbidden(field, &text));
    }
}
