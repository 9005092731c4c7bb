//! Endpoints: the addresses of a Service, the predecessor of EndpointSlice.

use crate::{address, at::At, cells, edit, rules};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] =
    &[Column::name(), Column::new("Endpoints", "The set of all endpoints is the union of all subsets."), Column::age()];

pub(crate) struct AllEndpoints;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("", "v1", "endpoints", "Endpoints", AllEndpoints)
        .short(&["ep"])
        .in_upstream_directory("services/endpoints")
        .with_long_lists()
        .deprecated("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        .creating_on_update()
}

impl Strategy for AllEndpoints {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        for subset in edit::objects(&mut object.0, "subsets") {
            edit::drop_zero(subset, &["addresses", "notReadyAddresses", "ports"]);
            for list in ["addresses", "notReadyAddresses"] {
                edit::objects(subset, list).for_each(|a| edit::drop_zero(a, &["hostname"]));
            }
            for port in edit::objects(subset, "ports") {
                edit::drop_zero(port, &["name"]);
                edit::fill_str(port, "protocol", "TCP");
            }
        }
        edit::drop_zero(&mut object.0, &["subsets"]);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        for subset in At::of(object, "subsets").items() {
            if subset.get("addresses").is_empty() && subset.get("notReadyAddresses").is_empty() {
                out.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
            }
            for list in ["addresses", "notReadyAddresses"] {
                for address in subset.get(list).items() {
                    if rules::full(&out) {
                        return out;
                    }
                    endpoint_address(address, &mut out);
                }
            }
            let ports = subset.get("ports");
            for port in ports.items() {
                if rules::full(&out) {
                    return out;
                }
                endpoint_port(port, ports.len() > 1, &mut out);
            }
        }
        out
    }
}

impl TableConvertor for AllEndpoints {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let mut all = Vec::new();
        for subset in At::of(object, "subsets").items() {
            let ips = || subset.get("addresses").items().map(|a| a.get("ip").str());
            if subset.get("ports").is_empty() {
                all.extend(ips().map(str::to_owned));
            }
            for port in subset.get("ports").items() {
                let port = port.get("port").int().unwrap_or(0);
                all.extend(
                    ips().map(|ip| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }),
                );
            }
        }
        let empty = if At::of(object, "subsets").is_empty() { "<none>" } else { "" };
        vec![json!(object.name()), json!(cells::up_to_three(&all, empty)), cells::age(object, now)]
    }
}

fn endpoint_address(at: At<'_>, out: &mut Vec<Cause>) {
    let ip = address::valid(at.get("ip"), out);
    if ip.is_none() {
        // Upstream checks twice, with different messages.
        out.push(at.get("ip").or_empty().invalid("must be a valid IP address"));
    }
    if !at.get("hostname").is_empty() {
        rules::label_name(at.get("hostname"), out);
    }
    if at.get("nodeName").is_set() {
        rules::subdomain_name(at.get("nodeName"), out);
    }
    if let Some(ip) = ip {
        address::endpoint(at.get("ip"), ip, out);
    }
}

fn endpoint_port(port: At<'_>, named: bool, out: &mut Vec<Cause>) {
    let name = port.get("name");
    if !name.is_empty() {
        rules::label_name(name, out);
    } else if named {
        out.push(name.required(""));
    }
    rules::port_number(port.get("port"), out);
    port.get("protocol").one_of(rules::PROTOCOLS, out);
    if port.get("appProtocol").is_set() {
        rules::qualified(port.get("appProtocol"), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{errors, row};
    use expect_test::expect;

    #[test]
    fn rows_show_three_endpoints() {
        let text = "
metadata: {name: e, creationTimestamp: '2026-01-01T00:00:00Z'}
subsets: [{addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}], ports: [{port: 80}, {port: 81}]}]
";
        assert_eq!(row(&AllEndpoints, text), "e | 10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more... | 60s");
        assert_eq!(row(&AllEndpoints, "metadata: {name: e}"), "e | <none> | <unknown>");
    }

    #[test]
    fn addresses_must_be_reachable() {
        let text = "
metadata: {name: e, namespace: default}
subsets: [{ports: [{port: 80}]}, {addresses: [{ip: 127.0.0.1}, {ip: x}], ports: [{port: 0}, {port: 1, name: A}]}]
";
        expect![[r#"
            subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`
            subsets[1].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)
            subsets[1].addresses[1].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            subsets[1].addresses[1].ip: Invalid value: "x": must be a valid IP address
            subsets[1].ports[0].name: Required value
            subsets[1].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
            subsets[1].ports[1].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
        "#]]
        .assert_eq(&errors(&AllEndpoints, text));
    }
}
