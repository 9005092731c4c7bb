//! ValidatingAdmissionPolicy: expressions that decide whether a write is admitted.

use super::{
    expressions::{Use, compiled},
    form::Form,
    policies,
};
use crate::{admission::policies::compiler::Compiler, at::At, rules};
use api::{Cause, Object, names};
use serde_json::json;
use server::Column;
use std::collections::HashSet;

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
pub(crate) static FORM: Form = Form {
    plural: "validatingadmissionpolicies",
    kind: "ValidatingAdmissionPolicy",
    columns: COLUMNS,
    cells: |object| policies::cells(object, "validations"),
    default: policies::default,
    faults: |object, old| policies::unless_same(object, old, all),
    status: Some(status),
};

fn status(object: &Object) -> Vec<Cause> {
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
