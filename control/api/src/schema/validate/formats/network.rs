//! Addresses and names of hosts.

use regex::Regex;
use std::{net::Ipv6Addr, sync::OnceLock};

/// Digits, letters and symbols of any script.
fn is_name_char(c: char) -> bool {
    static OTHER: OnceLock<Option<Regex>> = OnceLock::new();
    if c.is_ascii() {
        // The ASCII symbols of Unicode are `$+<=>^|~` and the backtick.
        return c.is_ascii_alphanumeric() || "$+<=>^`|~".contains(c);
    }
    let other = OTHER.get_or_init(|| Regex::new(r"[\p{S}\p{L}]").ok());
    other.as_ref().is_some_and(|regex| regex.is_match(c.encode_utf8(&mut [0; 4])))
}

fn is_letter(c: char) -> bool {
    static OTHER: OnceLock<Option<Regex>> = OnceLock::new();
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    let other = OTHER.get_or_init(|| Regex::new(r"\p{L}").ok());
    other.as_ref().is_some_and(|regex| regex.is_match(c.encode_utf8(&mut [0; 4])))
}

/// One label, or several of which the last has letters alone.
pub(super) fn is_hostname(text: &str) -> bool {
    if text.len() > 255 || text.split('.').any(|label| label.len() > 63) {
        return false;
    }
    match text.rsplit_once('.') {
        None => {
            // A dash may stand after the first character, and nowhere else.
            let mut chars = text.chars();
            let first = chars.next().is_some_and(is_name_char);
            let rest = chars.as_str();
            let rest = rest.strip_prefix('-').unwrap_or(rest);
            first && rest.chars().all(is_name_char) && rest.chars().count() <= 62
        }
        Some((labels, last)) => {
            let label = |label: &str| {
                let (first, last) = (label.chars().next(), label.chars().next_back());
                first.is_some_and(is_name_char)
                    && last.is_some_and(is_name_char)
                    && label.chars().all(|c| c == '-' || is_name_char(c))
            };
            labels.split('.').all(label) && last.chars().count() >= 2 && last.chars().all(is_letter)
        }
    }
}

/// Four numbers, of which leading zeros do not count, at the beginning of a text; what follows them.
fn quad(text: &str) -> Option<&str> {
    let mut rest = text;
    for part in 0..4 {
        if part > 0 {
            rest = rest.strip_prefix('.')?;
        }
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, next) = rest.split_at(end);
        let significant = digits.trim_start_matches('0');
        if digits.is_empty() || significant.len() > 3 || significant.parse::<u16>().is_ok_and(|n| n > 255) {
            return None;
        }
        rest = next;
    }
    Some(rest)
}

fn is_quad(text: &str) -> bool {
    quad(text) == Some("")
}

/// An address of version 6, in which leading zeros do not count.
fn is_sloppy_ipv6(text: &str) -> bool {
    let mut parts = text.split("::");
    let (before, after, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    // How many groups of sixteen bits a part has.
    let groups = |part: &str, ends: bool| -> Option<usize> {
        if part.is_empty() {
            return Some(0);
        }
        let mut count = 0;
        let mut fields = part.split(':').peekable();
        while let Some(field) = fields.next() {
            let hexadecimal = !field.is_empty() && field.bytes().all(|b| b.is_ascii_hexdigit());
            if hexadecimal && field.trim_start_matches('0').len() <= 4 {
                count += 1;
            } else if ends && fields.peek().is_none() && is_quad(field) {
                count += 2;
            } else {
                return None;
            }
        }
        Some(count)
    };
    match (after, more) {
        (None, _) => groups(before, true) == Some(8),
        (Some(after), None) => match (groups(before, false), groups(after, true)) {
            (Some(before), Some(after)) => before + after < 8,
            _ => false,
        },
        (Some(_), Some(_)) => false,
    }
}

/// Version 4, or version 6 with one of version 4 in it.
pub(super) fn is_ipv4(text: &str) -> bool {
    match text.find(['.', ':']).map(|at| text.as_bytes().get(at)) {
        Some(Some(b'.')) => is_quad(text),
        Some(Some(_)) => text.contains('.') && is_sloppy_ipv6(text),
        _ => false,
    }
}

pub(super) fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

pub(super) fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let bits = if is_quad(address) {
        32
    } else if is_sloppy_ipv6(address) {
        128
    } else {
        return false;
    };
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    digits && length.trim_start_matches('0').len() <= 3 && length.parse::<u32>().is_ok_and(|length| length <= bits)
}

/// Six, eight or twenty bytes: `01:23:45:67:89:ab`, with dashes, as `0123.4567.89ab`, or with nothing between them.
pub(super) fn is_mac(text: &str) -> bool {
    let (separator, width) = match text.as_bytes() {
        [_, _, b':', ..] => (":", 2),
        [_, _, b'-', ..] => ("-", 2),
        [_, _, _, _, b'.', ..] => (".", 4),
        _ => return matches!(text.len(), 12 | 16 | 40) && text.bytes().all(|b| b.is_ascii_hexdigit()),
    };
    let group = |group: &str| group.len() == width && group.bytes().all(|b| b.is_ascii_hexdigit());
    matches!(text.split(separator).count() * width, 12 | 16 | 40) && text.split(separator).all(group)
}
