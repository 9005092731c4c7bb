//! PriorityClass: a named priority. Names that begin with `system-` are reserved for the two system classes.

use crate::{Capabilities, at::At, cells, edit};
use api::{Cause, FieldPath, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Value", "value represents the integer value of this priority class.").integer(),
    Column::new("Global-Default", "globalDefault specifies whether this is the default for pods without a class.")
        .boolean(),
    Column::age(),
    Column::new("PreemptionPolicy", "preemptionPolicy is the policy for preempting pods with lower priority.").wide(),
];

/// Highest value of a user-defined class.
const MAX_USER_VALUE: i64 = 1_000_000_000;

/// The system classes: name, value, description.
pub(crate) const SYSTEM: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2 * MAX_USER_VALUE + 1000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2 * MAX_USER_VALUE,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

struct Classes(Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let classes = Classes(capabilities.clone());
    Resource::new("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", classes)
        .short(&["pc"])
        .cluster_scoped()
}

impl Strategy for Classes {
    fn default(&self, object: &mut Object) {
        edit::fill(&mut object.0, "value", 0);
        edit::drop_zero(&mut object.0, &["globalDefault", "description"]);
        edit::fill(&mut object.0, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        // It is never incremented.
        object.set(&["metadata", "generation"], 1);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let value = At::of(object, "value");
        if object.name().starts_with("system-") {
            if let Some(problem) = reserved(object) {
                let text = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
                );
                out.push(Cause::forbidden(&FieldPath::new("metadata.name"), &text));
            }
        } else if value.int().is_some_and(|v| v > MAX_USER_VALUE) {
            out.push(value.forbidden(&format!("maximum allowed value of a user defined priority is {MAX_USER_VALUE}")));
        }
        let policy = At::of(object, "preemptionPolicy");
        if policy.is_set() {
            policy.one_of(&["PreemptLowerPriority", "Never"], &mut out);
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        if !edit::deep_equal_at(object, old, &["value"]) {
            out.push(At::of(object, "value").forbidden("may not be changed in an update."));
        }
        At::of(object, "preemptionPolicy").immutable(At::of(old, "preemptionPolicy"), &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        if old.is_some() || object.str_at(&["preemptionPolicy"]) == Some("Never") {
            return Vec::new();
        }
        let (policy, mut out) = (At::of(object, "preemptionPolicy"), Vec::new());
        let mut warn = self.0.warn("priorityclass.preemptionPolicy", policy, 1, &mut out);
        warn.unless_honoured(policy, "sampan does not preempt pods yet; the priority only orders those that wait");
        out
    }
}

impl TableConvertor for Classes {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![
            json!(object.name()),
            json!(cells::number(object, &["value"])),
            json!(object.bool_at(&["globalDefault"])),
            cells::age(object, now),
            json!(cells::text(object, &["preemptionPolicy"])),
        ]
    }
}

fn reserved(object: &Object) -> Option<String> {
    let name = object.name();
    let Some((_, value, _)) = SYSTEM.iter().find(|(known, ..)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if cells::number(object, &["value"]) != *value {
        return Some(format!("value of {name} PriorityClass must be {value}"));
    }
    object.bool_at(&["globalDefault"]).then(|| format!("globalDefault of {name} must be false"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created};

    #[test]
    fn preemption_is_said_to_be_missing() {
        let classes = Classes(Default::default());
        let class = created(&classes, "{metadata: {name: c}, value: 5}");
        assert_eq!(classes.warnings(&context(), &class, None).len(), 1);
        assert!(classes.warnings(&context(), &class, Some(&class)).is_empty());
        let never = created(&classes, "{metadata: {name: c}, value: 5, preemptionPolicy: Never}");
        assert!(classes.warnings(&context(), &never, None).is_empty());
        let preempting = Classes(Capabilities::new(["priorityclass.preemptionPolicy"]));
        assert!(preempting.warnings(&context(), &class, None).is_empty());
    }
}
