//! Node: a machine (or this process) that runs pods. A create may set the status.

use crate::{address, at::At, cells, core::proxy, edit, podspec, quantities, rules};
use api::{Cause, CauseKind, FieldPath, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};
use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashSet},
};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Status", "The status of the node"),
    Column::new("Roles", "The roles of the node"),
    Column::age(),
    Column::new("Version", "Kubelet Version reported by the node."),
    Column::new("Internal-IP", "List of addresses reachable to the node.").wide(),
    Column::new("External-IP", "List of addresses reachable to the node.").wide(),
    Column::new("OS-Image", "OS Image reported by the node.").wide(),
    Column::new("Kernel-Version", "Kernel Version reported by the node.").wide(),
    Column::new("Container-Runtime", "ContainerRuntime Version reported by the node.").wide(),
];

pub(crate) struct Nodes;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("", "v1", "nodes", "Node", Nodes)
        .short(&["no"])
        .in_upstream_directory("minions")
        .cluster_scoped()
        .with(proxy::of(proxy::Kind::Node))
        .with_status()
}

impl Strategy for Nodes {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        cidrs(spec);
        let status = edit::object(&mut object.0, "status");
        for list in ["capacity", "allocatable"] {
            if let Some(value) = status.get_mut(list) {
                quantities::canonicalize(value);
            }
        }
        if let Some(capacity) = status.get("capacity").filter(|c| !c.is_null()).cloned() {
            edit::fill(status, "allocatable", capacity);
        }
    }

    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.remove(&["spec", "configSource"]);
        object.remove(&["status", "config"]);
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, old: &Object) {
        if old.at(&["spec", "configSource"]).is_none() {
            object.remove(&["spec", "configSource"]);
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let (spec, status) = (At::of(object, "spec"), At::of(object, "status"));
        taints(spec.get("taints"), &mut out);
        resources(status, &mut out);
        if let Some(capacity) = status.down(&["nodeInfo", "swap", "capacity"]).int().filter(|capacity| *capacity <= 0) {
            let place = FieldPath::new("metadata").child("nodeSwapStatus").child("capacity");
            out.push(Cause::invalid(&place, &json!(capacity), "must be greater than zero"));
        }
        declared_features(status.get("declaredFeatures"), &mut out);
        let ranges = spec.get("podCIDRs");
        for range in ranges.items() {
            if let Some(problem) = address::cidr_problem(range.str()) {
                out.push(range.invalid(problem));
            }
        }
        let of_v4 = ranges.items().filter(|r| r.str().contains('.')).count();
        if of_v4 > 1 || ranges.len() - of_v4 > 1 {
            out.push(ranges.invalid("may specify no more than one CIDR for each IP family"));
        }
        out
    }

    fn validate_update(&self, cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = self.validate_status(cx, object, old);
        let (spec, before) = (At::of(object, "spec"), At::of(old, "spec"));
        if !before.get("podCIDRs").is_empty()
            && !edit::deep_equal(spec.get("podCIDRs").value(), before.get("podCIDRs").value())
        {
            out.push(spec.get("podCIDRs").forbidden("node updates may not change podCIDR except from \"\" to valid"));
        }
        if !before.get("providerID").is_empty() && spec.get("providerID").str() != before.get("providerID").str() {
            out.push(
                spec.get("providerID").forbidden("node updates may not change providerID except from \"\" to valid"),
            );
        }
        // Upstream validates them twice.
        taints(spec.get("taints"), &mut out);
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let status = At::of(object, "status");
        resources(status, &mut out);
        declared_features(status.get("declaredFeatures"), &mut out);
        addresses(status, &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut out = Vec::new();
        if object.at(&["spec", "configSource"]).is_some_and(|v| !v.is_null()) {
            out.push("spec.configSource: the feature is removed".to_owned());
        }
        if object.str_at(&["spec", "externalID"]).is_some_and(|v| !v.is_empty()) {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        out
    }

    fn field_labels(&self) -> &[&'static str] {
        &["spec.unschedulable"]
    }

    fn field(&self, object: &Object, _label: &str) -> String {
        object.bool_at(&["spec", "unschedulable"]).to_string()
    }
}

impl TableConvertor for Nodes {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let info = |name: &str| cells::text(object, &["status", "nodeInfo", name]);
        let or_unknown = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
        let mut kernel = or_unknown(info("kernelVersion"));
        if !info("architecture").is_empty() {
            kernel = format!("{kernel} ({})", info("architecture"));
        }
        vec![
            json!(object.name()),
            json!(status_text(object)),
            json!(roles(object)),
            cells::age(object, now),
            json!(info("kubeletVersion")),
            json!(first_address(object, "InternalIP")),
            json!(first_address(object, "ExternalIP")),
            json!(or_unknown(info("osImage"))),
            json!(kernel),
            json!(or_unknown(info("containerRuntimeVersion"))),
        ]
    }
}

/// Aligns `podCIDR` and `podCIDRs`: `podCIDR` is the first of `podCIDRs`; where they differ, `podCIDR` alone counts.
fn cidrs(spec: &mut edit::Fields) {
    let one = spec.get("podCIDR").cloned();
    let many = spec.get("podCIDRs").and_then(Value::as_array).cloned();
    match (one, many) {
        (Some(one), None) => drop(spec.insert("podCIDRs".into(), json!([one]))),
        (Some(one), Some(many)) if many.first() != Some(&one) => drop(spec.insert("podCIDRs".into(), json!([one]))),
        (None, Some(many)) if !many.is_empty() => drop(spec.insert("podCIDR".into(), many[0].clone())),
        _ => {}
    }
}

fn status_text(object: &Object) -> String {
    let ready = object.list_at(&["status", "conditions"]).iter().rev().find(|c| c["type"] == "Ready");
    let mut text = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object.bool_at(&["spec", "unschedulable"]) {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(object: &Object) -> String {
    let role = |(key, value): (&str, &str)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) if !role.is_empty() => Some(role.to_owned()),
        _ if key == "kubernetes.io/role" && !value.is_empty() => Some(value.to_owned()),
        _ => None,
    };
    let roles: BTreeSet<String> = object.labels().filter_map(role).collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn first_address<'a>(object: &'a Object, kind: &str) -> &'a str {
    let all = object.list_at(&["status", "addresses"]);
    all.iter().find(|a| a["type"] == kind).and_then(|a| a["address"].as_str()).unwrap_or("<none>")
}

