//! `flowcontrol.apiserver.k8s.io`: FlowSchema and PriorityLevelConfiguration, and those that every cluster has.

pub(crate) mod fairness;
pub(crate) mod flowschema;
pub(crate) mod prioritylevelconfiguration;
pub(crate) mod standard;

use crate::{at::At, rules};
use api::Cause;
use std::collections::HashSet;

/// The group.
pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// The name of the FlowSchema and of the PriorityLevelConfiguration that nothing limits.
const EXEMPT: &str = "exempt";

/// The conditions of a status: each type once, and not empty.
fn conditions(status: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for condition in status.get("conditions").items() {
        if rules::full(out) {
            return;
        }
        let kind = condition.get("type");
        if !seen.insert(kind.str()) {
            out.push(kind.or_empty().duplicate());
        }
        if kind.is_empty() {
            out.push(kind.required(""));
        }
    }
}
