//! What a validating policy decides about a request.

use super::{
    compiler::{Compiler, Purpose},
    policy::{Policy, Rules},
    scope::Scope,
};
use crate::{
    admission::expressions::{Exhausted, Expression, Input},
    at::At,
};
use api::{Object, Reason};
use cel::{MATCH_CONDITIONS_BUDGET, MAX_MESSAGE, RUNTIME_BUDGET, Value};

/// One validation.
pub(super) struct Validation {
    expression: Expression,
    text: String,
    message: String,
    of_message: Option<Expression>,
    reason: Option<Reason>,
}

/// What a validating policy looks at.
pub(super) struct Validations {
    all: Vec<Validation>,
    /// The keys and values of audit annotations.
    annotations: Vec<(String, Expression)>,
}

impl Rules for Validations {
    fn compile(spec: At<'_>, compiler: &Compiler) -> Self {
        let validation = |one: At<'_>| {
            let (text, of_message) = (one.get("expression").str(), one.get("messageExpression"));
            let reason = serde_json::from_value(one.get("reason").value().clone()).ok();
            Validation {
                expression: compiler.expression(Purpose::Validation, text),
                text: text.trim().to_owned(),
                message: one.get("message").str().trim().to_owned(),
                of_message: (!of_message.is_empty()).then(|| compiler.expression(Purpose::Message, of_message.str())),
                reason,
            }
        };
        let annotation = |one: At<'_>| {
            let text = one.get("valueExpression").str();
            (one.get("key").str().to_owned(), compiler.expression(Purpose::AuditAnnotation, text))
        };
        Self {
            all: spec.get("validations").items().map(validation).collect(),
            annotations: spec.get("auditAnnotations").items().map(annotation).collect(),
        }
    }
}

/// A refusal, and which validation it is of.
#[derive(Debug, PartialEq)]
pub(super) struct Denial {
    pub(super) index: usize,
    pub(super) message: String,
    pub(super) reason: Reason,
}

/// What a policy has decided with one parameter.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decisions {
    pub(super) denials: Vec<Denial>,
    /// Keys and values of audit annotations.
    pub(super) annotations: Vec<(String, String)>,
    /// Why audit annotations have no value, each of which refuses the request.
    pub(super) failed_annotations: Vec<String>,
}

fn denial(index: usize, message: String) -> Denial {
    Denial { index, message, reason: Reason::Invalid }
}

