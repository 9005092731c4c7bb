//! ServiceCIDR: a range of addresses for Services (KEP-1880). Services get theirs from all that are ready.

use crate::{
    address::{cidr_problem, parse_cidr},
    at::At,
    cells, edit,
};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("CIDRs", "The networks of the addresses, at most one of each family."),
    Column::age(),
];

pub(crate) const GROUP: &str = "networking.k8s.io";
pub(crate) const RESOURCE: &str = "servicecidrs";

/// The name of the one that has the range of the settings.
pub(crate) const DEFAULT: &str = "kubernetes";

struct Ranges;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", RESOURCE, "ServiceCIDR", Ranges).cluster_scoped().with_status()
}

/// Whether Services get addresses from a ServiceCIDR. One of which nothing is said is ready: perhaps no controller runs.
pub(crate) fn is_ready(object: &Object) -> bool {
    let mut conditions = object.list_at(&["status", "conditions"]).iter();
    let ready = conditions.find(|condition| condition["type"] == "Ready");
    !object.is_deleting() && ready.is_none_or(|condition| condition["status"] == "True")
}

impl Strategy for Ranges {
    fn default(&self, object: &mut Object) {
        edit::object(&mut object.0, "spec");
        for condition in edit::objects(edit::object(&mut object.0, "status"), "conditions") {
            ["reason", "message"].into_iter().for_each(|field| edit::fill(condition, field, ""));
        }
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({}));
    }

    fn prepare_status(&self, _cx: &Context, object: &mut Object, old: &Object) {
        edit::keep_metadata(object, old);
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        if cx.operation == Operation::Create {
            networks(At::of(object, "spec").get("cidrs"), &mut out);
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let (mut out, new, old) = (Vec::new(), At::of(object, "spec").get("cidrs"), At::of(old, "spec").get("cidrs"));
        match (old.len(), new.len()) {
            (before, now) if before == now => {
                new.items().zip(old.items()).for_each(|(new, old)| new.immutable(old, &mut out));
            }
            // A network of the other family may be added.
            (1, 2) => {
                new.index(0).immutable(old.index(0), &mut out);
                networks(new, &mut out);
            }
            _ => out.push(new.invalid("field is immutable")),
        }
        out
    }

    fn reset_fields(&self, subresource: &str) -> &[&'static [&'static str]] {
        if subresource == "status" { &[&["metadata"], &["spec"]] } else { &[] }
    }
}

fn networks(cidrs: At<'_>, out: &mut Vec<Cause>) {
    if cidrs.is_empty() {
        out.push(cidrs.required("at least one CIDR required"));
        return;
    }
    if cidrs.len() > 2 {
        let shown = json!({"CIDRs": cidrs.value()}).to_string();
        out.push(Cause::invalid_shown(&cidrs.field(), &shown, "may only hold up to 2 values"));
        return;
    }
    for cidr in cidrs.items() {
        if let Some(problem) = cidr_problem(cidr.str()) {
            out.push(cidr.or_empty().invalid(problem));
        } else if let Some(canonical) = parse_cidr(cidr.str()).map(|net| net.to_string()).filter(|c| c != cidr.str()) {
            out.push(cidr.invalid(&format!("must be in canonical form ({canonical:?})")));
        }
    }
    let families: Vec<bool> =
        cidrs.items().filter_map(|cidr| parse_cidr(cidr.str())).map(|net| net.addr().is_ipv4()).collect();
    if let [first, second] = families[..]
        && first == second
    {
        let text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        out.push(cidrs.invalid(text));
    }
}

impl TableConvertor for Ranges {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let cidrs: Vec<&str> = At::of(object, "spec").get("cidrs").items().map(At::str).collect();
        vec![json!(object.name()), json!(cidrs.join(",")), cells::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, row, update_errors};
    use expect_test::expect;

    fn text(cidrs: &str) -> String {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {{name: r}}, spec: {{cidrs: {cidrs}}}}}"
        )
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (cidrs, expected) in [
            ("[10.0.0.0/16]", expect![[""]]),
            ("[10.0.0.0/16, '2001:db8::/64']", expect![[""]]),
            (
                "[]",
                expect![[r#"
                spec.cidrs: Required value: at least one CIDR required
            "#]],
            ),
            (
                "[a, b, c]",
                expect![[r#"
                spec.cidrs: Invalid value: {"CIDRs":["a","b","c"]}: may only hold up to 2 values
            "#]],
            ),
            (
                "[10.0.0.0/16, 10.1.0.0/16]",
                expect![[r#"
                spec.cidrs: Invalid value: ["10.0.0.0/16","10.1.0.0/16"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64
            "#]],
            ),
            (
                "[10.0.0.1/16, '2001:DB8::/64']",
                expect![[r#"
                spec.cidrs[0]: Invalid value: "10.0.0.1/16": must not have bits set beyond the prefix length
                spec.cidrs[1]: Invalid value: "2001:DB8::/64": must be in canonical form ("2001:db8::/64")
            "#]],
            ),
            (
                "[x, '']",
                expect![[r#"
                spec.cidrs[0]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
                spec.cidrs[1]: Invalid value: "": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
            "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Ranges, &text(cidrs)));
        }
    }

    #[test]
    fn networks_stay_and_the_other_family_may_be_added() {
        let old = created(&Ranges, &text("[10.0.0.0/16]"));
        for (cidrs, expected) in [
            ("[10.0.0.0/16]", expect![[""]]),
            ("[10.0.0.0/16, '2001:db8::/64']", expect![[""]]),
            (
                "[10.2.0.0/16, 10.3.0.0/16]",
                expect![[r#"
                spec.cidrs[0]: Invalid value: "10.2.0.0/16": field is immutable
                spec.cidrs: Invalid value: ["10.2.0.0/16","10.3.0.0/16"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64
            "#]],
            ),
            (
                "[x]",
                expect![[r#"
                spec.cidrs[0]: Invalid value: "x": field is immutable
            "#]],
            ),
            (
                "[]",
                expect![[r#"
                spec.cidrs: Invalid value: []: field is immutable
            "#]],
            ),
        ] {
            expected.assert_eq(&update_errors(&Ranges, &created(&Ranges, &text(cidrs)), &old));
        }
    }

    #[test]
    fn a_write_of_the_status_keeps_the_metadata() {
        let old = created(&Ranges, &text("[10.0.0.0/16]"));
        let mut new = old.clone();
        new.set(&["metadata", "labels"], json!({"a": "b"}));
        new.set(&["status", "conditions"], json!([]));
        Ranges.prepare_status(&context(), &mut new, &old);
        assert_eq!(new.at(&["metadata", "labels"]), None);
        assert!(new.at(&["status", "conditions"]).is_some());
    }

    #[test]
    fn a_row_shows_the_networks() {
        expect!["r | 10.0.0.0/16,2001:db8::/64 | <unknown>"]
            .assert_eq(&row(&Ranges, &text("[10.0.0.0/16, '2001:db8::/64']")));
    }
}
