//! Label selectors: requirements that all must hold.

use super::{
    parse,
    requirement::{Operator, Requirement},
};
use serde_json::Value;
use std::fmt;

/// A label selector: all requirements must hold. An empty one matches everything; [`Selector::nothing`] matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// Requires all of these.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Parses the text form: `a=b,c in (d,e),!f`.
    ///
    /// # Errors
    /// Upstream's text: `unable to parse requirement: …`.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::selector(text).map(Self::new)
    }

    /// From a `LabelSelector` object (`matchLabels`, `matchExpressions`). As upstream, null selects nothing and an empty object everything.
    ///
    /// # Errors
    /// Upstream's text: `"X" is not a valid label selector operator`, or that of a requirement.
    pub fn from_label_selector(value: &Value) -> Result<Self, String> {
        if value.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in value.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        let expressions = value.get("matchExpressions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for expression in expressions {
            requirements.push(expression_requirement(expression, &OPERATORS[..4], "label")?);
        }
        Ok(Self::new(requirements))
    }

    /// From the `matchExpressions` of a `NodeSelectorTerm`, which also allow `Gt` and `Lt`.
    ///
    /// # Errors
    /// Upstream's text: `"X" is not a valid node selector operator`, or that of a requirement.
    pub fn from_node_expressions(expressions: &[Value]) -> Result<Self, String> {
        let requirement = |expression| expression_requirement(expression, &OPERATORS, "node");
        expressions.iter().map(requirement).collect::<Result<_, _>>().map(Self::new)
    }

    /// Whether an object with these labels is selected.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// Whether there is no requirement, so that everything matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The requirements, by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The value that a label must have, if there is one.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|r| r.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

/// Operators as expressions of objects name them. The last two are for nodes only.
const OPERATORS: [(&str, Operator); 6] = [
    ("In", Operator::In),
    ("NotIn", Operator::NotIn),
    ("Exists", Operator::Exists),
    ("DoesNotExist", Operator::DoesNotExist),
    ("Gt", Operator::GreaterThan),
    ("Lt", Operator::LessThan),
];

/// One expression, whose operator must be among `known`; `what` is the kind of selector in the error.
fn expression_requirement(expression: &Value, known: &[(&str, Operator)], what: &str) -> Result<Requirement, String> {
    let name = expression.get("operator").and_then(Value::as_str).unwrap_or_default();
    let operator = known.iter().find(|(other, _)| *other == name).map(|(_, operator)| *operator);
    let operator = operator.ok_or_else(|| format!("{name:?} is not a valid {what} selector operator"))?;
    let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
    let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
    let values = values.map(|v| v.as_str().unwrap_or_default().to_owned()).collect();
    Requirement::new(key, operator, values)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn selectors_match_as_upstream() {
        for (selector, object, matches) in [
            ("", "", true),
            ("a=b", "a=b,c=d", true),
            ("a==b", "a=c", false),
            ("a!=b", "", true),
            ("a!=b", "a=b", false),
            ("a in (b, c)", "a=c", true),
            ("a in (b,c)", "", false),
            ("a notin (b,c)", "", true),
            ("a notin (b,c)", "a=b", false),
            ("a", "a=", true),
            ("a", "b=", false),
            ("!a", "b=", true),
            ("!a", "a=x", false),
            ("a>5", "a=6", true),
            ("a>5", "a=5", false),
            ("a<5", "a=x", false),
            ("a=", "a=", true),
            ("a in ()", "a=", true),
            ("a,b=c,d notin (e)", "a=1,b=c,d=f", true),
            ("in=in,notin in (in,notin)", "in=in,notin=notin", true),
        ] {
            let parsed = Selector::parse(selector).expect(selector);
            let labels = labels(object);
            let matched = parsed.matches(|key| labels.get(key).map(String::as_str));
            assert_eq!(matched, matches, "{selector} on {object}");
        }
    }

    #[test]
    fn selectors_print_as_upstream() {
        for (text, printed) in [
            ("b=1,a=2", "a=2,b=1"),
            (" x in (b , a) ", "x in (a,b)"),
            ("x==1", "x==1"),
            ("!x", "!x"),
            ("x!=", "x!="),
            ("x in (,)", "x in ()"),
            ("x notin (a,,b)", "x notin (,a,b)"),
            ("x>1", "x>1"),
            ("a/b=c", ""),
        ] {
            match Selector::parse(text) {
                Ok(selector) => assert_eq!(selector.to_string(), if printed.is_empty() { text } else { printed }),
                Err(error) => panic!("{text}: {error}"),
            }
        }
    }

    #[test]
    fn errors_are_upstreams() {
        for (text, error) in [
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("=b", "found '=', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=(", "unable to parse requirement: found '(', expected: identifier"),
            ("!!a", "unable to parse requirement: found '!', expected: identifier"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "a-=b",
                "unable to parse requirement: <nil>: Invalid value: \"a-\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
        ] {
            assert_eq!(Selector::parse(text).expect_err(text), error);
        }
        let error = Selector::parse("a=b_").expect_err("value");
        assert!(
            error
                .starts_with("unable to parse requirement: values[0][a]: Invalid value: \"b_\": a valid label must be"),
            "{error}"
        );
    }

    #[test]
    fn label_selector_objects_become_selectors() {
        let object = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]},
            {"key": "f", "operator": "DoesNotExist"}]});
        let selector = Selector::from_label_selector(&object).expect("valid");
        assert_eq!(selector.to_string(), "a=b,c in (d,e),!f");
        assert!(Selector::from_label_selector(&json!({})).expect("valid").is_empty());
        assert!(!Selector::from_label_selector(&Value::Null).expect("valid").matches(|_| None));
        assert!(!Selector::nothing().is_empty());
        for (object, error) in [
            (
                json!({"matchExpressions": [{"key": "a", "operator": "Like"}]}),
                r#""Like" is not a valid label selector operator"#,
            ),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
            ),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}),
                r#"values: Invalid value: ["x"]: values set must be empty for exists and does not exist"#,
            ),
        ] {
            assert_eq!(Selector::from_label_selector(&object).expect_err(error), error);
        }
    }

    #[test]
    fn node_terms_compare_numbers() {
        let terms = [json!({"key": "cores", "operator": "Gt", "values": ["4"]})];
        let selector = Selector::from_node_expressions(&terms).expect("valid");
        assert!(selector.matches(|_| Some("8")));
        assert!(!selector.matches(|_| Some("4")));
        let error = Selector::from_node_expressions(&[json!({"key": "a", "operator": "Ge"})]).expect_err("no operator");
        assert_eq!(error, r#""Ge" is not a valid node selector operator"#);
    }

    #[test]
    fn exact_values_are_found() {
        let selector = Selector::parse("a=b,c in (d),e in (f,g)").expect("valid");
        assert_eq!((selector.exact("a"), selector.exact("c"), selector.exact("e")), (Some("b"), Some("d"), None));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_prints_stably(text in "[a-c!=<>(), intox0-2]{0,24}") {
            if let Ok(selector) = Selector::parse(&text) {
                let printed = selector.to_string();
                let again = Selector::parse(&printed);
                prop_assert_eq!(again.map(|s| s.to_string()), Ok(printed));
            }
        }

        #[test]
        fn any_bytes_do_not_panic(text in ".{0,40}") {
            let _ = Selector::parse(&text);
        }
    }
}
