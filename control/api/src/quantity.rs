//! `resource.Quantity`: exact decimal amounts with binary and decimal suffixes, in upstream's canonical form.
//!
//! Follows <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>. An amount is `m × 10^e` with 38 digits of
//! `m`; more digits than that are rounded up, as anything below one nano is. Sums saturate.

use std::{cmp::Ordering, fmt, str::FromStr};

/// The format of an amount. Arithmetic keeps that of the left side, unless the left side is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `1500m`, `2k`.
    #[default]
    DecimalSi,
    /// `64Mi`.
    BinarySi,
    /// `12e6`.
    DecimalExponent,
}

/// A parsed quantity. Equality and order compare only the amount, not the format.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    mantissa: i128,
    exponent: i32,
    format: Format,
}

/// Why a text is no quantity; `Display` is upstream's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Most digits of a mantissa.
const DIGITS: u32 = 38;
/// The greatest power of ten, a limit of this implementation: amounts above it have no meaning, and their text must stay printable.
const MOST_POWER: i32 = 1_000_000;
/// Most zeros that are written one by one.
const MOST_ZEROS: i32 = 1 << 10;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// A whole number.
    pub fn new(value: i64, format: Format) -> Self {
        Self { mantissa: value.into(), exponent: 0, format }
    }

    /// Thousandths, as CPU is counted.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self { mantissa: value.into(), exponent: -3, format }
    }

    /// Parses `500m`, `1.5Gi`, `2e3`.
    ///
    /// # Errors
    /// Upstream's error.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let parts = split(text)?;
        let (base, exponent, format) = interpret(parts.suffix).ok_or(ParseError::Suffix)?;
        let mut value = number(parts.negative, parts.whole, parts.fraction)?;
        value.format = format;
        if base == 10 {
            value.exponent = value.exponent.saturating_add(exponent);
            value = value.capped();
        } else {
            value = value.times_power_of_two(exponent.unsigned_abs());
        }
        Ok(value.bounded())
    }

    /// The text that upstream shows for a quantity with this text: it keeps most texts that it parses on the fast path, `1e+30` and `110.`
    /// among them; others get the form of `Display`.
    ///
    /// # Errors
    /// As [`Quantity::parse`].
    pub fn canonical(text: &str) -> Result<String, ParseError> {
        let quantity = Self::parse(text)?;
        Ok(if keeps_text(text)? { text.to_owned() } else { quantity.to_string() })
    }

    /// Rounded up (away from zero) to units of `10^scale`.
    pub fn rounded_up(mut self, scale: i32) -> Self {
        if self.exponent < scale {
            self.mantissa = divide_up(self.mantissa, self.exponent.abs_diff(scale));
            self.exponent = scale;
        }
        self
    }

    /// Rounds up to whole nanos, as upstream does, and caps binary amounts at 2^63 - 1.
    fn bounded(mut self) -> Self {
        if self.mantissa == 0 {
            return Self { mantissa: 0, exponent: 0, format: self.format };
        }
        if self.exponent < -9 {
            let drop = self.exponent.abs_diff(-9);
            self.mantissa = divide_up(self.mantissa, drop);
            self.exponent = -9;
        }
        if self.format == Format::BinarySi {
            let (most, magnitude) = (Self::new(i64::MAX, Format::BinarySi), self.magnitude());
            if magnitude > most {
                return if self.mantissa < 0 { Self::new(-i64::MAX, self.format) } else { most };
            }
            if magnitude < Self::new(1, Format::BinarySi) {
                self.format = Format::DecimalSi;
            }
        }
        self
    }

    /// Not above the greatest power, however many zeros were written.
    fn capped(mut self) -> Self {
        if self.exponent > MOST_POWER - DIGITS.cast_signed() {
            while self.mantissa != 0 && self.mantissa % 10 == 0 {
                self.mantissa /= 10;
                self.exponent = self.exponent.saturating_add(1);
            }
            self.exponent = self.exponent.min(MOST_POWER);
        }
        self
    }

    fn magnitude(self) -> Self {
        Self { mantissa: self.mantissa.saturating_abs(), ..self }
    }

    fn times_power_of_two(mut self, power: u32) -> Self {
        // At most 2^60: 19 digits.
        while self.mantissa.unsigned_abs().checked_ilog10().is_some_and(|digits| digits > DIGITS - 20) {
            self.mantissa = divide_up(self.mantissa, 1);
            self.exponent = self.exponent.saturating_add(1);
        }
        self.mantissa = self.mantissa.saturating_mul(1 << power);
        self
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub fn signum(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// The amount, rounded up (away from zero) to a whole number; saturates.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// The amount in thousandths, rounded up (away from zero); saturates.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// The amount in units of `10^scale`, rounded up (away from zero); saturates.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let shift = i64::from(self.exponent) - i64::from(scale);
        let wide = if shift >= 0 {
            let factor = u32::try_from(shift).ok().and_then(|s| 10_i128.checked_pow(s));
            match factor.and_then(|f| self.mantissa.checked_mul(f)) {
                Some(value) => value,
                None => i128::MAX * self.mantissa.signum(),
            }
        } else {
            divide_up(self.mantissa, u32::try_from(-shift).unwrap_or(u32::MAX))
        };
        i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
    }

    /// Both with the lower exponent, as far as 38 digits reach.
    fn align(self, other: Self) -> (i128, i128, i32) {
        let (mut a, mut b) = (self, other);
        if a.mantissa == 0 {
            a.exponent = b.exponent;
        }
        if b.mantissa == 0 {
            b.exponent = a.exponent;
        }
        let (high, low) = if a.exponent > b.exponent { (&mut a, &mut b) } else { (&mut b, &mut a) };
        while high.exponent > low.exponent {
            match high.mantissa.checked_mul(10) {
                Some(more) => {
                    high.mantissa = more;
                    high.exponent -= 1;
                }
                None => {
                    low.mantissa = divide_up(low.mantissa, high.exponent.abs_diff(low.exponent));
                    low.exponent = high.exponent;
                }
            }
        }
        (a.mantissa, b.mantissa, a.exponent)
    }

    fn combined(self, other: Self, operation: impl Fn(i128, i128) -> i128) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        let (a, b, exponent) = self.align(other);
        Self { mantissa: operation(a, b), exponent, format }
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.combined(other, i128::saturating_add)
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.combined(other, i128::saturating_sub)
    }
}

