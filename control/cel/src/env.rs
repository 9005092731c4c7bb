//! What expressions may name, and the programs that are made of them.

use crate::{
    ast::Ast,
    budget::{Budget, Error},
    checker::{Checked, Scope, check},
    estimate::{Sizes, estimate},
    eval::Run,
    issues::Issues,
    mutation::resolve,
    parser::parse,
    plan::{Node, plan},
    types::Type,
    validators::validate,
    value::Value,
};
use std::sync::Arc;

/// The variables and types that expressions may name, besides the functions of Kubernetes.
#[derive(Clone, Default)]
pub struct Env {
    scope: Scope,
}

impl Env {
    /// The functions of Kubernetes 1.36 and no variable.
    pub fn kubernetes() -> Self {
        Self::default()
    }

    /// Declares a variable.
    #[must_use]
    pub fn with_variable(mut self, name: &str, of: Type) -> Self {
        self.scope.variables.insert(name.into(), of);
        self
    }

    /// Declares object types by name, which are asked for when an expression names one.
    #[must_use]
    pub fn with_types(mut self, resolve: impl Fn(&str) -> Option<Type> + Send + Sync + 'static) -> Self {
        self.scope.resolver = Some(Arc::new(resolve));
        self
    }

    /// Declares what mutating policies have: the types `Object`, `Object.FIELD…` and `JSONPatch`, and `jsonpatch.escapeKey`.
    #[must_use]
    pub fn with_mutation(mut self) -> Self {
        self.scope.with_json_patch = true;
        let others = self.scope.resolver.take();
        self.with_types(move |name| resolve(name).or_else(|| others.as_ref()?(name)))
    }

    /// Parses, checks and plans an expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(&self, text: &str) -> Result<Program, Issues> {
        let ast = parse(text)?;
        let checked = check(&ast, text, &self.scope)?;
        validate(&ast, text, &checked)?;
        let node = plan(&ast.root, &checked).map_err(|message| Issues::program(text, message))?;
        let output = checked.type_of(ast.root.id).clone();
        Ok(Program(Arc::new(Inner { ast, node, checked, output })))
    }
}

struct Inner {
    ast: Ast,
    node: Node,
    checked: Checked,
    output: Type,
}

/// An expression that is ready to run. It is cheap to share, and threads may run it at the same time.
#[derive(Clone)]
pub struct Program(Arc<Inner>);

impl Program {
    /// The type of what it gives.
    pub fn output(&self) -> &Type {
        &self.0.output
    }

    /// Whether it uses a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.0.checked.variables.iter().any(|name| **name == *variable)
    }

    /// What it costs at least and at most, by the sizes of the variables; [`Schema`](crate::Schema) knows those of its values.
    /// Kubernetes refuses a rule of more than 10,000,000, and rules of more than 100,000,000 together, each times
    /// [`max_cardinality`](crate::Schema::max_cardinality) or a smaller bound by the lists and maps around it.
    pub fn cost(&self, sizes: &dyn Sizes) -> (u64, u64) {
        estimate(&self.0.ast, &self.0.checked, sizes)
    }

    /// Runs it.
    ///
    /// # Errors
    /// What went wrong, or that the budget is used up.
    pub fn eval<'a>(&self, activation: &Activation<'a>, budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
        let names = &self.0.checked.variables;
        let mut few = [None; 8];
        let mut many = Vec::new();
        let variables = if let Some(few) = few.get_mut(..names.len()) {
            few
        } else {
            many.resize(names.len(), None);
            &mut many[..]
        };
        for (slot, name) in variables.iter_mut().zip(names) {
            *slot = activation.get(name);
        }
        let locals = vec![Value::Null; self.0.checked.locals];
        Run { variables, names, locals, budget }.eval(&self.0.node)
    }
}

/// The values of variables.
#[derive(Clone, Default)]
pub struct Activation<'a> {
    values: Vec<(&'a str, Value<'a>)>,
}

impl<'a> Activation<'a> {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a value for a variable.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: Value<'a>) -> Self {
        self.values.push((name, value));
        self
    }

    fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.values.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}
