//! What expressions of a policy may name, and what they must give. The definition's validation and the plugins compile with the same.

use crate::admission::expressions::Expression;
use cel::{
    Env, Type,
    admission::{self, Variables},
};
use std::sync::LazyLock;

static ALL: LazyLock<Env> = LazyLock::new(|| admission::env(&Type::Dyn));
static WITHOUT_AUTHORIZER: LazyLock<Env> = LazyLock::new(|| admission::env_without_authorizer(&Type::Dyn));

/// What an expression is for, which decides what it may name and must give. Variables are compiled by [`Compiler::variable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Whether the policy is for a request.
    Condition,
    /// Whether a request is admitted.
    Validation,
    /// Why it is not. It cannot ask the authorizer.
    Message,
    /// The value of an audit annotation.
    AuditAnnotation,
    /// What is merged into the object.
    ApplyConfiguration,
    /// Operations on the object.
    JsonPatch,
}

/// Compiles the expressions of one policy.
pub(crate) struct Compiler {
    all: Env,
    without_authorizer: Env,
    with_patches: Env,
    declared: Variables,
}

impl Compiler {
    /// For a policy that has parameters or has none. Without variables no expression may name `variables`.
    pub(crate) fn new(has_parameters: bool, has_variables: bool) -> Self {
        let declared = Variables::default();
        let with = |env: &Env| {
            let mut env = env.clone();
            if has_parameters {
                env = env.with_variable("params", Type::Dyn);
            }
            if has_variables {
                env = declared.of(env);
            }
            env
        };
        let all = with(&ALL);
        Self { with_patches: all.clone().with_mutation(), all, without_authorizer: with(&WITHOUT_AUTHORIZER), declared }
    }

    /// Compiles a variable. Only expressions that are compiled after it can name it.
    pub(crate) fn variable(&self, name: &str, text: &str) -> Expression {
        let expression = Expression::new(&self.all, text, &[Type::Dyn]);
        self.declared.add(name, expression.output());
        expression
    }

    /// Compiles any other expression.
    pub(crate) fn expression(&self, purpose: Purpose, text: &str) -> Expression {
        match purpose {
            Purpose::Condition | Purpose::Validation => Expression::new(&self.all, text, &[Type::Bool]),
            Purpose::Message => Expression::new(&self.without_authorizer, text, &[Type::String]),
            Purpose::AuditAnnotation => Expression::new(&self.all, text, &[Type::String, Type::Null]),
            Purpose::ApplyConfiguration => Expression::new(&self.with_patches, text, &[cel::object()]),
            Purpose::JsonPatch => Expression::new(&self.with_patches, text, &[Type::list(cel::json_patch())]),
        }
    }
}
