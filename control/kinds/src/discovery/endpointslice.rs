//! EndpointSlice: up to a thousand endpoints of a Service (discovery.k8s.io).

use crate::{address, at::At, cells, edit, rules};
use api::{Cause, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};
use std::collections::HashSet;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("AddressType", "addressType specifies the type of address carried by this EndpointSlice."),
    Column::new("Ports", "ports specifies the list of network ports exposed by each endpoint in this slice."),
    Column::new("Endpoints", "endpoints is a list of unique endpoints in this slice."),
    Column::age(),
];

pub(crate) struct Slices;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", Slices).with_generation()
}

impl Strategy for Slices {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Whole
    }

    fn default(&self, object: &mut Object) {
        for port in edit::objects(&mut object.0, "ports") {
            edit::fill(port, "name", "");
            edit::fill(port, "protocol", "TCP");
        }
        for endpoint in edit::objects(&mut object.0, "endpoints") {
            edit::object(endpoint, "conditions");
        }
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        for endpoint in edit::objects(&mut object.0, "endpoints") {
            endpoint.remove("deprecatedTopology");
        }
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, old: &Object) {
        edit::next_generation(object, old, &[&["endpoints"], &["ports"], &["addressType"], &["metadata", "labels"]]);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let kind = At::of(object, "addressType");
        kind.one_of(&["FQDN", "IPv4", "IPv6"], &mut out);
        ports(At::of(object, "ports"), &mut out);
        endpoints(At::of(object, "endpoints"), kind.str(), &mut out);
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        At::of(object, "addressType").immutable(At::of(old, "addressType"), &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = Vec::new();
        if old.is_none() && object.str_at(&["addressType"]) == Some("FQDN") {
            out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        for endpoint in At::of(object, "endpoints").items() {
            for at in endpoint.get("addresses").items() {
                out.extend(address::warning(&at.field().to_string(), at.str()));
            }
        }
        out
    }
}

impl TableConvertor for Slices {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let port = |p: At<'_>| match (p.get("port").int(), p.get("name")) {
            (Some(number), _) => number.to_string(),
            (None, name) if name.is_set() => name.str().to_owned(),
            _ => "*".to_owned(),
        };
        let ports: Vec<String> = At::of(object, "ports").items().map(port).collect();
        let addresses = |e: At<'_>| e.get("addresses").items().map(|a| a.str().to_owned()).collect::<Vec<_>>();
        let endpoints: Vec<String> = At::of(object, "endpoints").items().flat_map(addresses).collect();
        vec![
            json!(object.name()),
            json!(cells::text(object, &["addressType"])),
            json!(cells::up_to_three(&ports, "<unset>")),
            json!(cells::up_to_three(&endpoints, "<unset>")),
            cells::age(object, now),
        ]
    }
}

fn ports(list: At<'_>, out: &mut Vec<Cause>) {
    if list.len() > 20000 {
        out.push(Cause::too_many(&list.field(), list.len(), 20000));
        return;
    }
    let mut seen = HashSet::new();
    for port in list.items() {
        let name = port.get("name");
        if !name.is_empty() {
            rules::label_name(name, out);
        }
        if !seen.insert(name.str()) {
            out.push(Cause::duplicate(&name.field(), &json!(name.str())));
        }
        port.get("protocol").one_of(rules::PROTOCOLS, out);
        if port.get("appProtocol").is_set() {
            rules::qualified(port.get("appProtocol"), out);
        }
    }
}

fn endpoints(list: At<'_>, kind: &str, out: &mut Vec<Cause>) {
    if list.len() > 1000 {
        out.push(Cause::too_many(&list.field(), list.len(), 1000));
        return;
    }
    for endpoint in list.items() {
        if rules::full(out) {
            return;
        }
        let addresses = endpoint.get("addresses");
        if addresses.is_empty() {
            out.push(addresses.required("must contain at least 1 address"));
        } else if addresses.len() > 100 {
            out.push(Cause::too_many(&addresses.field(), addresses.len(), 100));
        }
        addresses.items().for_each(|at| endpoint_address(addresses, at, kind, out));
        if endpoint.get("nodeName").is_set() {
            rules::subdomain_name(endpoint.get("nodeName"), out);
        }
        if endpoint.get("hostname").is_set() {
            rules::label_name(endpoint.get("hostname"), out);
        }
        hints(endpoint.get("hints"), out);
    }
}

fn endpoint_address(list: At<'_>, at: At<'_>, kind: &str, out: &mut Vec<Cause>) {
    match kind {
        "IPv4" | "IPv6" => {
            let Some(ip) = address::valid(at, out) else { return };
            if ip.is_ipv4() != (kind == "IPv4") {
                let text = if kind == "IPv4" { "must be an IPv4 address" } else { "must be an IPv6 address" };
                out.push(Cause::invalid(&list.field(), at.value(), text));
            }
            address::endpoint(at, ip, out);
        }
        "FQDN" => {
            if at.str().is_empty() {
                out.push(at.required(""));
                return;
            }
            let name = at.str().strip_suffix('.').unwrap_or(at.str());
            let problems = names::dns1123_subdomain(name);
            if !problems.is_empty() {
                at.invalid_all(problems, out);
            } else if !name.contains('.') {
                out.push(at.invalid("should be a domain with at least two segments separated by dots"));
            }
        }
        _ => {}
    }
}

fn hints(hints: At<'_>, out: &mut Vec<Cause>) {
    for (list, check) in [
        ("forZones", rules::label_value as fn(At<'_>, &mut Vec<Cause>)),
        ("forNodes", rules::subdomain_name as fn(At<'_>, &mut Vec<Cause>)),
    ] {
        let list = hints.get(list);
        if list.len() > 8 {
            out.push(Cause::too_many(&list.field(), list.len(), 8));
            return;
        }
        for (i, hint) in list.items().enumerate() {
            let name = hint.get("name");
            if list.items().take(i).any(|earlier| earlier.get("name").str() == name.str()) {
                out.push(name.duplicate());
            }
            check(name, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{errors, row};
    use expect_test::expect;

    #[test]
    fn rows_show_ports_and_addresses() {
        let text = "
metadata: {name: s, creationTimestamp: '2026-01-01T00:00:00Z'}
addressType: IPv4
ports: [{port: 80}, {name: x}, {}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}]
";
        assert_eq!(row(&Slices, text), "s | IPv4 | 80,x,* | 10.0.0.1,10.0.0.2,10.0.0.3 + 1 more... | 60s");
        assert_eq!(
            row(&Slices, "{metadata: {name: s}, addressType: IPv6}"),
            "s | IPv6 | <unset> | <unset> | <unknown>"
        );
    }

    #[test]
    fn addresses_are_of_the_type() {
        let text = "
metadata: {name: s, namespace: default}
addressType: IPv4
ports: [{name: a}, {name: a, protocol: XTP}]
endpoints: [{addresses: ['::1']}, {addresses: []}]
";
        expect![[r#"
            ports[1].name: Duplicate value: "a"
            ports[1].protocol: Unsupported value: "XTP": supported values: "SCTP", "TCP", "UDP"
            endpoints[0].addresses: Invalid value: "::1": must be an IPv4 address
            endpoints[0].addresses[0]: Invalid value: "::1": may not be in the loopback range (127.0.0.0/8, ::1/128)
            endpoints[1].addresses: Required value: must contain at least 1 address
        "#]]
        .assert_eq(&errors(&Slices, text));
    }
}
