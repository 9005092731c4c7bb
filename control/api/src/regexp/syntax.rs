//! The syntax of Go's regular expressions, its errors, and its meaning of `\d`, `\w`, `\s` and `\b`, which are ASCII there.
//!
//! Follows <https://pkg.go.dev/regexp/syntax>.

use super::repeats::{MAX_REPEAT, Repeats};
use regex_automata::util::syntax::parse;
use std::fmt::Write;

/// How deep groups may nest.
const MAX_NESTING: usize = 250;
/// How deep groups may nest as [`translate`] writes them.
pub(super) const MAX_TRANSLATED: u32 = 1000;

/// What is wrong, and the part of the expression that is.
type Wrong<'a> = (&'static str, &'a str);

/// The same expression in the syntax of the library.
///
/// # Errors
/// Go's text: ``error parsing regexp: missing argument to repetition operator: `+` ``.
pub(super) fn translate(text: &str) -> Result<String, String> {
    rewrite(text).map_err(|(what, part)| format!("error parsing regexp: {what}: `{part}`"))
}

fn rewrite(text: &str) -> Result<String, Wrong<'_>> {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    let mut repeats = Repeats::new();
    // Whether there is something that can be repeated, and where the last repetition began.
    let (mut repeatable, mut last): (bool, Option<&str>) = (false, None);
    // Where the flags begin that stand directly in front.
    let mut flags: Option<usize> = None;
    while let Some(first) = rest.chars().next() {
        if let Some((times, end)) = operator(rest)? {
            let counted = between(rest, end);
            let end = end.strip_prefix('?').unwrap_or(end);
            match last {
                Some(last) => return Err(("invalid nested repetition operator", between(last, end))),
                None if !repeatable => return Err(("missing argument to repetition operator", between(rest, end))),
                // Go repeats what stands in front of flags.
                None => out.insert_str(flags.unwrap_or(out.len()), between(rest, end)),
            }
            if !repeats.again(times) {
                return Err(("invalid repeat count", counted));
            }
            (last, rest, flags) = (Some(rest), end, None);
            continue;
        }
        let (before, flagged) = (out.len(), flags.take());
        let after = rest.get(first.len_utf8()..).unwrap_or_default();
        last = None;
        let repeated = repeats.next();
        match first {
            '(' => {
                let (opens, next) = group(rest, after, &mut out)?;
                repeats.open(opens, repeated);
                flags = flagged.or(Some(before)).filter(|_| !opens);
                if repeats.depth() > MAX_NESTING {
                    return Err(("expression nests too deeply", text));
                }
                repeatable = repeatable && !opens;
                rest = next;
            }
            ')' => {
                repeats.close().ok_or(("unexpected )", text))?;
                out.push(')');
                (repeatable, rest) = (true, after);
            }
            '|' => {
                out.push('|');
                (repeatable, rest) = (false, after);
            }
            '.' | '^' | '$' => {
                // A String takes all.
                _ = if first == '.' { out.write_char('.') } else { write!(out, "(?:{first})") };
                (repeatable, rest) = (true, after);
            }
            '[' => (repeatable, rest) = (true, class(rest, &mut out)?),
            '\\' => {
                rest = outside_class(rest, &mut out)?;
                // `\Q\E` is nothing.
                repeatable |= out.len() > before;
            }
            other => {
                literal(other, &mut out);
                (repeatable, rest) = (true, after);
            }
        }
    }
    if repeats.depth() > 0 { Err(("missing closing )", text)) } else { Ok(out) }
}

/// The text between two of its ends.
fn between<'a>(from: &'a str, to: &str) -> &'a str {
    from.get(..from.len() - to.len().min(from.len())).unwrap_or_default()
}

fn literal(c: char, out: &mut String) {
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        out.push(c);
    } else {
        // A String takes all.
        _ = write!(out, "\\x{{{:X}}}", u32::from(c));
    }
}

/// How often a repetition (`*`, `{2,3}`) counts at most, if it does, and what follows, if the text begins with one.
fn operator(text: &str) -> Result<Option<(Option<u32>, &str)>, Wrong<'_>> {
    match counts(text) {
        Some((Some(times), rest)) => Ok(Some((Some(times), rest))),
        Some((None, rest)) => Err(("invalid repeat count", between(text, rest))),
        None => Ok(text.strip_prefix(['*', '+', '?']).map(|rest| (None, rest))),
    }
}

/// `{2}`, `{2,}` or `{2,3}`: how often at most or, if there is no end, at least, unless the counts are wrong; and what follows. Anything else
/// in braces is literal.
fn counts(text: &str) -> Option<(Option<u32>, &str)> {
    let (least, rest) = integer(text.strip_prefix('{')?)?;
    let (times, rest) = match rest.strip_prefix(',') {
        None => (least, rest),
        // From none on is a `*`.
        Some(rest) if rest.starts_with('}') => (least.map(|least| least.max(1)), rest),
        Some(rest) => integer(rest)?,
    };
    let right = least.zip(times).filter(|(least, times)| least <= times && *times <= MAX_REPEAT);
    Some((right.map(|(_, times)| times), rest.strip_prefix('}')?))
}

