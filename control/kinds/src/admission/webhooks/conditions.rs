//! Match conditions: expressions that must all hold for a webhook to be called.

use crate::admission::expressions::{Exhausted, Expression, Input};
use api::{Object, Status};
use cel::{Env, MATCH_CONDITIONS_BUDGET, Type, admission};
use serde_json::Value;
use server::{
    admission::{Attributes, forbidden},
    authz::Authorizer,
};
use std::sync::{Arc, LazyLock};

static ENV: LazyLock<Env> = LazyLock::new(|| admission::env(&Type::Dyn));

/// Why an expression cannot be a match condition.
pub(crate) fn fault(text: &str) -> Option<String> {
    Expression::new(&ENV, text, &[Type::Bool]).fault().map(str::to_owned)
}

/// The match conditions of a webhook.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions(Vec<Expression>);

impl Conditions {
    pub(super) fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self(texts.into_iter().map(|text| Expression::new(&ENV, text, &[Type::Bool])).collect())
    }

    /// Whether all of them hold for a request, whose objects are in the version that the webhook wants. One that does not hold decides, whatever
    /// is wrong with another.
    ///
    /// # Errors
    /// Some cannot be evaluated, and the webhook's policy does not ignore failures. Where it does they do not hold.
    pub(super) fn hold(
        &self,
        attributes: &Attributes,
        authorizer: &Arc<dyn Authorizer>,
        objects: (Option<&Object>, Option<&Object>),
        request: impl FnOnce() -> Value,
        ignores_failures: bool,
    ) -> Result<bool, Status> {
        if self.0.is_empty() {
            return Ok(true);
        }
        let input = Input::new(&attributes.context, authorizer, objects, request());
        let mut errors = match self.errors(&input) {
            Ok(None) => return Ok(false),
            Ok(Some(errors)) if errors.is_empty() => return Ok(true),
            _ if ignores_failures => return Ok(false),
            Ok(Some(errors)) => errors,
            Err(exhausted) => vec![exhausted.to_string()],
        };
        let why = if errors.len() == 1 { errors.swap_remove(0) } else { format!("[{}]", errors.join(", ")) };
        Err(forbidden(attributes, objects.0.or(objects.1).unwrap_or(&Object::default()), &why))
    }

    /// What is wrong with those that cannot be evaluated; nothing if one does not hold.
    fn errors(&self, input: &Input<'_>) -> Result<Option<Vec<String>>, Exhausted> {
        let (activation, mut left) = (input.activation(), MATCH_CONDITIONS_BUDGET);
        let (mut errors, mut holds) = (Vec::new(), true);
        for expression in &self.0 {
            match expression.evaluate(&activation, input.deadline(), &mut left)? {
                Ok(value) => holds &= value.as_bool() != Some(false),
                // An aggregate of errors names each once.
                Err(error) if !errors.contains(&error) => errors.push(error),
                Err(_) => {}
            }
        }
        Ok(holds.then_some(errors))
    }
}
