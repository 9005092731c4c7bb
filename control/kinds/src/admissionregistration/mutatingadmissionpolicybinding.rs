//! MutatingAdmissionPolicyBinding: where a MutatingAdmissionPolicy is in force, and with which parameters.

use super::{form::Form, policies, rule};

/// The kind.
pub(crate) static FORM: Form = Form {
    plural: "mutatingadmissionpolicybindings",
    kind: "MutatingAdmissionPolicyBinding",
    faults: |object, old| {
        policies::binding_faults(object, old, |spec, out| {
            rule::mutating(spec.down(&["matchResources", "resourceRules"]), out);
        })
    },
    ..policies::BINDING
};
