//! A policy, compiled, and all policies of a kind by name.

use super::compiler::{Compiler, Purpose};
use crate::{
    admission::{expressions::Expression, matching::Criteria},
    at::At,
};
use api::{GroupVersionKind, Object};
use server::Index;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What validating and mutating policies have each for themselves.
pub(super) trait Rules: Send + Sync + 'static {
    /// Compiles them from the policy's `spec`.
    fn compile(spec: At<'_>, compiler: &Compiler) -> Self;
}

/// The variables of a policy, in their order.
#[derive(Default)]
pub(super) struct Variables {
    pub(super) expressions: Vec<Expression>,
    places: HashMap<String, usize>,
}

impl Variables {
    /// Where the variable with this name is; of several the last counts.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// The name of a variable.
    pub(super) fn name(&self, place: usize) -> &str {
        self.places.iter().find(|(_, at)| **at == place).map_or("", |(name, _)| name)
    }
}

/// A policy.
pub(super) struct Policy<R> {
    pub(super) name: String,
    /// What fails is no reason to refuse a request.
    pub(super) ignores_failures: bool,
    /// Which requests it is for.
    pub(super) criteria: Criteria,
    /// The kind of its parameters, if it has some.
    pub(super) parameters: Option<GroupVersionKind>,
    pub(super) variables: Variables,
    pub(super) conditions: Vec<Expression>,
    pub(super) rules: R,
}

impl<R: Rules> Policy<R> {
    pub(super) fn of(object: &Object) -> Self {
        let spec = At::of(object, "spec");
        let kind = spec.get("paramKind");
        let parameters = kind.is_set().then(|| {
            let api_version = kind.get("apiVersion").str();
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            GroupVersionKind::new(group, version, kind.get("kind").str())
        });
        let compiler = Compiler::new(parameters.is_some(), true);
        let mut variables = Variables::default();
        for (place, variable) in spec.get("variables").items().enumerate() {
            let name = variable.get("name").str();
            variables.expressions.push(compiler.variable(name, variable.get("expression").str()));
            variables.places.insert(name.to_owned(), place);
        }
        let condition = |one: At<'_>| compiler.expression(Purpose::Condition, one.get("expression").str());
        Self {
            name: object.name().to_owned(),
            ignores_failures: spec.get("failurePolicy").str() == "Ignore",
            criteria: Criteria::of(spec.get("matchConstraints")),
            parameters,
            variables,
            conditions: spec.get("matchConditions").items().map(condition).collect(),
            rules: R::compile(spec, &compiler),
        }
    }
}

/// All policies of a kind, by name.
pub(super) struct Policies<R>(pub(super) Arc<BTreeMap<String, Arc<Policy<R>>>>);

impl<R> Default for Policies<R> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<R: Rules> Index for Policies<R> {
    fn put(&mut self, _: &str, name: &str, object: Option<&Object>) {
        let all = Arc::make_mut(&mut self.0);
        match object {
            Some(object) => drop(all.insert(name.to_owned(), Arc::new(Policy::of(object)))),
            None => drop(all.remove(name)),
        }
    }
}
