//! Regular expressions of users: Go's syntax and meaning, and searches that are counted, so that whoever searches can bound their time.
//!
//! A search takes as many steps as the text has bytes times the expression has states in the worst case, and `(.?a){1000}y` has ten thousand.
//! While the worst case is small, the engines of the library search, which are the quickest and count nothing. Beyond what a [`Meter`] lets go
//! uncounted, a machine searches that counts each of its steps. Both find the same.

mod bounds;
mod machine;
mod repeats;
mod syntax;

use machine::Machine;
use regex::{Regex, RegexBuilder};
use std::{ops::Range, sync::Arc};

/// How many steps searches may take uncounted, all together: a tenth of a second. Two thousand names of thirty letters before an expression of
/// a hundred states take them.
pub const UNCOUNTED: usize = 8_000_000;

/// Whoever searches, and bounds it.
pub trait Meter {
    /// Why a search ends.
    type Error;

    /// How many steps of the worst case may still go uncounted, at first [`UNCOUNTED`].
    fn uncounted(&mut self) -> &mut usize;

    /// Takes steps that were counted: some nanoseconds each. It is called at least once in a hundred thousand or two.
    ///
    /// # Errors
    /// No more may be taken.
    fn count(&mut self, steps: usize) -> Result<(), Self::Error>;
}

/// A regular expression, compiled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Regexp(Arc<Engines>);

#[derive(Debug)]
struct Engines {
    quick: Regex,
    machine: Machine,
    folded: usize,
}

impl Regexp {
    /// Compiles an expression, which may take so many bytes in each of the forms that are made of it.
    ///
    /// # Errors
    /// Go's text about a wrong expression: ``error parsing regexp: missing argument to repetition operator: `+` ``; or it is too large.
    pub fn new(text: &str, most: usize) -> Result<Self, String> {
        let too_large = || format!("error parsing regexp: expression too large: `{text}`");
        if bounds::is_too_large(text) {
            return Err(too_large());
        }
        let translated = syntax::translate(text)?;
        let folded = bounds::folded(&translated);
        if folded > bounds::MAX_FOLDED {
            return Err(too_large());
        }
        let machine = Machine::new(&translated, most).ok_or_else(too_large)?;
        let mut quick = RegexBuilder::new(&translated);
        quick.size_limit(most).dfa_size_limit(most / 2).nest_limit(syntax::MAX_TRANSLATED);
        let quick = quick.build().map_err(|_| too_large())?;
        Ok(Self(Arc::new(Engines { quick, machine, folded })))
    }

    /// What it took to compile it: some microseconds each.
    pub fn effort(&self) -> usize {
        self.0.machine.size() + self.0.folded / 40
    }

    /// Whether it matches somewhere in a text.
    ///
    /// # Errors
    /// The meter ended it.
    pub fn is_match<M: Meter>(&self, text: &str, meter: &mut M) -> Result<bool, M::Error> {
        if self.goes_uncounted(text.len(), meter) {
            return Ok(self.0.quick.is_match(text));
        }
        Ok(self.0.machine.search(text, 0, true, meter)?.is_some())
    }

    /// The leftmost match that begins at this byte or later. What is in front of it is looked at by `^` and `\b`.
    ///
    /// # Errors
    /// The meter ended it.
    pub fn find_at<M: Meter>(&self, text: &str, at: usize, meter: &mut M) -> Result<Option<Range<usize>>, M::Error> {
        if self.goes_uncounted(text.len().saturating_sub(at), meter) {
            return Ok(self.0.quick.find_at(text, at).map(|found| found.range()));
        }
        self.0.machine.search(text, at, false, meter)
    }

    /// Calls `each` with the matches one after the other, until it says that it wants no more. An empty one directly behind another is none.
    ///
    /// # Errors
    /// The meter or `each` ended it.
    pub fn find_each<M: Meter>(
        &self,
        text: &str,
        meter: &mut M,
        mut each: impl FnMut(&str, &mut M) -> Result<bool, M::Error>,
    ) -> Result<(), M::Error> {
        let (mut at, mut last) = (0, None);
        while let Some(found) = self.find_at(text, at, meter)? {
            let (start, end) = (found.start, found.end);
            if start < end || last != Some(end) {
                if !each(text.get(found).unwrap_or_default(), meter)? {
                    break;
                }
                (at, last) = (end, Some(end));
                continue;
            }
            let Some(letter) = text.get(end..).and_then(|rest| rest.chars().next()) else { break };
            at = end + letter.len_utf8();
        }
        Ok(())
    }

    /// Whether a search of so many bytes may go uncounted in the worst case.
    fn goes_uncounted<M: Meter>(&self, bytes: usize, meter: &mut M) -> bool {
        let uncounted = meter.uncounted();
        let left = uncounted.checked_sub(self.0.machine.size().saturating_mul(bytes.saturating_add(1)));
        *uncounted = left.unwrap_or(*uncounted);
        left.is_some()
    }
}

#[cfg(test)]
mod tests;
