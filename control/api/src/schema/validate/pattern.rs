//! The regular expression of a schema, which is compiled when it is used first.

use crate::regexp::{Meter, Regexp};
use std::sync::OnceLock;

/// Most bytes of a compiled expression.
const MAX_COMPILED: usize = 4 << 20;

/// A regular expression of Go, which is compiled when it is used first.
#[derive(Debug)]
pub struct Pattern {
    text: Box<str>,
    compiled: OnceLock<Result<Regexp, String>>,
}

impl Pattern {
    /// The expression with this text, which may be a wrong one.
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), compiled: OnceLock::new() }
    }

    /// The text of the expression.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the expression matches somewhere in a text, or Go's text about a wrong expression:
    /// ``error parsing regexp: missing argument to repetition operator: `+` ``.
    ///
    /// # Errors
    /// The meter ended it.
    pub fn matches<M: Meter>(&self, text: &str, meter: &mut M) -> Result<Result<bool, &str>, M::Error> {
        match self.compiled.get_or_init(|| Regexp::new(&self.text, MAX_COMPILED)) {
            Ok(regexp) => regexp.is_match(text, meter).map(Ok),
            Err(problem) => Ok(Err(problem)),
        }
    }

    /// What is wrong with an expression, in Go's words.
    pub fn problem(text: &str) -> Option<String> {
        Regexp::new(text, MAX_COMPILED).err()
    }
}
