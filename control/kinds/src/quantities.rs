//! Resource lists in JSON: a number or any spelling becomes the canonical string, as Go's decoder and encoder make it.

use api::quantity::Quantity;
use serde_json::Value;

/// Every value of a resource list.
pub(crate) fn canonicalize(list: &mut Value) {
    for value in list.as_object_mut().into_iter().flatten().map(|(_, value)| value) {
        canonicalize_one(value);
    }
}

/// One quantity; text that is none stays, for the schema check to report.
pub(crate) fn canonicalize_one(value: &mut Value) {
    if let Some(quantity) = parse(value) {
        *value = quantity.to_string().into();
    }
}

/// The quantity in a JSON string or number.
pub(crate) fn parse(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}
