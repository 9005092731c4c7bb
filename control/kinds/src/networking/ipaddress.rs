//! IPAddress: an address in use, and by what (KEP-1880). Its name is the address. Those of Services are written with them.

use crate::{
    address::{self, NOT_AN_IP},
    at::At,
    edit, rules,
};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Objects, Resource, Strategy, TableConvertor, strategy::Recheck};
use std::net::IpAddr;

const COLUMNS: &[Column] = &[Column::name(), Column::new("ParentRef", "The object that has the address.")];

pub(crate) const GROUP: &str = "networking.k8s.io";
pub(crate) const RESOURCE: &str = "ipaddresses";

struct Addresses;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", RESOURCE, "IPAddress", Addresses).short(&["ip"]).cluster_scoped()
}

/// The family of an address, as labels and Services name it.
pub(crate) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Whether somebody has an address.
pub(crate) fn exists(objects: &dyn Objects, ip: IpAddr) -> bool {
    objects.exists(GROUP, RESOURCE, "", &ip.to_string())
}

/// That of a Service.
pub(crate) fn of_service(ip: IpAddr, namespace: &str, name: &str) -> Object {
    let labels = json!({"ipaddress.kubernetes.io/ip-family": family(ip), "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    let object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "IPAddress",
        "metadata": {"name": ip.to_string(), "labels": labels},
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    });
    Object::from_value(object).unwrap_or_default()
}

/// Whether it is that of a Service.
pub(crate) fn is_of_service(object: &Object, namespace: &str, name: &str) -> bool {
    let parent = At::of(object, "spec").get("parentRef");
    let is = |field: &'static str, value: &str| parent.get(field).str() == value;
    is("group", "") && is("resource", "services") && is("namespace", namespace) && is("name", name)
}

impl Strategy for Addresses {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        let problem = match (address::parse(name), name.parse::<IpAddr>()) {
            (None, _) => NOT_AN_IP.to_owned(),
            (Some(_), Err(_)) => "must not have leading 0s".to_owned(),
            (Some(IpAddr::V4(_)), Ok(IpAddr::V6(_))) => "must not be an IPv4-mapped IPv6 address".to_owned(),
            (Some(_), Ok(ip)) if ip.to_string() != name => format!("must be in canonical form ({:?})", ip.to_string()),
            (Some(_), Ok(_)) => return Vec::new(),
        };
        vec![problem]
    }

    fn default(&self, object: &mut Object) {
        if let Some(parent) = edit::object_if(edit::object(&mut object.0, "spec"), "parentRef") {
            edit::drop_zero(parent, &["group", "resource", "namespace", "name"]);
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, parent) = (Vec::new(), At::of(object, "spec").get("parentRef"));
        if !parent.is_set() {
            out.push(parent.required(""));
            return out;
        }
        if !parent.get("group").is_empty() {
            rules::subdomain_name(parent.get("group"), &mut out);
        }
        rules::required_segment(parent.get("resource"), &mut out);
        rules::required_segment(parent.get("name"), &mut out);
        rules::path_segment(parent.get("namespace"), &mut out);
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let (new, was) = (At::of(object, "spec").get("parentRef"), At::of(old, "spec").get("parentRef"));
        if edit::deep_equal(new.value(), was.value()) {
            return Vec::new();
        }
        let shown = new.printed("io.k8s.api.networking.v1.ParentReference");
        vec![Cause::invalid_shown(&new.field(), &shown, "field is immutable")]
    }
}

impl TableConvertor for Addresses {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, _now: Timestamp) -> Vec<Value> {
        let parent = At::of(object, "spec").get("parentRef");
        let part = |name: &'static str| parent.get(name).str();
        let resource = match (part("resource"), part("group")) {
            (resource, "") => resource.to_lowercase(),
            ("", group) => format!(".{}", group.to_lowercase()),
            (resource, group) => format!("{resource}.{group}").to_lowercase(),
        };
        let shown = match part("namespace") {
            _ if !parent.is_set() => "<none>".to_owned(),
            "" => format!("{resource}/{}", part("name")),
            namespace => format!("{resource}/{namespace}/{}", part("name")),
        };
        vec![json!(object.name()), json!(shown)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, row, update_errors};
    use expect_test::expect;

    fn text(spec: &str) -> String {
        format!("{{apiVersion: networking.k8s.io/v1, kind: IPAddress, metadata: {{name: 10.0.0.1}}, spec: {spec}}}")
    }

    #[test]
    fn a_name_is_an_address_in_its_one_form() {
        for (name, problem) in [
            ("10.0.0.1", ""),
            ("2001:db8::ffff", ""),
            ("2001:DB8::ffff", "must be in canonical form (\"2001:db8::ffff\")"),
            ("2001:db8:0:0::1", "must be in canonical form (\"2001:db8::1\")"),
            ("010.0.0.1", "must not have leading 0s"),
            ("::ffff:10.0.0.1", "must not be an IPv4-mapped IPv6 address"),
            ("a", NOT_AN_IP),
        ] {
            assert_eq!(Addresses.validate_name(name, false).join("\n"), problem, "{name}");
        }
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            ("{parentRef: {resource: services, name: s, namespace: ns}}", expect![[""]]),
            (
                "{}",
                expect![[r#"
                spec.parentRef: Required value
            "#]],
            ),
            (
                "{parentRef: {group: A, namespace: a/b}}",
                expect![[r#"
                spec.parentRef.group: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.parentRef.resource: Required value
                spec.parentRef.name: Required value
                spec.parentRef.namespace: Invalid value: "a/b": may not contain '/'
            "#]],
            ),
            (
                "{parentRef: {group: g.example, resource: a%b, name: ..}}",
                expect![[r#"
                spec.parentRef.resource: Invalid value: "a%b": may not contain '%'
                spec.parentRef.name: Invalid value: "..": may not be '..'
            "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Addresses, &text(spec)));
        }
    }

    #[test]
    fn the_parent_stays() {
        let old = created(&Addresses, &text("{parentRef: {resource: services, name: s, namespace: ns}}"));
        let mut new = old.clone();
        assert_eq!(update_errors(&Addresses, &new, &old), "");
        new.set(&["spec", "parentRef", "name"], "t");
        expect![[r#"
            spec.parentRef: Invalid value: {"Group":"","Resource":"services","Namespace":"ns","Name":"t"}: field is immutable
        "#]].assert_eq(&update_errors(&Addresses, &new, &old));
    }

    #[test]
    fn a_row_shows_the_parent() {
        expect!["10.0.0.1 | services/ns/s"]
            .assert_eq(&row(&Addresses, &text("{parentRef: {resource: services, name: s, namespace: ns}}")));
        expect!["10.0.0.1 | gateways.g.example/x"]
            .assert_eq(&row(&Addresses, &text("{parentRef: {group: g.example, resource: Gateways, name: x}}")));
        expect!["10.0.0.1 | <none>"].assert_eq(&row(&Addresses, &text("{}")));
    }
}
