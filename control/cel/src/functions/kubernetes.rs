//! Quantities and versions.

use super::Implementation;
use crate::{budget::Error, opaque::Opaque, value::Value};
use api::quantity::{Format, Quantity};
use semver::Version;
use std::cmp::Ordering;

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "quantity" => |args, _| match args {
            [Value::String(text)] => {
                let parsed = Quantity::parse(text).map_err(|error| Error::new(error.to_string()))?;
                Ok(Value::opaque(Opaque::Quantity(parsed)))
            }
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "isQuantity" => |args, _| match args {
            [Value::String(text)] => Ok(Value::Bool(Quantity::parse(text).is_ok())),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "sign" => |args, _| quantity(args.first()).map(|quantity| Value::Int(quantity.signum().into())),
        "isInteger" => |args, _| quantity(args.first()).map(|quantity| Value::Bool(integer(&quantity).is_some())),
        "asInteger" => |args, _| {
            let value = integer(&quantity(args.first())?);
            value.map(Value::Int).ok_or(Error::Eval("cannot convert value to integer".into()))
        },
        "asApproximateFloat" => |args, _| quantity(args.first()).map(|quantity| Value::Double(float(&quantity))),
        "add" => |args, _| combined(args, |a, b| a + b),
        "sub" => |args, _| combined(args, |a, b| a - b),
        "isGreaterThan" => |args, _| order(args).map(|order| Value::Bool(order.is_gt())),
        "isLessThan" => |args, _| order(args).map(|order| Value::Bool(order.is_lt())),
        "compareTo" => |args, _| order(args).map(|order| Value::Int(order as i64)),
        "semver" => |args, _| {
            let (text, normalize) = text_and_flag(args)?;
            parse(text, normalize).map(|version| Value::opaque(Opaque::Semver(version))).map_err(Error::new)
        },
        "isSemver" => |args, _| {
            let (text, normalize) = text_and_flag(args)?;
            Ok(Value::Bool(parse(text, normalize).is_ok()))
        },
        "major" => |args, _| part(args, |version| version.major),
        "minor" => |args, _| part(args, |version| version.minor),
        "patch" => |args, _| part(args, |version| version.patch),
        _ => return None,
    })
}

fn quantity(value: Option<&Value<'_>>) -> Result<Quantity, Error> {
    match value {
        Some(Value::Opaque(opaque)) => match &**opaque {
            Opaque::Quantity(quantity) => Ok(*quantity),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        Some(Value::Int(value)) => Ok(Quantity::new(*value, Format::DecimalExponent)),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn integer(quantity: &Quantity) -> Option<i64> {
    let value = quantity.value();
    (Quantity::new(value, quantity.format()) == *quantity).then_some(value)
}

/// The nearest double to a quantity, from its canonical text.
fn float(quantity: &Quantity) -> f64 {
    let text = quantity.to_string();
    if let Ok(plain) = text.parse() {
        return plain;
    }
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let scale = match text.get(digits.len()..).unwrap_or_default() {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        _ => 1.0,
    };
    let digits: f64 = digits.parse().unwrap_or(0.0);
    if scale < 1.0 { digits / (1.0 / scale) } else { digits * scale }
}

fn combined<'a>(args: &[Value<'a>], operation: fn(Quantity, Quantity) -> Quantity) -> Result<Value<'a>, Error> {
    let (a, b) = (quantity(args.first())?, quantity(args.get(1))?);
    Ok(Value::opaque(Opaque::Quantity(operation(a, b))))
}

fn order(args: &[Value<'_>]) -> Result<Ordering, Error> {
    let [Value::Opaque(a), Value::Opaque(b)] = args else { return Err(Error::NO_SUCH_OVERLOAD) };
    match (&**a, &**b) {
        (Opaque::Quantity(a), Opaque::Quantity(b)) => Ok(a.cmp(b)),
        (Opaque::Semver(a), Opaque::Semver(b)) => Ok(a.cmp_precedence(b)),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn text_and_flag<'v>(args: &'v [Value<'_>]) -> Result<(&'v str, bool), Error> {
    match args {
        [Value::String(text)] => Ok((text, false)),
        [Value::String(text), Value::Bool(flag)] => Ok((text, *flag)),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn part<'a>(args: &[Value<'a>], of: fn(&Version) -> u64) -> Result<Value<'a>, Error> {
    if let [Value::Opaque(opaque)] = args
        && let Opaque::Semver(version) = &**opaque
    {
        return Ok(Value::Int(i64::try_from(of(version)).unwrap_or(i64::MAX)));
    }
    Err(Error::NO_SUCH_OVERLOAD)
}

/// A version. A normalized one may begin with `v`, lack its last numbers and have zeros before them.
fn parse(text: &str, normalize: bool) -> Result<Version, String> {
    if text.is_empty() {
        return Err("Version string empty".to_owned());
    }
    let text = if normalize { normalized(text)? } else { text.to_owned() };
    if text.splitn(3, '.').count() != 3 {
        return Err("No Major.Minor.Patch elements found".to_owned());
    }
    Version::parse(&text).map_err(|error| error.to_string())
}

fn normalized(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
    for part in parts.iter_mut().filter(|part| part.len() > 1) {
        let trimmed = part.trim_start_matches('0');
        *part = if trimmed.starts_with(|letter: char| letter.is_ascii_digit()) {
            trimmed.to_owned()
        } else {
            format!("0{trimmed}")
        };
    }
    if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
        return Err("short version cannot contain PreRelease/Build meta data".to_owned());
    }
    parts.resize(3, "0".to_owned());
    Ok(parts.join("."))
}
