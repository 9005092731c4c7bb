//! ResourceSlice: a part of a driver's pool of devices.

use super::{GROUP, device, lists, names};
use crate::{Capabilities, at::At, cells, edit, podspec};
use api::{Cause, Object, time};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor};
use std::collections::HashMap;

const KIND: &str = "ResourceSlice";

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new(
        "Node",
        "NodeName identifies the node which provides the resources in this pool. A field selector can be used to list only ResourceSlice objects belonging to a certain node.\n\nThis field can be used to limit access from nodes to ResourceSlices with the same node name. It also indicates to autoscalers that adding new nodes of the same type as some old node might also make new resources available.\n\nExactly one of NodeName, NodeSelector, AllNodes, and PerDeviceNodeSelection must be set. This field is immutable.",
    ),
    Column::new(
        "Driver",
        "Driver identifies the DRA driver providing the capacity information. A field selector can be used to list only ResourceSlice objects with a certain driver name.\n\nMust be a DNS subdomain and should end with a DNS domain owned by the vendor of the driver. It should use only lower case characters. This field is immutable.",
    ),
    Column::new(
        "Pool",
        "Name is used to identify the pool. For node-local devices, this is often the node name, but this is not required.\n\nIt must not be longer than 253 characters and must consist of one or more DNS sub-domains separated by slashes. This field is immutable.",
    ),
    Column::age(),
];

/// The most devices of a slice, and of one whose devices have taints or consume counters.
const MAX_DEVICES: usize = 128;
const MAX_ADVANCED: usize = 64;
/// The most sets of counters.
const MAX_COUNTER_SETS: usize = 8;

/// The kind.
pub(crate) struct Slices(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    Resource::new(GROUP, "v1", "resourceslices", KIND, Slices(capabilities.clone()))
        .cluster_scoped()
        .with_generation()
        .returning_deleted()
}

fn devices(object: &mut Object) -> impl Iterator<Item = &mut Value> {
    let spec = edit::object_if(&mut object.0, "spec");
    spec.and_then(|spec| spec.get_mut("devices")).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Removes alpha fields, and says since when a taint is there.
fn prepare(cx: &Context, object: &mut Object) {
    for one in devices(object) {
        device::drop_alpha(one);
        for taint in one.get_mut("taints").and_then(Value::as_array_mut).into_iter().flatten() {
            taint.as_object_mut().into_iter().for_each(|taint| edit::fill(taint, "timeAdded", time::rfc3339(cx.now)));
        }
    }
}

impl Strategy for Slices {
    fn default(&self, object: &mut Object) {
        devices(object).for_each(device::canonicalize);
        let spec = edit::object_if(&mut object.0, "spec");
        let sets = spec.and_then(|spec| spec.get_mut("sharedCounters")).and_then(Value::as_array_mut);
        sets.into_iter().flatten().for_each(device::canonicalize);
    }

    fn prepare_create(&self, cx: &Context, object: &mut Object) {
        prepare(cx, object);
    }

    fn prepare_update(&self, cx: &Context, object: &mut Object, _old: &Object) {
        prepare(cx, object);
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        if cx.operation == Operation::Update { Vec::new() } else { all(object, None) }
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        if edit::deep_equal_at(object, old, &["spec"]) { Vec::new() } else { all(object, Some(old)) }
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let driver = cells::text(object, &["spec", "driver"]);
        let mut out = Vec::new();
        if driver != driver.to_lowercase() {
            out.push(format!(
                "spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters"
            ));
        }
        out.extend(self.0.nothing_acts_on(KIND));
        out
    }

    fn field_labels(&self) -> &[&'static str] {
        &["spec.nodeName", "spec.driver"]
    }

    fn unknown_field(&self, label: &str) -> String {
        format!("field label not supported for {GROUP}/v1, Kind={KIND}: {label}")
    }
}

fn all(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
    names::driver(spec.get("driver"), &mut out);
    pool(spec.get("pool"), &mut out);
    if let Some(old) = old {
        let old = At::of(old, "spec");
        for path in [&["pool", "name"][..], &["driver"], &["nodeName"]] {
            spec.down(path).immutable(old.down(path), &mut out);
        }
    }
    nodes(spec, &mut out);
    let (list, sets, before) = (spec.get("devices"), spec.get("sharedCounters"), old.map(taints_of));
    if list.is_set() && sets.is_set() {
        out.push(Cause::invalid(&spec.field(), &json!(""), "only one of `sharedCounters` or `devices` is allowed"));
    }
    let advanced = |device: At<'_>| !device.get("taints").is_empty() || !device.get("consumesCounters").is_empty();
    let most = if list.items().any(advanced) { MAX_ADVANCED } else { MAX_DEVICES };
    let per_device = spec.get("perDeviceNodeSelection").bool();
    let check = |one: At<'_>, out: &mut Vec<Cause>| {
        let stored = before.as_ref().and_then(|before| before.get(one.get("name").str()));
        let changed = stored.is_none_or(|taints| !edit::deep_equal(taints, one.get("taints").value()));
        device::validate(one, changed, per_device, out);
    };
    lists::set(list, most, check, lists::by("name"), &mut out);
    let counters = |set: At<'_>, out: &mut Vec<Cause>| device::counters(set, "name", out);
    lists::set(sets, MAX_COUNTER_SETS, counters, lists::by("name"), &mut out);
    out
}

