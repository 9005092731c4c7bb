//! Values as error texts show them. A text is cut where it would be long: upstream prints everything, so that a body of 3 MiB can
//! be answered by one many times as long.

use serde_json::Value;
use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// A shown value is cut after so many bytes.
pub(crate) const MAX_SHOWN: usize = 4096;

/// So many of a list of complaints are named.
pub(crate) const MAX_ITEMS: usize = 100;
/// So many bytes of a list of complaints, or of a message, are sent.
const MAX_LIST_BYTES: usize = 128 << 10;

/// How much of a list of complaints is named.
#[derive(Default)]
pub(crate) struct Budget {
    count: usize,
    bytes: usize,
}

impl Budget {
    /// Whether there is room for one more of so many bytes. There always is for a first one.
    pub(crate) fn takes(&mut self, bytes: usize) -> bool {
        let first = self.count == 0;
        self.count += 1;
        self.bytes += bytes;
        first || (self.count <= MAX_ITEMS && self.bytes <= MAX_LIST_BYTES)
    }
}

/// What stands for those that are not named.
pub(crate) fn omitted(count: usize) -> Option<String> {
    (count > 0).then(|| format!("and {count} more"))
}

/// A message that is not endless.
pub(crate) fn cut(message: &str) -> Cow<'_, str> {
    const LIMIT: usize = 2 * MAX_LIST_BYTES;
    if message.len() <= LIMIT {
        return message.into();
    }
    let kept = &message[..message.floor_char_boundary(LIMIT)];
    format!("{kept}... and {} more bytes", message.len() - kept.len()).into()
}

/// A text that takes no more than [`MAX_SHOWN`] bytes, and stops its writer there.
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
        // An error only says that the text is full.
        let _ = write(&mut short);
        if short.cut {
            short.text.push_str("...");
        }
        short.text
    }
}

/// Compact JSON.
pub(crate) fn json(value: &Value) -> String {
    Short::of(|out| write!(out, "{value}"))
}

/// In quotes.
pub(crate) fn quoted(text: &str) -> String {
    Short::of(|out| write!(out, "{text:?}"))
}

/// As Go prints a decoded value: `map[name:a ports:[1 2]]`.
pub fn go(value: &Value) -> String {
    Short::of(|out| write_go(value, out))
}

/// Go's name of the type that a decoded value has: `string`, `map[string]interface {}`.
pub(crate) fn go_type(value: &Value) -> &'static str {
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

/// As Go writes a decoded value in its own syntax: `map[string]interface {}{"x":"y"}`.
pub(crate) fn go_syntax(value: &Value) -> String {
    Short::of(|out| write_syntax(value, out))
}

fn write_syntax(value: &Value, out: &mut Short) -> fmt::Result {
    let comma = |i: usize| if i > 0 { ", " } else { "" };
    match value {
        Value::Null => out.write_str("interface {}(nil)"),
        Value::String(text) => write!(out, "{text:?}"),
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
                write!(out, "{}{key:?}:", comma(i))?;
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
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
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