fn taints(taints: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for (i, taint) in taints.items().enumerate() {
        // Upstream's errors name these fields below metadata, for historical reasons.
        let place = FieldPath::new("metadata.taints").index(i);
        let at = |name: &'static str| (place.child(name), taint.get(name));
        let (field, key) = at("key");
        out.extend(names::qualified_name(key.str()).iter().map(|text| Cause::invalid(&field, &json!(key.str()), text)));
        let (field, value) = at("value");
        let problems = names::label_value(value.str());
        if !problems.is_empty() {
            out.push(Cause::invalid(&field, value.value(), &problems.join(";")));
        }
        let (field, effect) = at("effect");
        match effect.str() {
            "" => out.push(Cause::required(&field, "")),
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            _ => out.push(Cause::not_supported(&field, effect.value(), podspec::TAINT_EFFECTS)),
        }
        if !seen.insert((key.str(), effect.str())) {
            let shown = taint.printed("io.k8s.api.core.v1.Taint");
            let rule = "taints must be unique by key and effect pair";
            out.push(Cause::shown(CauseKind::Duplicate, &place, &shown, rule));
        }
    }
}

fn resources(status: At<'_>, out: &mut Vec<Cause>) {
    for list in ["capacity", "allocatable"] {
        for (name, quantity) in status.get(list).entries() {
            let place = FieldPath::new("status").child(list).child(name);
            let mut causes = Vec::new();
            // Their names are not checked upstream either.
            rules::quantity_not_negative(quantity, &mut causes);
            podspec::whole_number(quantity, name, &mut causes);
            out.extend(causes.into_iter().map(|cause| Cause { field: place.clone(), ..cause }));
        }
    }
}