/// The stored taints by the name of the device, of several of the same name those of the first.
fn taints_of(old: &Object) -> HashMap<&str, &Value> {
    let devices = At::of(old, "spec").get("devices").items().rev();
    devices.map(|device| (device.get("name").str(), device.get("taints").value())).collect()
}

fn pool(pool: At<'_>, out: &mut Vec<Cause>) {
    names::pool(pool.get("name"), out);
    let (count, generation) = (pool.get("resourceSliceCount"), pool.get("generation"));
    let number = count.int().unwrap_or(0);
    if number <= 0 {
        out.push(Cause::invalid(&count.field(), &json!(number), "must be greater than zero"));
    }
    if generation.int().is_some_and(|number| number < 0) {
        out.push(generation.invalid("must be greater than or equal to zero"));
    }
}

fn nodes(spec: At<'_>, out: &mut Vec<Cause>) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut set = Vec::new();
    let (name, selector) = (spec.get("nodeName"), spec.get("nodeSelector"));
    if name.is_set() && name.is_empty() {
        out.push(name.invalid("must be either unset or set to a non-empty string"));
    } else if name.is_set() {
        set.push("`nodeName`");
        names::node(name, out);
    }
    if selector.is_set() {
        set.push("`nodeSelector`");
        podspec::node_selector(selector, out);
        let terms = selector.get("nodeSelectorTerms");
        if terms.len() != 1 {
            let shown = match terms.is_set() {
                true => terms.printed("io.k8s.api.core.v1.NodeSelectorTerm"),
                false => "null".to_owned(),
            };
            out.push(Cause::invalid_shown(&terms.field(), &shown, "must have exactly one node selector term"));
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        let flag = spec.get(field);
        if flag.bool() {
            set.push(shown);
        } else if flag.is_set() {
            out.push(flag.invalid("must be either unset or set to true"));
        }
    }
    match set.len() {
        0 => out.push(spec.required(ONE)),
        1 => {}
        _ => {
            let shown = json!(format!("{{{}}}", set.join(", ")));
            out.push(Cause::invalid(&spec.field(), &shown, &format!("{ONE}, but multiple fields are set")));
        }
    }
}

impl TableConvertor for Slices {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let text = |path: &[&str]| json!(cells::text(object, path));
        vec![
            json!(object.name()),
            text(&["spec", "nodeName"]),
            text(&["spec", "driver"]),
            text(&["spec", "pool", "name"]),
            cells::age(object, now),
        ]
    }
}
