//! Validation of Services and of their updates.

use super::linked::{externally_accessible, needs_health_check_port};
use crate::{address, at::At, rules};
use api::{Cause, CauseKind, FieldPath, Object, names};
use serde_json::json;
use std::collections::HashSet;

fn is_headless(spec: At<'_>) -> bool {
    spec.get("clusterIPs").len() == 1 && spec.get("clusterIPs").index(0).str() == "None"
}

pub(super) fn service(object: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    let spec = At::of(object, "spec");
    let kind = spec.get("type").str();
    topology(object, &mut out);
    let ports = spec.get("ports");
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        out.push(ports.required(""));
    }
    of_type(spec, kind, &mut out);
    port_list(ports, &mut out);
    rules::labels(spec.get("selector"), &mut out);
    affinity(spec, &mut out);
    out.extend(cluster_ips(object, None));
    for ip in spec.get("externalIPs").items() {
        if let Some(parsed) = address::valid(ip, &mut out) {
            address::endpoint(ip, parsed, &mut out);
        }
    }
    spec.get("type").one_of(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &mut out);
    node_ports(ports, kind, &mut out);
    balancer(object, spec, kind, &mut out);
    traffic(object, spec, &mut out);
    out
}

fn topology(object: &Object, out: &mut Vec<Cause>) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    if let (Some(hints), Some(mode)) = (object.annotation(HINTS), object.annotation(MODE))
        && hints != mode
    {
        let text = format!("must match annotations[{HINTS}] when both are specified");
        out.push(Cause::invalid(&FieldPath::new("metadata.annotations").key(MODE), &json!(mode), &text));
    }
}

fn of_type(spec: At<'_>, kind: &str, out: &mut Vec<Cause>) {
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let text = format!("may not be set to 'None' for {kind} services");
            out.push(spec.get("clusterIPs").index(0).invalid(&text));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !spec.get(field).is_empty() {
                    out.push(spec.get(field).forbidden("may not be set for ExternalName services"));
                }
            }
            let name = spec.get("externalName");
            match name.str().strip_suffix('.').unwrap_or(name.str()) {
                "" => out.push(name.required("")),
                host => {
                    let value = json!(host);
                    out.extend(
                        names::dns1123_subdomain(host).iter().map(|text| Cause::invalid(&name.field(), &value, text)),
                    );
                }
            }
        }
        _ => {}
    }
}

fn port_list(ports: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if name.is_empty() {
            if ports.len() > 1 {
                out.push(name.required(""));
            }
        } else {
            rules::label_name(name, out);
            if !seen.insert(name.str()) {
                out.push(name.duplicate());
            }
        }
        rules::port_number(port.get("port"), out);
        port.get("protocol").one_of(rules::PROTOCOLS, out);
        rules::port_number_or_name(port.get("targetPort"), out);
        if port.get("appProtocol").is_set() {
            rules::qualified(port.get("appProtocol"), out);
        }
    }
}

fn affinity(spec: At<'_>, out: &mut Vec<Cause>) {
    const MAX: i64 = 86400;
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    affinity.one_of(&["ClientIP", "None"], out);
    match affinity.str() {
        "ClientIP" => {
            let timeout = config.down(&["clientIP", "timeoutSeconds"]);
            match timeout.int() {
                None => out.push(timeout.required("when session affinity type is ClientIP")),
                Some(n) if n <= 0 || n > MAX => {
                    out.push(timeout.invalid(&format!("must be greater than 0 and less than {MAX}")));
                }
                Some(_) => {}
            }
        }
        "None" if config.is_set() => out.push(config.forbidden("must not be set when session affinity is None")),
        _ => {}
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` together. Values of the old object need not be valid addresses.
pub(super) fn cluster_ips(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut out = Vec::new();
    let spec = At::of(object, "spec");
    if spec.get("type").str() == "ExternalName" {
        return out;
    }
    let (one, all) = (spec.get("clusterIP"), spec.get("clusterIPs"));
    match (one.is_empty(), all.is_empty()) {
        (false, true) => out.push(all.required("")),
        (false, false) if all.index(0).str() != one.str() => {
            out.push(all.invalid("first value must match `clusterIP`"))
        }
        (true, false) => out.push(all.invalid("must be empty when `clusterIP` is not specified")),
        _ => {}
    }
    let families = spec.get("ipFamilies");
    ip_families(families, spec.get("ipFamilyPolicy"), &mut out);
    let mut parsed = Vec::new();
    let before = out.len();
    for (i, ip) in all.items().enumerate() {
        if i == 0 && ip.str() == "None" {
            if all.len() > 1 {
                out.push(all.invalid("'None' must be the first and only value"));
            }
            continue;
        }
        let known = out.len();
        parsed.extend(address::valid(ip, &mut out));
        if old.is_some_and(|old| old.list_at(&["spec", "clusterIPs"]).contains(ip.value())) {
            out.truncate(known);
        }
    }
    let bad = out.len() > before;
    if all.len() > 2 {
        out.push(all.invalid("may only hold up to 2 values"));
    }
    if bad {
        return out;
    }
    if all.len() > 1 && !(parsed.len() == 2 && parsed[0].is_ipv4() != parsed[1].is_ipv4()) {
        out.push(all.invalid("may specify no more than one IP for each IP family"));
    }
    for (i, (ip, family)) in parsed.iter().zip(families.items()).enumerate() {
        let wanted = family.str();
        if matches!(wanted, "IPv4" | "IPv6") && ip.is_ipv4() != (wanted == "IPv4") {
            out.push(all.index(i).invalid(&format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`")));
        }
    }
    out
}

