//! A kind: what is to be backed up, and how many backups are kept.

use api::{Cause, FieldPath, GroupVersionKind, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, Verb, columns::age};

const COLUMNS: &[Column] =
    &[Column::name(), Column::new("Keep", "How many backups are kept.").integer(), Column::age()];

struct Backups;

/// The resource.
pub fn resource() -> Resource {
    let spec = json!({"type": "object", "properties": {"claim": {"type": "string"}, "keep": {"type": "integer"}}});
    let status = json!({"type": "object", "properties": {"last": {"type": "string"}}});
    Resource::new("example.com", "v1", "backups", "Backup", Backups)
        .short(&["bk"])
        .with_schema(&json!({"type": "object", "properties": {"spec": spec, "status": status}}))
        .with_generation()
        .with_status()
        .with_action("run", GroupVersionKind::new("", "v1", "Status"), &[Verb::Create], super::subresource::Run)
}

impl Strategy for Backups {
    fn default(&self, object: &mut Object) {
        if object.at(&["spec", "keep"]).is_none() {
            object.set(&["spec", "keep"], 7);
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (spec, mut causes) = (FieldPath::new("spec"), Vec::new());
        if object.str_at(&["spec", "claim"]).is_none_or(str::is_empty) {
            causes.push(Cause::required(&spec.child("claim"), ""));
        }
        if let Some(keep) = object.int_at(&["spec", "keep"]).filter(|keep| *keep < 1) {
            causes.push(Cause::invalid(&spec.child("keep"), &json!(keep), "must be greater than 0"));
        }
        causes
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let (new, old) = (object.at(&["spec", "claim"]), old.at(&["spec", "claim"]));
        let claim = FieldPath::new("spec").child("claim");
        if new == old { Vec::new() } else { vec![Cause::immutable(&claim, new.unwrap_or(&Value::Null))] }
    }
}

impl TableConvertor for Backups {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![json!(object.name()), json!(object.int_at(&["spec", "keep"])), age(object, now)]
    }
}
