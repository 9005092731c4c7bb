//! `format()`: texts with places for values.

use super::conversions::{double_text, shown};
use crate::{
    budget::{Budget, Error},
    value::{Map, Value},
};

/// How many digits may be asked for.
const MOST_DIGITS: usize = 1000;

pub(super) fn format<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let [Value::String(text), Value::List(values)] = args else { return Err(Error::NO_SUCH_OVERLOAD) };
    let (mut made, mut rest, mut index) = (String::new(), &**text, 0);
    while let Some((before, after)) = rest.split_once('%') {
        made.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            made.push('%');
            rest = after;
            continue;
        }
        let value = values.get(index, budget)?.ok_or_else(|| Error::new(format!("index {index} out of range")))?;
        if after.is_empty() {
            return Err(Error::Eval("unexpected end of string".into()));
        }
        let (clause, after) = clause(after).map_err(Error::new)?;
        // Digits beyond the sixteenth are made one by one of a number that is as long as all of them.
        let is_double = matches!(clause.letter, 'e' | 'f');
        let written = write(clause, &value, budget)?;
        budget.work(if is_double { written.len().saturating_mul(25) } else { 0 })?;
        budget.allocate(written.len())?;
        made.push_str(&written);
        rest = after;
        index += 1;
    }
    made.push_str(rest);
    budget.allocate(text.len())?;
    Ok(Value::string(made))
}

/// How a value is written.
pub(crate) struct Clause {
    pub(crate) letter: char,
    digits: usize,
}

/// Reads what follows `%`; what is left of the text.
pub(crate) fn clause(text: &str) -> Result<(Clause, &str), String> {
    const PARSING: &str = "could not parse formatting clause";
    const PRECISION: &str = "error while parsing precision";
    let (digits, text) = match text.strip_prefix('.') {
        Some(rest) => {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, rest) = rest.split_at_checked(length).unwrap_or((rest, ""));
            if rest.is_empty() {
                return Err(format!("{PARSING}: {PRECISION}: could not find end of precision specifier"));
            }
            let digits = digits.parse::<usize>().map_err(|_| {
                let cause = format!("strconv.Atoi: parsing {digits:?}: invalid syntax");
                format!("{PARSING}: {PRECISION}: error while converting precision to integer: {cause}")
            })?;
            (digits.min(MOST_DIGITS), rest)
        }
        None => (6, text),
    };
    let letter = text.chars().next().unwrap_or_default();
    if !"sdfebxXo".contains(letter) {
        return Err(format!("{PARSING}: unrecognized formatting clause \"{letter}\""));
    }
    Ok((Clause { letter, digits }, text.get(letter.len_utf8()..).unwrap_or_default()))
}

/// Writes a value.
fn write(Clause { letter, digits }: Clause, value: &Value<'_>, budget: &mut Budget<'_>) -> Result<String, Error> {
    let written = match letter {
        's' => string(value, budget),
        'd' => integer(value, 'd', |n| n.to_string()),
        'f' => double(value, 'f', |value| fixed(value, digits)),
        'e' => double(value, 'e', |value| scientific(value, digits)),
        'b' => match value {
            Value::Bool(value) => Ok(u8::from(*value).to_string()),
            _ => integer(value, 'b', |n| signed(n, |n| format!("{n:b}"))),
        },
        'o' => integer(value, 'o', |n| signed(n, |n| format!("{n:o}"))),
        'x' => hex(value, false, budget),
        'X' => hex(value, true, budget),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    };
    written.map_err(|error| match error {
        Error::Eval(cause) => Error::new(format!("error during formatting: {cause}")),
        other => other,
    })
}

/// What a clause takes, for messages.
pub(crate) fn expectation(letter: char) -> &'static str {
    match letter {
        'd' => "decimal clause can only be used on integers",
        'f' => "fixed-point clause can only be used on doubles",
        'e' => "scientific clause can only be used on doubles",
        'b' => "only integers and bools can be formatted as binary",
        'o' => "octal clause can only be used on integers",
        'x' | 'X' => "only integers, byte buffers, and strings can be formatted as hex",
        _ => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
        }
    }
}

fn given(letter: char, value: &Value<'_>) -> Error {
    Error::new(format!("{}, was given {}", expectation(letter), value.type_name()))
}

