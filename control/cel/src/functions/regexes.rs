//! Regular expressions: the syntax of RE2, in time that is linear in the text.

use super::Implementation;
use crate::{
    budget::{Budget, Error},
    value::Value,
};
use regex::{Regex, RegexBuilder};

/// How often RE2 lets something be repeated.
const MOST_REPEATS: u32 = 1000;

/// How large a compiled expression may be: one that is written in an expression, and one that is made when it runs.
const CONSTANT_LIMIT: usize = 2 << 20;
const DYNAMIC_LIMIT: usize = 256 << 10;

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "matches" => |args, budget| dynamic("matches", args, budget),
        "find" => |args, budget| dynamic("find", args, budget),
        "findAll" => |args, budget| dynamic("findAll", args, budget),
        _ => return None,
    })
}

fn dynamic<'a>(name: &str, args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let [_, Value::String(pattern), ..] = args else { return Err(Error::NO_SUCH_OVERLOAD) };
    let illegal = name != "matches";
    let regex = budget.regex(pattern, |pattern| {
        compile_within(pattern, DYNAMIC_LIMIT)
            .map_err(|cause| if illegal { format!("Illegal regex: {cause}") } else { cause })
    })?;
    call(name, &regex, args, budget)
}

/// A function on an expression that is compiled.
pub(crate) fn call<'a>(
    name: &str,
    regex: &Regex,
    args: &[Value<'a>],
    budget: &mut Budget<'_>,
) -> Result<Value<'a>, Error> {
    let part = |text: &str| Value::string(text);
    match (name, args) {
        ("matches", [Value::String(text), _]) => Ok(Value::Bool(regex.is_match(text))),
        ("find", [Value::String(text), _]) => {
            let found = regex.find(text).map_or("", |found| found.as_str());
            budget.allocate(found.len())?;
            Ok(part(found))
        }
        ("findAll", [Value::String(text), _, rest @ ..]) => {
            let most = match rest {
                [] => usize::MAX,
                [Value::Int(most)] => usize::try_from(*most).unwrap_or(usize::MAX),
                _ => return Err(Error::NO_SUCH_OVERLOAD),
            };
            let mut all = Vec::new();
            for found in regex.find_iter(text).take(most) {
                budget.allocate(found.len().saturating_add(3 * size_of::<Value<'_>>()))?;
                all.push(part(found.as_str()));
            }
            Ok(Value::list(all))
        }
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

/// Compiles an expression of RE2.
///
/// # Errors
/// It is none, or too large.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    compile_within(pattern, CONSTANT_LIMIT)
}

fn compile_within(pattern: &str, limit: usize) -> Result<Regex, String> {
    let fault = |cause: String| format!("error parsing regexp: {cause}");
    let translated = translate(pattern).map_err(fault)?;
    let built = RegexBuilder::new(&translated).size_limit(limit).nest_limit(200).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => fault("expression too large".to_owned()),
        other => {
            let text = other.to_string();
            let cause = match text.lines().last().unwrap_or_default().trim_start_matches("error: ") {
                "unopened group" => "unexpected )",
                "unclosed group" => "missing closing )",
                "unclosed character class" => "missing closing ]",
                "repetition operator missing expression" => "missing argument to repetition operator",
                other => other,
            };
            fault(format!("{cause}: `{pattern}`"))
        }
    })
}

/// Writes an expression of RE2 in the syntax of the library: classes of letters are ASCII, braces and brackets that mean nothing
/// are letters, `\Q…\E` is a literal text.
fn translate(pattern: &str) -> Result<String, String> {
    let mut made = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    // Within brackets, and whether only the opening was read.
    let (mut class, mut class_begins) = (false, false);
    while let Some(letter) = rest.chars().next() {
        let begins = std::mem::take(&mut class_begins);
        if letter == '\\' {
            rest = escape(&mut made, rest, class)?;
            continue;
        }
        let after = rest.get(letter.len_utf8()..).unwrap_or_default();
        match letter {
            '[' if !class => {
                (class, class_begins) = (true, true);
                made.push('[');
                if let Some(behind) = after.strip_prefix('^') {
                    made.push('^');
                    rest = behind;
                    continue;
                }
            }
            ']' if class && !begins => {
                class = false;
                made.push(']');
            }
            '[' if rest.starts_with("[:") && rest.contains(":]") => {
                let end = rest.find(":]").map_or(rest.len(), |end| end + 2);
                made.push_str(rest.get(..end).unwrap_or_default());
                rest = rest.get(end..).unwrap_or_default();
                continue;
            }
            '[' | ']' | '&' | '~' if class => {
                made.push('\\');
                made.push(letter);
            }
            '-' if class && after.starts_with('-') => made.push_str("\\-"),
            '{' if !class && !is_repetition(after) => made.push_str("\\{"),
            '*' | '+' | '?' | '{' if !class && !made.ends_with('(') => {
                rest = repetition(&mut made, rest)?;
                continue;
            }
            '}' if !class && !closes_repetition(&made) => made.push_str("\\}"),
            letter => made.push(letter),
        }
        rest = after;
    }
    Ok(made)
}

