//! ReplicationController: a number of pods of one template, from before there were ReplicaSets. Its selector is a map of labels.

use crate::{Capabilities, apps::workload, at::At, cells, edit, podspec};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Scale};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Desired", "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller").integer(),
    Column::new("Current", "Replicas is the most recently observed number of replicas. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller").integer(),
    Column::new("Ready", "The number of ready replicas for this replication controller.").integer(),
    Column::age(),
    Column::new("Containers", "Names of each container in the template.").wide(),
    Column::new("Images", "Images referenced by each container in the template.").wide(),
    Column::new("Selector", "Selector is a label query over pods that should match the Replicas count. If Selector is empty, it is defaulted to the labels present on the Pod template. Label keys and values that must match in order to be controlled by this replication controller, if empty defaulted to labels on Pod template. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors").wide(),
];

struct Controllers(Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let controllers = Controllers(capabilities.clone());
    Resource::new("", "v1", "replicationcontrollers", "ReplicationController", controllers)
        .short(&["rc"])
        .category("all")
        .with_generation()
        .with_scale()
        .with_status()
}

/// Whether labels have everything that a map asks for.
fn matches(wanted: &Value, labels: At<'_>) -> bool {
    wanted.as_object().into_iter().flatten().all(|(key, value)| labels.value().get(key) == Some(value))
}

impl Strategy for Controllers {
    fn default(&self, object: &mut Object) {
        let labels = object.at(&["spec", "template", "metadata", "labels"]).cloned().filter(|l| !l.is_null());
        if let Some(labels) = labels {
            for place in [&["spec", "selector"][..], &["metadata", "labels"]] {
                if object.at(place).is_none_or(edit::is_empty_value) && !edit::is_empty_value(&labels) {
                    object.set(place, labels.clone());
                }
            }
        }
        let spec = edit::object(&mut object.0, "spec");
        edit::fill(spec, "replicas", 1);
        edit::drop_zero(spec, &["minReadySeconds"]);
        if spec.get("template").is_some_and(Value::is_object) {
            podspec::default_template(spec);
        }
        edit::fill(edit::object(&mut object.0, "status"), "replicas", 0);
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({"replicas": 0}));
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let spec = At::of(object, "spec");
        spec.get("minReadySeconds").not_negative(&mut out);
        let (selector, template) = (spec.get("selector"), spec.get("template"));
        if selector.is_empty() {
            out.push(selector.required(""));
        }
        spec.get("replicas").not_negative(&mut out);
        if !template.is_set() {
            out.push(template.required(""));
            return out;
        }
        let labels = template.get("metadata").get("labels");
        if !matches(selector.value(), labels) {
            out.push(labels.invalid("`selector` does not match template `labels`"));
        }
        podspec::validate_template(template, &mut out);
        workload::runs_for_ever(template, "ReplicationController", &mut out);
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let status = At::of(object, "status");
        let counts = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
        counts.iter().for_each(|name| status.get(name).not_negative(&mut out));
        workload::replica_counts(status, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        workload::warnings(&self.0, object, old, "Pod names and hostnames")
    }

    fn field_labels(&self) -> &[&'static str] {
        &["status.replicas"]
    }

    fn default_propagation(&self) -> &'static str {
        "Orphan"
    }

    fn scale(&self, object: &Object) -> Scale {
        let selector = object.at(&["spec", "selector"]).map(|labels| json!({"matchLabels": labels}));
        Scale {
            replicas: cells::number(object, &["spec", "replicas"]),
            observed: cells::number(object, &["status", "replicas"]),
            selector: cells::selector_text(selector.as_ref()).unwrap_or_default(),
        }
    }
}

impl TableConvertor for Controllers {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let [names, images] = cells::containers(At::of(object, "spec").down(&["template", "spec"]));
        vec![
            json!(object.name()),
            json!(cells::number(object, &["spec", "replicas"])),
            json!(cells::number(object, &["status", "replicas"])),
            json!(cells::number(object, &["status", "readyReplicas"])),
            cells::age(object, now),
            names,
            images,
            json!(cells::labels(object.at(&["spec", "selector"]))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, row};
    use expect_test::expect;

    fn controllers() -> Controllers {
        Controllers(Capabilities::default())
    }

    fn text(spec: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: ReplicationController, metadata: {{name: c, namespace: ns}}, spec: {{{spec}template: \
             {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}}}"
        )
    }

    #[test]
    fn the_labels_of_the_template_are_the_default() {
        let made = created(&controllers(), &text(""));
        for place in [&["spec", "selector"][..], &["metadata", "labels"]] {
            assert_eq!(made.at(place), Some(&json!({"a": "b"})));
        }
        assert_eq!(made.int_at(&["spec", "replicas"]), Some(1));
        let own = created(
            &controllers(),
            &text("selector: {a: b}, replicas: 0, ").replace("name: c,", "name: c, labels: {x: z},"),
        );
        assert_eq!(
            (own.at(&["metadata", "labels"]), own.int_at(&["spec", "replicas"])),
            (Some(&json!({"x": "z"})), Some(0))
        );
        let scale = controllers().scale(&own);
        assert_eq!((scale.replicas, scale.selector.as_str()), (0, "a=b"));
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (text, expected) in [
            (text(""), expect![[""]]),
            (
                text("replicas: -1, minReadySeconds: -1, selector: {a: c}, "),
                expect![[r#"
                spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0
                spec.replicas: Invalid value: -1: must be greater than or equal to 0
                spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`
            "#]],
            ),
            (
                text("").replace("metadata: {labels: {a: b}}, ", ""),
                expect![[r#"
                spec.selector: Required value
            "#]],
            ),
            (
                text("")
                    .replace("spec: {containers", "spec: {restartPolicy: Never, activeDeadlineSeconds: 5, containers"),
                expect![[r#"
                    spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
                    spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported
                "#]],
            ),
            (
                "{apiVersion: v1, kind: ReplicationController, metadata: {name: c, namespace: ns}, spec: {}}"
                    .to_owned(),
                expect![[r#"
                    spec.selector: Required value
                    spec.template: Required value
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&controllers(), &text));
        }
    }

    #[test]
    fn a_row_shows_the_replicas() {
        expect!["c | 3 | 0 | 0 | <unknown> | c | i | a=b"]
            .assert_eq(&row(&controllers(), &text("replicas: 3, selector: {a: b}, ")));
    }
}
