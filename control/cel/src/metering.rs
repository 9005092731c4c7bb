//! What each call costs while an expression runs: the sums of cel-go and of Kubernetes' libraries.

use crate::{
    budget::{Budget, Error},
    opaque::Opaque,
    value::Value,
};

/// Making a list, a map or an object.
pub(crate) const LIST: u64 = 10;
/// Making a map.
pub(crate) const MAP: u64 = 30;
/// Making an object.
pub(crate) const OBJECT: u64 = 40;
/// A step through a text for each letter.
pub(crate) const TRAVERSAL: f64 = 0.1;
/// A regular expression, for each of its letters.
pub(crate) const REGEX: f64 = 0.25;
/// A question to the authorizer.
pub(crate) const CHECK: u64 = 350_000;

/// How the cost of a call is made out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// 1
    Unit,
    /// A question to the authorizer.
    Check,
    /// The size of an argument, that often.
    Traverse { arg: usize, times: u8 },
    /// The size of what it gives, twice.
    Join,
    /// The elements of a list.
    InList,
    /// The smaller of two.
    Smaller,
    /// Equality: 1 for values of libraries, else the smaller of two.
    Equal,
    /// Two together.
    Concat,
    /// A text times an expression.
    Regex,
    /// A text times another.
    Contains,
    /// All that is in the first argument.
    Deep,
    /// A selector with its requirements.
    Selector,
    /// An address in a network; whether it must be parsed.
    ContainsIp { parses: bool },
    /// A network in a network.
    ContainsCidr { parses: bool },
    /// A text times the expression of a format.
    Validate,
    /// A new list of the size that it gives.
    Output,
    /// A new list of the size of the first argument for each level.
    Flatten,
    /// Each element of an argument with each.
    SelfCompare { arg: usize },
    /// Each element of a list with each of another.
    Sets { times: u8 },
}

impl Cost {
    /// Of a call whose overload is known unless several fit.
    pub(crate) fn of(function: &str, overload: Option<&str>) -> Cost {
        if let Some(cost) = overload.and_then(Self::of_tracked) {
            return cost;
        }
        match function {
            "check" => Cost::Check,
            "fieldSelector" | "labelSelector" => Cost::Selector,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => Cost::Deep,
            "url"
            | "lowerAscii"
            | "upperAscii"
            | "substring"
            | "trim"
            | "jsonpatch.escapeKey"
            | "cidr"
            | "isIP"
            | "isCIDR"
            | "quantity"
            | "isQuantity"
            | "semver"
            | "isSemver" => Cost::Traverse { arg: 0, times: 1 },
            "ip" if overload == Some("cidr_ip") => Cost::Unit,
            "ip" => Cost::Traverse { arg: 0, times: 1 },
            "replace" | "split" | "ip.isCanonical" => Cost::Traverse { arg: 0, times: 2 },
            "join" => Cost::Join,
            "find" | "findAll" => Cost::Regex,
            "containsIP" => Cost::ContainsIp { parses: overload == Some("cidr_contains_ip_string") },
            "containsCIDR" => Cost::ContainsCidr { parses: overload == Some("cidr_contains_cidr_string") },
            "validate" => Cost::Validate,
            "_==_" => Cost::Equal,
            _ => overload.map_or(Cost::Unit, Self::of_standard),
        }
    }

    /// Overloads that have a sum of their own in any case.
    fn of_tracked(overload: &str) -> Option<Cost> {
        Some(match overload {
            "list_slice" | "lists_range" | "list_reverse" => Cost::Output,
            "list_flatten" | "list_flatten_int" => Cost::Flatten,
            "list_distinct" => Cost::SelfCompare { arg: 0 },
            "list_sets_contains_list" | "list_sets_intersects_list" => Cost::Sets { times: 1 },
            "list_sets_equivalent_list" => Cost::Sets { times: 2 },
            other if other.starts_with("list_") && other.ends_with("_sort") => Cost::SelfCompare { arg: 0 },
            other if other.starts_with("list_") && other.ends_with("_sortByAssociatedKeys") => {
                Cost::SelfCompare { arg: 1 }
            }
            _ => return None,
        })
    }

    fn of_standard(overload: &str) -> Cost {
        match overload {
            "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" | "strings_quote"
            | "string_format" => Cost::Traverse { arg: 0, times: 1 },
            "in_list" => Cost::InList,
            overload if compares(overload) => Cost::Smaller,
            "add_string" | "add_bytes" => Cost::Concat,
            "matches_string" => Cost::Regex,
            "contains_string" => Cost::Contains,
            _ => Cost::Unit,
        }
    }

    /// Whether only what the call gives tells the cost.
    pub(crate) fn needs_result(self) -> bool {
        matches!(self, Cost::Join | Cost::Output)
    }

