//! Equality as upstream's `apiequality.Semantic`: absent, null, an empty list and an empty map are equal.

use crate::Object;
use serde_json::Value;

/// Whether two values are equal.
pub fn deep_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(k, v)| deep_equal(v, b.get(k).unwrap_or(&Value::Null)))
                && b.iter().all(|(k, v)| a.contains_key(k) || is_empty_value(v))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| deep_equal(a, b)),
        (a, b) => a == b || (is_empty_value(a) && is_empty_value(b)),
    }
}

/// [`deep_equal`] for the values at a path in two objects.
pub fn deep_equal_at(a: &Object, b: &Object, path: &[&str]) -> bool {
    deep_equal(a.at(path).unwrap_or(&Value::Null), b.at(path).unwrap_or(&Value::Null))
}

/// Whether a value is null, an empty list or an empty map.
pub fn is_empty_value(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}
