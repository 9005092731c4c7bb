//! ConfigMap: data for pods, at most 1 MiB, with keys that are valid file names.

use crate::{at::At, cells, edit::drop_zero, rules};
use api::{Cause, FieldPath, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] =
    &[Column::name(), Column::new("Data", "Data contains the configuration data."), Column::age()];

/// The limit of all values together.
const MAX_DATA: usize = 1024 * 1024;

pub(crate) struct ConfigMaps;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("", "v1", "configmaps", "ConfigMap", ConfigMaps).short(&["cm"])
}

impl Strategy for ConfigMaps {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        drop_zero(&mut object.0, &["data", "binaryData"]);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let (data, binary) = (At::of(object, "data"), At::of(object, "binaryData"));
        let mut size = 0;
        for (key, at) in data.entries() {
            rules::config_key(at, key, &mut out);
            if binary.get(key).is_set() {
                let text = "duplicate of key present in binaryData";
                out.push(Cause::invalid(&at.field(), &json!(key), text));
            }
            size += at.str().len();
        }
        for (key, at) in binary.entries() {
            rules::config_key(at, key, &mut out);
            size += rules::decoded_len(at.str());
        }
        if size > MAX_DATA {
            out.push(Cause::too_long(&FieldPath::default(), MAX_DATA));
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        if old.bool_at(&["immutable"]) {
            rules::stays_immutable(object, old, &["data", "binaryData"], &mut out);
        }
        out
    }
}

impl TableConvertor for ConfigMaps {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let count = At::of(object, "data").len() + At::of(object, "binaryData").len();
        vec![json!(object.name()), json!(count), cells::age(object, now)]
    }
}