/// A number, which may be too large for one, and what follows.
fn integer(text: &str) -> Option<(Option<u32>, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let wrong = digits.is_empty() || (digits.len() > 1 && digits.starts_with('0'));
    (!wrong).then(|| (digits.parse().ok(), rest))
}

/// The beginning of a group, or flags. Returns whether it is a group, and what follows.
fn group<'a>(text: &'a str, after: &'a str, out: &mut String) -> Result<(bool, &'a str), Wrong<'a>> {
    let Some(kind) = after.strip_prefix('?') else {
        out.push_str("(?:");
        return Ok((true, after));
    };
    if let Some(named) = kind.strip_prefix("P<").or_else(|| kind.strip_prefix('<')).filter(|named| !named.is_empty()) {
        let Some((name, rest)) = named.split_once('>') else { return Err(("invalid named capture", text)) };
        if name.is_empty() || !name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()) {
            return Err(("invalid named capture", between(text, rest)));
        }
        out.push_str("(?:");
        return Ok((true, rest));
    }
    let (mut negated, mut flagged) = (false, false);
    for (at, c) in kind.char_indices() {
        let rest = kind.get(at + c.len_utf8()..).unwrap_or_default();
        match c {
            'i' | 'm' | 's' | 'U' => flagged = true,
            '-' if !negated => (negated, flagged) = (true, false),
            ':' | ')' if !negated || flagged => {
                if c == ':' || at > 0 {
                    out.push_str("(?");
                    out.push_str(kind.get(..=at).unwrap_or_default());
                }
                return Ok((c == ':', rest));
            }
            _ => return Err(("invalid or unsupported Perl syntax", between(text, rest))),
        }
    }
    Err(("invalid or unsupported Perl syntax", text))
}

/// What `\d` and its like mean, as the inside of a class.
fn perl_class(c: char) -> Option<(bool, &'static str)> {
    let class = match c.to_ascii_lowercase() {
        'd' => "0-9",
        's' => r"\t\n\f\r\x20",
        'w' => "0-9A-Za-z_",
        _ => return None,
    };
    Some((c.is_ascii_uppercase(), class))
}

/// A backslash and what belongs to it, outside of a class.
fn outside_class<'a>(text: &'a str, out: &mut String) -> Result<&'a str, Wrong<'a>> {
    let mut chars = text.chars();
    let (_, next) = (chars.next(), chars.next());
    let rest = chars.as_str();
    match next {
        Some('A') => out.push_str(r"(?:\A)"),
        Some('z') => out.push_str(r"(?:\z)"),
        Some('b') => out.push_str(r"(?-u:\b)"),
        Some('B') => out.push_str(r"(?-u:\B)"),
        Some('C') => return Err(("invalid escape sequence", between(text, rest))),
        Some('Q') => {
            let (quoted, rest) = rest.split_once(r"\E").unwrap_or((rest, ""));
            quoted.chars().for_each(|c| literal(c, out));
            return Ok(rest);
        }
        Some('p' | 'P') => {
            let (class, rest) = unicode_class(text)?;
            out.push_str(&class);
            return Ok(rest);
        }
        Some(c) if perl_class(c).is_some() => {
            let (negated, class) = perl_class(c).unwrap_or_default();
            // A String takes all.
            _ = write!(out, "[{}{class}]", if negated { "^" } else { "" });
        }
        _ => {
            let (c, rest) = escape(text)?;
            code_point(c, out);
            return Ok(rest);
        }
    }
    Ok(rest)
}

fn code_point(code: u32, out: &mut String) {
    // A surrogate is in no text; the class of nothing matches none.
    match char::from_u32(code) {
        Some(c) => literal(c, out),
        None => out.push_str(r"[^\x00-\x{10FFFF}]"),
    }
}

/// `\pL`, `\p{Greek}`, `\P{^Lu}`, in the syntax of the library.
fn unicode_class(text: &str) -> Result<(String, &str), Wrong<'_>> {
    let body = text.get(2..).unwrap_or_default();
    let (name, rest) = match body.strip_prefix('{') {
        Some(inner) => inner.split_once('}').ok_or(("invalid character class range", text))?,
        None => body.split_at(body.chars().next().map_or(0, char::len_utf8)),
    };
    let wrong = Err(("invalid character class range", between(text, rest)));
    let (inverted, plain) = name.strip_prefix('^').map_or((false, name), |plain| (true, plain));
    if plain.is_empty() || !plain.chars().all(|c| c.is_ascii_alphanumeric() || "_- ".contains(c)) {
        return wrong;
    }
    let negated = text.starts_with(r"\P") != inverted;
    let class = format!(r"\{}{{{plain}}}", if negated { 'P' } else { 'p' });
    if parse(&class).is_err() { wrong } else { Ok((class, rest)) }
}