impl std::ops::Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { mantissa: self.mantissa.saturating_neg(), ..self }
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |a, b| a + b)
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let signs = self.mantissa.signum().cmp(&other.mantissa.signum());
        if signs != Ordering::Equal || self.mantissa == 0 {
            return signs;
        }
        let places = |q: &Self| i64::from(q.mantissa.unsigned_abs().ilog10()) + i64::from(q.exponent);
        let order = places(self).cmp(&places(other)).then_with(|| {
            // The same number of places: the difference of the exponents fits the digits.
            let shift = self.exponent.abs_diff(other.exponent);
            let grow = |m: u128| m.saturating_mul(10_u128.saturating_pow(shift));
            let (a, b) = (self.mantissa.unsigned_abs(), other.mantissa.unsigned_abs());
            if self.exponent > other.exponent { grow(a).cmp(&b) } else { a.cmp(&grow(b)) }
        });
        if self.mantissa < 0 { order.reverse() } else { order }
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mantissa == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi
            && self.magnitude() >= Self::new(1024, Format::BinarySi)
            && let Some(mut whole) = self.whole()
        {
            let mut suffix = 0;
            while whole % 1024 == 0 && suffix + 1 < BINARY.len() {
                whole /= 1024;
                suffix += 1;
            }
            return write!(f, "{whole}{}", BINARY[suffix]);
        }
        let (mut mantissa, mut exponent) = (self.mantissa, self.exponent);
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent = exponent.saturating_add(1);
        }
        let mut zeros = exponent.rem_euclid(3);
        exponent -= zeros;
        if self.format == Format::DecimalExponent || exponent > MOST_ZEROS {
            let zeros = "0".repeat(zeros.unsigned_abs() as usize);
            return if exponent == 0 {
                write!(f, "{mantissa}{zeros}")
            } else {
                write!(f, "{mantissa}{zeros}e{exponent}")
            };
        }
        // Beyond the last suffix the number grows; upstream would lose the suffix.
        if exponent > 18 {
            zeros += exponent - 18;
            exponent = 18;
        }
        let suffix = DECIMAL.iter().find(|(_, e)| *e == exponent).map_or("n", |(s, _)| s);
        write!(f, "{mantissa}{}{suffix}", "0".repeat(zeros.unsigned_abs() as usize))
    }
}

