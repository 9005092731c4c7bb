//! Which slices a Service should have, given its pods and the slices it has. Pure.

use crate::{
    meta, pods,
    servicepods::{self, HEADLESS, TRIGGER_TIME},
};
use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The value of [`MANAGED_BY_LABEL`] for slices of this controller.
pub(crate) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// The label that names the Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Most endpoints in a slice.
const MAX_ENDPOINTS: usize = 100;

/// The writes to slices.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// New slices.
    pub create: Vec<EndpointSlice>,
    /// Changed slices.
    pub update: Vec<EndpointSlice>,
    /// Slices that are no longer needed.
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Slices hold endpoints of one address family with the same ports.
type Group = (&'static str, Vec<(String, Option<String>, Option<i32>, Option<String>)>);

/// Compares the slices with the pods. Correct slices stay untouched; slices that must change anyway are filled first, then one slice with
/// room for the rest, then new ones. `zone` returns the zone of a node.
pub(crate) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Plan {
    let trigger = servicepods::trigger_time(service, pods);
    let mut desired: BTreeMap<Group, Wanted> = BTreeMap::new();
    let families = families(service);
    for pod in pods.iter().filter(|p| servicepods::is_endpoint(p)) {
        for family in &families {
            let endpoint = endpoint(service, pod, family, zone);
            if endpoint.addresses.is_empty() {
                continue;
            }
            let ports = endpoint_ports(service, pod);
            let wanted = desired.entry(group(family, &ports)).or_insert_with(|| Wanted { ports, ..Wanted::default() });
            wanted.endpoints.insert(identity(&endpoint), endpoint);
        }
    }
    let mut by_group: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    let mut plan = Plan::default();
    for slice in existing.iter().filter(|s| s.metadata.deletion_timestamp.is_none()) {
        let family = families.iter().find(|f| **f == slice.address_type && owned(slice, service));
        match family {
            Some(f) => by_group.entry(group(f, slice.ports.as_deref().unwrap_or_default())).or_default().push(slice),
            None => plan.delete.push(slice.clone()),
        }
    }
    for (group, wanted) in desired {
        let slices = by_group.remove(&group).unwrap_or_default();
        pack(service, group.0, wanted, &slices, trigger.as_deref(), &mut plan);
    }
    let spare: Vec<&Arc<EndpointSlice>> = by_group.into_values().flatten().collect();
    placeholders(service, &families, existing, spare, trigger.as_deref(), &mut plan);
    plan
}

#[derive(Default)]
struct Wanted {
    ports: Vec<EndpointPort>,
    /// By identity, to find them in the existing slices.
    endpoints: BTreeMap<String, Endpoint>,
}

/// Distributes the endpoints of one group over its slices.
fn pack(
    service: &Service,
    family: &str,
    mut wanted: Wanted,
    slices: &[&Arc<EndpointSlice>],
    trigger: Option<&str>,
    plan: &mut Plan,
) {
    let (mut changed, mut unchanged): (Vec<EndpointSlice>, Vec<EndpointSlice>) = Default::default();
    for slice in slices {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let kept: Vec<Endpoint> = old.iter().filter_map(|e| wanted.endpoints.remove(&identity(e))).collect();
        let same = kept.len() == old.len() && kept.iter().zip(old).all(|(a, b)| alike(a, b));
        let mut copy = (***slice).clone();
        let relabelled = label(service, &mut copy);
        if kept.is_empty() && !old.is_empty() {
            plan.delete.push((*slice).clone());
        } else if same && !relabelled {
            unchanged.push(copy);
        } else {
            copy.endpoints = Some(kept);
            changed.push(copy);
        }
    }
    let mut rest: Vec<Endpoint> = wanted.endpoints.into_values().collect();
    let size = |s: &EndpointSlice| s.endpoints.as_ref().map_or(0, Vec::len);
    changed.sort_by_key(|s| std::cmp::Reverse(size(s)));
    for slice in &mut changed {
        let room = MAX_ENDPOINTS.saturating_sub(size(slice)).min(rest.len());
        slice.endpoints.get_or_insert_default().extend(rest.drain(..room));
    }
    // the fullest slice that has room for all of the rest
    let fits = |s: &&mut EndpointSlice| size(s) + rest.len() <= MAX_ENDPOINTS;
    if !rest.is_empty()
        && let Some(slice) = unchanged.iter_mut().filter(fits).max_by_key(|s| size(s))
    {
        slice.endpoints.get_or_insert_default().append(&mut rest);
        changed.push(slice.clone());
    }
    for slice in &mut changed {
        stamp(&mut slice.metadata, trigger);
    }
    plan.update.append(&mut changed);
    while !rest.is_empty() {
        let mut slice = new_slice(service, family, &wanted.ports);
        slice.endpoints = Some(rest.drain(..rest.len().min(MAX_ENDPOINTS)).collect());
        stamp(&mut slice.metadata, trigger);
        plan.create.push(slice);
    }
}

/// One empty slice per address family for a Service without endpoints, so that readers can distinguish "none" from "not reconciled yet".
fn placeholders(
    service: &Service,
    families: &[&'static str],
    existing: &[Arc<EndpointSlice>],
    spare: Vec<&Arc<EndpointSlice>>,
    trigger: Option<&str>,
    plan: &mut Plan,
) {
    let is_empty = |s: &EndpointSlice| {
        s.endpoints.as_ref().is_none_or(Vec::is_empty) && s.ports.as_ref().is_none_or(Vec::is_empty)
    };
    let mut keep: BTreeSet<&str> = BTreeSet::new();
    for family in families {
        let of_family = |s: &EndpointSlice| s.address_type == *family;
        let dropped = |s: &EndpointSlice| plan.delete.iter().any(|d| d.metadata.uid == s.metadata.uid);
        let in_use = plan.create.iter().chain(&plan.update).any(of_family)
            || existing
                .iter()
                .any(|s| of_family(s) && !dropped(s) && !spare.iter().any(|p| p.metadata.uid == s.metadata.uid));
        if in_use {
            continue;
        }
        match spare.iter().find(|s| of_family(s) && is_empty(s)) {
            Some(slice) => {
                keep.insert(meta::uid(&slice.metadata));
                let mut copy = (***slice).clone();
                if label(service, &mut copy) {
                    plan.update.push(copy);
                }
            }
            None => {
                let mut slice = new_slice(service, family, &[]);
                stamp(&mut slice.metadata, trigger);
                plan.create.push(slice);
            }
        }
    }
    let unused = spare.iter().filter(|s| !keep.contains(meta::uid(&s.metadata)));
    plan.delete.extend(unused.map(|s| (*s).clone()));
}

fn owned(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.iter().flatten();
    owners.clone().next().is_none() || owners.clone().any(|o| Some(&o.uid) == service.metadata.uid.as_ref())
}

fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|s| s.ip_families.as_deref()).unwrap_or_default();
    let named = |f: &str| match f {
        "IPv4" => Some("IPv4"),
        "IPv6" => Some("IPv6"),
        _ => None,
    };
    let families: Vec<_> = listed.iter().filter_map(|f| named(f)).collect();
    if !families.is_empty() {
        return families;
    }
    match spec.and_then(|s| s.cluster_ip.as_deref()) {
        Some(ip) if ip.contains(':') => vec!["IPv6"],
        _ => vec!["IPv4"],
    }
}

