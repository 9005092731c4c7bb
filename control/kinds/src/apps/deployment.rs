//! Deployment: pods with rolling updates. The Deployment controller creates a ReplicaSet for each template.

use crate::{
    Capabilities,
    apps::workload::{self, amount},
    at::At,
    cells, edit, podspec, rules,
};
use api::{Cause, CauseKind, Object, selector::Selector};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Ready", "Number of the pod with ready state"),
    Column::new(
        "Up-to-date",
        "Total number of non-terminating pods targeted by this deployment that have the desired template spec.",
    ),
    Column::new("Available", "Total number of available non-terminating pods targeted by this deployment."),
    Column::age(),
    Column::new("Containers", "Names of each container in the template.").wide(),
    Column::new("Images", "Images referenced by each container in the template.").wide(),
    Column::new("Selector", "Label selector for pods.").wide(),
];

pub(crate) struct Deployments(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let deployments = Deployments(capabilities.clone());
    Resource::new("apps", "v1", "deployments", "Deployment", deployments)
        .short(&["deploy"])
        .category("all")
        .with_generation()
        .with_scale()
        .with_status()
}

impl Strategy for Deployments {
    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        edit::fill(spec, "replicas", 1);
        edit::drop_zero(spec, &["minReadySeconds", "paused"]);
        let strategy = edit::object(spec, "strategy");
        edit::fill_str(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = edit::object(strategy, "rollingUpdate");
            edit::fill(rolling, "maxUnavailable", "25%");
            edit::fill(rolling, "maxSurge", "25%");
        }
        edit::fill(spec, "revisionHistoryLimit", 10);
        edit::fill(spec, "progressDeadlineSeconds", 600);
        podspec::default_template(spec);
        edit::object(&mut object.0, "status");
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({}));
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, old: &Object) {
        // Annotations are copied to ReplicaSets, so that their changes count too.
        edit::next_generation(object, old, &[&["spec"], &["metadata", "annotations"]]);
    }

    fn prepare_status(&self, _cx: &Context, object: &mut Object, old: &Object) {
        edit::keep_at(object, old, &["metadata", "labels"]);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let spec = At::of(object, "spec");
        spec.get("replicas").not_negative(&mut out);
        selector_and_template(spec, &mut out);
        strategy(spec.get("strategy"), &mut out);
        let ready = spec.get("minReadySeconds");
        ready.not_negative(&mut out);
        spec.get("revisionHistoryLimit").not_negative(&mut out);
        let deadline = spec.get("progressDeadlineSeconds");
        deadline.not_negative(&mut out);
        if deadline.int().is_some_and(|n| n <= ready.int().unwrap_or(0)) {
            out.push(deadline.invalid("must be greater than minReadySeconds"));
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        rules::selector_stays(At::of(object, "spec").get("selector"), At::of(old, "spec").get("selector"), &mut out);
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let status = At::of(object, "status");
        let counts = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ];
        counts.iter().for_each(|name| status.get(name).not_negative(&mut out));
        workload::replica_counts(status, &["updatedReplicas", "readyReplicas", "availableReplicas"], &mut out);
        workload::collisions(status, old, &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        workload::warnings(&self.0, object, old, "Pod names and hostnames")
    }

    fn reset_fields(&self, subresource: &str) -> &[&'static [&'static str]] {
        if subresource == "status" { &[&["spec"], &["metadata", "labels"]] } else { &[] }
    }
}

impl TableConvertor for Deployments {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let status = |name: &str| cells::number(object, &["status", name]);
        let spec = At::of(object, "spec");
        let [names, images] = cells::containers(spec.down(&["template", "spec"]));
        let selector = cells::selector_text(object.at(&["spec", "selector"])).unwrap_or_else(|| "<invalid>".to_owned());
        vec![
            json!(object.name()),
            json!(format!("{}/{}", status("readyReplicas"), cells::number(object, &["spec", "replicas"]))),
            json!(status("updatedReplicas")),
            json!(status("availableReplicas")),
            cells::age(object, now),
            names,
            images,
            json!(selector),
        ]
    }
}

/// Selector and template of a Deployment or ReplicaSet; the selector must match the template.
pub(crate) fn selector_and_template(spec: At<'_>, out: &mut Vec<Cause>) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if selector.is_set() {
        rules::label_selector(selector, out);
        if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
            out.push(selector.invalid("empty selector is invalid for deployment"));
        }
    } else {
        out.push(selector.required(""));
    }
    let labels = template.get("metadata").get("labels");
    let fits = if selector.is_set() {
        let Ok(parsed) = Selector::from_label_selector(selector.value()) else {
            out.push(selector.invalid("invalid label selector"));
            return;
        };
        parsed.is_empty() || parsed.matches(|key| labels.value().get(key)?.as_str())
    } else {
        // An absent selector selects nothing, and so not the template.
        false
    };
    if !fits {
        out.push(labels.invalid("`selector` does not match template `labels`"));
    }
    podspec::validate_template(template, out);
    workload::runs_for_ever(template, "ReplicaSet", out);
}

fn strategy(strategy: At<'_>, out: &mut Vec<Cause>) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "Recreate" => {
            if rolling.is_set() {
                out.push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"));
            }
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            rules::number_or_percent(unavailable, out);
            rules::number_or_percent(surge, out);
            if amount(unavailable) == 0 && amount(surge) == 0 {
                out.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
            }
            workload::at_most_all(unavailable, out);
        }
        kind => {
            let shown = format!(
                "{{\"Type\":{kind:?},\"RollingUpdate\":{}}}",
                workload::rolling_text(rolling, &["MaxUnavailable", "MaxSurge"])
            );
            let known = "supported values: \"Recreate\", \"RollingUpdate\"";
            out.push(Cause::shown(CauseKind::NotSupported, &strategy.field(), &shown, known));
        }
    }
}