impl Quantity {
    /// The amount, if it is a whole number that fits.
    fn whole(&self) -> Option<i128> {
        if self.exponent >= 0 {
            return self.mantissa.checked_mul(10_i128.checked_pow(self.exponent.unsigned_abs())?);
        }
        let unit = 10_i128.checked_pow(self.exponent.unsigned_abs())?;
        (self.mantissa % unit == 0).then_some(self.mantissa / unit)
    }
}

/// Whether upstream keeps a text as canonical. Follows the fast path of `ParseQuantity`.
fn keeps_text(text: &str) -> Result<bool, ParseError> {
    const MAX_DIGITS: i32 = 18;
    let parts = split(text)?;
    let (base, exponent, _) = interpret(parts.suffix).ok_or(ParseError::Suffix)?;
    let whole = match parts.whole.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    };
    let count = |text: &str| i32::try_from(text.len()).unwrap_or(i32::MAX);
    if base == 2 {
        let short = parts.fraction.is_empty() && count(whole) + exponent * 3 / 10 <= 14;
        return Ok(short && whole.parse::<i64>().is_ok_and(|value| value & 7 != 0));
    }
    let digits = format!("{whole}{}", parts.fraction);
    let scale = exponent.saturating_sub(count(parts.fraction));
    let plain = count(&digits) <= MAX_DIGITS && scale >= -9;
    Ok(plain && scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0'))
}

/// `mantissa / 10^digits`, rounded away from zero.
fn divide_up(mantissa: i128, digits: u32) -> i128 {
    match 10_i128.checked_pow(digits) {
        Some(unit) => {
            let up = if mantissa % unit == 0 { 0 } else { mantissa.signum() };
            mantissa / unit + up
        }
        None => mantissa.signum(),
    }
}

struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

/// Sign, digits, and the suffix: letters, a sign, digits.
fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    if text.is_empty() {
        return Err(ParseError::Format);
    }
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let tail = suffix[letters..].strip_prefix(['-', '+']).unwrap_or(&suffix[letters..]);
    if digits(tail) != tail.len() {
        return Err(ParseError::Format);
    }
    Ok(Parts { negative: text.starts_with('-'), whole, fraction, suffix })
}

/// Base (2 or 10), exponent and format of a suffix.
fn interpret(suffix: &str) -> Option<(u32, i32, Format)> {
    if let Some(power) = BINARY.iter().skip(1).position(|s| *s == suffix) {
        return Some((2, 10 * (i32::try_from(power).ok()? + 1), Format::BinarySi));
    }
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((10, *exponent, Format::DecimalSi));
    }
    let power = suffix.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
    let most = i64::from(MOST_POWER);
    Some((10, i32::try_from(power.clamp(-most, most)).ok()?, Format::DecimalExponent))
}

fn number(negative: bool, whole: &str, fraction: &str) -> Result<Quantity, ParseError> {
    let mut mantissa: i128 = 0;
    let mut exponent: i32 = 0;
    let mut lost = false;
    for (index, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        let digit = i128::from(digit - b'0');
        let fits = mantissa.checked_ilog10().is_none_or(|digits| digits + 1 < DIGITS);
        if fits {
            mantissa = mantissa * 10 + digit;
            exponent -= i32::from(index >= whole.len());
        } else {
            lost |= digit != 0;
            exponent = exponent.checked_add(i32::from(index < whole.len())).ok_or(ParseError::Numeric)?;
        }
    }
    mantissa += i128::from(lost);
    Ok(Quantity { mantissa: if negative { -mantissa } else { mantissa }, exponent, format: Format::DecimalSi })
}

#[cfg(test)]
#[path = "quantity_tests.rs"]
mod tests;
