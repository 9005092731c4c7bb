//! Ingress: which Services requests from outside the cluster go to, by host and path.

use crate::{Capabilities, address, at::At, cells, edit, rules};
use api::{Cause, FieldPath, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};
use std::collections::BTreeSet;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Class", "The IngressClass whose controller serves the Ingress."),
    Column::new("Hosts", "The hosts of the rules."),
    Column::new("Address", "The addresses at which the Ingress is served."),
    Column::new("Ports", "The ports at which it is served."),
    Column::age(),
];

/// The annotation that named the class before `spec.ingressClassName`.
pub(crate) const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// What paths may not contain, and what they may not end with.
const BAD_PARTS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: [&str; 2] = ["/..", "/."];

pub(crate) struct Ingresses(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    Resource::new("networking.k8s.io", "v1", "ingresses", "Ingress", Ingresses(capabilities.clone()))
        .short(&["ing"])
        .with_generation()
        .with_status()
}

impl Strategy for Ingresses {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        edit::object(edit::object(&mut object.0, "status"), "loadBalancer");
        let spec = edit::object(&mut object.0, "spec");
        if let Some(backend) = edit::object_if(spec, "defaultBackend") {
            default_backend(backend);
        }
        for rule in edit::objects(spec, "rules") {
            edit::drop_zero(rule, &["host"]);
            for path in edit::object_if(rule, "http").into_iter().flat_map(|http| edit::objects(http, "paths")) {
                edit::drop_zero(path, &["path"]);
                default_backend(edit::object(path, "backend"));
            }
        }
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({"loadBalancer": {}}));
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        let (backend, rules, class) = (spec.get("defaultBackend"), spec.get("rules"), spec.get("ingressClassName"));
        if rules.is_empty() && !backend.is_set() {
            out.push(spec.with(rules.value()).invalid("either `defaultBackend` or `rules` must be specified"));
        }
        if backend.is_set() {
            validate_backend(backend, &mut out);
        }
        for rule in rules.items() {
            if rules::full(&out) {
                return out;
            }
            validate_rule(rule, &mut out);
        }
        tls(spec.get("tls"), &mut out);
        if class.is_set() {
            rules::subdomain_name(class, &mut out);
        }
        if cx.operation == Operation::Create
            && let Some(named) = object.annotation(CLASS_ANNOTATION)
            && class.is_set()
            && named != class.str()
        {
            let field = FieldPath::new("annotations").child(CLASS_ANNOTATION);
            let text = "must match `ingressClassName` when both are specified";
            out.push(Cause::invalid(&field, &json!(named), text));
        }
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let points = |object| At::of(object, "status").down(&["loadBalancer", "ingress"]);
        let had: BTreeSet<&str> = points(old).items().map(|point| point.get("ip").str()).collect();
        let mut out = Vec::new();
        for point in points(object).items() {
            if rules::full(&out) {
                break;
            }
            let (ip, host) = (point.get("ip"), point.get("hostname"));
            if !ip.is_empty() && !had.contains(ip.str()) {
                address::valid(ip, &mut out);
            }
            if !host.is_empty() {
                rules::subdomain_name(host, &mut out);
                not_an_address(host, &mut out);
            }
        }
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = self.0.nothing_acts_on("Ingress");
        let named = object.at(&["spec", "ingressClassName"]).is_some_and(|name| !name.is_null());
        if old.is_none() && object.annotation(CLASS_ANNOTATION).is_some() && !named {
            out.push(format!(
                "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
            ));
        }
        out
    }
}

fn default_backend(backend: &mut edit::Fields) {
    if let Some(service) = edit::object_if(backend, "service") {
        edit::drop_zero(edit::object(service, "port"), &["name", "number"]);
    }
}

fn not_an_address(host: At<'_>, out: &mut Vec<Cause>) {
    if address::parse(host.str()).is_some() {
        out.push(host.invalid("must be a DNS name, not an IP address"));
    }
}

/// The host of a rule, or of a certificate.
fn validate_host(host: At<'_>, out: &mut Vec<Cause>) {
    let wild = host.str().contains('*');
    host.invalid_all(
        if wild { names::wildcard_subdomain(host.str()) } else { names::dns1123_subdomain(host.str()) },
        out,
    );
}

