//! Messages whose JSON is a single value: read, and written.

use super::wire::{Reader, Writer};
use crate::{quantity::Quantity, time};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::Value;

/// Go's zero time, which is also what it writes for "never": seconds.
const NEVER: i64 = -62_135_596_800;

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
    if bytes.is_empty() || (seconds == NEVER && nanos == 0) {
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

/// Writes a `Time` or `MicroTime`; Go's zero time is empty.
pub(super) fn write_time(out: &mut Writer, text: &str, micro: bool) -> Result<(), String> {
    let time = if micro { time::parse_micro(text) } else { time::parse(text) }?;
    // Before 1970, seconds are counted down to the one that the time is in.
    let (seconds, nanos) = (time.as_nanosecond().div_euclid(1_000_000_000) as i64, time.subsec_nanosecond());
    if seconds != NEVER || nanos != 0 {
        out.number(2, if micro { nanos.rem_euclid(1_000_000_000) as u64 } else { 0 });
        out.number(1, seconds as u64);
    }
    Ok(())
}

/// Writes an `IntOrString`, if it is one.
pub(super) fn write_int_or_string(out: &mut Writer, value: &Value) -> Option<()> {
    match value {
        Value::String(text) => {
            out.text(3, text);
            out.number(1, 1);
        }
        _ => {
            out.number(2, integer(value)? as u64);
            out.number(1, 0);
        }
    }
    Some(())
}

/// Writes the JSON of a `RawExtension`, `JSON` or `FieldsV1`.
pub(super) fn write_json(out: &mut Writer, value: &Value) -> Result<(), String> {
    out.field(1, &serde_json::to_vec(value).map_err(|e| e.to_string())?);
    Ok(())
}

/// A whole number, in whichever way it is written.
pub(super) fn integer(value: &Value) -> Option<i64> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole))
}

/// The bytes of a base64 text.
pub(super) fn base64(text: &str) -> Result<Vec<u8>, String> {
    BASE64_STANDARD.decode(text).map_err(|e| format!("proto: no base64: {e}"))
}
