//! A requirement of a label selector.

use crate::names;
use std::fmt;

/// The operator of a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `a in (b,c)`.
    In,
    /// `a notin (b,c)`; also true without the label.
    NotIn,
    /// `a=b`.
    Equals,
    /// `a==b`.
    DoubleEquals,
    /// `a!=b`; also true without the label.
    NotEquals,
    /// `a`.
    Exists,
    /// `!a`.
    DoesNotExist,
    /// `a>1`, numbers.
    GreaterThan,
    /// `a<1`, numbers.
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The operator.
    pub operator: Operator,
    /// The values of the operator.
    pub values: Vec<String>,
}

impl Requirement {
    /// Checks key, values and their number as upstream does.
    ///
    /// # Errors
    /// Upstream's text; several are joined as `[a, b]`.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, String> {
        let mut errors = Vec::new();
        let problems = names::qualified_name(key);
        if !problems.is_empty() {
            errors.push(format!("key: Invalid value: {key:?}: {}", problems.join("; ")));
        }
        let list = || serde_json::to_string(&values).unwrap_or_default();
        let wrong = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                "for 'in', 'notin' operators, values set can't be empty"
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                "exact-match compatibility requires one single value"
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                "values set must be empty for exists and does not exist"
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                "for 'Gt', 'Lt' operators, exactly one value is required"
            }
            _ => "",
        };
        if !wrong.is_empty() {
            errors.push(format!("values: Invalid value: {}: {wrong}", list()));
        }
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
            for (index, value) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                let text = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(format!("values[{index}]: Invalid value: {value:?}: {text}"));
            }
        }
        for (index, value) in values.iter().enumerate() {
            let problems = names::label_value(value);
            if !problems.is_empty() {
                errors.push(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", problems.join("; ")));
            }
        }
        match errors.as_slice() {
            [] => Ok(Self { key: key.to_owned(), operator, values }),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// Whether a label with this value (`None`: no such label) matches.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(among),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = |text: &str| text.parse::<i64>().ok();
                let (Some(left), [right]) = (value.and_then(number), self.values.as_slice()) else { return false };
                number(right)
                    .is_some_and(|right| if self.operator == Operator::LessThan { left < right } else { left > right })
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<&str> = self.values.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let (key, values) = (&self.key, sorted.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}
