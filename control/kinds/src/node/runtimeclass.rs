//! RuntimeClass: the handler that runs a pod's containers, its overhead, and the nodes that have it.

use crate::{at::At, cells, edit, podspec, quantities, rules};
use api::{Cause, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};
use std::collections::HashSet;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Handler", "handler specifies the underlying runtime and configuration that the node will use."),
    Column::age(),
];

pub(crate) struct Classes;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", Classes)
        .cluster_scoped()
        .creating_on_update()
        .conditional_update_only()
}

impl Strategy for Classes {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn allows_any_finalizer(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        if let Some(fixed) = edit::object_if(&mut object.0, "overhead").and_then(|o| o.get_mut("podFixed")) {
            quantities::canonicalize(fixed);
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let handler = At::of(object, "handler");
        if handler.str().is_empty() {
            out.push(handler.required(""));
        } else {
            handler.invalid_all(names::dns1123_label(handler.str()), &mut out);
        }
        let overhead = At::of(object, "overhead");
        // Upstream validates it as the limits of a container, and its errors name it so.
        podspec::container_resources(overhead.get("limits").with(overhead.get("podFixed").value()), &mut out);
        let scheduling = At::of(object, "scheduling");
        rules::labels(scheduling.get("nodeSelector"), &mut out);
        let tolerations = scheduling.get("tolerations");
        podspec::tolerations(tolerations, &mut out);
        let mut seen = HashSet::new();
        for toleration in tolerations.items() {
            if !seen.insert(edit::without_empty(toleration.value())) {
                out.push(toleration.duplicate());
            }
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        At::of(object, "handler").immutable(At::of(old, "handler"), &mut out);
        out
    }
}

impl TableConvertor for Classes {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![json!(object.name()), json!(cells::text(object, &["handler"])), cells::age(object, now)]
    }
}
