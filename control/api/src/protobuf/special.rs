//! Messages whose JSON is a single value.

use super::wire::Reader;
use crate::{quantity::Quantity, time};
use jiff::Timestamp;
use serde_json::Value;

/// `Quantity` {1 string}, in canonical form.
pub(super) fn quantity(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(only(bytes)?).map_err(|_| "proto: a quantity contains invalid UTF-8")?;
    if text.is_empty() {
        return Ok("0".into());
    }
    Quantity::parse(text).map(|q| q.to_string().into()).map_err(|e| e.to_string())
}

/// `Time` and `MicroTime` {1 seconds, 2 nanos}; the zero time is null. A `Time` has whole seconds only.
pub(super) fn time(bytes: &[u8], micro: bool) -> Result<Value, String> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((tag, payload)) = reader.next()? {
        match tag {
            1 => seconds = payload.varint(tag)? as i64,
            2 => nanos = payload.varint(tag)? as i32,
            _ => {}
        }
    }
    // Go's zero time, which is also what it writes for "never".
    const ZERO: i64 = -62_135_596_800;
    if (seconds == 0 || seconds == ZERO) && nanos == 0 {
        return Ok(Value::Null);
    }
    let time = Timestamp::new(seconds, if micro { nanos } else { 0 }).ok().filter(|time| time::is_writable(*time));
    let time = time.ok_or("proto: a time is out of range")?;
    Ok(if micro { time::rfc3339_micro(time) } else { time::rfc3339(time) }.into())
}

/// `IntOrString` {1 type (0 int, 1 string), 2 int, 3 string}.
pub(super) fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((tag, payload)) = reader.next()? {
        match tag {
            1 => is_text = payload.varint(tag)? != 0,
            2 => number = payload.varint(tag)? as i32,
            3 => text = payload.text(tag)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// `JSON` and `FieldsV1` {1 raw}: the JSON in it, if any.
pub(super) fn json(bytes: &[u8]) -> Result<Option<Value>, String> {
    match only(bytes)? {
        [] => Ok(None),
        raw => crate::json::parse(raw).map(|(value, _)| Some(value)),
    }
}

/// The bytes of field 1, the only one.
pub(super) fn only(bytes: &[u8]) -> Result<&[u8], String> {
    let mut result: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((tag, payload)) = reader.next()? {
        if tag == 1 {
            result = payload.bytes(tag)?;
        }
    }
    Ok(result)
}