/// Whether the match conditions of a policy hold. One that does not hold decides, whatever is wrong with another.
///
/// # Errors
/// Some cannot be evaluated, and the policy does not ignore failures. Where it does they do not hold.
pub(super) fn conditions_hold<R>(
    policy: &Policy<R>,
    input: &Input<'_>,
    params: Option<&Object>,
) -> Result<bool, String> {
    if policy.conditions.is_empty() {
        return Ok(true);
    }
    let scope = Scope::new(&policy.variables, input, params);
    let (mut left, mut errors, mut holds) = (MATCH_CONDITIONS_BUDGET, Vec::new(), true);
    for condition in &policy.conditions {
        match scope.evaluate(condition, &mut left) {
            Ok(Ok(value)) => holds &= value.as_bool() != Some(false),
            // An aggregate of errors names each once.
            Ok(Err(error)) if !errors.contains(&error) => errors.push(error),
            Ok(Err(_)) => {}
            Err(_) if policy.ignores_failures => return Ok(false),
            Err(exhausted) => return Err(exhausted.to_string()),
        }
    }
    match errors.as_slice() {
        _ if !holds || (policy.ignores_failures && !errors.is_empty()) => Ok(false),
        [] => Ok(true),
        [error] => Err(error.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

impl Policy<Validations> {
    /// Decides about a request. `matching` is the request as match conditions see it.
    pub(super) fn decide(&self, matching: &Input<'_>, input: &Input<'_>, params: Option<&Object>) -> Decisions {
        let failed = |why: String| Decisions {
            denials: if self.ignores_failures { Vec::new() } else { vec![denial(0, why)] },
            ..Decisions::default()
        };
        match conditions_hold(self, matching, params) {
            Ok(true) => {}
            Ok(false) => return Decisions::default(),
            Err(why) => return failed(why),
        }
        let denials = match self.denials(input, params) {
            Ok(denials) => denials,
            Err(exhausted) => return failed(exhausted.to_string()),
        };
        let mut decisions = Decisions { denials, ..Decisions::default() };
        match self.annotate(input, params, &mut decisions) {
            Ok(()) => decisions,
            Err(exhausted) => failed(exhausted.to_string()),
        }
    }

    fn denials(&self, input: &Input<'_>, params: Option<&Object>) -> Result<Vec<Denial>, Exhausted> {
        let (scope, mut left) = (Scope::new(&self.variables, input, params), RUNTIME_BUDGET);
        // Whether each holds, or why that is not known.
        let mut results = Vec::with_capacity(self.rules.all.len());
        for validation in &self.rules.all {
            let value = scope.evaluate(&validation.expression, &mut left)?;
            results.push(value.map(|value| value.as_bool() == Some(true)));
        }
        // Messages share what is left; as upstream all are evaluated, also those of validations that hold.
        let messages = self.messages(input, params, left);
        let mut denials = Vec::new();
        for (index, (validation, result)) in self.rules.all.iter().zip(results).enumerate() {
            let message = messages.as_ref().map(|all| all.get(index).and_then(|message| message.as_deref()));
            match (result, message) {
                (Err(_), _) | (_, Err(_)) if self.ignores_failures => {}
                (Err(error), _) => denials.push(denial(index, error)),
                (_, Err(exhausted)) => denials.push(denial(index, format!("failed messageExpression: {exhausted}"))),
                (Ok(true), _) => {}
                (Ok(false), Ok(message)) => denials.push(Denial {
                    index,
                    message: validation.message(message),
                    reason: validation.reason.unwrap_or(Reason::Invalid),
                }),
            }
        }
        Ok(denials)
    }

    /// The messages that expressions give.
    fn messages(
        &self,
        input: &Input<'_>,
        params: Option<&Object>,
        mut left: u64,
    ) -> Result<Vec<Option<String>>, Exhausted> {
        let scope = Scope::new(&self.variables, input, params);
        let mut messages = Vec::with_capacity(self.rules.all.len());
        for validation in &self.rules.all {
            let value = validation.of_message.as_ref().map(|of| scope.evaluate(of, &mut left)).transpose()?;
            let text = value.and_then(Result::ok).and_then(|value| value.as_str().map(|text| text.trim().to_owned()));
            messages.push(text.filter(|text| text.len() <= MAX_MESSAGE && !text.contains('\n')));
        }
        Ok(messages)
    }

    fn annotate(&self, input: &Input<'_>, params: Option<&Object>, decisions: &mut Decisions) -> Result<(), Exhausted> {
        let (scope, mut left) = (Scope::new(&self.variables, input, params), RUNTIME_BUDGET);
        for (key, expression) in &self.rules.annotations {
            match scope.evaluate(expression, &mut left)? {
                Ok(Value::Null) => {}
                Ok(value) => {
                    let text = value.as_str().unwrap_or_default().trim();
                    if !text.is_empty() {
                        decisions.annotations.push((key.clone(), text.to_owned()));
                    }
                }
                Err(_) if self.ignores_failures => {}
                Err(error) => decisions.failed_annotations.push(error),
            }
        }
        Ok(())
    }
}

impl Validation {
    /// Why a request is refused.
    fn message(&self, expressed: Option<&str>) -> String {
        let texts = [expressed.unwrap_or_default(), &self.message];
        let said = texts.into_iter().find(|text| !text.is_empty());
        said.map_or_else(|| format!("failed expression: {}", self.text), str::to_owned)
    }
}
