//! NetworkPolicy: from where pods may be reached, and what they may reach.

use crate::{Capabilities, address, at::At, cells, edit, rules};
use api::{Cause, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Pod-Selector", "podSelector selects the pods to which the policy applies; an empty one selects all."),
    Column::age(),
];

/// The directions of rules: the list of rules, and the list of peers in each.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

pub(crate) struct Policies(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let policies = Policies(capabilities.clone());
    Resource::new("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", policies)
        .short(&["netpol"])
        .with_generation()
}

impl Strategy for Policies {
    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        edit::object(spec, "podSelector");
        for (rules, peers) in DIRECTIONS {
            for rule in edit::objects(spec, rules) {
                edit::objects(rule, "ports").for_each(|port| edit::fill(port, "protocol", "TCP"));
                edit::drop_zero(rule, &["ports", peers]);
            }
        }
        if spec.get("policyTypes").is_none_or(edit::is_empty_value) {
            let leaving = spec.get("egress").is_some_and(|rules| !edit::is_empty_value(rules));
            spec.insert("policyTypes".into(), if leaving { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        rules::label_selector(spec.get("podSelector"), &mut out);
        for (rules, peers) in DIRECTIONS {
            for rule in spec.get(rules).items() {
                let ports = rule.get("ports").items().map(|at| (at, port as fn(At<'_>, &mut Vec<Cause>)));
                let peers = rule.get(peers).items().map(|at| (at, peer as fn(At<'_>, &mut Vec<Cause>)));
                for (at, check) in ports.chain(peers) {
                    if rules::full(&out) {
                        return out;
                    }
                    check(at, &mut out);
                }
            }
        }
        let types = spec.get("policyTypes");
        if types.len() > 2 {
            out.push(types.invalid("may not specify more than two policyTypes"));
            return out;
        }
        let unknown = types.items().filter(|kind| !matches!(kind.str(), "Ingress" | "Egress"));
        out.extend(unknown.map(|kind| kind.not_supported(&["Ingress", "Egress"])));
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut out = self.0.nothing_acts_on("NetworkPolicy");
        let spec = At::of(object, "spec");
        let peers = DIRECTIONS
            .iter()
            .flat_map(|(rules, peers)| spec.get(rules).items().flat_map(|rule| rule.get(peers).items()));
        for block in peers.map(|peer| peer.get("ipBlock")) {
            if out.len() >= MOST_WARNINGS {
                break;
            }
            out.extend(address::cidr_warning(block.get("cidr")));
            let room = MOST_WARNINGS - out.len();
            out.extend(block.get("except").items().filter_map(address::cidr_warning).take(room));
        }
        out
    }
}

/// The most warnings about one object.
const MOST_WARNINGS: usize = 200;

fn port(port: At<'_>, out: &mut Vec<Cause>) {
    let (protocol, number, end) = (port.get("protocol"), port.get("port"), port.get("endPort"));
    if protocol.is_set() && !rules::PROTOCOLS.contains(&protocol.str()) {
        out.push(protocol.not_supported(&["TCP", "UDP", "SCTP"]));
    }
    match number.value() {
        Value::Null if end.is_set() => out.push(end.invalid("may not be specified when `port` is not specified")),
        Value::Null => {}
        Value::String(name) => {
            if end.is_set() {
                out.push(end.invalid("may not be specified when `port` is non-numeric"));
            }
            number.invalid_all(names::port_name(name), out);
        }
        _ => {
            rules::port_number(number, out);
            if let Some(last) = end.int() {
                if number.int().is_some_and(|first| last < first) {
                    // Upstream shows the other field's value.
                    out.push(end.with(number.value()).invalid("must be greater than or equal to `port`"));
                }
                rules::port_number(end, out);
            }
        }
    }
}

fn peer(peer: At<'_>, out: &mut Vec<Cause>) {
    let (pods, namespaces, block) = (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    rules::label_selector(pods, out);
    rules::label_selector(namespaces, out);
    if block.is_set() {
        ip_block(block, out);
        if pods.is_set() || namespaces.is_set() {
            out.push(peer.forbidden("may not specify both ipBlock and another peer"));
        }
    } else if !pods.is_set() && !namespaces.is_set() {
        out.push(peer.required("must specify a peer"));
    }
}

fn ip_block(block: At<'_>, out: &mut Vec<Cause>) {
    let cidr = block.get("cidr");
    if cidr.is_empty() {
        out.push(cidr.required(""));
        return;
    }
    out.extend(address::cidr_problem(cidr.str()).map(|text| cidr.invalid(text)));
    let Some(all) = address::parse_cidr(cidr.str()) else { return };
    for except in block.get("except").items() {
        if rules::full(out) {
            return;
        }
        out.extend(address::cidr_problem(except.str()).map(|text| except.or_empty().invalid(text)));
        let Some(part) = address::parse_cidr(except.str()) else { continue };
        if !all.contains(&part.network()) || all.prefix_len() >= part.prefix_len() {
            out.push(except.invalid("must be a strict subset of `cidr`"));
        }
    }
}

impl TableConvertor for Policies {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let selector = cells::label_selector(object.at(&["spec", "podSelector"]));
        vec![json!(object.name()), json!(selector), cells::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, row, yaml};
    use expect_test::expect;

    fn policies() -> Policies {
        Policies(Capabilities::default())
    }

    fn text(spec: &str) -> String {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: ns}}, spec: {spec}}}"
        )
    }

    #[test]
    fn types_and_protocols_have_defaults() {
        let policy = created(&policies(), &text("{egress: [{ports: [{port: 80}, {protocol: UDP}], to: []}]}"));
        expect![[r#"
            apiVersion: networking.k8s.io/v1
            kind: NetworkPolicy
            metadata:
              name: p
              namespace: ns
            spec:
              egress:
              - ports:
                - port: 80
                  protocol: TCP
                - protocol: UDP
              podSelector: {}
              policyTypes:
              - Ingress
              - Egress
        "#]]
        .assert_eq(&yaml(&policy));
        assert_eq!(created(&policies(), &text("{}")).at(&["spec", "policyTypes"]), Some(&json!(["Ingress"])));
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            ("{podSelector: {matchLabels: {a: b}}, ingress: [{}], policyTypes: [Ingress, Egress]}", expect![[""]]),
            (
                "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {podSelector: {}, namespaceSelector: {}}], ports: [{port: 80, endPort: 90}, {port: http}]}]}",
                expect![[""]],
            ),
            (
                "{ingress: [{ports: [{protocol: XTP}, {port: 0}, {port: 90, endPort: 80}, {port: 1, endPort: 70000}, {port: HTTP, endPort: 1}, {endPort: 5}]}]}",
                expect![[r#"
                    spec.ingress[0].ports[0].protocol: Unsupported value: "XTP": supported values: "TCP", "UDP", "SCTP"
                    spec.ingress[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive
                    spec.ingress[0].ports[2].endPort: Invalid value: 90: must be greater than or equal to `port`
                    spec.ingress[0].ports[3].endPort: Invalid value: 70000: must be between 1 and 65535, inclusive
                    spec.ingress[0].ports[4].endPort: Invalid value: 1: may not be specified when `port` is non-numeric
                    spec.ingress[0].ports[4].port: Invalid value: "HTTP": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
                    spec.ingress[0].ports[4].port: Invalid value: "HTTP": must contain at least one letter (a-z)
                    spec.ingress[0].ports[5].endPort: Invalid value: 5: may not be specified when `port` is not specified
                "#]],
            ),
            (
                "{egress: [{to: [{}, {ipBlock: {}}, {ipBlock: {cidr: 10.0.0.1/8, except: [10.0.0.0/8, 11.0.0.0/16, x, '']}, podSelector: {}}, {podSelector: {matchExpressions: [{key: a, operator: Near}]}}]}], policyTypes: [Sideways]}",
                expect![[r#"
                    spec.egress[0].to[0]: Required value: must specify a peer
                    spec.egress[0].to[1].ipBlock.cidr: Required value
                    spec.egress[0].to[2].ipBlock.cidr: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length
                    spec.egress[0].to[2].ipBlock.except[0]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`
                    spec.egress[0].to[2].ipBlock.except[1]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`
                    spec.egress[0].to[2].ipBlock.except[2]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
                    spec.egress[0].to[2].ipBlock.except[3]: Invalid value: "": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
                    spec.egress[0].to[2]: Forbidden: may not specify both ipBlock and another peer
                    spec.egress[0].to[3].podSelector.matchExpressions[0].operator: Invalid value: "Near": not a valid selector operator
                    spec.policyTypes[0]: Unsupported value: "Sideways": supported values: "Ingress", "Egress"
                "#]],
            ),
            (
                "{policyTypes: [Ingress, Ingress, Other]}",
                expect![[r#"
                spec.policyTypes: Invalid value: ["Ingress","Ingress","Other"]: may not specify more than two policyTypes
            "#]],
            ),
        ] {
            expected.assert_eq(&errors(&policies(), &text(spec)));
        }
    }

    #[test]
    fn that_nothing_acts_and_what_is_not_canonical_is_warned_of() {
        let policy = text(
            "{egress: [{to: [{ipBlock: {cidr: '2001:DB8::/32', except: ['2001:db8:0:0::/64', '2001:db8::/65']}}]}]}",
        );
        expect![[r#"
            NetworkPolicy is stored, but nothing in this cluster acts on it yet
            spec.egress[0].to[0].ipBlock.cidr: IPv6 CIDR value "2001:DB8::/32" should be in RFC 5952 canonical format ("2001:db8::/32")
            spec.egress[0].to[0].ipBlock.except[0]: IPv6 CIDR value "2001:db8:0:0::/64" should be in RFC 5952 canonical format ("2001:db8::/64")"#]]
        .assert_eq(&policies().warnings(&context(), &created(&policies(), &policy), None).join("\n"));
        let acting = Policies(Capabilities::new(["networkpolicy"]));
        assert!(acting.warnings(&context(), &created(&acting, &text("{}")), None).is_empty());
    }

    #[test]
    fn a_row_shows_the_selector() {
        expect!["p | a=b,c in (d,e) | <unknown>"].assert_eq(&row(
            &policies(),
            &text("{podSelector: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: In, values: [d, e]}]}}"),
        ));
        expect!["p | <none> | <unknown>"].assert_eq(&row(&policies(), &text("{podSelector: {}}")));
    }
}
