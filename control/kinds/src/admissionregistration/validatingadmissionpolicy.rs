//! ValidatingAdmissionPolicy: expressions that decide whether a write is admitted.

use super::{
    GROUP,
    expressions::{Use, compiled},
    params, policies, reserved,
};
use crate::{admission::policies::compiler::Compiler, at::At, cells, rules};
use api::{Cause, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};
use std::collections::HashSet;

const KIND: &str = "ValidatingAdmissionPolicy";

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Validations", "Validations indicates the number of validation rules defined in this configuration")
        .integer(),
    Column::new("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
    Column::age(),
];

/// Reasons with which a request may be refused.
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
/// The most audit annotations of a policy.
const MAX_ANNOTATIONS: usize = 20;

/// The kind.
pub(crate) struct Policies;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", "validatingadmissionpolicies", KIND, Policies)
        .category("api-extensions")
        .cluster_scoped()
        .with_generation()
        .with_status()
        .conditional_update_only()
}

impl Strategy for Policies {
    fn default(&self, object: &mut Object) {
        policies::default(object);
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        if cx.operation == Operation::Update { Vec::new() } else { all(object, None) }
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        if policies::is_same_spec(object, old) { Vec::new() } else { all(object, Some(old)) }
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Whole
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let (mut out, status) = (Vec::new(), At::of(object, "status"));
        for warning in status.down(&["typeChecking", "expressionWarnings"]).items() {
            if rules::full(&out) {
                break;
            }
            if warning.get("warning").is_empty() {
                out.push(warning.get("warning").required(""));
            }
            if warning.get("fieldRef").str().trim().is_empty() {
                out.push(warning.get("fieldRef").required(""));
            }
        }
        rules::conditions(status.get("conditions"), &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        reserved(object).into_iter().collect()
    }
}

fn all(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut out = Vec::new();
    let spec = At::of(object, "spec");
    let compiler = Compiler::new(spec.get("paramKind").is_set(), !spec.get("variables").is_empty());
    policies::head(object, old, false, &compiler, &mut out);
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let text = "validations or auditAnnotations must contain at least one item";
        out.extend([validations.required(text), annotations.required(text)]);
    }
    for validation in validations.items() {
        if rules::full(&out) {
            return out;
        }
        one(validation, &compiler, &mut out);
    }
    if annotations.len() > MAX_ANNOTATIONS {
        let shown = annotations.printed("io.k8s.api.admissionregistration.v1.AuditAnnotation");
        let text = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        out.push(Cause::invalid_shown(&annotations.field(), &shown, &text));
    }
    let mut seen = HashSet::new();
    for annotation in annotations.items() {
        if rules::full(&out) {
            return out;
        }
        let key = annotation.get("key");
        audited(object.name(), key, &mut out);
        compiled(annotation.get("valueExpression"), Use::AuditAnnotation, "", &compiler, &mut out);
        if !seen.insert(key.str()) {
            out.push(key.or_empty().duplicate());
        }
    }
    out
}

fn one(validation: At<'_>, compiler: &Compiler, out: &mut Vec<Cause>) {
    compiled(validation.get("expression"), Use::Validation, "", compiler, out);
    let (of_message, message) = (validation.get("messageExpression"), validation.get("message"));
    if !of_message.is_empty() {
        compiled(of_message, Use::Message, "", compiler, out);
    }
    let trimmed = message.str().trim();
    if !message.is_empty() && trimmed.is_empty() {
        out.push(message.invalid("must be non-empty if specified"));
    } else if trimmed.contains(['\n', '\r']) {
        out.push(message.invalid("must not contain line breaks"));
    }
    let reason = validation.get("reason");
    if reason.is_set() && !REASONS.contains(&reason.str()) {
        out.push(reason.not_supported(REASONS));
    }
}

/// The key of an audit annotation, whose prefix is the name of the policy.
fn audited(policy: &str, key: At<'_>, out: &mut Vec<Cause>) {
    if policy.is_empty() {
        out.push(key.or_empty().invalid("requires metadata.name be non-empty"));
        return;
    }
    let whole = format!("{policy}/{}", key.str());
    let problems = names::qualified_name(&whole);
    out.extend(problems.iter().map(|text| Cause::invalid(&key.field(), &json!(whole), text)));
}

impl TableConvertor for Policies {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let validations = object.list_at(&["spec", "validations"]).len();
        vec![json!(object.name()), json!(validations), json!(params::kind_cell(object)), cells::age(object, now)]
    }
}
