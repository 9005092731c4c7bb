//! What an evaluation may use, and how it ends when that is used up.

use regex::Regex;
use std::{borrow::Cow, fmt, sync::Arc};

/// Why an evaluation gave no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The expression went wrong; the text is cel-go's. Operators that absorb errors absorb this one.
    Eval(Cow<'static, str>),
    /// The budget is used up. Nothing absorbs it.
    Budget,
    /// The caller stopped it. Nothing absorbs it.
    Interrupted,
}

impl Error {
    /// No function takes these arguments.
    pub(crate) const NO_SUCH_OVERLOAD: Error = Error::Eval(Cow::Borrowed("no such overload"));

    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Error::Eval(text.into())
    }

    /// Whether the evaluation must end.
    pub(crate) fn is_fatal(&self) -> bool {
        !matches!(self, Error::Eval(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Eval(text) => f.write_str(text),
            Error::Budget => f.write_str("operation cancelled: actual cost limit exceeded"),
            Error::Interrupted => f.write_str("operation interrupted"),
        }
    }
}

impl std::error::Error for Error {}

/// How many bytes an evaluation may make unless the caller says otherwise.
const MEMORY: u64 = 128 << 20;

/// How many small steps that have no cost of their own may be made: elements compared within elements, parts of texts.
const WORK: u64 = 30_000_000;

/// After how many rounds of a loop the caller is asked whether to go on.
const CHECK_EVERY: u32 = 100;

/// How many compiled expressions are kept that were no constants.
const REGEXES: usize = 8;

/// What an evaluation may use. One budget can serve several evaluations one after the other.
pub struct Budget<'s> {
    used: u64,
    limit: u64,
    memory: u64,
    work: u64,
    rounds: u32,
    stop: Option<&'s (dyn Fn() -> bool + 's)>,
    regexes: Vec<(Arc<str>, Regex)>,
}

impl<'s> Budget<'s> {
    /// So much cost, in upstream's unit. Kubernetes gives a rule 1,000,000 and all rules of an object 10,000,000 together.
    pub fn new(limit: u64) -> Self {
        Self { used: 0, limit, memory: MEMORY, work: WORK, rounds: 0, stop: None, regexes: Vec::new() }
    }

    /// How many bytes of strings and lists may be made in all.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// How many small steps may be made that cost nothing: comparing what is within values, walking long texts.
    #[must_use]
    pub fn with_work(self, steps: u64) -> Self {
        Self { work: steps, ..self }
    }

    /// Asked every hundred rounds of loops; if it says `true` the evaluation ends with [`Error::Interrupted`].
    #[must_use]
    pub fn with_stop(self, stop: &'s (dyn Fn() -> bool + 's)) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// The cost so far.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Takes cost.
    pub(crate) fn charge(&mut self, cost: u64) -> Result<(), Error> {
        self.used = self.used.saturating_add(cost);
        if self.used > self.limit { Err(Error::Budget) } else { Ok(()) }
    }

    /// Takes bytes before they are made.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<(), Error> {
        self.memory = self.memory.checked_sub(bytes as u64).ok_or(Error::Budget)?;
        Ok(())
    }

    /// Takes small steps.
    pub(crate) fn work(&mut self, steps: usize) -> Result<(), Error> {
        self.work = self.work.checked_sub(steps as u64).ok_or(Error::Budget)?;
        Ok(())
    }

    /// Takes the steps of reading so many bytes of text letter by letter, as a number or a length of time.
    pub(crate) fn read(&mut self, bytes: usize) -> Result<(), Error> {
        self.work(bytes / 2)
    }

    /// Takes the steps of a pass over so many bytes of text, which is quick: to copy, to compare, to count.
    pub(crate) fn pass(&mut self, bytes: usize) -> Result<(), Error> {
        self.work(bytes / 128)
    }

    /// A round of a loop begins.
    pub(crate) fn round(&mut self) -> Result<(), Error> {
        self.rounds += 1;
        if self.rounds >= CHECK_EVERY {
            self.rounds = 0;
            if self.stop.is_some_and(|stop| stop()) {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// A regular expression that was compiled before, or that `compile` makes.
    pub(crate) fn regex(
        &mut self,
        pattern: &str,
        compile: impl FnOnce(&str) -> Result<Regex, String>,
    ) -> Result<Regex, Error> {
        if let Some((_, regex)) = self.regexes.iter().find(|(known, _)| **known == *pattern) {
            return Ok(regex.clone());
        }
        // Compiling takes far longer than a step for each letter.
        self.work(pattern.len().saturating_mul(1000).saturating_add(100_000))?;
        let regex = compile(pattern).map_err(Error::new)?;
        if self.regexes.len() >= REGEXES {
            self.regexes.remove(0);
        }
        self.regexes.push((pattern.into(), regex.clone()));
        Ok(regex)
    }
}
