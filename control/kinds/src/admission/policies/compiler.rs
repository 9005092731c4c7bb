//! What expressions of a policy may name, and what they must give. The definition's validation and the plugins compile with the same.

use crate::admission::expressions::{self, Expression};
use cel::{Env, ObjectType, Type};
use parking_lot::RwLock;
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

static ALL: LazyLock<Env> = LazyLock::new(expressions::env);
static WITHOUT_AUTHORIZER: LazyLock<Env> = LazyLock::new(expressions::env_without_authorizer);

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

/// The variables that were compiled so far, by name.
#[derive(Default)]
struct Declared(RwLock<BTreeMap<String, Type>>);

impl ObjectType for Declared {
    fn field(&self, _: &str, field: &str) -> Option<Type> {
        self.0.read().get(field).cloned()
    }
}

/// Compiles the expressions of one policy.
pub(crate) struct Compiler {
    all: Env,
    without_authorizer: Env,
    with_patches: Env,
    declared: Arc<Declared>,
}

impl Compiler {
    /// For a policy that has parameters or has none. Without variables no expression may name `variables`.
    pub(crate) fn new(has_parameters: bool, has_variables: bool) -> Self {
        let declared = Arc::new(Declared::default());
        let with = |env: &Env| {
            let mut env = env.clone();
            if has_parameters {
                env = env.with_variable("params", Type::Dyn);
            }
            if has_variables {
                env = env.with_variable("variables", Type::object("kubernetes.variables", declared.clone()));
            }
            env
        };
        let all = with(&ALL);
        Self {
            with_patches: all.clone().with_mutation(),
            all,
            without_authorizer: with(&WITHOUT_AUTHORIZER),
            declared: declared.clone(),
        }
    }

    /// Compiles a variable. Only expressions that are compiled after it can name it.
    pub(crate) fn variable(&self, name: &str, text: &str) -> Expression {
        let expression = Expression::new(&self.all, text, &[Type::Dyn]);
        let of = expression.output().map_or(Type::Dyn, declared);
        self.declared.0.write().insert(name.to_owned(), of);
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

/// The type that a variable is declared with: that of its expression, as far as upstream keeps it.
fn declared(of: &Type) -> Type {
    match of {
        Type::Bool
        | Type::Bytes
        | Type::Double
        | Type::Duration
        | Type::Int
        | Type::Null
        | Type::String
        | Type::Timestamp
        | Type::Uint => of.clone(),
        Type::List(of) => Type::list(declared(of)),
        Type::Map(of) => Type::map(declared(&of.0), declared(&of.1)),
        _ => Type::Dyn,
    }
}
