//! Secret: like a ConfigMap, but typed, with base64 data and the write-only `stringData`.

use crate::{at::At, cells, edit, rules};
use api::{Cause, FieldPath, Object};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Type", "Used to facilitate programmatic handling of secret data."),
    Column::new("Data", "Data contains the secret data."),
    Column::age(),
];

const MAX_DATA: usize = 1024 * 1024;

pub(crate) struct Secrets;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("", "v1", "secrets", "Secret", Secrets)
}

impl Strategy for Secrets {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        edit::fill_str(&mut object.0, "type", "Opaque");
        if let Some(Value::Object(plain)) = object.0.remove("stringData") {
            let data = edit::object(&mut object.0, "data");
            for (key, value) in plain {
                data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
            }
        }
        edit::drop_zero(&mut object.0, &["data"]);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let data = At::of(object, "data");
        let mut size = 0;
        for (key, at) in data.entries() {
            rules::config_key(at, key, &mut out);
            size += rules::decoded_len(at.str());
        }
        if size > MAX_DATA {
            out.push(Cause::too_long(&data.field(), MAX_DATA));
        }
        typed(object, data, &mut out);
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        At::of(object, "type").immutable(At::of(old, "type"), &mut out);
        if old.bool_at(&["immutable"]) {
            rules::stays_immutable(object, old, &["data"], &mut out);
        }
        out
    }

    fn field_labels(&self) -> &[&'static str] {
        &["type"]
    }
}

impl TableConvertor for Secrets {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let kind = cells::text(object, &["type"]);
        vec![json!(object.name()), json!(kind), json!(At::of(object, "data").len()), cells::age(object, now)]
    }
}

/// The keys that the well-known types require.
fn typed(object: &Object, data: At<'_>, out: &mut Vec<Cause>) {
    let kind = object.str_at(&["type"]).unwrap_or_default();
    let require = |key: &str, out: &mut Vec<Cause>| out.push(Cause::required(&data.field().key(key), ""));
    match kind {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if object.annotation(NAME).is_none_or(str::is_empty) {
                out.push(Cause::required(&FieldPath::new("metadata.annotations").key(NAME), ""));
            }
        }
        "kubernetes.io/dockercfg" => docker(data, ".dockercfg", out),
        "kubernetes.io/dockerconfigjson" => docker(data, ".dockerconfigjson", out),
        "kubernetes.io/basic-auth" if !data.key("username").is_set() && !data.key("password").is_set() => {
            require("username", out);
            require("password", out);
        }
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").is_empty() => require("ssh-privatekey", out),
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !data.key(key).is_set() {
                    require(key, out);
                }
            }
        }
        _ => {}
    }
}

fn docker(data: At<'_>, key: &str, out: &mut Vec<Cause>) {
    let Some(text) = data.value().get(key).and_then(Value::as_str) else {
        out.push(Cause::required(&data.field().key(key), ""));
        return;
    };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        let text = if bytes.is_empty() { "unexpected end of JSON input".to_owned() } else { error.to_string() };
        out.push(Cause::invalid(&data.field().key(key), &json!("<secret contents redacted>"), &text));
    }
}
