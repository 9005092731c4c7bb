//! Deployment: pods with rolling updates. The Deployment controller creates a ReplicaSet for each template.

use crate::{Capabilities, annotations, at::At, cells, edit, podspec, rules};
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
        At::of(object, "spec").get("selector").immutable(At::of(old, "spec").get("selector"), &mut out);
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
        replica_counts(status, &["updatedReplicas", "readyReplicas", "availableReplicas"], &mut out);
        let collisions = status.get("collisionCount");
        if collisions.int().unwrap_or(0) < cells::number(old, &["status", "collisionCount"]) {
            let value = json!(collisions.int().unwrap_or(0));
            out.push(Cause::invalid(&collisions.field(), &value, "cannot be decremented"));
        }
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        workload_warnings(&self.0, object, old, "Pod names and hostnames")
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
    let policy = template.down(&["spec", "restartPolicy"]);
    if policy.str() != "Always" {
        out.push(policy.not_supported(&["Always"]));
    }
    let deadline = template.down(&["spec", "activeDeadlineSeconds"]);
    if deadline.is_set() {
        out.push(deadline.forbidden("activeDeadlineSeconds in ReplicaSet is not Supported"));
    }
}

/// Warnings about a workload's name (when new) and template (when new or changed).
pub(crate) fn workload_warnings(
    capabilities: &Capabilities,
    object: &Object,
    old: Option<&Object>,
    used_in: &str,
) -> Vec<String> {
    let mut out = Vec::new();
    let changed = |path: &[&str]| old.is_none_or(|old| !edit::deep_equal_at(object, old, path));
    if old.is_none() {
        rules::host_name_warning(object, used_in, &mut out);
    }
    if changed(&["metadata", "annotations"]) {
        out.extend(annotations::of_workload(object));
    }
    if changed(&["spec"]) {
        out.extend(podspec::template_warnings(capabilities, At::of(object, "spec").get("template")));
    }
    out
}

/// No count may exceed the replicas, and availableReplicas may not exceed readyReplicas.
pub(crate) fn replica_counts(status: At<'_>, names: &[&'static str], out: &mut Vec<Cause>) {
    let count = |name: &'static str| status.get(name).int().unwrap_or(0);
    for name in names {
        if count(name) > count("replicas") {
            let (field, value) = (status.get(name).field(), json!(count(name)));
            out.push(Cause::invalid(&field, &value, "cannot be greater than status.replicas"));
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let (field, value) = (status.get("availableReplicas").field(), json!(count("availableReplicas")));
        out.push(Cause::invalid(&field, &value, "cannot be greater than readyReplicas"));
    }
}

/// A rolling update as Go prints the server's own type.
fn rolling_text(rolling: At<'_>) -> String {
    if !rolling.is_set() {
        return "null".to_owned();
    }
    let part = |name: &'static str| match rolling.get(name).value() {
        Value::Null => json!(0),
        given => given.clone(),
    };
    format!("{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}", part("maxUnavailable"), part("maxSurge"))
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
            if unavailable.str().ends_with('%') && amount(unavailable) > 100 {
                out.push(unavailable.invalid("must not be greater than 100%"));
            }
        }
        kind => {
            let shown = format!("{{\"Type\":{kind:?},\"RollingUpdate\":{}}}", rolling_text(rolling));
            let known = "supported values: \"Recreate\", \"RollingUpdate\"";
            out.push(Cause::shown(CauseKind::NotSupported, &strategy.field(), &shown, known));
        }
    }
}

/// The number in a number or percentage.
fn amount(at: At<'_>) -> i64 {
    match at.value() {
        Value::String(text) => text.trim_end_matches('%').parse().unwrap_or(0),
        _ => at.int().unwrap_or(0),
    }
}