fn ip_families(families: At<'_>, policy: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for family in families.items() {
        if !matches!(family.str(), "IPv4" | "IPv6") {
            out.push(family.not_supported(&["IPv4", "IPv6"]));
        }
        if !seen.insert(family.str()) {
            out.push(family.duplicate());
        }
    }
    const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    if policy.is_set() && !POLICIES.contains(&policy.str()) {
        out.push(policy.not_supported(POLICIES));
    }
}

fn node_ports(ports: At<'_>, kind: &str, out: &mut Vec<Cause>) {
    let number = |port: At<'_>, name: &'static str| port.get(name).int().unwrap_or(0);
    if kind == "ClusterIP" {
        for port in ports.items().filter(|port| number(*port, "nodePort") != 0) {
            out.push(port.get("nodePort").forbidden("may not be used when `type` is 'ClusterIP'"));
        }
    }
    for name in ["nodePort", "port"] {
        let mut seen = HashSet::new();
        for port in ports.items() {
            let value = number(port, name);
            let first = seen.insert((value, port.get("protocol").str()));
            if (name == "nodePort" && value == 0) || first {
                continue;
            }
            if name == "nodePort" {
                out.push(port.get(name).duplicate());
            } else {
                let shown = format!(
                    "{{\"Name\":\"\",\"Protocol\":{:?},\"AppProtocol\":null,\"Port\":{value},\"TargetPort\":0,\"NodePort\":0}}",
                    port.get("protocol").str()
                );
                out.push(Cause::shown(CauseKind::Duplicate, &port.field(), &shown, ""));
            }
        }
    }
}

const FOR_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";

fn balancer(object: &Object, spec: At<'_>, kind: &str, out: &mut Vec<Cause>) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let balanced = kind == "LoadBalancer";
    let ranges = spec.get("loadBalancerSourceRanges");
    // Upstream's errors spell this field with a capital.
    let place = FieldPath::new("spec.LoadBalancerSourceRanges");
    if !ranges.is_empty() {
        if !balanced {
            out.push(Cause::forbidden(&place, FOR_BALANCERS));
        }
        for (i, range) in ranges.items().map(|range| range.str().trim()).enumerate() {
            let problem = address::cidr_problem(range);
            out.extend(problem.map(|text| Cause::invalid(&place.index(i), &json!(range), text)));
        }
    } else if let Some(text) = object.annotation(ANNOTATION) {
        let place = FieldPath::new("metadata.annotations").key(ANNOTATION);
        if !balanced {
            out.push(Cause::forbidden(&place, FOR_BALANCERS));
        }
        for range in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            out.extend(address::cidr_problem(range).map(|text| Cause::invalid(&place, &json!(range), text)));
        }
    }
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if allocate.is_set() && !balanced {
        out.push(allocate.forbidden(FOR_BALANCERS));
    }
    if balanced && !allocate.is_set() {
        out.push(Cause::required(&FieldPath::new("allocateLoadBalancerNodePorts"), ""));
    }
    let class = spec.get("loadBalancerClass");
    if class.is_set() {
        if balanced { rules::qualified(class, out) } else { out.push(class.forbidden(FOR_BALANCERS)) }
    }
}

