//! CSINode: the CSI drivers of a node, and how each knows the node. A kubelet writes it.

use super::GROUP;
use crate::{at::At, cells, edit, podspec, rules};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};
use std::collections::{HashMap, HashSet};

const COLUMNS: &[Column] =
    &[Column::name(), Column::new("Drivers", "The number of CSI drivers of the node.").integer(), Column::age()];

/// The longest name of a node among those of a driver.
const MAX_NODE_ID: usize = 256;

pub(crate) struct Nodes;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", "csinodes", "CSINode", Nodes)
        .cluster_scoped()
        .conditional_update_only()
        .returning_deleted()
}

impl Strategy for Nodes {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Whole
    }

    fn default(&self, object: &mut Object) {
        edit::object(&mut object.0, "spec");
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, mut seen) = (Vec::new(), HashSet::new());
        for at in At::of(object, "spec").get("drivers").items() {
            if rules::full(&out) {
                break;
            }
            driver(at, &mut seen, &mut out);
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        // The volumes that a node can have may change.
        let fixed = |driver: At<'_>| {
            let mut value = driver.value().clone();
            value.as_object_mut().into_iter().for_each(|fields| drop(fields.remove("allocatable")));
            value
        };
        let list = At::of(object, "spec").get("drivers");
        let mut new: HashMap<&str, Vec<Value>> = HashMap::new();
        for driver in list.items() {
            new.entry(driver.get("name").str()).or_default().push(fixed(driver));
        }
        let mut out = Vec::new();
        for old in At::of(old, "spec").get("drivers").items() {
            // Each once: what is stored names no driver twice.
            let Some(drivers) = new.remove(old.get("name").str()) else { continue };
            let was = fixed(old);
            for is in drivers.iter().filter(|is| !edit::deep_equal(is, &was)) {
                let shown = list.with(is).printed("io.k8s.api.storage.v1.CSINodeDriver");
                out.push(Cause::invalid_shown(&list.field(), &shown, "field is immutable"));
            }
        }
        out
    }
}

fn driver<'a>(driver: At<'a>, names: &mut HashSet<&'a str>, out: &mut Vec<Cause>) {
    let (name, id) = (driver.get("name"), driver.get("nodeID"));
    podspec::csi_driver(name, out);
    if id.is_empty() {
        out.push(id.required(""));
    }
    if id.str().len() > MAX_NODE_ID {
        out.push(id.invalid(&format!("must be {MAX_NODE_ID} characters or less")));
    }
    driver.down(&["allocatable", "count"]).not_negative(out);
    if !names.insert(name.str()) {
        out.push(name.or_empty().duplicate());
    }
    let mut seen = HashSet::new();
    for key in driver.get("topologyKeys").items() {
        // Upstream's errors name the driver.
        let shown = driver.with(key.value());
        if key.is_empty() {
            out.push(shown.required(""));
        }
        if !seen.insert(key.str()) {
            out.push(shown.or_empty().duplicate());
        }
        rules::qualified(shown, out);
    }
}

impl TableConvertor for Nodes {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let drivers = At::of(object, "spec").get("drivers").items().len();
        vec![json!(object.name()), json!(drivers), cells::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, row, update_errors};
    use expect_test::expect;

    fn text(drivers: &str) -> String {
        format!("{{apiVersion: {GROUP}/v1, kind: CSINode, metadata: {{name: one}}, spec: {{drivers: {drivers}}}}}")
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (drivers, expected) in [
            ("[]".to_owned(), expect![[""]]),
            ("[{name: D.example, nodeID: i, topologyKeys: [a/b, c], allocatable: {count: 0}}]".to_owned(), expect![[""]]),
            ("[{}, {name: -, nodeID: i, topologyKeys: ['', a, a, a/b/c], allocatable: {count: -1}}, {name: -, nodeID: j}]".replace('-', "'-'").replace("'-'1", "-1"), expect![[r#"
                spec.drivers[0].name: Required value
                spec.drivers[0].nodeID: Required value
                spec.drivers[1].name: Invalid value: "-": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0
                spec.drivers[1]: Required value
                spec.drivers[1]: Invalid value: "": name part must be non-empty
                spec.drivers[1]: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                spec.drivers[1]: Duplicate value: "a"
                spec.drivers[1]: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
                spec.drivers[2].name: Invalid value: "-": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.drivers[2].name: Duplicate value: "-"
            "#]]),
            (format!("[{{name: {}, nodeID: {}}}]", "a".repeat(64), "b".repeat(257)), expect![[r#"
                spec.drivers[0].name: Too long: may not be more than 63 bytes
                spec.drivers[0].nodeID: Invalid value: "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb": must be 256 characters or less
            "#]]),
        ] {
            expected.assert_eq(&errors(&Nodes, &text(&drivers)));
        }
    }

    #[test]
    fn a_driver_stays_but_for_what_it_can_have() {
        let old = created(
            &Nodes,
            &text("[{name: a, nodeID: i, topologyKeys: [k], allocatable: {count: 1}}, {name: b, nodeID: i}]"),
        );
        for (drivers, expected) in [
            ("[{name: c, nodeID: z}, {name: a, nodeID: i, topologyKeys: [k], allocatable: {count: 2}}]", expect![[""]]),
            (
                "[{name: b, nodeID: x}, {name: a, nodeID: i, allocatable: {count: 1}}]",
                expect![[r#"
                spec.drivers: Invalid value: {"Name":"a","NodeID":"i","TopologyKeys":null,"Allocatable":null}: field is immutable
                spec.drivers: Invalid value: {"Name":"b","NodeID":"x","TopologyKeys":null,"Allocatable":null}: field is immutable
            "#]],
            ),
        ] {
            expected.assert_eq(&update_errors(&Nodes, &created(&Nodes, &text(drivers)), &old));
        }
    }

    #[test]
    fn a_row_counts_the_drivers() {
        expect!["one | 2 | <unknown>"].assert_eq(&row(&Nodes, &text("[{}, {}]")));
    }
}
