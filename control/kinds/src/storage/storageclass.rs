//! StorageClass: how volumes for claims are made.

use crate::{at::At, cells, edit, podspec, rules};
use api::{Cause, CauseKind, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};
use std::collections::HashSet;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Provisioner", "provisioner indicates the type of the provisioner."),
    Column::new(
        "ReclaimPolicy",
        "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class. Defaults to Delete.",
    ),
    Column::new(
        "VolumeBindingMode",
        "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound.  When unset, VolumeBindingImmediate is used. This field is only honored by servers that enable the VolumeScheduling feature.",
    ),
    Column::new("AllowVolumeExpansion", "allowVolumeExpansion shows whether the storage class allow volume expand."),
    Column::age(),
];

/// Limits of the parameters: their number, and their size in bytes.
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 << 10;

struct Classes;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("storage.k8s.io", "v1", "storageclasses", "StorageClass", Classes)
        .short(&["sc"])
        .cluster_scoped()
        .returning_deleted()
}

impl Strategy for Classes {
    fn default(&self, object: &mut Object) {
        edit::fill(&mut object.0, "reclaimPolicy", "Delete");
        edit::fill(&mut object.0, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        driver_name(At::of(object, "provisioner"), &mut out);
        parameters(At::of(object, "parameters"), &mut out);
        let policy = At::of(object, "reclaimPolicy");
        if !policy.is_empty() && !["Delete", "Retain"].contains(&policy.str()) {
            out.push(policy.not_supported(&["Delete", "Retain"]));
        }
        let mode = At::of(object, "volumeBindingMode");
        if !["Immediate", "WaitForFirstConsumer"].contains(&mode.str()) {
            out.push(mode.or_empty().not_supported(&["Immediate", "WaitForFirstConsumer"]));
        }
        topologies(At::of(object, "allowedTopologies"), &mut out);
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        for name in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            At::of(object, name).immutable(At::of(old, name), &mut out);
        }
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let terms = At::of(object, "allowedTopologies").items();
        let keys = terms.flat_map(|term| term.get("matchLabelExpressions").items()).map(|one| one.get("key"));
        let warned = keys
            .filter_map(|key| podspec::deprecated_node_label(key.str()).map(|text| format!("{}: {text}", key.field())));
        warned.take(MAX_SAME).collect()
    }
}

/// The name of a driver that makes or changes volumes.
pub(super) fn driver_name(at: At<'_>, out: &mut Vec<Cause>) {
    if at.is_empty() {
        out.push(at.required(""));
        return;
    }
    let lower = at.str().to_lowercase();
    let shown = json!(lower);
    out.extend(names::qualified_name(&lower).iter().map(|text| Cause::invalid(&at.field(), &shown, text)));
}

/// What is passed on to a driver.
pub(super) fn parameters(parameters: At<'_>, out: &mut Vec<Cause>) {
    if parameters.len() > MAX_PARAMETERS {
        out.push(Cause::too_long(&parameters.field(), MAX_PARAMETERS));
        return;
    }
    let mut size = 0;
    for (name, value) in parameters.entries() {
        if name.is_empty() {
            out.push(Cause::invalid(&parameters.field(), &json!(""), "field can not be empty."));
        }
        size += name.len() + value.str().len();
    }
    if size > MAX_PARAMETER_BYTES {
        out.push(Cause::too_long(&parameters.field(), MAX_PARAMETER_BYTES));
    }
}

/// The most equal causes that are listed for one term, and the most warnings.
const MAX_SAME: usize = 100;

