//! Pod: the unit that is scheduled and run. Nearly all of its spec is immutable, and its deletion is graceful.

pub(crate) mod binding;
mod budget;
mod eviction;
mod log;
mod resize;
mod row;
mod stream;
mod update;

use crate::{Capabilities, at::At, core::proxy, edit, podspec, rules};
use api::{Cause, GroupVersionKind, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Scope, Strategy, TableConvertor, Verb, strategy::Recheck};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    Column::new("Status", "The aggregate status of the containers in this pod."),
    Column::new(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    Column::age(),
    Column::new("IP", "podIP address allocated to the pod.").wide(),
    Column::new("Node", "nodeName indicates in which node this pod is scheduled.").wide(),
    Column::new("Nominated Node", "nominatedNodeName is set when this pod preempts other pods on the node.").wide(),
    Column::new("Readiness Gates", "If specified, all readiness gates will be evaluated for pod readiness.").wide(),
];

pub(crate) struct Pods(pub(crate) Capabilities);

/// A stream is opened by POST, and by the GET of a browser.
const BOTH: &[Verb] = &[Verb::Create, Verb::Get];

/// What `pods/ephemeralcontainers` changes: those containers, and what metadata a status may change as well.
const EPHEMERAL_CONTAINERS: Scope = Scope::Fields(&[
    &["metadata", "annotations"],
    &["metadata", "finalizers"],
    &["metadata", "labels"],
    &["spec", "ephemeralContainers"],
]);

/// What `pods/resize` changes (KEP-1287).
const RESIZE: Scope = Scope::Fields(&[
    &["spec", "containers", "*", "resources"],
    &["spec", "containers", "*", "resizePolicy"],
    &["spec", "initContainers", "*", "resources"],
    &["spec", "initContainers", "*", "resizePolicy"],
    &["spec", "resources"],
]);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let pods = Pods(capabilities.clone());
    let v1 = |kind: &str| GroupVersionKind::new("", "v1", kind);
    let eviction = GroupVersionKind::new("policy", "v1", "Eviction");
    Resource::new("", "v1", "pods", "Pod", pods)
        .short(&["po"])
        .category("all")
        .with_generation()
        .with_action("attach", v1("PodAttachOptions"), BOTH, stream::Stream::Attach)
        .with_action("binding", v1("Binding"), &[Verb::Create], binding::Bind)
        .with_scope("ephemeralcontainers", &[Verb::Get, Verb::Patch, Verb::Update], EPHEMERAL_CONTAINERS)
        .with_action("eviction", eviction, &[Verb::Create], eviction::Evict)
        .with_action("exec", v1("PodExecOptions"), BOTH, stream::Stream::Exec)
        .with_action("log", v1("Pod"), &[Verb::Get], log::Log)
        .with_action("portforward", v1("PodPortForwardOptions"), BOTH, stream::Stream::PortForward)
        .with(proxy::of(proxy::Kind::Pod))
        .with_scope("resize", &[Verb::Get, Verb::Patch, Verb::Update], RESIZE)
        .with_status()
        .returning_deleted()
}

