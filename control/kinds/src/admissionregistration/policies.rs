//! What both kinds of policies have: a failure policy, parameters, constraints, conditions and variables. On an update match conditions are asked
//! only if they or the kind of the parameters changed.

use super::{
    expressions::{Use, compiled},
    form::Form,
    matching, params, rule,
};
use crate::{
    admission::policies::compiler::{Compiler, Purpose},
    at::At,
    edit, rules,
};
use api::{Cause, Object};
use serde_json::{Value, json};
use server::Column;

/// The columns of both bindings.
pub(super) const BINDING_COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
    Column::new("ParamRef", "ParamRef indicates the param resource which sets the configuration param"),
    Column::age(),
];

/// What both bindings have in common.
pub(super) const BINDING: Form = Form {
    plural: "",
    kind: "",
    columns: BINDING_COLUMNS,
    cells: params::binding_cells,
    default: |object| {
        if let Some(spec) = edit::object_if(&mut object.0, "spec") {
            matching::default_resources(spec, "matchResources");
        }
    },
    faults: |_, _| Vec::new(),
    status: None,
};

/// The faults of a binding; `more` adds those of its kind.
pub(super) fn binding_faults(object: &Object, old: Option<&Object>, more: fn(At<'_>, &mut Vec<Cause>)) -> Vec<Cause> {
    unless_same(object, old, |object, _| {
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        params::policy_name(spec.get("policyName"), &mut out);
        params::reference(spec.get("paramRef"), &mut out);
        matching::resources(spec.get("matchResources"), &mut out);
        more(spec, &mut out);
        out
    })
}

/// The cells of a policy, with the number of its rules.
pub(super) fn cells(object: &Object, counted: &str) -> Vec<Value> {
    vec![json!(object.name()), json!(object.list_at(&["spec", counted]).len()), json!(params::kind_cell(object))]
}

/// The defaults of a policy.
pub(super) fn default(object: &mut Object) {
    let spec = edit::object(&mut object.0, "spec");
    edit::fill(spec, "failurePolicy", "Fail");
    matching::default_resources(spec, "matchConstraints");
}

/// The faults that both kinds can have first, in upstream's order. `old` is the stored policy.
pub(super) fn head(object: &Object, old: Option<&Object>, mutating: bool, compiler: &Compiler, out: &mut Vec<Cause>) {
    let spec = At::of(object, "spec");
    matching::chosen(spec.get("failurePolicy"), matching::FAILURE_POLICIES, out);
    params::kind(spec.get("paramKind"), out);
    let (constraints, of) = (spec.get("matchConstraints"), spec.down(&["matchConstraints", "resourceRules"]));
    if constraints.is_set() {
        matching::resources(constraints, out);
        if of.is_empty() {
            out.push(of.required(""));
        }
        if mutating {
            rule::mutating(of, out);
        }
    } else {
        out.push(constraints.required(""));
    }
    let same = |old: &Object| {
        let old = At::of(old, "spec");
        edit::deep_equal(spec.get("paramKind").value(), old.get("paramKind").value())
            && matching::same_conditions(spec, old)
    };
    if !old.is_some_and(same) {
        // They may not name variables.
        let compiler = Compiler::new(spec.get("paramKind").is_set(), false);
        let fault = |text: &str| compiler.expression(Purpose::Condition, text).fault().map(str::to_owned);
        matching::conditions(spec.get("matchConditions"), fault, out);
    }
    variables(spec.get("variables"), compiler, out);
}

fn variables(list: At<'_>, compiler: &Compiler, out: &mut Vec<Cause>) {
    for variable in list.items() {
        if rules::full(out) {
            return;
        }
        let name = variable.get("name");
        if name.str().trim().is_empty() {
            out.push(name.required("name is not specified"));
        } else if !cel::is_identifier(name.str()) {
            out.push(name.invalid("must be a valid CEL identifier"));
        }
        compiled(variable.get("expression"), Use::Variable, name.str(), compiler, out);
    }
}

/// The faults of an object. An update that leaves the part that is checked as it is has none: what is stored has been checked.
pub(super) fn unless_same(
    object: &Object,
    old: Option<&Object>,
    faults: impl FnOnce(&Object, Option<&Object>) -> Vec<Cause>,
) -> Vec<Cause> {
    let same = old.is_some_and(|old| edit::deep_equal_at(object, old, &["spec"]));
    if same { Vec::new() } else { faults(object, old) }
}
