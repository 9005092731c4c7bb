//! CSIStorageCapacity: how much storage of a class there is for the nodes of a topology.

use super::GROUP;
use crate::{at::At, podspec, quantities, rules};
use api::{Cause, Object};
use server::{Context, Resource, Strategy, TableConvertor, strategy::Recheck};

/// The most warnings about one object.
const MOST_WARNINGS: usize = 200;

struct Capacities;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", "csistoragecapacities", "CSIStorageCapacity", Capacities).conditional_update_only()
}

impl Strategy for Capacities {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        for name in ["capacity", "maximumVolumeSize"] {
            object.0.get_mut(name).into_iter().for_each(quantities::canonicalize_one);
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        rules::label_selector(At::of(object, "nodeTopology"), &mut out);
        rules::subdomain_name(At::of(object, "storageClassName"), &mut out);
        rules::quantity_not_negative(At::of(object, "capacity"), &mut out);
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        rules::selector_stays(At::of(object, "nodeTopology"), At::of(old, "nodeTopology"), &mut out);
        let class = At::of(object, "storageClassName").or_empty();
        class.immutable(At::of(old, "storageClassName").or_empty(), &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let topology = At::of(object, "nodeTopology");
        let keys = topology.get("matchExpressions").items().map(|expression| expression.get("key"));
        let expressions = keys.filter_map(|key| {
            let text = podspec::deprecated_node_label(key.str())?;
            Some(format!("{}: {} is {text}", key.field(), key.str()))
        });
        let labels = topology.get("matchLabels");
        let labels = labels.entries().filter_map(|(key, _)| {
            let text = podspec::deprecated_node_label(key)?;
            Some(format!("{}: {text}", labels.field().child(key)))
        });
        expressions.chain(labels).take(MOST_WARNINGS).collect()
    }
}

impl TableConvertor for Capacities {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, update_errors};
    use expect_test::expect;
    use serde_json::json;

    fn text(rest: &str) -> String {
        format!("{{apiVersion: {GROUP}/v1, kind: CSIStorageCapacity, metadata: {{name: c, namespace: ns}}{rest}}}")
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (rest, expected) in [
            (", storageClassName: s, capacity: 1Gi, nodeTopology: {matchLabels: {a: b}}", expect![[""]]),
            (
                "",
                expect![[r#"
                storageClassName: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            "#]],
            ),
            (
                ", storageClassName: A, capacity: -1Gi, nodeTopology: {matchExpressions: [{key: a, operator: Near}]}",
                expect![[r#"
                    nodeTopology.matchExpressions[0].operator: Invalid value: "Near": not a valid selector operator
                    storageClassName: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                    capacity: Invalid value: "-1Gi": must be greater than or equal to 0
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Capacities, &text(rest)));
        }
    }

    #[test]
    fn what_is_measured_stays() {
        let old =
            created(&Capacities, &text(", storageClassName: s, capacity: 1024Mi, nodeTopology: {matchLabels: {a: b}}"));
        assert_eq!(old.str_at(&["capacity"]), Some("1Gi"));
        let mut new = old.clone();
        new.set(&["capacity"], "2Gi");
        assert_eq!(update_errors(&Capacities, &new, &old), "");
        new.set(&["storageClassName"], "t");
        new.set(&["nodeTopology", "matchLabels", "a"], "c");
        new.set(&["nodeTopology", "matchExpressions"], json!([{"key": "k", "operator": "Exists"}]));
        expect![[r#"
            nodeTopology: Invalid value: {"matchLabels":{"a":"c"},"matchExpressions":[{"key":"k","operator":"Exists"}]}: field is immutable
            storageClassName: Invalid value: "t": field is immutable
        "#]]
        .assert_eq(&update_errors(&Capacities, &new, &old));
    }

    #[test]
    fn deprecated_labels_are_warned_of() {
        let labels = ", nodeTopology: {matchLabels: {beta.kubernetes.io/os: linux}, matchExpressions: [{key: beta.kubernetes.io/arch, operator: Exists}]}";
        expect![[r#"
            nodeTopology.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use "kubernetes.io/arch" instead
            nodeTopology.matchLabels.beta.kubernetes.io/os: deprecated since v1.14; use "kubernetes.io/os" instead"#]]
            .assert_eq(&Capacities.warnings(&context(), &created(&Capacities, &text(labels)), None).join("\n"));
    }
}