fn traffic(object: &Object, spec: At<'_>, out: &mut Vec<Cause>) {
    let external = spec.get("externalTrafficPolicy");
    if spec.value().as_object().is_some_and(externally_accessible) {
        external.one_of(&["Cluster", "Local"], out);
    } else if !external.is_empty() {
        out.push(external.invalid("may only be set for externally-accessible services"));
    }
    let check = spec.get("healthCheckNodePort");
    let number = check.int().unwrap_or(0);
    if needs_health_check_port(object) {
        if number == 0 {
            out.push(check.required(""));
        } else {
            rules::port_number(check, out);
        }
    } else if number != 0 {
        out.push(check.invalid("may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"));
    }
    let internal = spec.get("internalTrafficPolicy");
    if internal.is_set() && !matches!(internal.str(), "Cluster" | "Local") {
        out.push(internal.not_supported(&["Cluster", "Local"]));
    }
    let distribution = spec.get("trafficDistribution");
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    if distribution.is_set() && !DISTRIBUTIONS.contains(&distribution.str()) {
        out.push(distribution.not_supported(DISTRIBUTIONS));
    }
}

pub(super) fn update(object: &Object, old: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    let (spec, before) = (At::of(object, "spec"), At::of(old, "spec"));
    let kind = |spec: At<'_>| spec.get("type").str().to_owned();
    let named = kind(spec) == "ExternalName" || kind(before) == "ExternalName";
    if !named {
        changed_ips(spec, before, &mut out);
        if !is_headless(spec) && !is_headless(before) {
            let (new, old) = (spec.get("ipFamilies"), before.get("ipFamilies"));
            for (i, family) in old.items().enumerate() {
                if new.index(i).str() != family.str() && i < new.len() {
                    out.push(Cause::invalid(&new.field().index(0), new.value(), "may not change once set"));
                }
            }
        }
    }
    if kind(spec) == "LoadBalancer" && kind(before) == "LoadBalancer" {
        let (new, old) = (spec.get("loadBalancerClass"), before.get("loadBalancerClass"));
        if new.value() != old.value() {
            out.push(new.invalid("may not change once set"));
        }
    }
    let check = |spec: At<'_>| spec.get("healthCheckNodePort").int();
    if needs_health_check_port(object) && needs_health_check_port(old) && check(spec) != check(before) {
        out.push(spec.get("healthCheckNodePort").forbidden("field is immutable"));
    }
    out
}

fn changed_ips(spec: At<'_>, before: At<'_>, out: &mut Vec<Cause>) {
    let (new, old) = (spec.get("clusterIPs"), before.get("clusterIPs"));
    if is_headless(spec) && is_headless(before) {
        return;
    }
    let at = |i: usize, text: &str| Cause::invalid(&new.field().index(i), new.value(), text);
    if !old.is_empty() && new.is_empty() {
        out.push(at(0, "primary clusterIP can not be unset"));
        return;
    }
    for (i, (ip, was)) in new.items().zip(old.items()).enumerate() {
        if ip.str() != was.str() {
            out.push(at(i, "may not change once set"));
        }
    }
    if old.len() > new.len() && spec.get("ipFamilyPolicy").str() != "SingleStack" {
        let text = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        out.push(spec.get("ipFamilyPolicy").invalid(text));
    }
}

pub(super) fn status(object: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    let ingress = At::of(object, "status").down(&["loadBalancer", "ingress"]);
    if object.str_at(&["spec", "type"]) != Some("LoadBalancer") {
        if !ingress.is_empty() {
            out.push(ingress.forbidden("may only be used when `spec.type` is 'LoadBalancer'"));
        }
        return out;
    }
    for entry in ingress.items() {
        let (ip, mode, host) = (entry.get("ip"), entry.get("ipMode"), entry.get("hostname"));
        if !ip.is_empty() {
            address::valid(ip, &mut out);
        }
        match (mode.is_set(), ip.is_empty()) {
            (false, false) => out.push(mode.required("must be specified when `ip` is set")),
            (true, true) => out.push(mode.forbidden("may not be specified when `ip` is not set")),
            (true, false) if !matches!(mode.str(), "VIP" | "Proxy") => out.push(mode.not_supported(&["Proxy", "VIP"])),
            _ => {}
        }
        if !host.is_empty() {
            rules::subdomain_name(host, &mut out);
            if address::parse(host.str()).is_some() {
                out.push(host.invalid("must be a DNS name, not an IP address"));
            }
        }
    }
    out
}
