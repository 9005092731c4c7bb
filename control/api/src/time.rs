//! Times and durations as Kubernetes formats, parses and prints them. No clock is read here: see [`crate::Clock`].
//!
//! `metav1.Time` is RFC 3339 in whole seconds and UTC, `metav1.MicroTime` the same with six decimals.

use jiff::{SignedDuration, Timestamp, civil, tz};

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// `metav1.Time` in JSON: `2026-11-22T19:11:00Z`; fractions are cut off.
pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime` in JSON: `2026-11-22T19:11:00.000000Z`.
pub fn rfc3339_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Parses a `metav1.Time`; any zone and any number of decimals are accepted.
///
/// # Errors
/// The text of Go's `time.Parse`.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    Parser { text, rest: text, layout: RFC3339 }.run()
}

/// Parses a `metav1.MicroTime`: as [`parse`], but the decimals are required.
///
/// # Errors
/// The text of Go's `time.Parse`.
pub fn parse_micro(text: &str) -> Result<Timestamp, String> {
    Parser { text, rest: text, layout: RFC3339_MICRO }.run()
}

/// Whether a time can be formatted: in UTC its year has four digits. Go refuses to marshal others, because they could not be parsed again.
pub fn is_writable(time: Timestamp) -> bool {
    (0..=9999).contains(&tz::Offset::UTC.to_datetime(time).year())
}

/// The age of something, as in the AGE column.
pub fn age(since: Timestamp, now: Timestamp) -> String {
    human_duration(now.duration_since(since))
}

/// A duration as kubectl prints ages: `5s`, `2m3s`, `5m`, `3h12m`, `2d4h`, `325d`, `3y`. Less than two seconds in the future is `0s`, more is
/// `<invalid>`.
pub fn human_duration(duration: SignedDuration) -> String {
    let pair = |a: i64, unit: char, b: i64, small: char| {
        if b == 0 { format!("{a}{unit}") } else { format!("{a}{unit}{b}{small}") }
    };
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match seconds {
        ..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 365 * 8 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// A duration as Go prints it: `1m30s`, `1.5s`, `10ms`, `0s`.
pub fn go_duration(duration: SignedDuration) -> String {
    let total = duration.as_nanos();
    let sign = if total < 0 { "-" } else { "" };
    let nanos = total.unsigned_abs();
    let decimal = |value: u128, unit: u128, name: &str| {
        let digits = unit.ilog10() as usize;
        let fraction = format!("{:0digits$}", value % unit);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() || unit == 1 { String::new() } else { format!(".{fraction}") };
        format!("{}{point}{name}", value / unit)
    };
    let text = match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(nanos, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = decimal(rest, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

/// Go's `time.Parse` for the two layouts above, error texts included.
struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl<'a> Parser<'a> {
    fn run(mut self) -> Result<Timestamp, String> {
        let year = self.year()?;
        self.literal("-")?;
        let month = self.number("01", 2)?;
        let month = self.within(month, 1, 12, "month")?;
        self.literal("-")?;
        let day = self.number("02", 2)?;
        self.literal("T")?;
        let hour = self.number("15", 1)?;
        let hour = self.within(hour, 0, 23, "hour")?;
        self.literal(":")?;
        let minute = self.number("04", 2)?;
        let minute = self.within(minute, 0, 59, "minute")?;
        self.literal(":")?;
        let second = self.number("05", 2)?;
        let second = self.within(second, 0, 59, "second")?;
        let nanos = self.fraction()?;
        let offset = self.zone()?;
        if !self.rest.is_empty() {
            return Err(format!("parsing time {}: extra text: {}", quoted(self.text), quoted(self.rest)));
        }
        let Ok(date) = civil::Date::new(year, month, day) else {
            return Err(self.out_of_range("day"));
        };
        let time = civil::Time::new(hour, minute, second, nanos).map_err(|_| self.out_of_range("second"))?;
        let offset = tz::Offset::from_seconds(offset).map_err(|_| self.out_of_range("time zone offset hour"))?;
        let time = offset.to_timestamp(date.to_datetime(time)).ok().filter(|time| is_writable(*time));
        time.ok_or_else(|| self.out_of_range("year"))
    }

    fn bad<T>(&self, rest: &str, element: &str) -> Result<T, String> {
        Err(format!(
            "parsing time {} as {}: cannot parse {} as {}",
            quoted(self.text),
            quoted(self.layout),
            quoted(rest),
            quoted(element)
        ))
    }

    fn out_of_range(&self, what: &str) -> String {
        format!("parsing time {}: {what} out of range", quoted(self.text))
    }

    fn within(&self, value: i8, low: i8, high: i8, what: &str) -> Result<i8, String> {
        if (low..=high).contains(&value) { Ok(value) } else { Err(self.out_of_range(what)) }
    }

    fn year(&mut self) -> Result<i16, String> {
        match self.rest.get(..4).filter(|y| y.bytes().all(|b| b.is_ascii_digit())).and_then(|y| y.parse().ok()) {
            Some(year) => {
                self.rest = &self.rest[4..];
                Ok(year)
            }
            None => self.bad(self.rest, "2006"),
        }
    }

    fn literal(&mut self, text: &str) -> Result<(), String> {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => self.bad(self.rest, text),
        }
    }

    /// One or two digits, at least `least`.
    fn number(&mut self, element: &str, least: usize) -> Result<i8, String> {
        let digits = self.rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
        if digits < least {
            return self.bad(self.rest, element);
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        Ok(number.parse().expect("one or two digits"))
    }

    fn fraction(&mut self) -> Result<i32, String> {
        let micro = self.layout == RFC3339_MICRO;
        let digits = match self.rest.strip_prefix(['.', ',']) {
            Some(rest) => rest.bytes().take_while(u8::is_ascii_digit).count(),
            None => 0,
        };
        if micro && (digits != 6 || !self.rest.starts_with('.')) {
            return self.bad(self.rest, ".000000");
        }
        if digits == 0 {
            return Ok(0);
        }
        let text = &self.rest[1..=digits];
        self.rest = &self.rest[digits + 1..];
        let nanos = text.get(..9).unwrap_or(text);
        Ok(format!("{nanos:0<9}").parse().expect("nine digits"))
    }

    /// Seconds east of Greenwich.
    fn zone(&mut self) -> Result<i32, String> {
        const ELEMENT: &str = "Z07:00";
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let Some(zone) = self.rest.get(..6) else { return self.bad(self.rest, ELEMENT) };
        let bytes = zone.as_bytes();
        let digit = |at: usize| bytes[at].is_ascii_digit().then(|| i32::from(bytes[at] - b'0'));
        let (Some(a), Some(b), b':', Some(c), Some(d)) = (digit(1), digit(2), bytes[3], digit(4), digit(5)) else {
            return self.bad(self.rest, ELEMENT);
        };
        let sign = match bytes[0] {
            b'+' => 1,
            b'-' => -1,
            _ => return self.bad(self.rest, ELEMENT),
        };
        let (hours, minutes) = (a * 10 + b, c * 10 + d);
        if hours > 24 {
            return Err(self.out_of_range("time zone offset hour"));
        }
        if minutes > 60 {
            return Err(self.out_of_range("time zone offset minute"));
        }
        self.rest = &self.rest[6..];
        Ok(sign * (hours * 3600 + minutes * 60))
    }
}

/// Quotes as Go does in errors of times: other characters than plain ASCII byte by byte.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'\x7f' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_any_zone_and_written_in_utc() {
        for (text, seconds, micro) in [
            ("2026-11-22T19:11:00Z", "2026-11-22T19:11:00Z", "2026-11-22T19:11:00.000000Z"),
            ("2026-11-22T19:11:00+02:00", "2026-11-22T17:11:00Z", "2026-11-22T17:11:00.000000Z"),
            ("2026-11-22T19:11:00.123456789-01:30", "2026-11-22T20:41:00Z", "2026-11-22T20:41:00.123456Z"),
            ("0000-01-01T00:00:00-00:01", "0000-01-01T00:01:00Z", "0000-01-01T00:01:00.000000Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ] {
            let time = parse(text).expect(text);
            assert_eq!((rfc3339(time).as_str(), rfc3339_micro(time).as_str()), (seconds, micro));
        }
        assert_eq!(parse("2026-01-01T00:00:00.5Z"), parse_micro("2026-01-01T00:00:00.500000Z"));
    }

    #[test]
    fn bad_times_have_gos_text() {
        for (text, error) in [
            ("", r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#),
            (
                "yesterday",
                r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#,
            ),
            ("2026/01", r#"parsing time "2026/01" as "2006-01-02T15:04:05Z07:00": cannot parse "/01" as "-""#),
            ("2026-13-01T00:00:00Z", r#"parsing time "2026-13-01T00:00:00Z": month out of range"#),
            ("0000-01-01T00:00:00+23:59", r#"parsing time "0000-01-01T00:00:00+23:59": year out of range"#),
            ("9999-12-31T23:59:59-23:59", r#"parsing time "9999-12-31T23:59:59-23:59": year out of range"#),
            ("2026-02-30T00:00:00Z", r#"parsing time "2026-02-30T00:00:00Z": day out of range"#),
            (
                "2026-01-01T00:00:00",
                r#"parsing time "2026-01-01T00:00:00" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#,
            ),
            ("2026-01-01T00:00:00Zx", r#"parsing time "2026-01-01T00:00:00Zx": extra text: "x""#),
            (
                "2026-01-01T00:00:00é\n",
                r#"parsing time "2026-01-01T00:00:00\xc3\xa9\x0a" as "2006-01-02T15:04:05Z07:00": cannot parse "\xc3\xa9\x0a" as "Z07:00""#,
            ),
        ] {
            assert_eq!(parse(text).expect_err(text), error);
        }
        let micro = parse_micro("2026-01-01T00:00:00Z").expect_err("no decimals");
        assert!(micro.ends_with(r#"cannot parse "Z" as ".000000""#), "{micro}");
    }

    #[test]
    fn ages_are_kubectls() {
        let (m, h, d) = (60, 3600, 86400);
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (5, "5s"),
            (119, "119s"),
            (2 * m, "2m"),
            (2 * m + 3, "2m3s"),
            (10 * m + 3, "10m"),
            (3 * h + 12 * m, "3h12m"),
            (9 * h + 12 * m, "9h"),
            (2 * d + 4 * h, "2d4h"),
            (3 * d, "3d"),
            (325 * d, "325d"),
            (365 * 2 * d, "2y"),
            (365 * 3 * d + 5 * d, "3y5d"),
            (365 * 9 * d + 5 * d, "9y"),
        ] {
            assert_eq!(human_duration(SignedDuration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn durations_are_gos() {
        for (nanos, text) in [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (10_000_000, "10ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1_000_000_000, "-1s"),
        ] {
            assert_eq!(go_duration(SignedDuration::from_nanos(nanos)), text);
        }
    }
}