/// Writes a repetition, which may be lazy; what is left, which may not be another one.
fn repetition<'t>(made: &mut String, text: &'t str) -> Result<&'t str, String> {
    let end = if text.starts_with('{') { text.find('}').map_or(text.len(), |end| end + 1) } else { 1 };
    let operator = text.get(..end).unwrap_or_default();
    let mut counts = operator.split(|letter: char| !letter.is_ascii_digit()).filter(|count| !count.is_empty());
    if counts.any(|count| count.parse::<u32>().map_or(true, |count| count > MOST_REPEATS)) {
        return Err(format!("invalid repeat count: `{operator}`"));
    }
    let lazy = text.get(end..).unwrap_or_default().starts_with('?');
    let length = end + usize::from(lazy);
    let (written, rest) = text.split_at_checked(length).unwrap_or((text, ""));
    let again = rest.starts_with(['*', '+', '?']) || rest.strip_prefix('{').is_some_and(is_repetition);
    if again {
        let next = rest.get(..1).unwrap_or_default();
        return Err(format!("invalid nested repetition operator: `{written}{next}`"));
    }
    made.push_str(written);
    Ok(rest)
}

/// `2}`, `2,}` or `2,3}`
fn is_repetition(text: &str) -> bool {
    let Some((inner, _)) = text.split_once('}') else { return false };
    let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

/// Whether what was written ends in an opened repetition or in a name in braces: `\p{Greek`.
fn closes_repetition(made: &str) -> bool {
    let Some((before, inner)) = made.rsplit_once('{') else { return false };
    let slashes = before.len() - before.trim_end_matches('\\').len();
    slashes % 2 == 0 && !inner.contains('}')
}

/// Writes what follows a backslash; what is left.
fn escape<'t>(made: &mut String, text: &'t str, class: bool) -> Result<&'t str, String> {
    let mut letters = text.chars();
    letters.next();
    let Some(code) = letters.next() else { return Err("trailing backslash at end of expression: ``".to_owned()) };
    let rest = letters.as_str();
    let written = match (code, class) {
        ('d', false) => "[0-9]",
        ('d', true) => "0-9",
        ('D', _) => "[^0-9]",
        ('w', false) => "[0-9A-Za-z_]",
        ('w', true) => "0-9A-Za-z_",
        ('W', _) => "[^0-9A-Za-z_]",
        ('s', false) => "[\\t\\n\\f\\r ]",
        ('s', true) => "\\t\\n\\f\\r ",
        ('S', _) => "[^\\t\\n\\f\\r ]",
        ('b', false) => "(?-u:\\b)",
        ('B', false) => "(?-u:\\B)",
        ('<', _) => "<",
        ('>', _) => ">",
        ('Q', _) => {
            let (literal, rest) = rest.split_once("\\E").unwrap_or((rest, ""));
            made.push_str(&regex::escape(literal));
            return Ok(rest);
        }
        ('C' | 'Z' | 'u' | 'U', _) => return Err(format!("invalid escape sequence: `\\{code}`")),
        ('0'..='7', _) => return octal(made, code, rest),
        ('p' | 'P' | 'x', _) if rest.starts_with('{') => {
            let end = rest.find('}').map_or(rest.len(), |end| end + 1);
            made.push('\\');
            made.push(code);
            made.push_str(rest.get(..end).unwrap_or_default());
            return Ok(rest.get(end..).unwrap_or_default());
        }
        (code, _) => {
            made.push('\\');
            made.push(code);
            return Ok(rest);
        }
    };
    made.push_str(written);
    Ok(rest)
}

/// An octal escape: `\123`, or `\0`. References to groups are none of RE2.
fn octal<'t>(made: &mut String, first: char, rest: &'t str) -> Result<&'t str, String> {
    let more = rest.bytes().take(2).take_while(|digit| (b'0'..=b'7').contains(digit)).count();
    let invalid = || format!("invalid escape sequence: `\\{first}`");
    if first != '0' && more == 0 {
        return Err(invalid());
    }
    let digits = format!("{first}{}", rest.get(..more).unwrap_or_default());
    let code = u32::from_str_radix(&digits, 8).map_err(|_| invalid())?;
    made.push_str(&format!("\\x{{{code:x}}}"));
    Ok(rest.get(more..).unwrap_or_default())
}