fn endpoint(service: &Service, pod: &Pod, family: &str, zone: &dyn Fn(&str) -> Option<String>) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let addresses = servicepods::addresses(pod).into_iter().filter(|a| a.contains(':') == (family == "IPv6"));
    let node = Some(pods::node_name(pod)).filter(|n| !n.is_empty());
    Endpoint {
        addresses: addresses.map(str::to_owned).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(servicepods::publishes_unready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone: node.and_then(zone),
        node_name: node.map(str::to_owned),
        hostname: servicepods::hostname(pod, service),
        ..Endpoint::default()
    }
}

fn endpoint_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = servicepods::ports(service).iter();
    ports
        .filter_map(|p| {
            Some(EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(servicepods::find_port(pod, p)?),
                protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect()
}

fn group(family: &'static str, ports: &[EndpointPort]) -> Group {
    let one =
        |p: &EndpointPort| (p.name.clone().unwrap_or_default(), p.protocol.clone(), p.port, p.app_protocol.clone());
    let mut ports: Vec<_> = ports.iter().map(one).collect();
    ports.sort();
    (family, ports)
}

/// The identity of an endpoint across slices.
fn identity(e: &Endpoint) -> String {
    let uid = e.target_ref.as_ref().and_then(|r| r.uid.as_deref()).unwrap_or("");
    format!("{uid} {}", e.addresses.join(","))
}

fn alike(a: &Endpoint, b: &Endpoint) -> bool {
    let json = |e: &Endpoint| serde_json::to_value(e).expect("an endpoint is JSON");
    a == b || meta::same(&json(a), &json(b))
}

/// Sets the labels of the Service and the reserved ones on the slice; returns whether that changed anything.
fn label(service: &Service, slice: &mut EndpointSlice) -> bool {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if servicepods::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), meta::name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let changed = slice.metadata.labels.as_ref() != Some(&labels);
    slice.metadata.labels = Some(labels);
    changed
}

fn stamp(meta: &mut ObjectMeta, trigger: Option<&str>) {
    if let Some(trigger) = trigger {
        meta.annotations.get_or_insert_default().insert(TRIGGER_TIME.to_owned(), trigger.to_owned());
    }
}

fn new_slice(service: &Service, family: &str, ports: &[EndpointPort]) -> EndpointSlice {
    let name = meta::name(&service.metadata);
    let mut slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(if name.len() < 253 { format!("{name}-") } else { name.to_owned() }),
            namespace: service.metadata.namespace.clone(),
            owner_references: Some(vec![meta::controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: (!ports.is_empty()).then(|| ports.to_vec()),
    };
    label(service, &mut slice);
    slice
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(more: Value) -> Service {
        let mut value = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"team": "x"}},
            "spec": {"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
                     "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}});
        for (k, v) in more.as_object().into_iter().flatten() {
            value["spec"][k] = v.clone();
        }
        serde_json::from_value(value).expect("a Service")
    }

    fn pod(i: usize, ready: bool, more: Value) -> Arc<Pod> {
        let name = format!("p{i:03}");
        let mut value = json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", i / 200, i % 200 + 1),
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        for (k, v) in more.as_object().into_iter().flatten() {
            for (k2, v2) in v.as_object().into_iter().flatten() {
                value[k][k2] = v2.clone();
            }
        }
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    fn pods(n: usize) -> Vec<Arc<Pod>> {
        (0..n).map(|i| pod(i, true, json!({}))).collect()
    }

    fn run(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Plan {
        plan(service, pods, existing, &|node| (node == "n1").then(|| "z1".to_owned()))
    }

    /// As the server would have stored them.
    fn stored(plan: &Plan) -> Vec<Arc<EndpointSlice>> {
        let named = |(i, s): (usize, &EndpointSlice)| {
            let mut s = s.clone();
            s.metadata.name = Some(format!("web-{i}"));
            s.metadata.uid = Some(format!("slice-{i}"));
            Arc::new(s)
        };
        plan.create.iter().enumerate().map(named).collect()
    }

    fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
        slices.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect()
    }

    #[test]
    fn a_slice_looks_like_upstreams() {
        let p = run(&service(json!({})), &pods(1), &[]);
        assert_eq!(
            serde_json::to_value(&p.create[0]).expect("JSON"),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"generateName": "web-", "namespace": "ns",
                    "labels": {"team": "x", SERVICE_NAME: "web", MANAGED_BY_LABEL: MANAGED_BY},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s",
                        "controller": true, "blockOwnerDeletion": true}]},
                "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "n1", "zone": "z1",
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p000", "uid": "p000"}}],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            })
        );
    }

    #[test]
    fn what_is_right_is_left_alone() {
        let s = service(json!({}));
        for n in [0, 1, 100, 250] {
            let existing = stored(&run(&s, &pods(n), &[]));
            assert_eq!(run(&s, &pods(n), &existing), Plan::default(), "{n}");
        }
    }

    #[test]
    fn slices_hold_a_hundred_endpoints_at_most() {
        let s = service(json!({}));
        assert_eq!(sizes(&run(&s, &pods(250), &[]).create), [100, 100, 50]);
        let existing = stored(&run(&s, &pods(250), &[]));
        let grown = run(&s, &pods(260), &existing);
        assert_eq!((sizes(&grown.update), grown.create.len()), (vec![60], 0), "the one with room is filled");
        let grown = run(&s, &pods(310), &existing);
        assert_eq!((grown.update.len(), sizes(&grown.create)), (0, vec![60]), "no room for all: a new one");
    }

    #[test]
    fn conditions_tell_ready_serving_and_terminating() {
        let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        for (publish, ready, more, expected) in [
            (false, true, json!({}), (true, true, false)),
            (false, false, json!({}), (false, false, false)),
            (false, true, deleting.clone(), (false, true, true)),
            (true, false, json!({}), (true, false, false)),
            (true, false, deleting, (true, false, true)),
        ] {
            let p = run(&service(json!({"publishNotReadyAddresses": publish})), &[pod(1, ready, more)], &[]);
            let c = p.create[0].endpoints.as_ref().expect("endpoints")[0].conditions.clone().expect("conditions");
            assert_eq!((c.ready, c.serving, c.terminating), (Some(expected.0), Some(expected.1), Some(expected.2)));
        }
    }

    #[test]
    fn finished_pods_and_pods_without_address_are_no_endpoints() {
        let finished = pod(1, true, json!({"status": {"phase": "Succeeded"}}));
        let homeless = pod(2, true, json!({"status": {"podIP": null}}));
        let p = run(&service(json!({})), &[finished, homeless], &[]);
        assert_eq!(sizes(&p.create), [0], "an empty placeholder");
        assert_eq!(p.create[0].ports, None);
    }

    #[test]
    fn the_placeholder_makes_way_for_endpoints_and_comes_back() {
        let s = service(json!({}));
        let placeholder = stored(&run(&s, &[], &[]));
        let p = run(&s, &pods(1), &placeholder);
        assert_eq!((sizes(&p.create), p.delete.len()), (vec![1], 1));
        let full = stored(&p);
        let p = run(&s, &[], &full);
        assert_eq!((sizes(&p.create), p.update.len(), p.delete.len()), (vec![0], 0, 1));
    }

    #[test]
    fn pods_with_another_port_number_get_their_own_slice() {
        let mut other = (*pod(2, true, json!({}))).clone();
        other.spec.as_mut().expect("a spec").containers[0].ports.as_mut().expect("ports")[0].container_port = 9090;
        let p = run(&service(json!({})), &[pod(1, true, json!({})), Arc::new(other)], &[]);
        assert_eq!(sizes(&p.create), [1, 1]);
    }

    #[test]
    fn headless_services_are_labelled_and_name_their_pods() {
        let s = service(json!({"clusterIP": "None", "ports": null}));
        let p = run(&s, &[pod(1, true, json!({"spec": {"hostname": "h", "subdomain": "web"}}))], &[]);
        assert_eq!(p.create[0].metadata.labels.as_ref().expect("labels")[HEADLESS], "");
        assert_eq!(p.create[0].endpoints.as_ref().expect("endpoints")[0].hostname.as_deref(), Some("h"));
    }

    #[test]
    fn a_change_of_readiness_updates_the_slice_in_place() {
        let s = service(json!({}));
        let existing = stored(&run(&s, &pods(3), &[]));
        let mut changed = pods(3);
        changed[1] = pod(
            1,
            false,
            json!({"status": {"conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:05Z"}]}}),
        );
        let p = run(&s, &changed, &existing);
        assert_eq!((p.create.len(), sizes(&p.update), p.delete.len()), (0, vec![3], 0));
        assert_eq!(
            p.update[0].metadata.annotations.as_ref().expect("annotations")[TRIGGER_TIME],
            "2026-01-01T00:00:05Z"
        );
    }
}