    /// The cost of a call with these arguments, or of what it gave if [`Cost::needs_result`].
    pub(crate) fn sum(
        self,
        args: &[Value<'_>],
        result: Option<&Value<'_>>,
        budget: &mut Budget<'_>,
    ) -> Result<u64, Error> {
        match self {
            Cost::Unit => return Ok(1),
            Cost::Check => return Ok(CHECK),
            Cost::Smaller | Cost::Equal => {
                if self == Cost::Equal && matches!(args.first(), Some(Value::Opaque(_))) {
                    return Ok(1);
                }
                let [a, b] = args else { return Ok(1) };
                return Ok(times_factor(smaller(a, b, budget)?, TRAVERSAL));
            }
            _ => {}
        }
        for text in args.iter().chain(result).filter_map(Value::as_str) {
            budget.pass(text.len())?;
        }
        let size = |index: usize| args.get(index).map_or(1, Value::cost_size);
        Ok(match self {
            Cost::Traverse { arg, times } => times_factor(size(arg), f64::from(times) * TRAVERSAL),
            Cost::Join => times_factor(result.map_or(0, Value::cost_size), 2.0 * TRAVERSAL),
            Cost::InList => size(1),
            Cost::Unit | Cost::Check | Cost::Smaller | Cost::Equal => 1,
            Cost::Concat => times_factor(size(0).saturating_add(size(1)), TRAVERSAL),
            Cost::Regex => {
                times_factor(size(0).saturating_add(1), TRAVERSAL).saturating_mul(times_factor(size(1), REGEX))
            }
            Cost::Contains => times_factor(size(0), TRAVERSAL).saturating_mul(times_factor(size(1), TRAVERSAL)),
            Cost::Deep => args.first().map_or(Ok(0), |value| deep(value, budget))?,
            Cost::Selector => selector(size(1)),
            Cost::ContainsIp { parses } => {
                let parsing = if parses { times_factor(size(1), TRAVERSAL) } else { 0 };
                times_factor(2 * size(0), TRAVERSAL) + parsing
            }
            Cost::ContainsCidr { parses } => {
                let parsing = if parses { times_factor(size(1), TRAVERSAL) } else { 0 };
                times_factor(2 * size(0), TRAVERSAL) + times_factor(size(0), TRAVERSAL) + 1 + parsing
            }
            Cost::Validate => {
                let length = match args.first() {
                    Some(Value::Opaque(opaque)) => match &**opaque {
                        Opaque::Format(format) => format.regex_size,
                        _ => 1,
                    },
                    _ => 1,
                };
                times_factor(size(1).saturating_add(1), TRAVERSAL).saturating_mul(times_factor(length, REGEX))
            }
            Cost::Output => result.map_or(0, Value::cost_size).saturating_add(1 + LIST),
            Cost::Flatten => {
                let depth = if let Some(Value::Int(depth)) = args.get(1) { *depth } else { 1 };
                size(0).saturating_mul(u64::try_from(depth).unwrap_or(0)).saturating_add(1 + LIST)
            }
            Cost::SelfCompare { arg } => self_compare(args.get(arg), budget)?,
            Cost::Sets { times } => size(0).saturating_mul(size(1)).saturating_mul(u64::from(times)).saturating_add(1),
        })
    }
}

/// The smaller of two sizes. Of two texts the longer one is not looked at if it is longer in any case.
fn smaller(a: &Value<'_>, b: &Value<'_>, budget: &mut Budget<'_>) -> Result<u64, Error> {
    let (a, b) = match (a, b) {
        (Value::String(x), Value::String(y)) if x.len() > y.len() => (b, a),
        _ => (a, b),
    };
    if let Value::String(text) = a {
        budget.pass(text.len())?;
    }
    let size = a.cost_size();
    match b {
        // A letter has four bytes at most.
        Value::String(text) if (text.len() / 4) as u64 >= size => Ok(size),
        Value::String(text) => {
            budget.pass(text.len())?;
            Ok(size.min(b.cost_size()))
        }
        other => Ok(size.min(other.cost_size())),
    }
}

/// A size times a factor, rounded up.
pub(crate) fn times_factor(size: u64, factor: f64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "as upstream")]
    let product = (size as f64 * factor).ceil();
    to_u64(product)
}

/// A cast of a float saturates.
pub(crate) fn to_u64(value: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let value = value as u64;
    value
}

fn selector(length: u64) -> u64 {
    let requirements = times_factor(length, 0.5);
    #[expect(clippy::cast_precision_loss, reason = "50")]
    let each = (LIST + OBJECT) as f64;
    LIST + times_factor(length, TRAVERSAL) + times_factor(requirements, each)
}

/// Everything that is in a value.
fn deep(value: &Value<'_>, budget: &mut Budget<'_>) -> Result<u64, Error> {
    budget.work(1)?;
    let bytes = |length: usize| {
        #[expect(clippy::cast_precision_loss, reason = "as upstream")]
        let cost = to_u64(length as f64 * TRAVERSAL);
        cost
    };
    Ok(match value {
        Value::String(text) => bytes(text.len()),
        Value::Bytes(value) => bytes(value.len()),
        Value::List(list) => {
            let mut sum: u64 = 0;
            list.each(budget, |_, element, budget| {
                sum = sum.saturating_add(deep(&element, budget)?);
                Ok(())
            })?;
            sum
        }
        Value::Map(map) if map.len().is_some() => {
            let mut sum: u64 = 0;
            for key in map.keys()? {
                let key = Value::from(key);
                sum = sum.saturating_add(deep(&key, budget)?);
                if let Some(value) = map.get(&key, budget)? {
                    sum = sum.saturating_add(deep(&value, budget)?);
                }
            }
            sum
        }
        _ => 1,
    })
}

fn self_compare(list: Option<&Value<'_>>, budget: &mut Budget<'_>) -> Result<u64, Error> {
    let Some(Value::List(list)) = list else { return Ok(1) };
    let size = list.len() as u64;
    let factor = match list.get(0, budget)? {
        Some(Value::String(_) | Value::Bytes(_)) => 2.0 + TRAVERSAL,
        _ => 2.0,
    };
    #[expect(clippy::cast_precision_loss, reason = "as upstream")]
    let product = size.saturating_mul(size) as f64 * factor;
    Ok(to_u64(product).saturating_add(1 + LIST))
}

/// Whether a call compares two strings, bytes or any values: it costs what the smaller one has.
pub(crate) fn compares(overload: &str) -> bool {
    matches!(
        overload,
        "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals"
    )
}
