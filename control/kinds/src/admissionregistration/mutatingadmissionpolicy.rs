//! MutatingAdmissionPolicy: expressions that change what is written.

use super::{
    GROUP,
    expressions::{Use, compiled},
    matching, params, policies, reserved,
};
use crate::{admission::policies::compiler::Compiler, at::At, cells, rules};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};

const KIND: &str = "MutatingAdmissionPolicy";

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Mutations", "Mutation indicates the number of mutations rules defined in this configuration")
        .integer(),
    Column::new("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
    Column::age(),
];

/// The kind.
pub(crate) struct Policies;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", "mutatingadmissionpolicies", KIND, Policies)
        .category("api-extensions")
        .cluster_scoped()
        .with_generation()
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

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        reserved(object).into_iter().collect()
    }
}

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

impl TableConvertor for Policies {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let mutations = object.list_at(&["spec", "mutations"]).len();
        vec![json!(object.name()), json!(mutations), json!(params::kind_cell(object)), cells::age(object, now)]
    }
}
