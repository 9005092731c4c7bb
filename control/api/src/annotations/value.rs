//! How values of annotations are read. An error says what is right.

use std::time::Duration;

pub(super) fn reuse(text: &str) -> Result<bool, String> {
    match text {
        "reuse" => Ok(true),
        "per-request" => Ok(false),
        _ => Err("must be per-request or reuse".into()),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be true or false".into())
}

/// A number within bounds, both included.
pub(super) fn count<const LEAST: u64, const MOST: u64>(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (LEAST..=MOST).contains(number));
    number.ok_or_else(|| match MOST {
        u64::MAX => format!("must be a number of at least {LEAST}"),
        _ => format!("must be a number from {LEAST} to {MOST}"),
    })
}

/// Parses a positive duration in Go's format with whole numbers: `500ms`, `90s`, `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let parse = || {
        let (mut total, mut rest) = (Duration::ZERO, text);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let number: u32 = rest[..digits].parse().ok()?;
            let unit = &rest[digits..];
            let unit = &unit[..unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len())];
            let one = match unit {
                "ms" => Duration::from_millis(1),
                "s" => Duration::from_secs(1),
                "m" => Duration::from_secs(60),
                "h" => Duration::from_secs(3600),
                _ => return None,
            };
            total = total.checked_add(one.checked_mul(number)?)?;
            rest = &rest[digits + unit.len()..];
        }
        (!total.is_zero()).then_some(total)
    };
    parse().ok_or_else(|| "must be a time above 0, such as 500ms, 90s, 2m or 1h30m".into())
}
