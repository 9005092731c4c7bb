//! ValidatingAdmissionPolicyBinding: where a ValidatingAdmissionPolicy is in force, and with which parameters.

use super::{form::Form, policies};
use crate::{at::At, rules};
use api::Cause;
use std::collections::HashSet;

/// What may be done about a request that is not valid.
const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

/// The kind.
pub(crate) static FORM: Form = Form {
    plural: "validatingadmissionpolicybindings",
    kind: "ValidatingAdmissionPolicyBinding",
    faults: |object, old| {
        policies::binding_faults(object, old, |spec, out| actions(spec.get("validationActions"), out))
    },
    ..policies::BINDING
};

fn actions(list: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for action in list.items() {
        if rules::full(out) {
            return;
        }
        if !ACTIONS.contains(&action.str()) {
            out.push(action.or_empty().not_supported(ACTIONS));
        }
        if !seen.insert(action.str()) {
            out.push(action.or_empty().duplicate());
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        out.push(list.invalid("must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"));
    }
    if seen.is_empty() {
        out.push(list.required("at least one validation action is required"));
    }
}
