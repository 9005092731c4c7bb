//! Bodies: JSON, YAML and protobuf.
#![no_main]

use api::{Object, json, protobuf, schema::Schema, yaml};
use fuzz::{assert_form_is_final, assert_survives_json};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    if protobuf::is_protobuf(data) {
        if let Ok(value) = protobuf::decode(data) {
            is_sound(&value, None);
        }
        return;
    }
    if let Ok((value, duplicates)) = json::parse(data) {
        is_sound(&value, Some((duplicates, data)));
    }
    if let Ok((value, _)) = yaml::parse(data) {
        is_sound(&value, None);
        let text = yaml::to_string(&value);
        assert_eq!(yaml::parse(text.as_bytes()), Ok((value, Vec::new())), "{text}");
    }
    yaml::strict_error(data);
    let _ = yaml::fields(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = yaml::documents(text);
    }
});

/// Whether a decoded value is read again as it is, and has its final form once it went through the schema of its kind. `json` are the
/// duplicate fields and the text of a body in JSON.
fn is_sound(value: &Value, json: Option<(Vec<String>, &[u8])>) {
    assert_survives_json(value);
    let kind = Object::from_value(value.clone()).map(|object| object.gvk());
    let Some(schema) = kind.and_then(|kind| Schema::for_kind(&kind)) else { return };
    if let Some((duplicates, text)) = json {
        let (mut alone, mut placed) = (value.clone(), value.clone());
        let unknown = schema.decode_check(&mut alone);
        let known = schema.decode_check_in(&mut placed, text);
        assert_eq!(known.is_ok(), unknown.is_ok(), "{known:?} {unknown:?}");
        if let Ok(unknown) = unknown {
            assert_eq!(placed, alone);
            json::in_document_order(text, duplicates, unknown);
        }
    }
    assert_form_is_final(value, &schema);
}
