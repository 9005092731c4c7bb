//! What is wrong with an expression, shown as cel-go shows it: position, line of the source and a caret under the place.

use std::{fmt, sync::Arc};

/// How many issues are shown.
const MAX_ISSUES: usize = 100;

/// How long a line of the source may be to be shown.
const MAX_SNIPPET: usize = 16384;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    /// Where, as an offset in bytes; nothing where the whole expression is meant.
    pub(crate) offset: Option<u32>,
    pub(crate) message: String,
}

/// Everything that is wrong with an expression. [`fmt::Display`] gives the text that cel-go gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues {
    source: Arc<str>,
    issues: Vec<Issue>,
    plain: Option<String>,
}

impl Issues {
    pub(crate) fn new(source: &str) -> Self {
        Self { source: source.into(), issues: Vec::new(), plain: None }
    }

    /// The expression is well-typed but no program can be made of it.
    pub(crate) fn program(source: &str, message: impl Into<String>) -> Self {
        Self { source: source.into(), issues: Vec::new(), plain: Some(message.into()) }
    }

    pub(crate) fn add(&mut self, offset: Option<u32>, message: impl Into<String>) {
        self.issues.push(Issue { offset, message: message.into() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.issues.is_empty() && self.plain.is_none()
    }

    pub(crate) fn count(&self) -> usize {
        self.issues.len()
    }

    /// Whether the expression has the right types and only a constant of it cannot be evaluated. Upstream says
    /// `program instantiation failed: …` then, and `compilation failed: …` otherwise.
    pub fn is_instantiation(&self) -> bool {
        self.plain.is_some()
    }

    /// The messages alone, without places.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.issues.iter().map(|issue| issue.message.as_str()).chain(self.plain.as_deref())
    }

    /// Line from 1, column from 0 in letters.
    fn place(&self, offset: u32) -> (i64, i64) {
        let before = self.source.get(..offset as usize).unwrap_or(&self.source);
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        (i64::try_from(line + 1).unwrap_or(-1), i64::try_from(column).unwrap_or(-1))
    }
}

/// The line of the source and the caret below it.
fn snippet(line: &str, column: i64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let line = line.replace('\t', " ");
    write!(f, "\n | {line}\n | ")?;
    let mut letters = line.chars();
    for letter in letters.by_ref().take(usize::try_from(column).unwrap_or(0)) {
        f.write_str(if letter.is_ascii() { "." } else { "．" })?;
    }
    f.write_str(if letters.next().is_some_and(|letter| !letter.is_ascii()) { "＾" } else { "^" })
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(plain) = &self.plain {
            return f.write_str(plain);
        }
        let placed = self.issues.iter().take(MAX_ISSUES);
        let mut placed: Vec<_> =
            placed.map(|issue| (issue.offset.map_or((-1, -1), |offset| self.place(offset)), issue)).collect();
        placed.sort_by_key(|(place, _)| *place);
        for (number, ((line, column), issue)) in placed.into_iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "ERROR: <input>:{line}:{}: {}", column + 1, issue.message)?;
            let index = usize::try_from(line - 1).ok();
            let text = index.and_then(|index| self.source.split('\n').nth(index));
            if let Some(text) = text.filter(|text| text.len() <= MAX_SNIPPET) {
                snippet(text, column, f)?;
            }
        }
        if self.issues.len() > MAX_ISSUES {
            write!(f, "\n{} more errors were truncated", self.issues.len() - MAX_ISSUES)?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}
