//! Values in error messages. Long values are truncated: upstream prints everything, so that the response to a body of 3 MiB can be many times as
//! long.

use serde_json::Value;
use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// Longest value in a message, bytes; longer ones are truncated.
pub(crate) const MAX_SHOWN: usize = 4096;

/// Most errors in one message.
pub(crate) const MAX_ITEMS: usize = 100;
/// Most bytes of the errors in one message.
const MAX_LIST_BYTES: usize = 128 << 10;

/// Counts the errors in one message.
#[derive(Default)]
pub(crate) struct Budget {
    count: usize,
    bytes: usize,
}

impl Budget {
    /// Adds an error of so many bytes; returns whether it fits. The first one always does.
    pub(crate) fn takes(&mut self, bytes: usize) -> bool {
        let first = self.count == 0;
        self.count += 1;
        self.bytes += bytes;
        first || (self.count <= MAX_ITEMS && self.bytes <= MAX_LIST_BYTES)
    }
}

/// The text for omitted errors.
pub(crate) fn omitted(count: usize) -> Option<String> {
    (count > 0).then(|| format!("and {count} more"))
}

/// Truncates a long message.
pub(crate) fn cut(message: &str) -> Cow<'_, str> {
    const LIMIT: usize = 2 * MAX_LIST_BYTES;
    if message.len() <= LIMIT {
        return message.into();
    }
    let kept = &message[..message.floor_char_boundary(LIMIT)];
    format!("{kept}... and {} more bytes", message.len() - kept.len()).into()
}

/// A text of at most [`MAX_SHOWN`] bytes, whose writer fails beyond that.
#[derive(Default)]
struct Short {
    text: String,
    cut: bool,
}

impl Write for Short {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = MAX_SHOWN - self.text.len();
        if more.len() <= room {
            self.text.push_str(more);
            return Ok(());
        }
        self.text.push_str(&more[..more.floor_char_boundary(room)]);
        self.cut = true;
        Err(fmt::Error)
    }
}

impl Short {
    fn of(write: impl FnOnce(&mut Self) -> fmt::Result) -> String {
        let mut short = Self::default();
        // An error only means that the text is full.
        let _ = write(&mut short);
        if short.cut {
            short.text.push_str("...");
        }
        short.text
    }
}

/// Compact JSON as Go writes it.
pub(crate) fn json(value: &Value) -> String {
    Short::of(|out| write_json(value, out))
}

fn write_json(value: &Value, out: &mut Short) -> fmt::Result {
    match value {
        Value::Number(number) => out.write_str(&go_number(number, true)),
        Value::String(text) => write_json_text(text, out),
        Value::Array(list) => {
            out.write_char('[')?;
            for (i, element) in list.iter().enumerate() {
                out.write_str(if i > 0 { "," } else { "" })?;
                write_json(element, out)?;
            }
            out.write_char(']')
        }
        Value::Object(map) => {
            out.write_char('{')?;
            for (i, (key, element)) in map.iter().enumerate() {
                out.write_str(if i > 0 { "," } else { "" })?;
                write_json_text(key, out)?;
                out.write_char(':')?;
                write_json(element, out)?;
            }
            out.write_char('}')
        }
        other => write!(out, "{other}"),
    }
}

/// Go escapes what HTML would read, and the line ends of JavaScript.
fn write_json_text(text: &str, out: &mut Short) -> fmt::Result {
    // The rest would be cut off.
    let text = text.get(..text.floor_char_boundary(MAX_SHOWN + 1)).unwrap_or(text);
    for c in Value::from(text).to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => write!(out, "\\u{:04x}", u32::from(c))?,
            other => out.write_char(other)?,
        }
    }
    Ok(())
}

/// A number as Go prints it, with `%v`, or in JSON.
pub(crate) fn go_number(number: &serde_json::Number, json: bool) -> String {
    let Some(x) = number.as_f64().filter(|_| !number.is_i64()) else { return number.to_string() };
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = exponent.parse().unwrap_or_default();
    let (low, high) = if json { (-6, 21) } else { (-4, 6) };
    if x == 0.0 || (low..high).contains(&power) {
        return x.to_string();
    }
    let sign = if power < 0 { '-' } else { '+' };
    let width = if json && power < 0 { 1 } else { 2 };
    format!("{digits}e{sign}{:0width$}", power.abs())
}

/// In quotes, with Go's escapes.
pub(crate) fn quoted(text: &str) -> String {
    Short::of(|out| write_quoted(text, out))
}

fn write_quoted(text: &str, out: &mut Short) -> fmt::Result {
    out.write_char('"')?;
    for c in text.chars() {
        write_escaped(c, out)?;
    }
    out.write_char('"')
}

