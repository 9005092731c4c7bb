//! ControllerRevision: a snapshot of a workload's template, immutable except its revision number.

use crate::{at::At, cells, edit};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Controller", "Controller of the object"),
    Column::new("Revision", "Revision indicates the revision of the state represented by Data."),
    Column::age(),
];

pub(crate) struct Revisions;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("apps", "v1", "controllerrevisions", "ControllerRevision", Revisions)
}

impl Strategy for Revisions {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        edit::fill(&mut object.0, "revision", 0);
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        At::of(object, "revision").not_negative(&mut out);
        let data = At::of(object, "data");
        if cx.operation != Operation::Create {
            return out; // its data cannot change
        }
        if !data.is_set() {
            out.push(data.required("data is mandatory"));
        } else if !data.value().is_object() {
            out.push(data.required("data must be a valid JSON object"));
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let (data, before) = (At::of(object, "data"), At::of(old, "data"));
        // To upstream the data is opaque text: null differs from absent.
        if data.value() == before.value() {
            return Vec::new();
        }
        vec![Cause::immutable(&data.field(), data.value())]
    }
}

impl TableConvertor for Revisions {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let owners = object.list_at(&["metadata", "ownerReferences"]);
        let owner = owners.iter().find(|o| o["controller"] == true).map_or("<none>".to_owned(), |owner| {
            let part = |name: &str| owner[name].as_str().unwrap_or_default();
            let group = part("apiVersion").split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
            format!("{}{group}/{}", part("kind").to_lowercase(), part("name"))
        });
        let revision = cells::number(object, &["revision"]);
        vec![json!(object.name()), json!(owner), json!(revision), cells::age(object, now)]
    }
}
