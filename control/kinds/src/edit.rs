//! Writing into JSON for defaulting and preparation, with Go's two kinds of "unset": a pointer is unset when absent, a plain value also
//! when it is the zero value (which Go clients send in protobuf).

use api::Object;
pub(crate) use api::semantic::{deep_equal, deep_equal_at, is_empty_value};
use serde_json::{Map, Value};

/// A JSON object.
pub(crate) type Fields = Map<String, Value>;

/// The object at `key`, created if there is none.
pub(crate) fn object<'a>(fields: &'a mut Fields, key: &str) -> &'a mut Fields {
    let value = fields.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object above")
}

/// The object at `key`, if there is one.
pub(crate) fn object_if<'a>(fields: &'a mut Fields, key: &str) -> Option<&'a mut Fields> {
    fields.get_mut(key)?.as_object_mut()
}

/// The objects in the list at `key`.
pub(crate) fn objects<'a>(fields: &'a mut Fields, key: &str) -> impl Iterator<Item = &'a mut Fields> {
    fields.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Sets a pointer field that is absent or null.
pub(crate) fn fill(fields: &mut Fields, key: &str, value: impl Into<Value>) {
    if fields.get(key).is_none_or(Value::is_null) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Sets a plain string field that is absent, null or empty.
pub(crate) fn fill_str(fields: &mut Fields, key: &str, value: &str) {
    if fields.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Sets a plain integer field that is absent, null or zero.
pub(crate) fn fill_int(fields: &mut Fields, key: &str, value: i64) {
    if fields.get(key).is_none_or(|v| v.is_null() || v.as_i64() == Some(0)) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Removes fields with a zero value: null, `""`, `[]`, `{}`, `false` or 0, as Go omits plain values with `omitempty`.
pub(crate) fn drop_zero(fields: &mut Fields, keys: &[&str]) {
    for key in keys {
        let zero = match fields.get(*key) {
            Some(Value::Null) | Some(Value::Bool(false)) => true,
            Some(Value::String(s)) => s.is_empty(),
            Some(Value::Array(a)) => a.is_empty(),
            Some(Value::Object(o)) => o.is_empty(),
            Some(Value::Number(n)) => n.as_i64() == Some(0),
            Some(Value::Bool(true)) | None => false,
        };
        if zero {
            fields.remove(*key);
        }
    }
}

/// Copies a field at a path from `old`, or removes it when `old` has none.
pub(crate) fn keep_at(object: &mut Object, old: &Object, path: &[&str]) {
    match old.at(path) {
        Some(value) => object.set(path, value.clone()),
        None => drop(object.remove(path)),
    }
}

/// Puts back the metadata that a write of `/status` may not change, for kinds of which upstream says so (`ResetObjectMetaForStatus`).
pub(crate) fn keep_metadata(object: &mut Object, old: &Object) {
    for part in ["labels", "annotations", "finalizers", "ownerReferences"] {
        keep_at(object, old, &["metadata", part]);
    }
}

/// The value without empty fields, as a key for finding equal elements of a list.
pub(crate) fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let held = map.iter().filter(|(_, value)| !is_empty_value(value));
            Value::Object(held.map(|(key, value)| (key.clone(), without_empty(value))).collect())
        }
        Value::Array(list) if list.is_empty() => Value::Null,
        Value::Array(list) => Value::Array(list.iter().map(without_empty).collect()),
        other => other.clone(),
    }
}

/// Sets the generation to that of the old object, plus one if the values at any of the paths differ.
pub(crate) fn next_generation(object: &mut Object, old: &Object, places: &[&[&str]]) {
    let changed = places.iter().any(|path| !deep_equal_at(object, old, path));
    object.set(&["metadata", "generation"], old.generation() + i64::from(changed));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pointers_and_plain_values_are_unset_differently() {
        let mut value = json!({"a": 0, "b": 0, "c": "", "d": null});
        let fields = value.as_object_mut().unwrap();
        fill(fields, "a", 5);
        fill_int(fields, "b", 5);
        fill_str(fields, "c", "x");
        fill(fields, "d", true);
        assert_eq!(value, json!({"a": 0, "b": 5, "c": "x", "d": true}));
    }

    #[test]
    fn empty_and_absent_are_the_same() {
        assert!(deep_equal(&json!({"a": {}, "b": [], "c": 1}), &json!({"c": 1, "d": null})));
        assert!(!deep_equal(&json!({"a": ""}), &json!({})));
        assert!(!deep_equal(&json!([1]), &json!([1, 2])));
        let (a, b) = (json!({"a": {}, "b": [], "c": {"d": null, "e": 1}}), json!({"c": {"e": 1}, "f": null}));
        assert_eq!(without_empty(&a), without_empty(&b));
        assert_ne!(without_empty(&json!({"a": ""})), without_empty(&json!({})));
    }
}
