//! Fields of a Service that depend on one another: allocated values are carried over when a client omits them, and dropped when the new
//! type does not have them, unless the client changed them as well (which validation then refuses).

use crate::edit;
use api::Object;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    object.str_at(&["spec", field]).unwrap_or_default()
}

fn list<'a>(object: &'a Object, field: &str) -> &'a [Value] {
    object.list_at(&["spec", field])
}

pub(super) fn needs_cluster_ip(object: &Object) -> bool {
    text(object, "type") != "ExternalName"
}

pub(super) fn needs_node_port(object: &Object) -> bool {
    match text(object, "type") {
        "NodePort" => true,
        "LoadBalancer" => allocates_node_ports(object),
        _ => false,
    }
}

pub(super) fn allocates_node_ports(object: &Object) -> bool {
    text(object, "type") == "NodePort"
        || object.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false))
}

/// Whether the Service needs a health check port, from which a load balancer learns which nodes have local endpoints.
pub(super) fn needs_health_check_port(object: &Object) -> bool {
    text(object, "type") == "LoadBalancer" && text(object, "externalTrafficPolicy") == "Local"
}

fn node_port(port: &Value) -> i64 {
    port["nodePort"].as_i64().unwrap_or(0)
}

pub(super) fn on_create(object: &mut Object) {
    let ip = text(object, "clusterIP").to_owned();
    if !ip.is_empty() && list(object, "clusterIPs").is_empty() {
        object.set(&["spec", "clusterIPs"], json!([ip]));
    }
}

pub(super) fn on_update(object: &mut Object, old: &Object) {
    carry_over(object, old);
    plural(object, old);
    drop_for_type(object, old);
}

fn carry_over(object: &mut Object, old: &Object) {
    if needs_cluster_ip(old) && needs_cluster_ip(object) {
        if text(object, "clusterIP").is_empty() {
            edit::keep_at(object, old, &["spec", "clusterIP"]);
        }
        if list(object, "clusterIPs").is_empty() {
            edit::keep_at(object, old, &["spec", "clusterIPs"]);
        }
    }
    if needs_node_port(old) && needs_node_port(object) {
        let ports = |object: &Object| -> BTreeSet<i64> {
            list(object, "ports").iter().map(node_port).filter(|p| *p != 0).collect()
        };
        let used: BTreeSet<i64> = ports(old).intersection(&ports(object)).copied().collect();
        let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
        let by_name: BTreeMap<String, i64> = list(old, "ports").iter().map(|p| (name(p), node_port(p))).collect();
        for port in object.entry(&["spec", "ports"]).as_array_mut().into_iter().flatten() {
            let before = by_name.get(&name(port)).copied().unwrap_or(0);
            if node_port(port) == 0 && before != 0 && !used.contains(&before) {
                port["nodePort"] = json!(before);
            }
        }
    }
    let unset = object.int_at(&["spec", "healthCheckNodePort"]).unwrap_or(0) == 0;
    if needs_health_check_port(old) && needs_health_check_port(object) && unset {
        edit::keep_at(object, old, &["spec", "healthCheckNodePort"]);
    }
}

/// Updates `clusterIPs` for a client that only knows `clusterIP`.
fn plural(object: &mut Object, old: &Object) {
    let (new_ip, old_ip) = (text(object, "clusterIP").to_owned(), text(old, "clusterIP"));
    let same = edit::deep_equal_at(object, old, &["spec", "clusterIPs"]);
    if new_ip != old_ip && same {
        if new_ip.is_empty() {
            object.remove(&["spec", "clusterIPs"]);
        } else {
            object.set(&["spec", "clusterIPs"], json!([new_ip]));
        }
    }
}

fn drop_for_type(object: &mut Object, old: &Object) {
    let same = |object: &Object, field: &str| edit::deep_equal_at(object, old, &["spec", field]);
    if needs_cluster_ip(old) && !needs_cluster_ip(object) {
        if same(object, "clusterIP") && same(object, "clusterIPs") {
            object.remove(&["spec", "clusterIP"]);
            object.remove(&["spec", "clusterIPs"]);
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if same(object, field) {
                object.remove(&["spec", field]);
            }
        }
    }
    let ports = |object: &Object| list(object, "ports").iter().map(node_port).collect::<Vec<_>>();
    if needs_node_port(old) && !needs_node_port(object) && ports(object) == ports(old) {
        for port in object.entry(&["spec", "ports"]).as_array_mut().into_iter().flatten() {
            port.as_object_mut().and_then(|port| port.remove("nodePort"));
        }
    }
    if needs_health_check_port(old) && !needs_health_check_port(object) && same(object, "healthCheckNodePort") {
        object.remove(&["spec", "healthCheckNodePort"]);
    }
    let balanced = |object: &Object| text(object, "type") == "LoadBalancer";
    if balanced(old) && !balanced(object) {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(object, field) {
                object.remove(&["spec", field]);
            }
        }
    }
    let external = |object: &Object| object.0.get("spec").and_then(Value::as_object).is_some_and(externally_accessible);
    if external(old) && !external(object) && same(object, "externalTrafficPolicy") {
        object.remove(&["spec", "externalTrafficPolicy"]);
    }
    if !balanced(object) {
        object.set(&["status", "loadBalancer"], json!({}));
    }
}

/// Whether traffic can come from outside of the cluster, so that `externalTrafficPolicy` applies.
pub(super) fn externally_accessible(spec: &edit::Fields) -> bool {
    match spec.get("type").and_then(Value::as_str) {
        Some("LoadBalancer" | "NodePort") => true,
        Some("ClusterIP") => spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}
