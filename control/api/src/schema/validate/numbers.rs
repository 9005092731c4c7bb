//! The checks of numbers: bounds, multiples, and the range of the type and format.

use super::report::Report;
use crate::CauseKind;
use serde_json::{Number, Value};

/// What a schema says of numbers.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rules {
    pub multiple_of: Option<f64>,
    pub maximum: Option<f64>,
    pub minimum: Option<f64>,
    pub exclusive_maximum: bool,
    pub exclusive_minimum: bool,
}

/// The type and format whose range a number must fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Range {
    /// No type, several types, or a number of no format or `double`, which every number fits.
    #[default]
    Any,
    Integer,
    Int32,
    Int64,
    Float,
}

impl Range {
    fn fits(self, number: Parsed) -> bool {
        match (self, number) {
            (Self::Any, _) | (Self::Integer | Self::Int64 | Self::Float, Parsed::Int(_)) => true,
            (Self::Int32, Parsed::Int(n)) => i32::try_from(n).is_ok(),
            // Upstream parses the shortest decimal digits.
            (Self::Int32, Parsed::Float(x)) => x.to_string().parse::<i32>().is_ok(),
            (Self::Integer | Self::Int64, Parsed::Float(x)) => x.to_string().parse::<i64>().is_ok(),
            #[allow(clippy::cast_possible_truncation, reason = "whether it overflows is the question")]
            (Self::Float, Parsed::Float(x)) => (x as f32).is_finite(),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Any => "number (default format)",
            Self::Integer => "integer (default format)",
            Self::Int32 => "integer with format int32",
            Self::Int64 => "integer with format int64",
            Self::Float => "number with format float",
        }
    }
}

/// A number as Go's decoder has it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parsed {
    Int(i64),
    Float(f64),
}

impl Parsed {
    pub(super) fn of(number: &Number) -> Self {
        match number.as_i64() {
            Some(n) => Self::Int(n),
            None => Self::Float(number.as_f64().unwrap_or_default()),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "as upstream's")]
    fn as_f64(self) -> f64 {
        match self {
            Self::Int(n) => n as f64,
            Self::Float(x) => x,
        }
    }
}

/// Go's conversion of a float to an integer, on common processors.
pub(super) fn truncated(x: f64) -> i64 {
    const END: f64 = 9_223_372_036_854_775_808.0;
    #[allow(clippy::cast_possible_truncation, reason = "it is in range")]
    if (-END..END).contains(&x) { x as i64 } else { i64::MIN }
}

/// Whether upstream takes a float for an integer.
pub(super) fn is_whole(x: f64) -> bool {
    const MOST: f64 = 9_007_199_254_740_991.0;
    if !x.is_finite() || x.abs() > MOST {
        return false;
    }
    let rounded = x.round();
    x == rounded || (rounded != 0.0 && (x - rounded).abs() < 1e-9 * rounded.abs())
}

/// Checks a number, and returns whether it is valid.
pub(super) fn check(report: &mut Report<'_>, rules: Option<&Rules>, range: Range, number: &Number) -> bool {
    let parsed = Parsed::of(number);
    let mut valid = fits(report, range, parsed, "Checked");
    if let Some(rules) = rules {
        if let Some(factor) = rules.multiple_of {
            valid &= multiple(report, range, number, factor);
        }
        if let Some(least) = rules.minimum {
            valid &= fits(report, range, Parsed::Float(least), "Minimum boundary");
            let (bad, bound) = match integers(range, parsed, least) {
                Some((n, least)) => (n < least || (rules.exclusive_minimum && n == least), Number::from(least)),
                None => {
                    let x = parsed.as_f64();
                    (x < least || (rules.exclusive_minimum && x <= least), float(least))
                }
            };
            let what = if rules.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            valid &= !bad;
            refuse(report, bad, number, what, &bound);
        }
        if let Some(most) = rules.maximum {
            valid &= fits(report, range, Parsed::Float(most), "Maximum boundary");
            let (bad, bound) = match integers(range, parsed, most) {
                Some((n, most)) => (n > most || (rules.exclusive_maximum && n == most), Number::from(most)),
                None => {
                    let x = parsed.as_f64();
                    (x > most || (rules.exclusive_maximum && x >= most), float(most))
                }
            };
            let what = if rules.exclusive_maximum { "less than" } else { "less than or equal to" };
            valid &= !bad;
            refuse(report, bad, number, what, &bound);
        }
    }
    valid
}

/// The number and a bound as integers, where upstream compares integers: the number is one, and the bound fits the type.
fn integers(range: Range, number: Parsed, bound: f64) -> Option<(i64, i64)> {
    match number {
        Parsed::Int(n) if range.fits(Parsed::Float(bound)) => Some((n, truncated(bound))),
        _ => None,
    }
}

fn float(x: f64) -> Number {
    Number::from_f64(x).unwrap_or_else(|| 0.into())
}

fn refuse(report: &mut Report<'_>, bad: bool, number: &Number, what: &str, bound: &Number) {
    if bad && report.listens() {
        let bound = crate::show::go_number(bound, false);
        report.wrong(CauseKind::Invalid, &Value::Number(number.clone()), format_args!("should be {what} {bound}"));
    }
}

fn fits(report: &mut Report<'_>, range: Range, number: Parsed, what: &str) -> bool {
    let fits = range.fits(number);
    if !fits && report.listens() {
        let text = format!("{what} value must be of type {} in {}", range.text(), report.path());
        report.anywhere(&text);
    }
    fits
}

fn multiple(report: &mut Report<'_>, range: Range, number: &Number, factor: f64) -> bool {
    let parsed = Parsed::of(number);
    let mut valid = fits(report, range, Parsed::Float(factor), "MultipleOf");
    let (positive, divides, factor) = match integers(range, parsed, factor) {
        Some((n, factor)) => (factor > 0, factor > 0 && n % factor == 0, Number::from(factor)),
        None => {
            let x = parsed.as_f64();
            let quotient = if factor < 1.0 { 1.0 / factor * x } else { x / factor };
            (factor > 0.0, is_whole(quotient), float(factor))
        }
    };
    if !positive {
        valid = false;
        report.not_positive(&factor);
    } else if !divides {
        valid = false;
        if report.listens() {
            let factor = crate::show::go_number(&factor, false);
            let value = Value::Number(number.clone());
            report.wrong(CauseKind::Invalid, &value, format_args!("should be a multiple of {factor}"));
        }
    }
    valid
}
