//! Namespace. Its deletion has two steps: a delete makes it Terminating; `spec.finalizers` keeps it until the namespace controller has
//! deleted its content and removes the last finalizer by `/finalize`.

use crate::{at::At, cells, edit};
use api::{Cause, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Scope, Strategy, TableConvertor, Verb, strategy::Recheck};

const COLUMNS: &[Column] = &[Column::name(), Column::new("Status", "The status of the namespace"), Column::age()];

/// Labels of Pod Security, and what a user is warned of who sets one: *Access* brings their admission plugin.
const POD_SECURITY: [(&str, &str); 3] = [
    ("enforce", "not enforced by sampan yet: pods of any security level are taken"),
    ("audit", "not honoured by sampan yet: nothing is noted of pods beyond that level"),
    ("warn", "not honoured by sampan yet: nobody is warned of pods beyond that level"),
];

const FINALIZER: &str = "kubernetes";

pub(crate) struct Namespaces;

/// The resource.
pub(crate) fn resource() -> Resource {
    // All verbs but `deletecollection`, as upstream.
    let verbs = [Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
    Resource::new("", "v1", "namespaces", "Namespace", Namespaces)
        .short(&["ns"])
        .cluster_scoped()
        .verbs(&verbs)
        .with_scope("finalize", &[Verb::Update], Scope::Fields(&[&["spec", "finalizers"]]))
        .with_status()
        .returning_deleted()
}

impl Strategy for Namespaces {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        if !object.name().is_empty() {
            let name = object.name().to_owned();
            object.set(&["metadata", "labels", "kubernetes.io/metadata.name"], name);
        }
        edit::object(&mut object.0, "spec");
        edit::fill_str(edit::object(&mut object.0, "status"), "phase", "Active");
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({"phase": "Active"}));
        // At the first defaulting a generated name was not known yet.
        self.default(object);
        let finalizers = object.entry(&["spec", "finalizers"]);
        if !finalizers.is_array() {
            *finalizers = json!([]);
        }
        let list = finalizers.as_array_mut().expect("made an array above");
        if !list.iter().any(|f| f == FINALIZER) {
            list.push(FINALIZER.into());
        }
    }

    fn prepare_update(&self, cx: &Context, object: &mut Object, old: &Object) {
        if cx.subresource != "finalize" {
            edit::keep_at(object, old, &["spec", "finalizers"]);
        }
        self.default(object);
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1123_label(&server::context::maybe_prefix(name, prefix))
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let all = At::of(object, "spec").get("finalizers");
        // Upstream's errors name the list, not its element.
        for finalizer in all.items().map(|finalizer| all.with(finalizer.value())) {
            let name = finalizer.str();
            finalizer.invalid_all(names::qualified_name(name), &mut out);
            if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
                out.push(finalizer.invalid("name is neither a standard finalizer name nor is it fully qualified"));
            }
        }
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut out = Vec::new();
        for (mode, text) in POD_SECURITY {
            let label = format!("pod-security.kubernetes.io/{mode}");
            // the lowest level allows everything, which is what happens
            if object.str_at(&["metadata", "labels", &label]).is_some_and(|level| level != "privileged") {
                out.push(format!("metadata.labels[{label}]: {text}"));
            }
        }
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let phase = object.str_at(&["status", "phase"]).unwrap_or_default();
        let (allowed, text) = if object.is_deleting() {
            ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
        } else {
            ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
        };
        if phase == allowed {
            return Vec::new();
        }
        vec![Cause::invalid(&api::FieldPath::new("status.Phase"), &json!(phase), text)]
    }

    fn field_labels(&self) -> &[&'static str] {
        &["status.phase"]
    }

    fn blocks_deletion(&self, object: &Object) -> bool {
        !object.list_at(&["spec", "finalizers"]).is_empty()
    }

    fn begin_deletion(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status", "phase"], "Terminating");
        // A namespace has no grace period: it is deleted when it is empty.
        object.remove(&["metadata", "deletionGracePeriodSeconds"]);
    }
}

impl TableConvertor for Namespaces {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![json!(object.name()), json!(cells::text(object, &["status", "phase"])), cells::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, parse};

    #[test]
    fn labels_of_pod_security_are_said_not_to_be_enforced() {
        let of = |labels: Value| {
            let object = parse(&json!({"metadata": {"name": "n", "labels": labels}}).to_string());
            Namespaces.warnings(&context(), &object, None)
        };
        let label = |mode: &str, level: &str| json!({format!("pod-security.kubernetes.io/{mode}"): level});
        assert_eq!(
            of(label("enforce", "restricted")),
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: not enforced by sampan yet: pods of any security level are taken"
            ]
        );
        assert_eq!((of(label("audit", "baseline")).len(), of(label("warn", "baseline")).len()), (1, 1));
        assert!(of(label("enforce", "privileged")).is_empty());
        assert!(of(label("enforce-version", "v1.30")).is_empty() && of(json!({"a": "b"})).is_empty());
    }
}