fn topologies(topologies: At<'_>, out: &mut Vec<Cause>) {
    let (mut terms, mut empty) = (HashSet::new(), 0);
    for term in topologies.items() {
        let (expressions, mut keys) = (term.get("matchLabelExpressions"), HashSet::new());
        for expression in expressions.items() {
            if rules::full(out) {
                return;
            }
            let (key, values) = (expression.get("key"), expression.get("values"));
            if values.is_empty() {
                out.push(values.required(""));
            }
            let mut seen = HashSet::new();
            for value in values.items() {
                if !seen.insert(value.str()) {
                    out.push(value.duplicate());
                }
            }
            rules::qualified(key, out);
            if !keys.insert(key.str()) {
                out.push(key.duplicate());
            }
        }
        let again = Cause::shown(CauseKind::Duplicate, &expressions.field(), "\"\"", "");
        if expressions.is_empty() {
            // Upstream compares with a list that begins with as many empty terms as there are terms.
            let same = topologies.len() + empty;
            empty += 1;
            out.extend((0..same).take(MAX_SAME).map(|_| again.clone()));
        } else if !terms.insert(edit::without_empty(term.value())) {
            out.push(again);
        }
    }
}

/// Whether claims without a class get this one.
pub(crate) fn is_default(class: &Object) -> bool {
    let names = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    names.iter().any(|name| class.annotation(name) == Some("true"))
}

impl TableConvertor for Classes {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let name = object.name();
        vec![
            if is_default(object) { json!(format!("{name} (default)")) } else { json!(name) },
            json!(cells::text(object, &["provisioner"])),
            json!(object.str_at(&["reclaimPolicy"]).unwrap_or("Delete")),
            json!(object.str_at(&["volumeBindingMode"]).unwrap_or("Immediate")),
            json!(object.bool_at(&["allowVolumeExpansion"])),
            cells::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, row, update_errors};
    use expect_test::expect;

    fn text(rest: &str) -> String {
        format!("{{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {{name: s}}{rest}}}")
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (rest, expected) in [
            (", provisioner: a.example/b", expect![[""]]),
            (
                ", reclaimPolicy: Recycle, volumeBindingMode: Any",
                expect![[r#"
                    provisioner: Required value
                    reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"
                    volumeBindingMode: Unsupported value: "Any": supported values: "Immediate", "WaitForFirstConsumer"
                "#]],
            ),
            (
                ", provisioner: a/b/c, parameters: {'': x}, allowedTopologies: [{matchLabelExpressions: [{key: zone}, {key: zone, values: [a, a]}]}]",
                expect![[r#"
                    provisioner: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
                    parameters: Invalid value: "": field can not be empty.
                    allowedTopologies[0].matchLabelExpressions[0].values: Required value
                    allowedTopologies[0].matchLabelExpressions[1].values[1]: Duplicate value: "a"
                    allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: "zone"
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Classes, &text(rest)));
        }
    }

    #[test]
    fn what_volumes_are_made_of_stays() {
        let old = created(&Classes, &text(", provisioner: a.example/b"));
        let mut new = old.clone();
        new.set(&["allowVolumeExpansion"], true);
        assert_eq!(update_errors(&Classes, &new, &old), "");
        new.set(&["provisioner"], "b");
        new.set(&["reclaimPolicy"], "Retain");
        expect![[r#"
            provisioner: Invalid value: "b": field is immutable
            reclaimPolicy: Invalid value: "Retain": field is immutable
        "#]]
        .assert_eq(&update_errors(&Classes, &new, &old));
    }

    #[test]
    fn deprecated_labels_are_warned_of() {
        let terms = ", provisioner: p, allowedTopologies: [{matchLabelExpressions: [{key: failure-domain.beta.kubernetes.io/zone, values: [a]}]}]";
        let said = Classes.warnings(&context(), &created(&Classes, &text(terms)), None);
        assert_eq!(
            said,
            [
                "allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
            ]
        );
    }

    #[test]
    fn a_row_shows_the_default() {
        let text = text(", provisioner: p, volumeBindingMode: WaitForFirstConsumer")
            .replace("name: s", "name: s, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}");
        expect!["s (default) | p | Delete | WaitForFirstConsumer | false | <unknown>"].assert_eq(&row(&Classes, &text));
    }
}
