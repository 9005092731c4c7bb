//! admissionregistration.k8s.io: webhooks and policies that are asked before a write is stored.

mod expressions;
mod form;
mod matching;
pub(crate) mod mutatingadmissionpolicy;
pub(crate) mod mutatingadmissionpolicybinding;
pub(crate) mod mutatingwebhookconfiguration;
mod params;
mod policies;
mod rule;
pub(crate) mod validatingadmissionpolicy;
pub(crate) mod validatingadmissionpolicybinding;
pub(crate) mod validatingwebhookconfiguration;
mod webhooks;

#[cfg(test)]
mod policies_tests;
#[cfg(test)]
mod webhooks_tests;

use api::Object;

const GROUP: &str = "admissionregistration.k8s.io";

/// Upstream's warning about names that are reserved.
fn reserved(object: &Object) -> Option<String> {
    const RESERVED: &str = ".static.k8s.io";
    object.name().ends_with(RESERVED).then(|| {
        format!(
            "metadata.name: names ending with {RESERVED:?} are reserved for static manifest-based configurations and cannot be managed via the API"
        )
    })
}
