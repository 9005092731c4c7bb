//! Field selectors: `status.phase=Running,spec.nodeName!=a`.

use std::fmt;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldRequirement {
    /// The field's label, as `spec.nodeName`.
    pub field: String,
    /// Whether the field must be equal (`=`, `==`) or must not (`!=`).
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// A field selector: all requirements must hold; an empty one matches everything. The strategy of a kind defines its selectable fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldRequirement>);

impl FieldSelector {
    /// Parses `a=b,c!=d`; in values `\`, `,` and `=` are escaped by a backslash.
    ///
    /// # Errors
    /// Upstream's text: `invalid selector: 'x'; can't understand 'x'`, `invalid field selector: …`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let Some((field, equal, value)) = split_term(term) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            requirements.push(FieldRequirement { field: field.to_owned(), equal, value: unescape(value)? });
        }
        Ok(Self(requirements))
    }

    /// Requires one value of one field.
    pub fn equals(field: &str, value: &str) -> Self {
        Self(vec![FieldRequirement { field: field.to_owned(), equal: true, value: value.to_owned() }])
    }

    /// Requires all of these.
    pub fn new(requirements: Vec<FieldRequirement>) -> Self {
        Self(requirements)
    }

    /// The requirements.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.0
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these field values is selected; an absent field counts as empty.
    pub fn matches<S: AsRef<str>>(&self, field: impl Fn(&str) -> Option<S>) -> bool {
        self.0.iter().all(|r| {
            let found = field(&r.field);
            (found.as_ref().map_or("", AsRef::as_ref) == r.value) == r.equal
        })
    }

    /// The value that a field must have, if there is one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if requirement.equal { "=" } else { "!=" };
            let value = requirement.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            write!(f, "{comma}{}{operator}{value}", requirement.field)?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term
        .char_indices()
        .map(|(at, _)| at)
        .find(|at| term[*at..].starts_with("!=") || term[*at..].starts_with('='))?;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, false, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, true, value))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => result.push(c),
                Some(c) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".into()),
            },
            // Upstream prints the code of the character.
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {}", u32::from(c))),
            c => result.push(c),
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn selectors_parse_match_and_print() {
        for (text, printed, phase, matches) in [
            ("", "", "x", true),
            ("status.phase=Running", "status.phase=Running", "Running", true),
            ("status.phase==Running", "status.phase=Running", "", false),
            ("status.phase!=Running", "status.phase!=Running", "", true),
            ("status.phase=", "status.phase=", "", true),
            (r"status.phase=a\,b\=c\\d", r"status.phase=a\,b\=c\\d", r"a,b=c\d", true),
            ("status.phase!=b,,metadata.name=n", "metadata.name=n,status.phase!=b", "c", true),
        ] {
            let selector = FieldSelector::parse(text).expect(text);
            assert_eq!(selector.to_string(), printed);
            let field = |name: &str| Some(if name == "metadata.name" { "n" } else { phase });
            assert_eq!(selector.matches(field), matches, "{text}");
        }
        assert_eq!(FieldSelector::parse("a=b,c!=d").expect("valid").exact("a"), Some("b"));
        assert_eq!(FieldSelector::equals("a", "b").to_string(), "a=b");
        assert!(FieldSelector::parse("a!=b").expect("valid").matches(|_| None::<&str>));
    }

    #[test]
    fn errors_are_upstreams() {
        for (text, error) in [
            ("foo", "invalid selector: 'foo'; can't understand 'foo'"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            (r"a=b\x", r"invalid field selector: invalid escape sequence: \x"),
            (r"a=b\", r"invalid field selector: invalid escape sequence: \"),
        ] {
            assert_eq!(FieldSelector::parse(text).expect_err(text), error);
        }
    }

    proptest! {
        #[test]
        fn any_value_survives(value in ".*") {
            let selector = FieldSelector::equals("f", &value);
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
        }

        #[test]
        fn any_text_does_not_panic(text in ".{0,40}") {
            let _ = FieldSelector::parse(&text);
        }
    }
}
