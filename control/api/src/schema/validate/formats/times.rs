//! Dates, times and durations.

pub(super) fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse::<u32>().ok()
    };
    let (Some(year), Some(month), Some(day)) = (number(0, 4), number(5, 7), number(8, 10)) else { return false };
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    bytes.len() == 10 && bytes.get(4) == Some(&b'-') && bytes.get(7) == Some(&b'-') && (1..=days).contains(&day)
}

/// RFC 3339; what follows a second `t` does not count.
pub(super) fn is_date_time(text: &str) -> bool {
    let text = text.to_lowercase();
    let mut parts = text.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    let two = |from: usize, most: &str| {
        time.get(from..from + 2).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()) && *digits <= most)
    };
    let colons = time.get(2..3) == Some(":") && time.get(5..6) == Some(":");
    if !is_date(date) || !colons || two(0, "23").is_none() || two(3, "59").is_none() || two(6, "59").is_none() {
        return false;
    }
    let rest = time.get(8..).unwrap_or_default();
    zone(rest) || {
        // Any character may stand before the fraction, as upstream has it.
        let mut chars = rest.chars();
        let point = chars.next().is_some_and(|c| c != '\n');
        let digits = chars.as_str().len() - chars.as_str().trim_start_matches(|c: char| c.is_ascii_digit()).len();
        // The digits are at least one; those of a zone begin with a sign.
        point && digits > 0 && zone(chars.as_str().get(digits..).unwrap_or_default())
    }
}

fn zone(text: &str) -> bool {
    let offset = |digits: &[u8]| {
        digits.len() == 5
            && digits.iter().enumerate().all(|(at, b)| if at == 2 { *b == b':' } else { b.is_ascii_digit() })
    };
    text == "z" || text.strip_prefix(['+', '-']).is_some_and(|rest| offset(rest.as_bytes()))
}

/// As Go has it (`1h30m`), or as Scala (`2 days`), anywhere in the text.
pub(super) fn is_duration(text: &str) -> bool {
    is_go_duration(text) || is_scala_duration(text)
}

fn is_go_duration(text: &str) -> bool {
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let (mut total, most) = (0_u128, (1_u128 << 63) - u128::from(!negative));
    let mut any = false;
    while !rest.is_empty() {
        let whole = leading_digits(&mut rest);
        let fraction = match rest.strip_prefix('.') {
            Some(after) => {
                rest = after;
                leading_digits(&mut rest)
            }
            None => "",
        };
        let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, next) = rest.split_at(end);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return false,
        };
        if whole.is_empty() && fraction.is_empty() {
            return false;
        }
        let value = if whole.is_empty() { Some(0) } else { whole.parse::<u128>().ok() };
        let Some(value) = value.filter(|value| *value <= 1 << 63).map(|value| value * unit) else { return false };
        // More than eighteen digits of a fraction are less than a nanosecond.
        let digits = fraction.get(..fraction.len().min(18)).unwrap_or_default();
        let places = u32::try_from(digits.len()).unwrap_or_default();
        let part = digits.parse::<u128>().unwrap_or_default() * unit / 10_u128.pow(places);
        total += value + part;
        if total > most {
            return false;
        }
        any = true;
        rest = next;
    }
    any
}

fn leading_digits<'a>(rest: &mut &'a str) -> &'a str {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, next) = rest.split_at(end);
    *rest = next;
    digits
}

/// Digits and a unit somewhere in the text. Digits that are too many for a number in front of letters make it wrong.
fn is_scala_duration(text: &str) -> bool {
    let mut rest = text;
    let mut known = false;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = rest.get(start..).unwrap_or_default();
        let digits = leading_digits(&mut rest);
        let after = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
        let end = after.find(|c: char| !(c.is_ascii_alphabetic() || c == 'µ')).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        if unit.is_empty() {
            continue;
        }
        if digits.parse::<i64>().is_err() {
            return false;
        }
        known |= is_unit(&unit.to_lowercase());
        rest = next;
    }
    known
}

fn is_unit(unit: &str) -> bool {
    const LONG: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    const SHORT: [&str; 10] = ["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w"];
    LONG.iter().any(|long| unit.starts_with(long)) || SHORT.contains(&unit) || unit == "wk"
}
