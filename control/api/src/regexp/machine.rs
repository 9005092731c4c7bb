//! The counting engine: a machine that is in several states at once, each with where its match began, the preferred ones first (a Pike
//! machine). It follows <https://swtch.com/~rsc/regexp/regexp2.html>; the states are the library's.

use super::Meter;
use regex_automata::{
    nfa::thompson::{NFA, State, WhichCaptures},
    util::{primitives::StateID, syntax},
};
use std::ops::Range;

/// After how many steps the meter is told.
const CHUNK: usize = 50_000;

#[derive(Debug)]
pub(super) struct Machine {
    states: NFA,
    /// The bytes with which a match can begin, unless it can be empty.
    first: Option<Box<[bool; 256]>>,
}

impl Machine {
    /// Of an expression in the library's syntax, unless it is none or takes more bytes.
    pub(super) fn new(translated: &str, most: usize) -> Option<Self> {
        let config = NFA::config().nfa_size_limit(Some(most)).which_captures(WhichCaptures::None);
        let syntax = syntax::Config::new().nest_limit(super::syntax::MAX_TRANSLATED);
        let states = NFA::compiler().configure(config).syntax(syntax).build(translated).ok()?;
        let first = first(&states);
        Some(Self { states, first })
    }

    /// How many states it has.
    pub(super) fn size(&self) -> usize {
        self.states.states().len()
    }

    /// The leftmost match that begins at `from` or later; with `any`, only whether there is one.
    pub(super) fn search<M: Meter>(
        &self,
        text: &str,
        from: usize,
        any: bool,
        meter: &mut M,
    ) -> Result<Option<Range<usize>>, M::Error> {
        let mut run =
            Run { machine: self, text, seen: vec![0; self.size()], stack: Vec::new(), steps: self.size() / 8 };
        let (mut now, mut next, mut found) = (Vec::new(), Vec::new(), None);
        let mut at = from;
        while at <= text.len() {
            if now.is_empty() {
                match found.is_none().then(|| run.next_start(at)).flatten() {
                    Some(start) => at = start,
                    None => break,
                }
            }
            if found.is_none() && run.can_start(at) {
                run.enter(self.states.start_anchored(), at, at, &mut now);
            }
            for (state, start) in now.drain(..) {
                match run.step(state, at) {
                    Step::Nowhere => {}
                    Step::To(state) => run.enter(state, at + 1, start, &mut next),
                    // What is less preferred is of no use any more.
                    Step::Match => {
                        found = Some(start..at);
                        break;
                    }
                }
            }
            std::mem::swap(&mut now, &mut next);
            if run.steps >= CHUNK {
                meter.count(std::mem::take(&mut run.steps))?;
            }
            if any && found.is_some() {
                break;
            }
            at += 1;
        }
        meter.count(run.steps)?;
        Ok(found)
    }
}

/// The bytes that lead out of the states in which a match begins, whatever is around it.
fn first(states: &NFA) -> Option<Box<[bool; 256]>> {
    let mut first = Box::new([false; 256]);
    let mut stack = vec![states.start_anchored()];
    let mut seen = vec![false; states.states().len()];
    while let Some(id) = stack.pop() {
        if std::mem::replace(seen.get_mut(id.as_usize())?, true) {
            continue;
        }
        match states.state(id) {
            State::ByteRange { trans } => first.get_mut(range(trans.start, trans.end))?.fill(true),
            State::Sparse(sparse) => {
                for trans in &*sparse.transitions {
                    first.get_mut(range(trans.start, trans.end))?.fill(true);
                }
            }
            State::Dense(_) | State::Match { .. } => return None,
            State::Look { next, .. } | State::Capture { next, .. } => stack.push(*next),
            State::Union { alternates } => stack.extend(&**alternates),
            State::BinaryUnion { alt1, alt2 } => stack.extend([alt1, alt2]),
            State::Fail => {}
        }
    }
    Some(first)
}

fn range(start: u8, end: u8) -> std::ops::RangeInclusive<usize> {
    usize::from(start)..=usize::from(end)
}

/// Where a state leads.
enum Step {
    Nowhere,
    To(StateID),
    Match,
}

/// One search.
struct Run<'m, 't> {
    machine: &'m Machine,
    text: &'t str,
    /// For each state the position at which it was entered last, counted from 1.
    seen: Vec<usize>,
    stack: Vec<StateID>,
    steps: usize,
}

impl Run<'_, '_> {
    /// Where a match may begin next.
    fn next_start(&mut self, at: usize) -> Option<usize> {
        let first = match &self.machine.first {
            _ if at > 0 && self.machine.states.is_always_start_anchored() => return None,
            Some(first) => first,
            None => return Some(at),
        };
        let rest = self.text.as_bytes().get(at..)?;
        let skipped = rest.iter().position(|byte| first.get(usize::from(*byte)) == Some(&true));
        self.steps += skipped.unwrap_or(rest.len()) / 8;
        Some(at + skipped?)
    }

    fn can_start(&self, at: usize) -> bool {
        if at > 0 && self.machine.states.is_always_start_anchored() {
            return false;
        }
        match (&self.machine.first, self.text.as_bytes().get(at)) {
            (None, _) => self.text.is_char_boundary(at),
            (Some(first), Some(byte)) => first.get(usize::from(*byte)) == Some(&true),
            (Some(_), None) => false,
        }
    }

    /// Enters a state, and with it all to which it leads without a byte, the preferred ones first.
    fn enter(&mut self, state: StateID, at: usize, start: usize, into: &mut Vec<(StateID, usize)>) {
        let states = &self.machine.states;
        self.stack.push(state);
        while let Some(id) = self.stack.pop() {
            self.steps += 1;
            let Some(seen) = self.seen.get_mut(id.as_usize()) else { continue };
            if std::mem::replace(seen, at + 1) == at + 1 {
                continue;
            }
            match states.state(id) {
                State::Union { alternates } => {
                    self.steps += alternates.len();
                    self.stack.extend(alternates.iter().rev());
                }
                State::BinaryUnion { alt1, alt2 } => self.stack.extend([alt2, alt1]),
                State::Capture { next, .. } => self.stack.push(*next),
                State::Look { look, next } => {
                    if states.look_matcher().matches(*look, self.text.as_bytes(), at) {
                        self.stack.push(*next);
                    }
                }
                State::Fail => {}
                _ => into.push((id, start)),
            }
        }
    }

    /// What a state does with the byte at this position.
    fn step(&mut self, state: StateID, at: usize) -> Step {
        let states = &self.machine.states;
        self.steps += 1;
        let byte = self.text.as_bytes().get(at).copied();
        let next = match (states.state(state), byte) {
            (State::Match { .. }, _) => return Step::Match,
            (State::ByteRange { trans }, Some(byte)) if trans.matches_byte(byte) => Some(trans.next),
            (State::Sparse(sparse), Some(byte)) => {
                self.steps += sparse.transitions.len() / 8;
                sparse.matches_byte(byte)
            }
            (State::Dense(dense), Some(byte)) => dense.matches_byte(byte),
            _ => None,
        };
        next.map_or(Step::Nowhere, Step::To)
    }
}
