//! MutatingAdmissionPolicy: expressions that change what is written.

use super::{
    expressions::{Use, compiled},
    form::Form,
    matching, policies,
};
use crate::{admission::policies::compiler::Compiler, at::At, rules};
use api::{Cause, Object};
use serde_json::json;
use server::Column;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Mutations", "Mutation indicates the number of mutations rules defined in this configuration")
        .integer(),
    Column::new("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
    Column::age(),
];

/// The kind.
pub(crate) static FORM: Form = Form {
    plural: "mutatingadmissionpolicies",
    kind: "MutatingAdmissionPolicy",
    columns: COLUMNS,
    cells: |object| policies::cells(object, "mutations"),
    default: policies::default,
    faults: |object, old| policies::unless_same(object, old, all),
    status: None,
};

fn all(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut out = Vec::new();
    let spec = At::of(object, "spec");
    let compiler = Compiler::new(spec.get("paramKind").is_set(), true);
    policies::head(object, old, true, &compiler, &mut out);
    let (mutations, again) = (spec.get("mutations"), spec.get("reinvocationPolicy"));
    if mutations.is_empty() {
        out.push(mutations.required("mutations must contain at least one item"));
    }
    for mutation in mutations.items() {
        if rules::full(&out) {
            return out;
        }
        one(mutation, &compiler, &mut out);
    }
    again.one_of(matching::REINVOCATION_POLICIES, &mut out);
    out
}

fn one(mutation: At<'_>, compiler: &Compiler, out: &mut Vec<Cause>) {
    let kind = mutation.get("patchType");
    let ((wanted, used), other) = match kind.str() {
        "JSONPatch" => (("jsonPatch", Use::JsonPatch), "applyConfiguration"),
        "ApplyConfiguration" => (("applyConfiguration", Use::ApplyConfiguration), "jsonPatch"),
        _ => return kind.one_of(&["ApplyConfiguration", "JSONPatch"], out),
    };
    let patch = mutation.get(wanted);
    if patch.is_set() {
        compiled(patch.get("expression"), used, "", compiler, out);
    } else {
        out.push(patch.required(&format!("must be specified when patchType is {}", kind.str())));
    }
    let other_patch = mutation.get(other);
    if other_patch.is_set() {
        let text = format!("must not be specified when patchType is {}", kind.str());
        out.push(Cause::invalid(&other_patch.field(), &json!(format!("{{{other}}}")), &text));
    }
}