fn validate_rule(rule: At<'_>, out: &mut Vec<Cause>) {
    let (host, http) = (rule.get("host"), rule.get("http"));
    if !host.is_empty() {
        not_an_address(host, out);
        validate_host(host, out);
    }
    if !http.is_set() {
        return;
    }
    let paths = http.get("paths");
    if paths.is_empty() {
        out.push(paths.required(""));
    }
    for path in paths.items() {
        if rules::full(out) {
            return;
        }
        validate_path(path, out);
    }
}

fn validate_path(at: At<'_>, out: &mut Vec<Cause>) {
    let (kind, path) = (at.get("pathType"), at.get("path"));
    if !kind.is_set() {
        out.push(kind.required("pathType must be specified"));
        return;
    }
    let (text, exact) = (path.str(), matches!(kind.str(), "Exact" | "Prefix"));
    if exact || kind.str() == "ImplementationSpecific" {
        if !text.starts_with('/') && (exact || !text.is_empty()) {
            out.push(path.or_empty().invalid("must be an absolute path"));
        }
        if exact {
            let parts = BAD_PARTS.iter().filter(|part| text.contains(**part));
            out.extend(parts.map(|part| path.invalid(&format!("must not contain '{part}'"))));
            let ends = BAD_ENDS.iter().filter(|end| text.ends_with(**end));
            out.extend(ends.map(|end| path.invalid(&format!("cannot end with '{end}'"))));
        }
    } else {
        out.push(kind.not_supported(&["Exact", "ImplementationSpecific", "Prefix"]));
    }
    validate_backend(at.get("backend"), out);
}

fn validate_backend(backend: At<'_>, out: &mut Vec<Cause>) {
    static EMPTY: Value = Value::String(String::new());
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    let wrong = |text: &str| backend.with(&EMPTY).invalid(text);
    match (service.is_set(), resource.is_set()) {
        (true, true) => out.push(wrong("cannot set both resource and service backends")),
        (false, false) => out.push(wrong("resource or service backend is required")),
        (false, true) => {
            if resource.get("apiGroup").is_set() {
                rules::subdomain_name(resource.get("apiGroup"), out);
            }
            rules::required_segment(resource.get("kind"), out);
            rules::required_segment(resource.get("name"), out);
        }
        (true, false) => {
            let name = service.get("name");
            if name.is_empty() {
                out.push(name.required(""));
            } else {
                rules::label_name(name, out);
            }
            let (name, number) = (service.down(&["port", "name"]), service.down(&["port", "number"]));
            match (!name.is_empty(), number.int().is_some_and(|number| number != 0)) {
                (true, true) => out.push(wrong("cannot set both port name & port number")),
                (true, false) => name.invalid_all(names::port_name(name.str()), out),
                (false, true) => rules::port_number(number, out),
                (false, false) => out.push(backend.required("port name or number is required")),
            }
        }
    }
}

fn tls(tls: At<'_>, out: &mut Vec<Cause>) {
    for one in tls.items() {
        for host in one.get("hosts").items() {
            if rules::full(out) {
                return;
            }
            validate_host(host, out);
        }
        if !one.get("secretName").is_empty() {
            rules::subdomain_name(one.get("secretName"), out);
        }
    }
}

impl TableConvertor for Ingresses {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let spec = At::of(object, "spec");
        let class = spec.get("ingressClassName");
        let points = At::of(object, "status").down(&["loadBalancer", "ingress"]);
        let address = |point: At<'_>| match point.get("ip") {
            ip if !ip.is_empty() => ip.str().to_owned(),
            _ => point.get("hostname").str().to_owned(),
        };
        let addresses: BTreeSet<String> = points.items().map(address).filter(|address| !address.is_empty()).collect();
        vec![
            json!(object.name()),
            json!(if class.is_set() { class.str() } else { "<none>" }),
            json!(hosts(spec.get("rules"))),
            json!(addresses.into_iter().collect::<Vec<_>>().join(",")),
            json!(if spec.get("tls").is_empty() { "80" } else { "80, 443" }),
            cells::age(object, now),
        ]
    }
}