fn write_escaped(c: char, out: &mut Short) -> fmt::Result {
    match c {
        '"' | '\\' => write!(out, "\\{c}"),
        '\x07' => out.write_str("\\a"),
        '\x08' => out.write_str("\\b"),
        '\t' => out.write_str("\\t"),
        '\n' => out.write_str("\\n"),
        '\x0b' => out.write_str("\\v"),
        '\x0c' => out.write_str("\\f"),
        '\r' => out.write_str("\\r"),
        ' '..='~' => out.write_char(c),
        '\0'..='\x7f' => write!(out, "\\x{:02x}", u32::from(c)),
        // Rust and Go agree on what can be printed. Accents can, which Rust only says of what is not the first character.
        _ if format!("a{c}").escape_debug().count() == 2 => out.write_char(c),
        '\u{80}'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(c)),
        _ => write!(out, "\\U{:08x}", u32::from(c)),
    }
}

/// A decoded value as Go's `%v` prints it: `map[name:a ports:[1 2]]`.
pub fn go(value: &Value) -> String {
    Short::of(|out| write_go(value, out))
}

/// Go's name of the type that a decoded value has: `string`, `map[string]interface {}`.
pub fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A decoded value as Go's `%#v` prints it: `map[string]interface {}{"x":"y"}`.
pub(crate) fn go_syntax(value: &Value) -> String {
    Short::of(|out| write_syntax(value, out))
}

fn write_syntax(value: &Value, out: &mut Short) -> fmt::Result {
    let comma = |i: usize| if i > 0 { ", " } else { "" };
    match value {
        Value::Null => out.write_str("interface {}(nil)"),
        Value::String(text) => write_quoted(text, out),
        Value::Array(list) => {
            out.write_str("[]interface {}{")?;
            for (i, element) in list.iter().enumerate() {
                out.write_str(comma(i))?;
                write_syntax(element, out)?;
            }
            out.write_char('}')
        }
        Value::Object(map) => {
            out.write_str("map[string]interface {}{")?;
            for (i, (key, element)) in map.iter().enumerate() {
                out.write_str(comma(i))?;
                write_quoted(key, out)?;
                out.write_char(':')?;
                write_syntax(element, out)?;
            }
            out.write_char('}')
        }
        other => write!(out, "{other}"),
    }
}

fn write_go(value: &Value, out: &mut Short) -> fmt::Result {
    match value {
        Value::Null => out.write_str("<nil>"),
        Value::Number(number) => out.write_str(&go_number(number, false)),
        Value::String(text) => out.write_str(text),
        Value::Array(list) => {
            out.write_char('[')?;
            for (i, element) in list.iter().enumerate() {
                out.write_str(if i > 0 { " " } else { "" })?;
                write_go(element, out)?;
            }
            out.write_char(']')
        }
        Value::Object(map) => {
            out.write_str("map[")?;
            for (i, (key, element)) in map.iter().enumerate() {
                write!(out, "{}{key}:", if i > 0 { " " } else { "" })?;
                write_go(element, out)?;
            }
            out.write_char(']')
        }
        other => write!(out, "{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_shown_as_go_and_json_have_them() {
        let value = json!({"spec": {"a": 1, "b": ["x", null]}});
        assert_eq!(go(&value), "map[spec:map[a:1 b:[x <nil>]]]");
        assert_eq!(json(&value), r#"{"spec":{"a":1,"b":["x",null]}}"#);
        assert_eq!(
            json(&json!([1.0, 1e7, 1e21, 1e-7, "<a> & \n", true])),
            r#"[1,10000000,1e+21,1e-7,"\u003ca\u003e \u0026 \n",true]"#
        );
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
        assert_eq!(
            quoted("\\ \n\0\x7f'\u{a0}e\u{301}\u{200b}é😀\u{e0001}"),
            "\"\\\\ \\n\\x00\\x7f'\\u00a0e\u{301}\\u200bé😀\\U000e0001\""
        );
        assert_eq!(
            go_syntax(&value),
            r#"map[string]interface {}{"spec":map[string]interface {}{"a":1, "b":[]interface {}{"x", interface {}(nil)}}}"#
        );
    }

    #[test]
    fn long_values_are_cut() {
        let long = "é".repeat(10_000);
        let value = json!([long, 1]);
        for text in [go(&value), json(&value), quoted(&long)] {
            assert!(text.ends_with("é...") && text.len() > 4000 && text.len() <= MAX_SHOWN + 3, "{}", text.len());
        }
    }
}
