//! Service: a name and an address for pods. [`linked`] keeps dependent fields consistent (`clusterIP` and `clusterIPs`, type and ports);
//! [`allocate`] takes cluster IPs from the [`addresses`] of the ServiceCIDRs and node ports from the [`pool`].

mod addresses;
mod allocate;
mod linked;
mod pool;
mod validate;

use crate::{Capabilities, Settings, address, annotations, at::At, cells, core::proxy, edit};
use addresses::Addresses;
use api::{Cause, Object, Status, names};
use jiff::Timestamp;
use pool::NodePorts;
use serde_json::{Value, json};
use server::{
    Column, Context, Objects, Reservation, Resource, Strategy, TableConvertor,
    strategy::{Allocator, Companion},
};
use std::{collections::BTreeSet, sync::Arc};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Type", "type determines how the Service is exposed."),
    Column::new("Cluster-IP", "clusterIP is the IP address of the service."),
    Column::new(
        "External-IP",
        "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.",
    ),
    Column::new("Port(s)", "The list of ports that are exposed by this service."),
    Column::age(),
    Column::new("Selector", "Route service traffic to pods with label keys and values matching this selector.").wide(),
];

pub(crate) struct Services {
    addresses: Arc<Addresses>,
    ports: Arc<NodePorts>,
    capabilities: Capabilities,
}

impl Services {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            addresses: Arc::new(Addresses::new(settings.service_cidr)),
            ports: Arc::new(NodePorts::new(settings.node_ports.clone())),
            capabilities: settings.capabilities.clone(),
        }
    }
}

/// The resource.
pub(crate) fn resource(settings: &Settings) -> Resource {
    let services = Arc::new(Services::new(settings));
    Resource::new::<Services>("", "v1", "services", "Service", services.clone())
        .short(&["svc"])
        .in_upstream_directory("services/specs")
        .category("all")
        .allocating(services)
        .with(proxy::of(proxy::Kind::Service))
        .with_status()
        .creating_on_update()
        .returning_deleted()
}

impl Strategy for Services {
    fn default(&self, object: &mut Object) {
        default_spec(edit::object(&mut object.0, "spec"));
        let virtual_ip = object.str_at(&["spec", "type"]) == Some("LoadBalancer");
        let balancer = edit::object(edit::object(&mut object.0, "status"), "loadBalancer");
        for ingress in edit::objects(balancer, "ingress").filter(|_| virtual_ip) {
            if ingress.get("ip").and_then(Value::as_str).is_some_and(|ip| !ip.is_empty()) {
                edit::fill(ingress, "ipMode", "VIP");
            }
        }
    }

    fn status_defaults_need_spec(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({"loadBalancer": {}}));
        linked::on_create(object);
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, old: &Object) {
        linked::on_update(object, old);
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1123_label(&server::context::maybe_prefix(name, prefix))
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        validate::service(object)
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        validate::update(object, old)
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        validate::status(object)
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = warnings(object);
        if old.is_none_or(|old| !edit::deep_equal_at(object, old, &["metadata", "annotations"])) {
            out.extend(annotations::of_service(object));
        }
        if old.is_none_or(|old| !edit::deep_equal_at(object, old, &["spec"])) {
            unenforced(&self.capabilities, At::of(object, "spec"), &mut out);
        }
        out
    }

    fn field_labels(&self) -> &[&'static str] {
        &["spec.clusterIP", "spec.type"]
    }
}

impl Allocator for Services {
    fn reserve(&self, cx: &Context, object: &mut Object, old: Option<&Object>) -> Result<Reservation, Status> {
        allocate::reserve(&self.addresses, &self.ports, cx, object, old)
    }

    fn leaving(&self, objects: &dyn Objects, object: &Object) -> Vec<Companion> {
        allocate::leaving(objects, object)
    }

    fn release(&self, object: &Object) {
        allocate::held(object, |ip| self.addresses.release(ip), |port| self.ports.release(port));
    }

    fn load(&self, object: &Object) {
        allocate::held(object, |ip| self.addresses.load(ip), |port| self.ports.mark(port));
    }
}

impl TableConvertor for Services {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let spec = At::of(object, "spec");
        let ip = spec.get("clusterIPs").index(0).str();
        vec![
            json!(object.name()),
            json!(spec.get("type").str()),
            json!(if ip.is_empty() { "<none>" } else { ip }),
            json!(external_ip(object)),
            json!(ports(spec)),
            cells::age(object, now),
            json!(cells::labels(object.at(&["spec", "selector"]))),
        ]
    }
}