impl Strategy for Pods {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        podspec::default_pod_spec(spec);
        podspec::default_pod(spec);
        // Upstream's conversion does this for a Pod, but not for a template.
        if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|grace| grace < 0) {
            spec.insert("terminationGracePeriodSeconds".into(), json!(1));
        }
        let status = edit::object(&mut object.0, "status");
        update::align_ips(status);
    }

    fn prepare_create(&self, cx: &Context, object: &mut Object) {
        podspec::apparmor::copy(object);
        podspec::merge_label_keys(object);
        let class = podspec::qos_class(At::of(object, "spec"));
        object.set(&["status"], json!({"phase": "Pending", "qosClass": class}));
        if !object.list_at(&["spec", "schedulingGates"]).is_empty() {
            object.set(
                &["status", "conditions"],
                json!([{
                    "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastProbeTime": null,
                    "lastTransitionTime": api::time::rfc3339(cx.now),
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                }]),
            );
        }
    }

    fn prepare_status(&self, _cx: &Context, object: &mut Object, old: &Object) {
        let status = edit::object(&mut object.0, "status");
        if let Some(class) = old.str_at(&["status", "qosClass"]) {
            edit::fill_str(status, "qosClass", class);
        }
        if let Some(seen) = old.int_at(&["status", "observedGeneration"]) {
            edit::fill_int(status, "observedGeneration", seen);
        }
        for condition in edit::objects(status, "conditions") {
            let kind = condition.get("type").cloned().unwrap_or(Value::Null);
            let before = old.list_at(&["status", "conditions"]).iter().find(|c| c["type"] == kind);
            if let Some(seen) = before.and_then(|c| c["observedGeneration"].as_i64()) {
                edit::fill_int(condition, "observedGeneration", seen);
            }
        }
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let spec = At::of(object, "spec");
        podspec::validate_annotations(spec, At::of(object, "metadata").get("annotations"), &mut out);
        podspec::validate_pod_spec(spec, &mut out);
        update::creation(cx, object, &mut out);
        out
    }

    fn validate_update(&self, cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        match cx.subresource.as_str() {
            "ephemeralcontainers" => update::ephemeral_containers(object, old),
            "resize" => resize::validate(object, old),
            _ => update::spec(object, old),
        }
    }

    fn validate_status(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        update::status(object, old)
    }

    fn early_warnings(&self, object: &Object) -> Vec<String> {
        podspec::apparmor::warnings(At::of(object, "spec"), At::of(object, "metadata").get("annotations"))
    }

    fn warnings(&self, cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = Vec::new();
        if cx.subresource == "resize" {
            return out;
        }
        match old {
            None => {
                rules::host_name_warning(object, "the Pod's hostname", &mut out);
                out.extend(podspec::pod_warnings(&self.0, object));
            }
            Some(old) if edit::deep_equal_at(object, old, &["metadata", "annotations"]) => {}
            Some(_) => out.extend(podspec::annotation_warnings(At::of(object, "spec"), At::of(object, "metadata"))),
        }
        out
    }

    fn field_labels(&self) -> &[&'static str] {
        &[
            "spec.nodeName",
            "spec.host",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }

    fn field_sources(&self) -> &[(&'static str, &'static str)] {
        &[
            ("spec", "nodeName"),
            ("spec", "restartPolicy"),
            ("spec", "schedulerName"),
            ("spec", "serviceAccountName"),
            ("spec", "hostNetwork"),
            ("status", "phase"),
            ("status", "podIP"),
            ("status", "podIPs"),
            ("status", "nominatedNodeName"),
        ]
    }

    fn field(&self, object: &Object, label: &str) -> String {
        match label {
            "spec.host" => object.str_at(&["spec", "nodeName"]).unwrap_or_default().to_owned(),
            "spec.hostNetwork" => object.bool_at(&["spec", "hostNetwork"]).to_string(),
            "status.podIP" | "status.podIPs" => {
                let ips = object.list_at(&["status", "podIPs"]);
                let first = ips.first().and_then(|ip| ip["ip"].as_str());
                first.or_else(|| object.str_at(&["status", "podIP"])).unwrap_or_default().to_owned()
            }
            _ => {
                let path: Vec<&str> = label.split('.').collect();
                object.str_at(&path).unwrap_or_default().to_owned()
            }
        }
    }

    fn grace_period(&self, object: &Object, requested: Option<i64>) -> Option<i64> {
        let unscheduled = object.str_at(&["spec", "nodeName"]).is_none_or(str::is_empty);
        let finished = matches!(object.str_at(&["status", "phase"]), Some("Succeeded" | "Failed"));
        if unscheduled || finished {
            return Some(0);
        }
        let wanted = requested.or(object.int_at(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(0);
        Some(if wanted < 0 { 1 } else { wanted })
    }

    fn reset_fields(&self, subresource: &str) -> &[&'static [&'static str]] {
        match subresource {
            "status" => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
            "resize" => &[&["metadata"], &["spec", "resources"]],
            _ => &[],
        }
    }
}

impl TableConvertor for Pods {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        row::cells(object, now)
    }

    fn conditions(&self, object: &Object) -> Vec<Value> {
        let (reason, message) = match object.str_at(&["status", "phase"]) {
            Some("Succeeded") => ("Succeeded", "The pod has completed successfully."),
            Some("Failed") => ("Failed", "The pod failed."),
            _ => return Vec::new(),
        };
        vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
    }
}

/// The response to a Binding and an Eviction.
fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}