fn integer(value: &Value<'_>, letter: char, write: impl FnOnce(i128) -> String) -> Result<String, Error> {
    match value {
        Value::Int(value) => Ok(write(i128::from(*value))),
        Value::Uint(value) => Ok(write(i128::from(*value))),
        _ => Err(given(letter, value)),
    }
}

/// A number with its sign before the digits.
fn signed(number: i128, write: impl FnOnce(u128) -> String) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", write(number.unsigned_abs()))
}

fn hex(value: &Value<'_>, upper: bool, budget: &mut Budget<'_>) -> Result<String, Error> {
    let mut bytes = |bytes: &[u8]| {
        budget.allocate(bytes.len().saturating_mul(2))?;
        budget.read(bytes.len())?;
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Ok(digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect::<String>())
    };
    let written = match value {
        Value::String(text) => bytes(text.as_bytes())?,
        Value::Bytes(value) => bytes(value)?,
        _ => integer(value, 'x', |n| signed(n, |n| format!("{n:x}")))?,
    };
    Ok(if upper { written.to_uppercase() } else { written })
}

fn double(value: &Value<'_>, letter: char, write: impl FnOnce(f64) -> String) -> Result<String, Error> {
    let double = match value {
        Value::Double(value) => Some(*value),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    };
    let Some(double) = double else {
        return Err(given(letter, value));
    };
    Ok(match (double.is_nan(), double.is_infinite(), double < 0.0) {
        (true, ..) => "NaN".to_owned(),
        (_, true, false) => "∞".to_owned(),
        (_, true, true) => "-∞".to_owned(),
        _ => write(double),
    })
}

/// With commas between groups of three digits, as English does.
fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
    let mut grouped = String::with_capacity(text.len() + whole.len() / 3 + 1);
    if value < 0.0 {
        grouped.push('-');
    }
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(fraction) = fraction {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    grouped
}

/// `3.140000×10⁰⁰`
fn scientific(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let raised = format!("{}{:02}", if exponent < 0 { "-" } else { "" }, exponent.abs());
    let raised = raised.chars().map(|letter| match letter {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => digit.to_digit(10).and_then(|digit| char::from_u32(0x2070 + digit)).unwrap_or('⁰'),
    });
    format!("{mantissa}×10{}", raised.collect::<String>())
}

/// A value as text; `%s`.
fn string(value: &Value<'_>, budget: &mut Budget<'_>) -> Result<String, Error> {
    match value {
        Value::List(_) | Value::Map(_) => nested(value, budget),
        Value::Opaque(_) | Value::Optional(_) => Err(given('s', value)),
        other => Ok(shown(other)),
    }
}

/// A value within a list or map, as CEL writes it.
fn nested(value: &Value<'_>, budget: &mut Budget<'_>) -> Result<String, Error> {
    budget.allocate(16)?;
    Ok(match value {
        Value::String(text) => {
            budget.allocate(text.len())?;
            budget.read(text.len())?;
            format!("{:?}", &**text)
        }
        Value::Bytes(bytes) => {
            budget.allocate(bytes.len())?;
            budget.read(bytes.len())?;
            format!("b{:?}", String::from_utf8_lossy(bytes))
        }
        Value::Timestamp(_) => format!("timestamp({:?})", shown(value)),
        Value::Duration(_) => format!("duration({:?})", shown(value)),
        Value::Double(double) if double.is_finite() => format!("{double:.6}"),
        Value::Double(double) => format!("{:?}", double_text(*double)),
        Value::List(list) => {
            let mut parts = Vec::new();
            list.each(budget, |_, element, budget| {
                let part = nested(&element, budget)?;
                budget.allocate(part.len())?;
                parts.push(part);
                Ok(())
            })?;
            format!("[{}]", parts.join(", "))
        }
        Value::Map(map) => map_text(map, budget)?,
        Value::Opaque(_) | Value::Optional(_) => {
            return Err(Error::new(format!("no formatting function for {}", value.type_name())));
        }
        other => shown(other),
    })
}

fn map_text(map: &Map<'_>, budget: &mut Budget<'_>) -> Result<String, Error> {
    let mut parts = Vec::new();
    for key in map.keys()? {
        let key = Value::from(key);
        let Some(value) = map.get(&key, budget)? else { continue };
        let part = format!("{}: {}", nested(&key, budget)?, nested(&value, budget)?);
        budget.allocate(part.len())?;
        parts.push(part);
    }
    parts.sort();
    Ok(format!("{{{}}}", parts.join(", ")))
}