fn default_spec(spec: &mut edit::Fields) {
    edit::drop_zero(
        spec,
        &[
            "selector",
            "ports",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "externalName",
        ],
    );
    edit::drop_zero(spec, &["externalTrafficPolicy", "healthCheckNodePort", "publishNotReadyAddresses", "ipFamilies"]);
    edit::fill_str(spec, "sessionAffinity", "None");
    edit::fill_str(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP" {
        let client = edit::object(edit::object(spec, "sessionAffinityConfig"), "clientIP");
        edit::fill(client, "timeoutSeconds", 10800);
    }
    for port in edit::objects(spec, "ports") {
        edit::drop_zero(port, &["name", "nodePort"]);
        edit::fill_str(port, "protocol", "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(Value::String(name)) => name.is_empty(),
            Some(number) => number.as_i64() == Some(0),
        };
        if let Some(number) = port.get("port").filter(|_| unset).cloned() {
            port.insert("targetPort".into(), number);
        }
    }
    if linked::externally_accessible(spec) {
        edit::fill_str(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(spec["type"].as_str(), Some("ClusterIP" | "NodePort" | "LoadBalancer")) {
        edit::fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if spec["type"] == "ExternalName" {
        // Upstream stores it and never shows it.
        spec.remove("internalTrafficPolicy");
    }
    if spec["type"] == "LoadBalancer" {
        edit::fill(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn external_ip(object: &Object) -> String {
    let spec = At::of(object, "spec");
    let given: Vec<&str> = spec.get("externalIPs").items().map(At::str).collect();
    match spec.get("type").str() {
        "ClusterIP" | "NodePort" if given.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => given.join(","),
        "LoadBalancer" => {
            let address = |i: At<'_>| {
                if i.get("ip").is_empty() { i.get("hostname").str().to_owned() } else { i.get("ip").str().to_owned() }
            };
            let found: BTreeSet<String> = At::of(object, "status")
                .down(&["loadBalancer", "ingress"])
                .items()
                .map(address)
                .filter(|a| !a.is_empty())
                .collect();
            let all: Vec<String> = found.into_iter().chain(given.iter().map(|ip| (*ip).to_owned())).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => spec.get("externalName").str().to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(spec: At<'_>) -> String {
    let shown = |port: At<'_>| {
        let number = |name: &'static str| port.get(name).int().unwrap_or(0);
        match number("nodePort") {
            0 => format!("{}/{}", number("port"), port.get("protocol").str()),
            node => format!("{}:{node}/{}", number("port"), port.get("protocol").str()),
        }
    };
    let all: Vec<String> = spec.get("ports").items().map(shown).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

fn warnings(object: &Object) -> Vec<String> {
    let mut out = Vec::new();
    let spec = At::of(object, "spec");
    if object.annotation("service.kubernetes.io/topology-aware-hints").is_some() {
        out.push("annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead".to_owned());
    }
    let check = |list: At<'_>, out: &mut Vec<String>| {
        out.extend(
            list.items()
                .filter(|ip| ip.str() != "None")
                .filter_map(|ip| address::warning(&ip.field().to_string(), ip.str())),
        );
    };
    check(spec.get("clusterIPs"), &mut out);
    let headless = spec.get("type").str() == "ClusterIP" && spec.get("clusterIP").str() == "None";
    if headless {
        if !spec.get("loadBalancerIP").is_empty() {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if !spec.get("externalIPs").is_empty() {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.get("sessionAffinity").str() != "None" {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    check(spec.get("externalIPs"), &mut out);
    let external_name = spec.get("type").str() == "ExternalName";
    if !spec.get("externalIPs").is_empty() && !headless && !external_name {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if external_name && !spec.get("externalIPs").is_empty() {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external_name && !spec.get("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.get("trafficDistribution").str() == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    out
}

/// Warnings about what a field asks for and this cluster cannot do: nothing here assigns load balancers, and a node's network may lack others
/// ([`Capabilities`]).
fn unenforced(capabilities: &Capabilities, spec: At<'_>, out: &mut Vec<String>) {
    let mut warn = capabilities.warn("service.spec", spec, usize::MAX, out);
    if spec.get("type").str() == "LoadBalancer" {
        warn.unless_honoured(
            spec.get("type"),
            "sampan assigns no load balancer yet; the Service is reachable by its node ports",
        );
    }
    for policy in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        if spec.get(policy).str() == "Local" {
            warn.unless_honoured(
                spec.get(policy),
                "not honoured by sampan yet; traffic goes to endpoints of all nodes",
            );
        }
    }
    if spec.get("trafficDistribution").is_set() {
        warn.unless_honoured(
            spec.get("trafficDistribution"),
            "not honoured by sampan yet; traffic goes to all endpoints alike",
        );
    }
    for port in spec.get("ports").items().filter(|port| port.get("protocol").str() == "SCTP") {
        warn.unless_honoured(port.get("protocol"), "sampan does not carry SCTP yet");
    }
}

#[cfg(test)]
mod tests;
