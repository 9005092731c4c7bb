//! Resource lists in JSON: a number or any spelling becomes the canonical string, as Go's decoder and encoder make it.

use api::quantity::Quantity;
use serde_json::Value;

/// Every value of a resource list, in whole thousandths.
pub(crate) fn canonicalize(list: &mut Value) {
    const MILLI: i32 = -3;
    for value in list.as_object_mut().into_iter().flatten().map(|(_, value)| value) {
        canonicalize_one(value);
        if let Some(quantity) = parse(value) {
            let rounded = quantity.rounded_up(MILLI);
            if rounded != quantity {
                *value = rounded.to_string().into();
            }
        }
    }
}

/// One quantity; text that is none stays, for the schema check to report.
pub(crate) fn canonicalize_one(value: &mut Value) {
    let text = match &*value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let Ok(text) = Quantity::canonical(&text) {
        *value = text.into();
    }
}

/// Whether an amount has a part that is no whole number. Amounts whose thousandths no number of 64 bits holds are whole to upstream.
pub(crate) fn is_fractional(amount: &Quantity) -> bool {
    let thousandths = amount.milli_value();
    thousandths % 1000 != 0 && !matches!(thousandths, i64::MAX | i64::MIN)
}

/// The quantity in a JSON string or number.
pub(crate) fn parse(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}
