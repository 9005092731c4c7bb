//! VolumeAttributesClass: settings of volumes that may change while they are in use.

use super::{
    GROUP,
    storageclass::{driver_name, parameters},
};
use crate::{at::At, cells, edit};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] =
    &[Column::name(), Column::new("DriverName", "The CSI driver of the volumes."), Column::age()];

struct Classes;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", "volumeattributesclasses", "VolumeAttributesClass", Classes)
        .short(&["vac"])
        .cluster_scoped()
        .returning_deleted()
}

impl Strategy for Classes {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        if cx.operation == Operation::Create {
            whole(object, &mut out);
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        for name in ["driverName", "parameters"] {
            if !edit::deep_equal_at(object, old, &[name]) {
                out.push(At::of(object, name).forbidden(&format!("updates to {name} are forbidden.")));
            }
        }
        // What is stored was valid.
        if !out.is_empty() {
            whole(object, &mut out);
        }
        out
    }
}

fn whole(object: &Object, out: &mut Vec<Cause>) {
    driver_name(At::of(object, "driverName"), out);
    let settings = At::of(object, "parameters");
    parameters(settings, out);
    if settings.is_empty() {
        out.push(settings.required("must contain at least one key/value pair"));
    }
}

impl TableConvertor for Classes {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![json!(object.name()), json!(cells::text(object, &["driverName"])), cells::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, row, update_errors};
    use expect_test::expect;

    fn text(rest: &str) -> String {
        format!("{{apiVersion: {GROUP}/v1, kind: VolumeAttributesClass, metadata: {{name: c}}{rest}}}")
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (rest, expected) in [
            (", driverName: D.example, parameters: {a: b}", expect![[""]]),
            (
                "",
                expect![[r#"
                driverName: Required value
                parameters: Required value: must contain at least one key/value pair
            "#]],
            ),
            (
                ", driverName: a/b/c, parameters: {'': b}",
                expect![[r#"
                driverName: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
                parameters: Invalid value: "": field can not be empty.
            "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Classes, &text(rest)));
        }
    }

    #[test]
    fn all_of_it_stays() {
        let old = created(&Classes, &text(", driverName: d, parameters: {a: b}"));
        assert_eq!(update_errors(&Classes, &old, &old), "");
        let mut new = old.clone();
        new.set(&["driverName"], "a/b/c");
        new.set(&["parameters"], json!({}));
        expect![[r#"
            driverName: Forbidden: updates to driverName are forbidden.
            parameters: Forbidden: updates to parameters are forbidden.
            driverName: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
            parameters: Required value: must contain at least one key/value pair
        "#]].assert_eq(&update_errors(&Classes, &new, &old));
    }

    #[test]
    fn a_row_shows_the_driver() {
        expect!["c | d | <unknown>"].assert_eq(&row(&Classes, &text(", driverName: d")));
    }
}
