//! ReplicaSet: a number of pods of one template.

use crate::{
    Capabilities,
    apps::{deployment, workload},
    at::At,
    cells, edit, podspec, rules,
};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Desired", "replicas is the number of desired pods.").integer(),
    Column::new("Current", "replicas is the most recently observed number of non-terminating pods.").integer(),
    Column::new("Ready", "The number of non-terminating pods targeted by this ReplicaSet with a Ready condition.")
        .integer(),
    Column::age(),
    Column::new("Containers", "Names of each container in the template.").wide(),
    Column::new("Images", "Images referenced by each container in the template.").wide(),
    Column::new("Selector", "selector is a label query over pods that should match the replica count.").wide(),
];

pub(crate) struct ReplicaSets(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let sets = ReplicaSets(capabilities.clone());
    Resource::new("apps", "v1", "replicasets", "ReplicaSet", sets)
        .short(&["rs"])
        .category("all")
        .with_generation()
        .with_scale()
        .with_status()
}

impl Strategy for ReplicaSets {
    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        edit::fill(spec, "replicas", 1);
        edit::drop_zero(spec, &["minReadySeconds"]);
        podspec::default_template(spec);
        edit::fill(edit::object(&mut object.0, "status"), "replicas", 0);
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({"replicas": 0}));
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let spec = At::of(object, "spec");
        spec.get("replicas").not_negative(&mut out);
        spec.get("minReadySeconds").not_negative(&mut out);
        deployment::selector_and_template(spec, &mut out);
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        rules::selector_stays(At::of(object, "spec").get("selector"), At::of(old, "spec").get("selector"), &mut out);
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let status = At::of(object, "status");
        let counts = [
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
            "terminatingReplicas",
        ];
        counts.iter().for_each(|name| status.get(name).not_negative(&mut out));
        workload::replica_counts(status, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        workload::warnings(&self.0, object, old, "Pod names and hostnames")
    }
}

impl TableConvertor for ReplicaSets {
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
            json!(cells::label_selector(object.at(&["spec", "selector"]))),
        ]
    }
}
