//! Which types fit which, with type variables.

use crate::types::{Param, Type};
use std::cell::Cell;

/// How many steps through types may be made for one expression. Types share their parts: one that is written in a line can have more
/// parts than there are atoms.
const MOST_STEPS: u32 = 5_000_000;

/// What type variables stand for. What failed attempts bound is taken back.
#[derive(Default)]
pub(crate) struct Mapping {
    bound: Vec<Option<Type>>,
    log: Vec<(u32, Option<Type>)>,
    steps: Cell<u32>,
}

impl Mapping {
    /// Makes a step; whether there is another one.
    fn step(&self) -> bool {
        self.steps.set(self.steps.get().saturating_add(1));
        !self.is_exhausted()
    }

    /// Whether no more steps may be made: nothing that was found since is right.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.steps.get() > MOST_STEPS
    }

    /// A new variable.
    pub(crate) fn variable(&mut self) -> Type {
        self.bound.push(None);
        Type::Param(Param::Variable(u32::try_from(self.bound.len() - 1).unwrap_or(u32::MAX)))
    }

    fn find(&self, of: &Type) -> Option<&Type> {
        let Type::Param(Param::Variable(number)) = of else { return None };
        self.bound.get(*number as usize)?.as_ref()
    }

    fn bind(&mut self, variable: &Type, to: Type) {
        if let Type::Param(Param::Variable(number)) = variable
            && let Some(slot) = self.bound.get_mut(*number as usize)
        {
            self.log.push((*number, slot.replace(to)));
        }
    }

    /// Whether each type is assignable to the one at its place.
    pub(crate) fn assignable(&mut self, from: &[&Type], to: &[Type]) -> bool {
        let fits = from.len() == to.len() && from.iter().zip(to).all(|(from, to)| self.fits(from, to));
        if !fits {
            while let Some((number, before)) = self.log.pop() {
                if let Some(slot) = self.bound.get_mut(number as usize) {
                    *slot = before;
                }
            }
        }
        self.log.clear();
        fits
    }

    fn fits(&mut self, from: &Type, to: &Type) -> bool {
        if !self.step() {
            return false;
        }
        if matches!(to, Type::Param(_)) {
            match self.substitution(from, to) {
                (true, _) => return true,
                (false, true) => return false,
                _ => {}
            }
        }
        if matches!(from, Type::Param(_)) {
            return self.substitution(to, from).0;
        }
        if from.is_dyn_or_error() || to.is_dyn_or_error() {
            return true;
        }
        match (from, to) {
            (Type::Null, to) => is_nullable(to),
            (from, Type::Null) => is_nullable(from),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.fits(a, b),
            (Type::Map(a), Type::Map(b)) => self.fits(&a.0, &b.0) && self.fits(&a.1, &b.1),
            (from, to) => from == to,
        }
    }

    /// Whether the variable can stand for the type, and whether it stood for something.
    fn substitution(&mut self, of: &Type, variable: &Type) -> (bool, bool) {
        if of == variable {
            return (true, true);
        }
        if let Some(known) = self.find(variable).cloned() {
            if *of == known {
                return (true, true);
            }
            if !self.fits(of, &known) {
                return (false, true);
            }
            let general = most_general(of, &known);
            if self.is_free_of(variable, &general) {
                self.bind(variable, general);
            }
            return (true, true);
        }
        if !self.is_free_of(variable, of) {
            return (false, false);
        }
        self.bind(variable, of.clone());
        (true, false)
    }

    /// Whether a variable does not stand in a type.
    fn is_free_of(&self, variable: &Type, within: &Type) -> bool {
        if variable == within || !self.step() {
            return false;
        }
        if matches!(within, Type::Param(_)) {
            return self.find(within).is_none_or(|known| self.is_free_of(variable, known));
        }
        within.parameters().into_iter().all(|part| self.is_free_of(variable, part))
    }

    /// The type with its variables replaced; those that stand for nothing become dyn if `to_dyn`.
    pub(crate) fn substitute(&self, of: &Type, to_dyn: bool) -> Type {
        if !self.step() {
            return Type::Error;
        }
        if let Some(known) = self.find(of) {
            return self.substitute(known, to_dyn);
        }
        match of {
            Type::Param(_) if to_dyn => Type::Dyn,
            Type::List(of) => Type::list(self.substitute(of, to_dyn)),
            Type::Optional(of) => Type::optional(self.substitute(of, to_dyn)),
            Type::Map(of) => Type::map(self.substitute(&of.0, to_dyn), self.substitute(&of.1, to_dyn)),
            Type::Type(Some(of)) => Type::Type(Some(std::sync::Arc::new(self.substitute(of, to_dyn)))),
            other => other.clone(),
        }
    }

    /// A declared type with fresh variables for its parameters, which `known` keeps.
    pub(crate) fn instantiate(&mut self, of: &Type, known: &mut Vec<(char, Type)>) -> Type {
        match of {
            Type::Param(Param::Declared(name)) => {
                if let Some((_, variable)) = known.iter().find(|(other, _)| other == name) {
                    return variable.clone();
                }
                let variable = self.variable();
                known.push((*name, variable.clone()));
                variable
            }
            Type::List(of) => Type::list(self.instantiate(of, known)),
            Type::Optional(of) => Type::optional(self.instantiate(of, known)),
            Type::Map(of) => Type::map(self.instantiate(&of.0, known), self.instantiate(&of.1, known)),
            Type::Type(Some(of)) => Type::Type(Some(std::sync::Arc::new(self.instantiate(of, known)))),
            other => other.clone(),
        }
    }
}

fn is_nullable(of: &Type) -> bool {
    matches!(of, Type::Null | Type::Optional(_) | Type::Opaque(_) | Type::Object(_) | Type::Duration | Type::Timestamp)
}

/// The more general of two types that fit one another.
pub(crate) fn most_general(a: &Type, b: &Type) -> Type {
    if is_equal_or_less_specific(a, b) { a.clone() } else { b.clone() }
}

fn is_equal_or_less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => is_equal_or_less_specific(a, b),
        (Type::Map(a), Type::Map(b)) => is_equal_or_less_specific(&a.0, &b.0) && is_equal_or_less_specific(&a.1, &b.1),
        (Type::Type(_), Type::Type(_)) => true,
        (a, b) => a == b,
    }
}
