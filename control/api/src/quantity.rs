//! `resource.Quantity`: exact decimal amounts with binary and decimal suffixes, in upstream's canonical form.
//!
//! Follows <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>. An amount is `m × 10^e` with 38 digits of
//! `m`; more digits than that are rounded up, as anything below one nano is. Sums saturate.

use std::{cmp::Ordering, fmt, str::FromStr};

/// How an amount is written; arithmetic keeps the left side's, unless that is zero.
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

/// A parsed quantity. Equality and order look at the amount only, not at how it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    mantissa: i128,
    exponent: i32,
    format: Format,
}

/// Why a text is no quantity; `Display` is upstream's text.
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

/// The most digits a mantissa keeps.
const DIGITS: u32 = 38;
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
    /// Upstream's, by its `Display`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let parts = split(text)?;
        let (base, exponent, format) = interpret(parts.suffix).ok_or(ParseError::Suffix)?;
        let mut value = number(parts.negative, parts.whole, parts.fraction)?;
        value.format = format;
        if base == 10 {
            value.exponent = value.exponent.saturating_add(exponent);
        } else {
            value = value.times_power_of_two(exponent.unsigned_abs());
        }
        Ok(value.bounded())
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

    /// How it is written.
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
        if self.format == Format::DecimalExponent {
            let zeros = "0".repeat(zeros.unsigned_abs() as usize);
            return if exponent == 0 {
                write!(f, "{mantissa}{zeros}")
            } else {
                write!(f, "{mantissa}{zeros}e{exponent}")
            };
        }
        // Beyond the last suffix the number grows; upstream would lose the suffix.
        if exponent > 18 {
            zeros = zeros.saturating_add(exponent - 18).min(1 << 10);
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
    // A limit of ours: an amount of more than 10^1000000 means nothing, and its text must stay printable.
    Some((10, i32::try_from(power.clamp(-1_000_000, 1_000_000)).ok()?, Format::DecimalExponent))
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        Quantity::parse(text).expect(text)
    }

    #[test]
    fn the_canonical_form_is_upstreams() {
        for (text, canonical) in [
            ("0", "0"),
            ("0m", "0"),
            ("-0", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1500m", "1500m"),
            ("2000m", "2"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("100k", "100k"),
            ("1000k", "1M"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("0.5Ki", "512"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("129M", "129M"),
            ("123Mi", "123Mi"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e-1", "1200e-3"),
            ("1e0", "1"),
            ("10e0", "10"),
            ("1E", "1E"),
            ("1000E", "1000E"),
            ("1Ei", "1Ei"),
            ("16Ei", "9223372036854775807"),
            ("0.1n", "1n"),
            ("1.0000000001", "1000000001n"),
            ("-1.5Gi", "-1536Mi"),
            ("-100m", "-100m"),
            ("+5", "5"),
            ("1.G", "1G"),
            (".5", "500m"),
            ("0.000001Ki", "1024u"),
            ("1e1000000000", "10e999999"),
            ("10000000000000000000000", "10000E"),
            ("5.0", "5"),
            ("0.3Mi", "314572800m"),
        ] {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_upstreams_text() {
        for (text, error) in [
            ("", ParseError::Format),
            ("true", ParseError::Format),
            ("1 Gi", ParseError::Format),
            ("1,5", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("one", ParseError::Format),
            ("1GiB", ParseError::Format),
            ("1K", ParseError::Suffix),
            ("1ki", ParseError::Suffix),
            ("1mi", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1e+", ParseError::Suffix),
            ("1Ki5", ParseError::Suffix),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
        assert_eq!(ParseError::Suffix.to_string(), "unable to parse quantity's suffix");
    }

    #[test]
    fn values_round_up_and_saturate() {
        for (text, value, milli) in [
            ("100m", 1, 100),
            ("1.5", 2, 1500),
            ("-1.5", -2, -1500),
            ("1Ki", 1024, 1_024_000),
            ("1n", 1, 1),
            ("9223372036854775807", i64::MAX, i64::MAX),
            ("1e100", i64::MAX, i64::MAX),
            ("-1e100", i64::MIN, i64::MIN),
            ("1Ei", 1 << 60, i64::MAX),
        ] {
            assert_eq!((q(text).value(), q(text).milli_value()), (value, milli), "{text}");
        }
    }

    #[test]
    fn sums_keep_the_left_format_unless_it_is_zero() {
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert_eq!((q("0") + q("64Mi")).to_string(), "64Mi");
        assert_eq!((q("1k") + q("1Ki")).to_string(), "2024");
        assert_eq!(["100m", "200m", "1"].map(q).into_iter().sum::<Quantity>().to_string(), "1300m");
        assert_eq!(q("1e500") + q("1"), q("1e500") + q("1"));
    }

    #[test]
    fn order_is_by_amount() {
        for (less, more) in [
            ("1", "1001m"),
            ("-1", "0"),
            ("-2", "-1"),
            ("1000Ki", "1Mi"),
            ("1n", "1u"),
            ("1", "1e999"),
            ("1e998", "1e999"),
        ] {
            assert!(q(less) < q(more), "{less} {more}");
        }
        assert_eq!(q("1000m"), q("1"));
        assert_eq!(q("1Ki"), q("1024"));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_has_a_stable_canonical_form(text in "[+-]?[0-9.]{0,45}([eE][+-]?[0-9]{0,12}|[numkMGTPE]|[KMGTPE]i)?") {
            if let Ok(value) = Quantity::parse(&text) {
                let canonical = value.to_string();
                let again = q(&canonical);
                prop_assert_eq!(&again.to_string(), &canonical);
                prop_assert_eq!(again, value);
            }
        }

        #[test]
        fn arithmetic_is_exact(a in -1_000_000_000_000_i64..1_000_000_000_000, b in -1_000_000_000_000_i64..1_000_000_000_000) {
            let (x, y) = (Quantity::from_milli(a, Format::DecimalSi), Quantity::from_milli(b, Format::BinarySi));
            prop_assert_eq!((x + y).milli_value(), a + b);
            prop_assert_eq!((x - y).milli_value(), a - b);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }

        #[test]
        fn nothing_panics(text in ".{0,40}", other in "[0-9]{1,40}e-?[0-9]{1,6}") {
            let _ = Quantity::parse(&text);
            if let (Ok(a), Ok(b)) = (Quantity::parse(&text), Quantity::parse(&other)) {
                let _ = ((a + b).to_string(), (a - b).value(), a.cmp(&b), (-a).milli_value());
            }
        }
    }
}
