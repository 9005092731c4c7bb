//! Conversions between types.

use super::Implementation;
use crate::{
    budget::{Budget, Error},
    opaque::Opaque,
    time::{Stamp, duration_text, parse_duration, parse_timestamp},
    value::{Text, Value},
};

const OVERFLOW: Error = Error::Eval(std::borrow::Cow::Borrowed("integer overflow"));
const UNSIGNED_OVERFLOW: Error = Error::Eval(std::borrow::Cow::Borrowed("unsigned integer overflow"));

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "bool" => |args, _| one(args, to_bool),
        "bytes" => to_bytes,
        "double" => |args, budget| read(args, budget, to_double),
        "duration" => |args, budget| read(args, budget, to_duration),
        "dyn" => |args, _| one(args, |value| Ok(value.clone())),
        "int" => |args, budget| read(args, budget, to_int),
        "string" => to_string,
        "timestamp" => |args, budget| read(args, budget, to_timestamp),
        "type" => |args, _| one(args, |value| Ok(Value::Type(value.type_name().into()))),
        "uint" => |args, budget| read(args, budget, to_uint),
        _ => return None,
    })
}

fn one<'a>(
    args: &[Value<'a>],
    convert: impl FnOnce(&Value<'a>) -> Result<Value<'a>, Error>,
) -> Result<Value<'a>, Error> {
    match args {
        [value] => convert(value),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

/// A conversion that reads the whole text, which upstream does not count.
fn read<'a>(
    args: &[Value<'a>],
    budget: &mut Budget<'_>,
    convert: impl FnOnce(&Value<'a>) -> Result<Value<'a>, Error>,
) -> Result<Value<'a>, Error> {
    if let [Value::String(text)] = args {
        budget.read(text.len())?;
    }
    one(args, convert)
}

fn failed(value: &Value<'_>, to: &str) -> Error {
    Error::new(format!("type conversion error from '{}' to '{to}'", value.type_name()))
}

fn to_bool<'a>(value: &Value<'a>) -> Result<Value<'a>, Error> {
    match value {
        Value::Bool(value) => Ok(Value::Bool(*value)),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            _ => Err(failed(value, "bool")),
        },
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn to_bytes<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    one(args, |value| match value {
        Value::Bytes(bytes) => Ok(Value::Bytes(bytes.clone())),
        Value::String(text) => {
            budget.allocate(text.len())?;
            Ok(Value::Bytes(text.as_bytes().into()))
        }
        _ => Err(Error::NO_SUCH_OVERLOAD),
    })
}

fn to_double<'a>(value: &Value<'a>) -> Result<Value<'a>, Error> {
    #[expect(clippy::cast_precision_loss, reason = "the nearest double, as upstream")]
    match value {
        Value::Double(value) => Ok(Value::Double(*value)),
        Value::Int(value) => Ok(Value::Double(*value as f64)),
        Value::Uint(value) => Ok(Value::Double(*value as f64)),
        Value::String(text) => text.parse().map(Value::Double).map_err(|_| failed(value, "double")),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn to_duration<'a>(value: &Value<'a>) -> Result<Value<'a>, Error> {
    match value {
        Value::Duration(nanos) | Value::Int(nanos) => Ok(Value::Duration(*nanos)),
        Value::String(text) => {
            parse_duration(text).map(Value::Duration).ok_or_else(|| failed(value, "google.protobuf.Duration"))
        }
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn to_timestamp<'a>(value: &Value<'a>) -> Result<Value<'a>, Error> {
    match value {
        Value::Timestamp(stamp) => Ok(Value::Timestamp(*stamp)),
        Value::Int(seconds) => {
            Stamp::new(*seconds, 0).map(Value::Timestamp).ok_or(Error::Eval("timestamp overflow".into()))
        }
        Value::String(text) => {
            parse_timestamp(text).map(Value::Timestamp).ok_or_else(|| failed(value, "google.protobuf.Timestamp"))
        }
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn to_int<'a>(value: &Value<'a>) -> Result<Value<'a>, Error> {
    match value {
        Value::Int(value) | Value::Duration(value) => Ok(Value::Int(*value)),
        Value::Uint(value) => i64::try_from(*value).map(Value::Int).map_err(|_| OVERFLOW),
        Value::Timestamp(stamp) => Ok(Value::Int(stamp.seconds())),
        Value::Double(double) => {
            let in_range = *double > -9_223_372_036_854_775_808.0 && *double < 9_223_372_036_854_775_807.0;
            #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
            let int = *double as i64;
            if in_range { Ok(Value::Int(int)) } else { Err(OVERFLOW) }
        }
        Value::String(text) => text.parse().map(Value::Int).map_err(|_| failed(value, "int")),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn to_uint<'a>(value: &Value<'a>) -> Result<Value<'a>, Error> {
    match value {
        Value::Uint(value) => Ok(Value::Uint(*value)),
        Value::Int(value) => u64::try_from(*value).map(Value::Uint).map_err(|_| UNSIGNED_OVERFLOW),
        Value::Double(double) => {
            let in_range = *double >= 0.0 && *double < 18_446_744_073_709_551_615.0;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
            let uint = *double as u64;
            if in_range { Ok(Value::Uint(uint)) } else { Err(UNSIGNED_OVERFLOW) }
        }
        Value::String(text) => {
            let digits = text.bytes().all(|digit| digit.is_ascii_digit());
            text.parse().ok().filter(|_| digits).map(Value::Uint).ok_or_else(|| failed(value, "uint"))
        }
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn to_string<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    one(args, |value| match value {
        Value::String(text) => Ok(Value::String(text.clone())),
        Value::Bytes(bytes) => {
            budget.allocate(bytes.len())?;
            let text = std::str::from_utf8(bytes)
                .map_err(|_| Error::new("invalid UTF-8 in bytes, cannot convert to string"))?;
            Ok(Value::String(Text::Shared(text.into())))
        }
        Value::Bool(_)
        | Value::Double(_)
        | Value::Duration(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Timestamp(_) => Ok(Value::string(shown(value))),
        Value::Opaque(opaque) if matches!(**opaque, Opaque::Ip(_) | Opaque::Cidr(_)) => {
            Ok(Value::string(format!("{opaque:?}")))
        }
        _ => Err(Error::NO_SUCH_OVERLOAD),
    })
}

/// A value as `string()` and messages show it. Lists and maps are not looked into.
pub(crate) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => double_text(*value),
        Value::String(text) => text.to_string(),
        Value::Duration(nanos) => duration_text(*nanos),
        Value::Timestamp(stamp) => stamp.to_string(),
        Value::Type(name) => name.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Opaque(opaque) => format!("{opaque:?}"),
        other => other.type_name().to_owned(),
    }
}

/// A double as Go's `%g` writes it.
pub(crate) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value < 0.0 { "-Inf" } else { "+Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