/// The declared features of a node: sorted and unique (KEP-5328).
fn declared_features(features: At<'_>, out: &mut Vec<Cause>) {
    const MAX_LENGTH: usize = 253;
    let mut before: Option<&str> = None;
    for feature in features.items() {
        let name = feature.str();
        // Upstream reports of each pair first the errors of the former, then those of the order.
        let order = before.map(|before| before.cmp(name));
        match order {
            Some(Ordering::Equal) => out.push(feature.duplicate()),
            Some(Ordering::Greater) => out.push(feature.invalid("list must be sorted alphabetically")),
            _ => {}
        }
        if name.len() > MAX_LENGTH {
            let why = format!("invalid feature name {name:?}: must be no more than {MAX_LENGTH} characters");
            out.push(feature.invalid(&why));
        } else if !is_feature(name) {
            out.push(feature.invalid(&format!(
                "invalid feature name {name:?}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
            )));
        }
        before = Some(name);
    }
}

/// `MyFeature/mySubFeature`.
fn is_feature(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.split('/').all(|segment| {
            segment.starts_with(|c: char| c.is_ascii_alphabetic()) && segment.bytes().all(|b| b.is_ascii_alphanumeric())
        })
}

fn addresses(status: At<'_>, out: &mut Vec<Cause>) {
    let all = status.get("addresses");
    let mut seen = HashSet::new();
    for address in all.items() {
        if !seen.insert(edit::without_empty(address.value())) {
            let shown = address.printed("io.k8s.api.core.v1.NodeAddress");
            out.push(Cause::shown(CauseKind::Duplicate, &address.field(), &shown, ""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{errors, row};
    use expect_test::expect;

    #[test]
    fn rows_show_readiness_roles_and_versions() {
        let text = "
metadata: {name: n1, creationTimestamp: '2026-01-01T00:00:00Z', labels: {node-role.kubernetes.io/control-plane: '', kubernetes.io/role: edge}}
spec: {unschedulable: true}
status:
  conditions: [{type: Ready, status: 'True'}]
  addresses: [{type: InternalIP, address: 10.0.0.1}]
  nodeInfo: {kubeletVersion: v1.36.0, kernelVersion: '6.1', architecture: amd64}
";
        assert_eq!(
            row(&Nodes, text),
            "n1 | Ready,SchedulingDisabled | control-plane,edge | 60s | v1.36.0 | 10.0.0.1 | <none> | <unknown> | 6.1 (amd64) | <unknown>"
        );
        assert_eq!(
            row(&Nodes, "metadata: {name: n2}"),
            "n2 | Unknown | <none> | <unknown> |  | <none> | <none> | <unknown> | <unknown> | <unknown>"
        );
    }

    #[test]
    fn declared_features_are_sorted_and_named_like_features() {
        let text = "
metadata: {name: n1}
spec: {}
status:
  declaredFeatures: [Good/part, Good/part, A, lower, Bad-name]
  nodeInfo: {swap: {capacity: 0}}
";
        let form = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
        let wanted = format!(
            "metadata.nodeSwapStatus.capacity: Invalid value: 0: must be greater than zero
status.declaredFeatures[1]: Duplicate value: \"Good/part\"
status.declaredFeatures[2]: Invalid value: \"A\": list must be sorted alphabetically
status.declaredFeatures[3]: Invalid value: \"lower\": invalid feature name \"lower\": {form}
status.declaredFeatures[4]: Invalid value: \"Bad-name\": list must be sorted alphabetically
status.declaredFeatures[4]: Invalid value: \"Bad-name\": invalid feature name \"Bad-name\": {form}
"
        );
        assert_eq!(errors(&Nodes, text), wanted);
    }

    #[test]
    fn taints_are_unique_and_well_formed() {
        let text = "
metadata: {name: n1}
spec: {taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoSchedule}, {key: 'b c', effect: Never}]}
status: {capacity: {cpu: '-1'}}
";
        expect![[r#"
            metadata.taints[1]: Duplicate value: {"Key":"a","Value":"","Effect":"NoSchedule","TimeAdded":null}: taints must be unique by key and effect pair
            metadata.taints[2].key: Invalid value: "b c": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            metadata.taints[2].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0
            status.allocatable.cpu: Invalid value: "-1": must be greater than or equal to 0
        "#]]
        .assert_eq(&errors(&Nodes, text));
    }
}
