//! Functions of strings.

use super::{Implementation, formatting, lists};
use crate::{
    budget::{Budget, Error},
    value::{Text, Value},
};
use std::fmt::Write;

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "contains" => |args, _| test(args, |text, part| text.contains(part)),
        "startsWith" => |args, _| test(args, |text, part| text.starts_with(part)),
        "endsWith" => |args, _| test(args, |text, part| text.ends_with(part)),
        "charAt" => char_at,
        "indexOf" => index_of,
        "lastIndexOf" => last_index_of,
        "lowerAscii" => |args, budget| changed(args, budget, str::to_ascii_lowercase),
        "upperAscii" => |args, budget| changed(args, budget, str::to_ascii_uppercase),
        "trim" => |args, budget| changed(args, budget, |text| text.trim().to_owned()),
        "replace" => replace,
        "split" => split,
        "substring" => substring,
        "join" => join,
        "strings.quote" => |args, budget| changed(args, budget, quote),
        "format" => formatting::format,
        "jsonpatch.escapeKey" => {
            |args, budget| changed(args, budget, |text| text.replace('~', "~0").replace('/', "~1"))
        }
        _ => return None,
    })
}

fn test<'a>(args: &[Value<'a>], holds: fn(&str, &str) -> bool) -> Result<Value<'a>, Error> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(Value::Bool(holds(text, part))),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn changed<'a>(
    args: &[Value<'a>],
    budget: &mut Budget<'_>,
    change: impl FnOnce(&str) -> String,
) -> Result<Value<'a>, Error> {
    match args {
        [Value::String(text)] => {
            budget.allocate(text.len().saturating_mul(2))?;
            Ok(Value::string(change(text)))
        }
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn out_of_range(index: i64) -> Error {
    Error::new(format!("index out of range: {index}"))
}

/// The offset in bytes of a letter, which may be the end.
fn offset(text: &str, letter: i64) -> Result<usize, Error> {
    let index = usize::try_from(letter).map_err(|_| out_of_range(letter))?;
    let mut offsets = text.char_indices().map(|(offset, _)| offset).chain([text.len()]);
    offsets.nth(index).ok_or_else(|| out_of_range(letter))
}

fn char_at<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let [Value::String(text), Value::Int(index)] = args else { return Err(Error::NO_SUCH_OVERLOAD) };
    budget.work(text.len() / 16)?;
    let rest = text.get(offset(text, *index)?..).unwrap_or_default();
    Ok(Value::string(rest.chars().next().map(String::from).unwrap_or_default()))
}

/// How many letters are before an offset in bytes.
fn letters(text: &str, offset: usize) -> Value<'static> {
    let count = text.get(..offset).unwrap_or_default().chars().count();
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

fn index_of<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let (text, part, from) = match args {
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(from)] => (text, part, *from),
        _ => return lists::index_of(args, budget),
    };
    if part.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    let Ok(start) = offset(text, from) else { return Ok(Value::Int(-1)) };
    let found = text.get(start..).and_then(|rest| rest.find(&**part));
    Ok(found.map_or(Value::Int(-1), |found| letters(text, start + found)))
}

fn last_index_of<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let (text, part, from) = match args {
        [Value::String(text), Value::String(part)] => (text, part, None),
        [Value::String(text), Value::String(part), Value::Int(from)] => (text, part, Some(*from)),
        _ => return lists::last_index_of(args, budget),
    };
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if part.is_empty() {
        return Ok(Value::Int(from.unwrap_or(length)));
    }
    if let Some(from) = from.filter(|from| *from < 0) {
        return Err(out_of_range(from));
    }
    if from.is_some_and(|from| from >= length) {
        return Ok(Value::Int(-1));
    }
    // The part may begin at the last letter that is meant and end behind it.
    let end = match from {
        Some(from) => offset(text, from)?.saturating_add(part.len()).min(text.len()),
        None => text.len(),
    };
    let mut end = end;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let found = text.get(..end).and_then(|head| head.rfind(&**part));
    Ok(found.map_or(Value::Int(-1), |found| letters(text, found)))
}

fn replace<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let (text, old, new, most) = match args {
        [Value::String(text), Value::String(old), Value::String(new)] => (text, old, new, -1),
        [Value::String(text), Value::String(old), Value::String(new), Value::Int(most)] => (text, old, new, *most),
        _ => return Err(Error::NO_SUCH_OVERLOAD),
    };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let count = text.matches(&**old).count().min(most);
    budget.allocate(text.len().saturating_add(count.saturating_mul(new.len())))?;
    Ok(Value::string(text.replacen(&**old, new, most)))
}

fn split<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let (text, separator, most) = match args {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [Value::String(text), Value::String(separator), Value::Int(most)] => (text, separator, *most),
        _ => return Err(Error::NO_SUCH_OVERLOAD),
    };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let count = if separator.is_empty() { text.chars().count() } else { text.matches(&**separator).count() + 1 };
    let count = count.min(most);
    budget.allocate(count.saturating_mul(3 * size_of::<Value<'_>>()).saturating_add(text.len()))?;
    let mut parts = Vec::with_capacity(count);
    let part = |text: &str| Value::string(text);
    if separator.is_empty() {
        // Each letter is a part; the last one has the rest.
        let mut rest: &str = text;
        while parts.len() + 1 < count {
            let (head, tail) = rest.split_at(rest.chars().next().map_or(0, char::len_utf8));
            parts.push(part(head));
            rest = tail;
        }
        if count > 0 {
            parts.push(part(rest));
        }
    } else if most > 0 {
        parts.extend(text.splitn(most, &**separator).map(part));
    }
    Ok(Value::list(parts))
}

fn substring<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let (text, start, end) = match args {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return Err(Error::NO_SUCH_OVERLOAD),
    };
    if let Some(end) = end.filter(|end| start > *end) {
        return Err(Error::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let from = offset(text, start)?;
    let to = end.map_or(Ok(text.len()), |end| offset(text, end))?;
    budget.allocate(to.saturating_sub(from))?;
    Ok(match text {
        Text::Borrowed(text) => Value::borrowed(text.get(from..to).unwrap_or_default()),
        Text::Shared(text) => Value::string(text.get(from..to).unwrap_or_default()),
    })
}

fn join<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let (list, separator): (_, &str) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, separator),
        _ => return Err(Error::NO_SUCH_OVERLOAD),
    };
    let mut joined = String::new();
    list.each(budget, |number, element, budget| {
        let Value::String(text) = &element else {
            let shown = super::conversions::shown(&element);
            return Err(Error::new(format!("join: invalid input: {shown}")));
        };
        budget.allocate(text.len().saturating_add(separator.len()))?;
        if number > 0 {
            joined.push_str(separator);
        }
        joined.push_str(text);
        Ok(())
    })?;
    Ok(Value::string(joined))
}

fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        let escaped = match letter {
            '\x07' => "\\a",
            '\x08' => "\\b",
            '\x0c' => "\\f",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\x0b' => "\\v",
            '\\' => "\\\\",
            '"' => "\\\"",
            letter => {
                quoted.push(letter);
                continue;
            }
        };
        // Writing to a string cannot fail.
        let _ = write!(quoted, "{escaped}");
    }
    quoted.push('"');
    quoted
}
