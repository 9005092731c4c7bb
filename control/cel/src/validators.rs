//! Checks of literals in an expression whose types are known.

use crate::{
    ast::{Ast, Expr, Id, Kind, Literal, children},
    budget::Budget,
    checker::Checked,
    functions::{compile_regexp, format_clause, format_expectation, implementation},
    issues::Issues,
    types::Type,
    value::Value,
};

/// Notes literals that are no durations, timestamps or patterns, and lists and maps of different types.
///
/// # Errors
/// What was found.
pub(crate) fn validate(ast: &Ast, source: &str, checked: &Checked) -> Result<(), Issues> {
    let mut validator = Validator { patterns: 0, ast, checked, issues: Issues::new(source) };
    validator.literals(&ast.root);
    validator.homogeneous(&ast.root, false);
    if validator.issues.is_empty() { Ok(()) } else { Err(validator.issues) }
}

/// How many patterns an expression may have: each of them is compiled and kept.
const MOST_PATTERNS: usize = 64;

struct Validator<'c> {
    patterns: usize,
    ast: &'c Ast,
    checked: &'c Checked,
    issues: Issues,
}

impl Validator<'_> {
    fn literals(&mut self, expr: &Expr) {
        for child in children(expr) {
            self.literals(child);
        }
        let Kind::Call { target, function, args } = &expr.kind else { return };
        if let ("format", Some(target), [Expr { kind: Kind::List(values), .. }]) =
            (&**function, target, args.as_slice())
            && let Kind::Literal(Literal::String(text)) = &target.kind
        {
            let values: Vec<&Expr> = values.iter().map(|(value, _)| value).collect();
            self.format(expr.id, text, &values);
        }
        let Some(Expr { id, kind: Kind::Literal(literal) }) = args.first() else { return };
        if matches!(&**function, "matches" | "find" | "findAll") {
            self.patterns += 1;
            if self.patterns > MOST_PATTERNS {
                self.issues.add(self.ast.offset(*id), "the expression has too many patterns");
                return;
            }
        }
        let is_right = match (&**function, literal) {
            ("matches", Literal::String(pattern)) => compile_regexp(pattern).is_ok(),
            ("duration" | "timestamp", literal) => {
                let value = match literal {
                    Literal::String(text) => Value::string(text.clone()),
                    Literal::Int(value) => Value::Int(*value),
                    _ => return,
                };
                implementation(function, None).is_some_and(|run| run(&[value], &mut Budget::new(u64::MAX)).is_ok())
            }
            _ => return,
        };
        if !is_right {
            self.issues.add(self.ast.offset(*id), format!("invalid {function} argument"));
        }
    }

    /// A text with places for values, and the values.
    fn format(&mut self, id: Id, text: &str, values: &[&Expr]) {
        let (mut rest, mut index) = (text, 0);
        while let Some((_, after)) = rest.split_once('%') {
            if let Some(after) = after.strip_prefix('%') {
                rest = after;
                continue;
            }
            let read = match values.get(index) {
                _ if after.is_empty() => Err("unexpected end of string".to_owned()),
                None => Err(format!("index {index} out of range")),
                Some(value) => format_clause(after).map(|(clause, after)| (clause.letter, after, *value)),
            };
            let (letter, after, value) = match read {
                Ok(read) => read,
                Err(message) => return self.issues.add(self.ast.offset(id), message),
            };
            if let Some(wrong) = self.unfit(letter, value) {
                let of = self.checked.type_of(wrong).runtime_name();
                let message = format!("error during formatting: {}, was given {of}", format_expectation(letter));
                return self.issues.add(self.ast.offset(wrong), message);
            }
            (rest, index) = (after, index + 1);
        }
        if values.len() > index {
            let given = values.len();
            let message = format!("too many arguments supplied to string.format (expected {index}, got {given})");
            self.issues.add(self.ast.offset(id), message);
        }
    }

    /// The part of a value that a clause does not take.
    fn unfit(&self, letter: char, value: &Expr) -> Option<Id> {
        let of = self.checked.type_of(value.id);
        let fits = match (letter, of) {
            (_, Type::Dyn) | ('d' | 'b' | 'x' | 'X' | 'o', Type::Int | Type::Uint) => true,
            ('f' | 'e', Type::Double | Type::String) | ('b', Type::Bool) | ('x' | 'X', Type::String | Type::Bytes) => {
                true
            }
            ('s', of) => !matches!(of, Type::Optional(_) | Type::Opaque(_) | Type::Object(_) | Type::Error),
            _ => false,
        };
        if !fits {
            return Some(value.id);
        }
        match &value.kind {
            Kind::List(_) | Kind::Map(_) if letter == 's' => {
                children(value).into_iter().find_map(|child| self.unfit(letter, child))
            }
            _ => None,
        }
    }

    /// Lists that a format takes may have elements of different types.
    fn homogeneous(&mut self, expr: &Expr, exempt: bool) {
        let exempt = exempt || matches!(&expr.kind, Kind::Call { function, .. } if **function == *"format");
        match &expr.kind {
            Kind::List(elements) if !exempt => {
                self.same(elements.iter().map(|(element, optional)| (element.id, *optional)));
            }
            Kind::Map(entries) if !exempt => {
                self.same(entries.iter().map(|entry| (entry.key.id, false)));
                self.same(entries.iter().map(|entry| (entry.value.id, entry.optional)));
            }
            _ => {}
        }
        for child in children(expr) {
            self.homogeneous(child, exempt);
        }
    }

    /// Notes the first that has another type than the first of all.
    fn same(&mut self, all: impl Iterator<Item = (Id, bool)>) {
        let mut expected: Option<&Type> = None;
        for (id, optional) in all {
            let of = match self.checked.type_of(id) {
                Type::Optional(of) if optional => of,
                of => of,
            };
            match expected {
                None => expected = Some(of),
                Some(expected) if expected == of => {}
                Some(expected) => {
                    let message = format!("expected type '{expected}' but found '{of}'");
                    self.issues.add(self.ast.offset(id), message);
                    return;
                }
            }
        }
    }
}