/// An escaped character: the character, and what follows.
fn escape(text: &str) -> Result<(u32, &str), Wrong<'_>> {
    let body = text.get(1..).unwrap_or_default();
    let Some(c) = body.chars().next() else { return Err(("trailing backslash at end of expression", "")) };
    let mut rest = body.get(c.len_utf8()..).unwrap_or_default();
    let octal = |text: &str| text.chars().next().filter(|c| ('0'..='7').contains(c)).and_then(|c| c.to_digit(8));
    let code = match c {
        '0'..='7' if c == '0' || octal(rest).is_some() => {
            let mut code = c.to_digit(8).unwrap_or_default();
            for _ in 0..2 {
                let Some(digit) = octal(rest) else { break };
                code = code * 8 + digit;
                rest = rest.get(1..).unwrap_or_default();
            }
            code
        }
        'x' => return hexadecimal(text, rest),
        'a' => 7,
        'f' => 12,
        'n' => 10,
        'r' => 13,
        't' => 9,
        'v' => 11,
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => u32::from(c),
        _ => return Err(("invalid escape sequence", between(text, rest))),
    };
    Ok((code, rest))
}

/// `\x7F` and `\x{10FFFF}`.
fn hexadecimal<'a>(text: &'a str, body: &'a str) -> Result<(u32, &'a str), Wrong<'a>> {
    let wrong = |rest: &str| Err(("invalid escape sequence", between(text, rest)));
    let mut chars = body.chars();
    let mut code = 0_u32;
    if let Some(inner) = body.strip_prefix('{') {
        for (at, c) in inner.char_indices() {
            let rest = inner.get(at + c.len_utf8()..).unwrap_or_default();
            match c.to_digit(16) {
                Some(digit) => code = code * 16 + digit,
                None if c == '}' && at > 0 => return Ok((code, rest)),
                None => return wrong(rest),
            }
            if code > u32::from(char::MAX) {
                return wrong(rest);
            }
        }
        return wrong("");
    }
    let (high, low) = (chars.next().and_then(|c| c.to_digit(16)), chars.next().and_then(|c| c.to_digit(16)));
    match (high, low) {
        (Some(high), Some(low)) => Ok((high * 16 + low, chars.as_str())),
        _ => wrong(chars.as_str()),
    }
}

const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// A class in brackets.
fn class<'a>(text: &'a str, out: &mut String) -> Result<&'a str, Wrong<'a>> {
    let mut rest = text.get(1..).unwrap_or_default();
    out.push('[');
    if let Some(next) = rest.strip_prefix('^') {
        out.push('^');
        rest = next;
    }
    let mut first = true;
    loop {
        if let (Some(end), false) = (rest.strip_prefix(']'), first) {
            out.push(']');
            return Ok(end);
        }
        first = false;
        if let Some((name, next)) = rest.strip_prefix("[:").and_then(|named| named.split_once(":]")) {
            let plain = name.strip_prefix('^').unwrap_or(name);
            if !POSIX.contains(&plain) {
                return Err(("invalid character class range", between(rest, next)));
            }
            out.push_str(between(rest, next));
            rest = next;
            continue;
        }
        let mut chars = rest.chars();
        match (chars.next(), chars.next()) {
            (Some('\\'), Some('p' | 'P')) => {
                let (class, next) = unicode_class(rest)?;
                out.push_str(&class);
                rest = next;
            }
            (Some('\\'), Some(c)) if perl_class(c).is_some() => {
                let (negated, class) = perl_class(c).unwrap_or_default();
                // A String takes all.
                _ = write!(out, "[{}{class}]", if negated { "^" } else { "" });
                rest = chars.as_str();
            }
            _ => rest = range(rest, text, out)?,
        }
    }
}

/// One character of a class, or a range.
fn range<'a>(text: &'a str, whole: &'a str, out: &mut String) -> Result<&'a str, Wrong<'a>> {
    let (low, mut rest) = class_char(text, whole)?;
    let mut high = low;
    if let Some(next) = rest.strip_prefix('-').filter(|next| !next.is_empty() && !next.starts_with(']')) {
        (high, rest) = class_char(next, whole)?;
        if high < low {
            return Err(("invalid character class range", between(text, rest)));
        }
    }
    if (0xD800..=0xDFFF).contains(&low) || (0xD800..=0xDFFF).contains(&high) {
        // Only an escape can name half a pair; a text has none.
        return Err(("invalid character class range", between(text, rest)));
    }
    // A String takes all.
    _ = if low == high { write!(out, "\\x{{{low:X}}}") } else { write!(out, "\\x{{{low:X}}}-\\x{{{high:X}}}") };
    Ok(rest)
}

fn class_char<'a>(text: &'a str, whole: &'a str) -> Result<(u32, &'a str), Wrong<'a>> {
    match text.chars().next() {
        None => Err(("missing closing ]", whole)),
        Some('\\') => escape(text),
        Some(c) => Ok((u32::from(c), text.get(c.len_utf8()..).unwrap_or_default())),
    }
}

#[cfg(test)]
#[path = "syntax_tests.rs"]
mod tests;
