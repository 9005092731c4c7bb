//! Evaluates the expressions of a policy for a request. Variables are computed when an expression first asks for one, and once.

use super::policy::Variables;
use crate::admission::expressions::{Exhausted, Expression, Input};
use api::Object;
use cel::{Activation, Budget, Error, Host, Map, Value};
use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

/// How many variables may be computed one within the other. Each takes room on the stack.
const MAX_DEPTH: usize = 16;
/// How many bytes all variables of a policy may make.
const MEMORY: u64 = 128 << 20;

/// What the expressions of one evaluation share.
pub(super) struct Scope<'p> {
    input: &'p Input<'p>,
    params: Option<&'p Object>,
    variables: &'p Variables,
    computed: Vec<OnceLock<Result<Value<'p>, Error>>>,
    /// The scope itself, of which values borrow.
    own: OnceLock<&'p Scope<'p>>,
    /// The cost that is left for variables.
    left: AtomicU64,
    exhausted: AtomicBool,
    depth: AtomicUsize,
}

impl<'p> Scope<'p> {
    pub(super) fn new(variables: &'p Variables, input: &'p Input<'p>, params: Option<&'p Object>) -> Self {
        Self {
            input,
            params,
            variables,
            computed: variables.expressions.iter().map(|_| OnceLock::new()).collect(),
            own: OnceLock::new(),
            left: AtomicU64::new(0),
            exhausted: AtomicBool::new(false),
            depth: AtomicUsize::new(0),
        }
    }

    fn activation(&'p self) -> Activation<'p> {
        let params = self.params.map_or(Value::Null, |object| Value::Map(Map::Json(&object.0, None)));
        self.input.activation().with("params", params).with("variables", Value::Map(Map::Host(self)))
    }

    /// Evaluates an expression. What it and the variables that it asked for cost is taken from what is `left`. The inner error is one of this
    /// expression.
    ///
    /// # Errors
    /// Nothing is left.
    pub(super) fn evaluate(
        &'p self,
        expression: &Expression,
        left: &mut u64,
    ) -> Result<Result<Value<'p>, String>, Exhausted> {
        self.own.get_or_init(|| self);
        self.left.store(*left, Ordering::Relaxed);
        let mut own = *left;
        let outcome = expression.evaluate(&self.activation(), self.input.deadline(), &mut own);
        if self.exhausted.load(Ordering::Relaxed) {
            return Err(Exhausted);
        }
        let outcome = outcome?;
        let by_variables = left.saturating_sub(self.left.load(Ordering::Relaxed));
        *left = own.checked_sub(by_variables).ok_or(Exhausted)?;
        Ok(outcome)
    }

    fn variable(&'p self, place: usize) -> Result<Value<'p>, Error> {
        let Some(computed) = self.computed.get(place) else { return Err(Error::Budget) };
        if let Some(known) = computed.get() {
            return known.clone();
        }
        if self.depth.fetch_add(1, Ordering::Relaxed) >= MAX_DEPTH {
            self.depth.fetch_sub(1, Ordering::Relaxed);
            return Err(self.failed(place, "evaluate", "too many variables depend on one another"));
        }
        let outcome = self.compute(place);
        self.depth.fetch_sub(1, Ordering::Relaxed);
        computed.get_or_init(|| outcome).clone()
    }

    fn compute(&'p self, place: usize) -> Result<Value<'p>, Error> {
        let Some(expression) = self.variables.expressions.get(place) else { return Err(Error::Budget) };
        let program = match expression.program() {
            Ok(program) => program,
            Err(fault) => return Err(self.failed(place, "compile", fault)),
        };
        let left = self.left.load(Ordering::Relaxed);
        let memory = MEMORY / self.computed.len().max(1) as u64;
        let over = || self.input.deadline().is_over();
        let mut budget = Budget::new(cel::PER_CALL_LIMIT.min(left)).with_memory(memory).with_stop(&over);
        let outcome = program.eval(&self.activation(), &mut budget);
        // Variables that this one asked for have taken theirs.
        let left = self.left.load(Ordering::Relaxed).checked_sub(budget.used());
        self.left.store(left.unwrap_or(0), Ordering::Relaxed);
        if left.is_none() || self.exhausted.load(Ordering::Relaxed) {
            self.exhausted.store(true, Ordering::Relaxed);
            return Err(Error::Budget);
        }
        outcome.map_err(|error| self.failed(place, "evaluate", &error.to_string()))
    }

    fn failed(&self, place: usize, what: &str, why: &str) -> Error {
        let name = self.variables.name(place);
        Error::Eval(format!("composited variable {name:?} fails to {what}: {why}").into())
    }
}

impl<'p> Host for Scope<'p> {
    fn field(&self, name: &str, _: &mut Budget<'_>) -> Result<Option<Value<'_>>, Error> {
        let (Some(own), Some(place)) = (self.own.get(), self.variables.place(name)) else { return Ok(None) };
        let own: &'p Scope<'p> = own;
        own.variable(place).map(Some)
    }
}
