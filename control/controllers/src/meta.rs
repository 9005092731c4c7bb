//! Owner references, labels and durations, for controllers only; what other components need as well is in [`client::meta`]. Pure.

use api::selector::Selector;
pub(crate) use client::meta::{
    annotation, controller_of, controller_ref, created, has_finalizer, is_controlled_by, is_deleting, name, namespace,
    uid,
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::{
    apis::meta::v1::{LabelSelector, OwnerReference},
    util::intstr::IntOrString,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// A count as upstream writes it into a status: zero is left out.
pub(crate) fn counted(count: i32) -> Option<i32> {
    Some(count).filter(|n| *n != 0)
}

/// Parses the `spec.selector` of a workload.
///
/// # Errors
/// The first requirement that is invalid.
pub(crate) fn selector(selector: &LabelSelector) -> Result<Selector, String> {
    let value = serde_json::to_value(selector).expect("a label selector is JSON");
    Selector::from_label_selector(&value)
}

/// Whether `labels` satisfy `selector`; no labels are an empty set.
pub(crate) fn matches(selector: &Selector, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.matches(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
}

/// An integer, or a percentage of `total`, rounded up or down; `None` where the text is no percentage.
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent * i64::from(total);
            let scaled = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            Some(i32::try_from(scaled).unwrap_or(i32::MAX))
        }
    }
}

/// A duration that is zero where `d` is negative.
pub(crate) fn non_negative(d: SignedDuration) -> Duration {
    Duration::try_from(d).unwrap_or(Duration::ZERO)
}

/// The strategic merge patch by which a controller makes itself the owner of `uid`.
pub(crate) fn adoption(owner: &OwnerReference, uid: &str, finalizer: Option<&str>) -> Value {
    let mut metadata = json!({"ownerReferences": [owner], "uid": uid});
    if let Some(finalizer) = finalizer {
        metadata["finalizers"] = json!([finalizer]);
    }
    json!({"metadata": metadata})
}

/// The strategic merge patch by which a controller releases `uid`.
pub(crate) fn release(owner_uid: &str, uid: &str, finalizer: Option<&str>) -> Value {
    let mut metadata = json!({"ownerReferences": [{"$patch": "delete", "uid": owner_uid}], "uid": uid});
    if let Some(finalizer) = finalizer {
        metadata["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    json!({"metadata": metadata})
}

/// FNV-1a over the canonical JSON of `value`: keys sorted, empty members left out, so that the hash depends on meaning alone.
pub(crate) fn hash(value: &Value, seed: &[u8]) -> u32 {
    let mut state = 0x811c_9dc5;
    feed(value, &mut state);
    seed.iter().for_each(|b| step(*b, &mut state));
    state
}

fn step(byte: u8, state: &mut u32) {
    *state = (*state ^ u32::from(byte)).wrapping_mul(0x0100_0193);
}

fn feed(value: &Value, state: &mut u32) {
    match value {
        Value::Object(map) => {
            step(b'{', state);
            let mut keys: Vec<_> = map.iter().filter(|(_, v)| !is_empty(v)).collect();
            keys.sort_by(|a, b| a.0.cmp(b.0));
            for (key, value) in keys {
                key.bytes().for_each(|b| step(b, state));
                step(b':', state);
                feed(value, state);
            }
            step(b'}', state);
        }
        Value::Array(items) => {
            step(b'[', state);
            items.iter().for_each(|v| feed(v, state));
            step(b']', state);
        }
        other => {
            other.to_string().bytes().for_each(|b| step(b, state));
            step(b',', state);
        }
    }
}

/// Whether `value` is null or an empty list. An empty map does not count as empty (`emptyDir: {}`).
fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// Whether two values are equal when absent, null and an empty list are.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| y.get(k).map_or_else(|| is_empty(v), |w| same(v, w)))
                && y.iter().all(|(k, v)| x.contains_key(k) || is_empty(v))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same(v, w)),
        _ => a == b || (is_empty(a) && is_empty(b)),
    }
}

/// `number` in decimal, each digit replaced by a letter of the safe alphabet.
pub(crate) fn encode(number: u32) -> String {
    api::names::safe_encode(&number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked_and_integers_stay() {
        for (value, total, up, expected) in [
            (IntOrString::String("25%".into()), 10, true, Some(3)),
            (IntOrString::String("25%".into()), 10, false, Some(2)),
            (IntOrString::String("0%".into()), 10, true, Some(0)),
            (IntOrString::String("100%".into()), 7, false, Some(7)),
            (IntOrString::String("x".into()), 7, false, None),
            (IntOrString::Int(4), 1, true, Some(4)),
        ] {
            assert_eq!(scaled(&value, total, up), expected, "{value:?} of {total}");
        }
    }

    #[test]
    fn the_hash_ignores_key_order_and_empty_members() {
        let a = json!({"a": 1, "b": {"c": []}, "d": null});
        let b: Value = serde_json::from_str(r#"{"d":[],"b":{},"a":1}"#).expect("JSON");
        assert_eq!(hash(&a, b""), hash(&b, b""));
        assert_ne!(hash(&a, b""), hash(&json!({"a": 2}), b""));
        assert_ne!(hash(&a, b""), hash(&a, b"1"));
        assert!(same(&a, &b) && !same(&a, &json!({"a": 1, "b": 2})));
    }

    #[test]
    fn encoded_numbers_use_only_the_safe_alphabet() {
        let text = encode(1_234_567_890);
        assert!(text.bytes().all(|b| api::names::SAFE_ALPHABET.contains(&b)), "{text}");
        assert_eq!(text.len(), 10);
    }
}
