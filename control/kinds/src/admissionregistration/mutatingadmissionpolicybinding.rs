//! MutatingAdmissionPolicyBinding: where a MutatingAdmissionPolicy is in force, and with which parameters.

use super::{GROUP, matching, params, policies, reserved, rule};
use crate::{at::At, cells, edit};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::Value;
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};

const KIND: &str = "MutatingAdmissionPolicyBinding";

/// The kind.
pub(crate) struct Bindings;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", "mutatingadmissionpolicybindings", KIND, Bindings)
        .category("api-extensions")
        .cluster_scoped()
        .with_generation()
        .conditional_update_only()
}

impl Strategy for Bindings {
    fn default(&self, object: &mut Object) {
        if let Some(spec) = edit::object_if(&mut object.0, "spec") {
            matching::default_resources(spec, "matchResources");
        }
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        if cx.operation == Operation::Update { Vec::new() } else { all(object) }
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        if policies::is_same_spec(object, old) { Vec::new() } else { all(object) }
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Whole
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        reserved(object).into_iter().collect()
    }
}

fn all(object: &Object) -> Vec<Cause> {
    let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
    params::policy_name(spec.get("policyName"), &mut out);
    params::reference(spec.get("paramRef"), &mut out);
    matching::resources(spec.get("matchResources"), &mut out);
    rule::mutating(spec.down(&["matchResources", "resourceRules"]), &mut out);
    out
}

impl TableConvertor for Bindings {
    fn columns(&self) -> &[Column] {
        policies::BINDING_COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let mut row = params::binding_cells(object);
        row.push(cells::age(object, now));
        row
    }
}
