//! Numbers with a checksum, colours, UUIDs and base64.

/// `(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?…`; a version puts its digit in front of the third group, and since 4 a variant in front of the fourth.
pub(super) fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let mut rest = text.as_bytes();
    for (group, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if group > 0 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
        let Some((digits, next)) = rest.split_at_checked(length) else { return false };
        let first = digits.first().copied().unwrap_or_default().to_ascii_lowercase();
        let right = match (group, version) {
            (2, Some(version)) => first == version,
            (3, Some(b'4' | b'5')) => matches!(first, b'8' | b'9' | b'a' | b'b'),
            _ => true,
        };
        if !right || !digits.iter().all(u8::is_ascii_hexdigit) {
            return false;
        }
        rest = next;
    }
    rest.is_empty()
}

/// The text without spaces and dashes, which ISBNs may have anywhere.
fn isbn_digits(text: &str) -> Vec<u8> {
    text.bytes().filter(|b| !matches!(b, b'\t' | b'\n' | 0x0c | b'\r' | b' ' | b'-')).collect()
}

fn digit(byte: u8) -> u32 {
    u32::from(byte.saturating_sub(b'0'))
}

pub(super) fn is_isbn10(text: &str) -> bool {
    let digits = isbn_digits(text);
    let Some((last, front)) = digits.split_last() else { return false };
    if front.len() != 9 || !front.iter().all(u8::is_ascii_digit) || !(last.is_ascii_digit() || *last == b'X') {
        return false;
    }
    let sum: u32 = front.iter().zip(1..).map(|(byte, weight)| weight * digit(*byte)).sum();
    let last = if *last == b'X' { 10 } else { digit(*last) };
    (sum + 10 * last).is_multiple_of(11)
}

pub(super) fn is_isbn13(text: &str) -> bool {
    let digits = isbn_digits(text);
    let Some((last, front)) = digits.split_last() else { return false };
    if front.len() != 12 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let sum: u32 = front.iter().zip([1, 3].into_iter().cycle()).map(|(byte, weight)| weight * digit(*byte)).sum();
    digit(*last) == (10 - sum % 10) % 10
}

pub(super) fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let front = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    let right = match (digits.len(), front(0, 1), front(0, 2)) {
        (13 | 16, "4", _) => true,
        (16, _, "51" | "52" | "53" | "54" | "55") => true,
        (16, "6", _) => front(1, 4) == "011" || front(1, 2) == "5",
        (15, _, "34" | "37") => true,
        (14, _, "36" | "38") => true,
        (14, _, "30") => ("0"..="5").contains(&front(2, 3)),
        (15, _, _) => matches!(front(0, 4), "2131" | "1800"),
        // A prefix of five digits, upstream's mistake included.
        (16, _, "35") => true,
        _ => false,
    };
    let sum = digits.bytes().rev().zip([1, 2].into_iter().cycle()).map(|(byte, factor)| {
        let product = digit(byte) * factor;
        if product >= 10 { product % 10 + 1 } else { product }
    });
    right && sum.sum::<u32>().is_multiple_of(10)
}

/// `\d{3}[- ]?\d{2}[- ]?\d{4}` of eleven characters.
pub(super) fn is_ssn(text: &str) -> bool {
    let bytes = text.as_bytes();
    let separator = |b: &u8| matches!(b, b'-' | b' ');
    bytes.len() == 11
        && bytes.iter().enumerate().all(|(at, b)| if matches!(at, 3 | 6) { separator(b) } else { b.is_ascii_digit() })
}

pub(super) fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `rgb(1, 2, 3)`.
pub(super) fn is_rgb_color(text: &str) -> bool {
    let Some(inner) = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')')) else { return false };
    let space = |c: char| matches!(c, '\t' | '\n' | '\x0c' | '\r' | ' ');
    let part = |part: &str| {
        let digits = part.trim_matches(space);
        let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        plain && digits.len() <= 3 && digits.parse::<u16>().is_ok_and(|n| n <= 255)
    };
    inner.split(',').count() == 3 && inner.split(',').all(part)
}

/// Standard base64 with its padding, of which spare bits do not matter. Nothing is none.
pub(super) fn is_base64(text: &str) -> bool {
    let data = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    let plain = data.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'));
    plain && !text.is_empty() && text.len().is_multiple_of(4) && text.len() - data.len() <= 2 && !data.is_empty()
}
