//! What an evaluation may use, and how it ends when that is used up.

use api::regexp::{Meter, Regexp, UNCOUNTED};
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
const REGEXPS: usize = 8;

/// After how many steps of a search the caller is asked whether to go on.
const LONG_SEARCH: usize = 10_000;

/// What an evaluation may use. One budget can serve several evaluations one after the other.
pub struct Budget<'s> {
    used: u64,
    limit: u64,
    memory: u64,
    work: u64,
    /// How many small steps one evaluation may take, and how many are left for evaluations after this one.
    each: u64,
    more: u64,
    rounds: u32,
    stop: Option<&'s (dyn Fn() -> bool + 's)>,
    regexps: Vec<(Arc<str>, Regexp)>,
    /// What the worst cases of searches by regular expressions may take that are not counted.
    uncounted: usize,
}

impl<'s> Budget<'s> {
    /// So much cost, in upstream's unit. Kubernetes gives a rule 1,000,000 and all rules of an object 10,000,000 together.
    pub fn new(limit: u64) -> Self {
        Self {
            used: 0,
            limit,
            memory: MEMORY,
            work: WORK,
            each: WORK,
            more: 2 * WORK,
            rounds: 0,
            stop: None,
            regexps: Vec::new(),
            uncounted: UNCOUNTED,
        }
    }

    /// How many bytes of strings and lists may be made in all.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// How many small steps may be made that cost nothing: comparing what is within values, walking long texts.
    #[must_use]
    pub fn with_work(self, steps: u64) -> Self {
        Self { work: steps, each: steps, more: steps.saturating_mul(2), ..self }
    }

    /// Asked every hundred rounds of loops, and within long searches; if it says `true` the evaluation ends with [`Error::Interrupted`].
    #[must_use]
    pub fn with_stop(self, stop: &'s (dyn Fn() -> bool + 's)) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// Begins another evaluation, which may cost so much and make as many bytes as one alone. All together take at most three times the small
    /// steps of one: there may be an evaluation for each element of a long list.
    pub fn renew(&mut self, limit: u64) {
        (self.used, self.limit, self.memory) = (0, limit, MEMORY);
        let more = self.more.min(self.each.saturating_sub(self.work));
        self.work += more;
        self.more -= more;
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
            self.go_on()?;
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), Error> {
        if self.stop.is_some_and(|stop| stop()) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// A regular expression that was compiled before, or that `compile` makes.
    pub(crate) fn regexp(
        &mut self,
        pattern: &str,
        compile: impl FnOnce(&str) -> Result<Regexp, String>,
    ) -> Result<Regexp, Error> {
        if let Some((_, regexp)) = self.regexps.iter().find(|(known, _)| **known == *pattern) {
            return Ok(regexp.clone());
        }
        // To compile takes far longer than a step for each letter and state, and longest if there are too many states.
        self.work(pattern.len().saturating_mul(1000).saturating_add(20_000))?;
        let regexp = match compile(pattern) {
            Ok(regexp) => regexp,
            Err(problem) => {
                self.work(if problem.contains("expression too large") { 2_000_000 } else { 0 })?;
                return Err(Error::new(problem));
            }
        };
        self.work(regexp.effort().saturating_mul(500))?;
        if self.regexps.len() >= REGEXPS {
            self.regexps.remove(0);
        }
        self.regexps.push((pattern.into(), regexp.clone()));
        Ok(regexp)
    }
}

/// A search by a regular expression takes small steps.
impl Meter for Budget<'_> {
    type Error = Error;

    fn uncounted(&mut self) -> &mut usize {
        &mut self.uncounted
    }

    fn count(&mut self, steps: usize) -> Result<(), Error> {
        self.work(steps / 2)?;
        if steps > LONG_SEARCH { self.go_on() } else { Ok(()) }
    }
}
