//! Checks of literals in an expression whose types are known.

use crate::{
    ast::{Ast, Expr, Id, Kind, Literal, children},
    budget::Budget,
    checker::Checked,
    functions::{compile_regex, implementation},
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
        let Kind::Call { function, args, .. } = &expr.kind else { return };
        let Some(Expr { id, kind: Kind::Literal(literal) }) = args.first() else { return };
        if matches!(&**function, "matches" | "find" | "findAll") {
            self.patterns += 1;
            if self.patterns > MOST_PATTERNS {
                self.issues.add(self.ast.offset(*id), "the expression has too many patterns");
                return;
            }
        }
        let is_right = match (&**function, literal) {
            ("matches", Literal::String(pattern)) => compile_regex(pattern).is_ok(),
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