/// The first three hosts, and how many rules more there are than three.
fn hosts(rules: At<'_>) -> String {
    const MOST: usize = 3;
    let (mut shown, mut more) = (Vec::new(), false);
    for host in rules.items().map(|rule| rule.get("host").str()) {
        if shown.len() == MOST {
            more = true;
            break;
        }
        if !host.is_empty() {
            shown.push(host);
        }
    }
    match shown.join(",") {
        none if shown.is_empty() => "*".to_owned() + &none,
        some if more => format!("{some} + {} more...", rules.len() - MOST),
        all => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, parse, row, yaml};
    use expect_test::expect;

    fn ingresses() -> Ingresses {
        Ingresses(Capabilities::default())
    }

    fn text(spec: &str) -> String {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: i, namespace: ns}}, spec: {spec}}}"
        )
    }

    const BACKEND: &str = "backend: {service: {name: s, port: {number: 80}}}";

    #[test]
    fn what_go_never_leaves_out_is_there() {
        let spec = "{rules: [{host: '', http: {paths: [{pathType: Prefix, path: /, backend: {service: {name: s}}}]}}]}";
        expect![[r#"
            apiVersion: networking.k8s.io/v1
            kind: Ingress
            metadata:
              name: i
              namespace: ns
            spec:
              rules:
              - http:
                  paths:
                  - backend:
                      service:
                        name: s
                        port: {}
                    path: /
                    pathType: Prefix
            status:
              loadBalancer: {}
        "#]]
        .assert_eq(&yaml(&created(&ingresses(), &text(spec))));
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            (
                "{}",
                expect![[r#"
                spec: Invalid value: null: either `defaultBackend` or `rules` must be specified
            "#]],
            ),
            (
                "{rules: []}",
                expect![[r#"
                spec: Invalid value: []: either `defaultBackend` or `rules` must be specified
            "#]],
            ),
            (
                &*format!(
                    "{{ingressClassName: nginx, rules: [{{host: '*.a.example', http: {{paths: [{{path: /, pathType: Prefix, {BACKEND}}}]}}}}, {{host: a.example}}], tls: [{{hosts: [a.example, '*.a.example'], secretName: s}}]}}"
                ),
                expect![[""]],
            ),
            (
                "{defaultBackend: {resource: {apiGroup: '', kind: a/b, name: ''}}}",
                expect![[r#"
                spec.defaultBackend.resource.apiGroup: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.defaultBackend.resource.kind: Invalid value: "a/b": may not contain '/'
                spec.defaultBackend.resource.name: Required value
            "#]],
            ),
            (
                "{defaultBackend: {service: {name: '', port: {name: web, number: 80}}}, rules: [{host: 10.0.0.1, http: {}}, {host: 'a.*.example'}, {host: A}]}",
                expect![[r#"
                    spec.defaultBackend.service.name: Required value
                    spec.defaultBackend: Invalid value: "": cannot set both port name & port number
                    spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address
                    spec.rules[0].http.paths: Required value
                    spec.rules[1].host: Invalid value: "a.*.example": a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                    spec.rules[2].host: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                "#]],
            ),
            (
                &*format!(
                    "{{ingressClassName: '', rules: [{{http: {{paths: [{{{BACKEND}}}, {{pathType: Exact, {BACKEND}}}, {{pathType: ImplementationSpecific, {BACKEND}}}, {{pathType: ImplementationSpecific, path: a, {BACKEND}}}, {{pathType: Regex, backend: {{}}}}, {{pathType: Prefix, path: a//b/./c/../d%2fe%2F/.., backend: {{service: {{name: a.b}}}}}}, {{pathType: Prefix, path: /., backend: {{service: {{name: s, port: {{number: 70000}}}}, resource: {{kind: a, name: b}}}}}}]}}}}]}}"
                ),
                expect![[r#"
                    spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified
                    spec.rules[0].http.paths[1].path: Invalid value: "": must be an absolute path
                    spec.rules[0].http.paths[3].path: Invalid value: "a": must be an absolute path
                    spec.rules[0].http.paths[4].pathType: Unsupported value: "Regex": supported values: "Exact", "ImplementationSpecific", "Prefix"
                    spec.rules[0].http.paths[4].backend: Invalid value: "": resource or service backend is required
                    spec.rules[0].http.paths[5].path: Invalid value: "a//b/./c/../d%2fe%2F/..": must be an absolute path
                    spec.rules[0].http.paths[5].path: Invalid value: "a//b/./c/../d%2fe%2F/..": must not contain '//'
                    spec.rules[0].http.paths[5].path: Invalid value: "a//b/./c/../d%2fe%2F/..": must not contain '/./'
                    spec.rules[0].http.paths[5].path: Invalid value: "a//b/./c/../d%2fe%2F/..": must not contain '/../'
                    spec.rules[0].http.paths[5].path: Invalid value: "a//b/./c/../d%2fe%2F/..": must not contain '%2f'
                    spec.rules[0].http.paths[5].path: Invalid value: "a//b/./c/../d%2fe%2F/..": must not contain '%2F'
                    spec.rules[0].http.paths[5].path: Invalid value: "a//b/./c/../d%2fe%2F/..": cannot end with '/..'
                    spec.rules[0].http.paths[5].backend.service.name: Invalid value: "a.b": must not contain dots
                    spec.rules[0].http.paths[5].backend: Required value: port name or number is required
                    spec.rules[0].http.paths[6].path: Invalid value: "/.": cannot end with '/.'
                    spec.rules[0].http.paths[6].backend: Invalid value: "": cannot set both resource and service backends
                    spec.ingressClassName: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                "#]],
            ),
            (
                "{defaultBackend: {service: {name: s, port: {name: WEB}}}, tls: [{hosts: ['*', B, ''], secretName: '-'}, {}]}",
                expect![[r#"
                    spec.defaultBackend.service.port.name: Invalid value: "WEB": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
                    spec.defaultBackend.service.port.name: Invalid value: "WEB": must contain at least one letter (a-z)
                    spec.tls[0].hosts[0]: Invalid value: "*": a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                    spec.tls[0].hosts[1]: Invalid value: "B": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                    spec.tls[0].hosts[2]: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                    spec.tls[0].secretName: Invalid value: "-": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&ingresses(), &text(spec)));
        }
    }

    #[test]
    fn the_old_annotation_agrees_with_the_class_or_is_warned_of() {
        let with = |class: &str| {
            text(&format!("{{{class}defaultBackend: {{service: {{name: s, port: {{number: 1}}}}}}}}"))
                .replace("name: i,", "name: i, annotations: {kubernetes.io/ingress.class: a},")
        };
        expect![[r#"
            annotations.kubernetes.io/ingress.class: Invalid value: "a": must match `ingressClassName` when both are specified
        "#]]
        .assert_eq(&errors(&ingresses(), &with("ingressClassName: b, ")));
        assert_eq!(errors(&ingresses(), &with("ingressClassName: a, ")), "");
        let ingress = created(&ingresses(), &with(""));
        expect![[r#"
            Ingress is stored, but nothing in this cluster acts on it yet
            annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead"#]]
        .assert_eq(&ingresses().warnings(&context(), &ingress, None).join("\n"));
        assert_eq!(ingresses().warnings(&context(), &ingress, Some(&ingress)).len(), 1);
    }

    #[test]
    fn a_status_has_addresses_or_names() {
        let old = created(&ingresses(), &text("{}"));
        let mut new = old.clone();
        let points = "{ingress: [{ip: 10.0.0.1}, {ip: 010.0.0.1}, {ip: x}, {hostname: a.example}, {hostname: 10.0.0.1}, {hostname: A}]}";
        new.set(&["status", "loadBalancer"], parse(points).into_value());
        let lines = |old: &Object| -> String {
            ingresses().validate_status(&context(), &new, old).iter().map(|cause| format!("{cause}\n")).collect()
        };
        expect![[r#"
            status.loadBalancer.ingress[1].ip: Invalid value: "010.0.0.1": must not have leading 0s
            status.loadBalancer.ingress[2].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            status.loadBalancer.ingress[4].hostname: Invalid value: "10.0.0.1": must be a DNS name, not an IP address
            status.loadBalancer.ingress[5].hostname: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        "#]].assert_eq(&lines(&old));
        let mut had = old.clone();
        had.set(&["status", "loadBalancer", "ingress"], json!([{"ip": "010.0.0.1"}, {"ip": "x"}]));
        assert!(!lines(&had).contains(".ip:"), "what was there stays");
    }

    #[test]
    fn a_row_shows_hosts_and_addresses() {
        expect!["i | <none> | * |  | 80 | <unknown>"].assert_eq(&row(&ingresses(), &text("{}")));
        let rules = "rules: [{host: a}, {}, {host: b}, {host: c}, {host: d}]";
        let status =
            "status: {loadBalancer: {ingress: [{ip: 10.0.0.2}, {hostname: h}, {ip: 10.0.0.1}, {ip: 10.0.0.2}, {}]}}";
        let text = text(&format!("{{ingressClassName: c, tls: [{{}}], {rules}}}, {status}"));
        expect!["i | c | a,b,c + 2 more... | 10.0.0.1,10.0.0.2,h | 80, 443 | <unknown>"]
            .assert_eq(&row(&ingresses(), &text));
    }
}
