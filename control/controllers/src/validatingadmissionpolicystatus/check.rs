//! The check itself: every expression against the types of every kind.

use api::GroupVersionKind;
use cel::{
    Env, Type,
    admission::{self, Variables},
};
use k8s_openapi::api::admissionregistration::v1::{
    ExpressionWarning, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec, Variable,
};

/// How many bytes all warnings of a policy may have: each shows a line of its expression for each kind, and no status may be longer than a request.
const MAX_TEXT: usize = 1 << 20;

/// What a policy is checked against.
#[derive(Default)]
pub(super) struct Types {
    /// The kinds of its objects.
    pub(super) objects: Vec<(GroupVersionKind, Type)>,
    /// The type of its parameters, if that is known.
    pub(super) parameters: Option<Type>,
}

/// What is wrong with the expressions of a policy.
pub(super) fn warnings(policy: &ValidatingAdmissionPolicy, types: &Types) -> Vec<ExpressionWarning> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    let environments: Vec<(&GroupVersionKind, Env)> =
        types.objects.iter().map(|(kind, of)| (kind, environment(spec, of, types.parameters.as_ref()))).collect();
    let (mut found, mut left) = (Vec::new(), MAX_TEXT);
    for (place, validation) in spec.validations.iter().flatten().enumerate() {
        let message = validation.message_expression.as_deref().filter(|text| !text.is_empty());
        for (field, text) in [("expression", Some(validation.expression.as_str())), ("messageExpression", message)] {
            let Some(warning) = text.and_then(|text| warning(&environments, text)) else { continue };
            let Some(rest) = left.checked_sub(warning.len()) else { return found };
            left = rest;
            found.push(ExpressionWarning { field_ref: format!("spec.validations[{place}].{field}"), warning });
        }
    }
    found
}

/// What the expressions of a policy may name for objects of a type. A variable that is wrong for it is of any type.
fn environment(spec: &ValidatingAdmissionPolicySpec, object: &Type, parameters: Option<&Type>) -> Env {
    let mut env = admission::env(object);
    if spec.param_kind.is_some() {
        env = env.with_variable("params", parameters.cloned().unwrap_or(Type::Dyn));
    }
    let variables = Variables::default();
    let env = variables.of(env);
    for Variable { name, expression } in spec.variables.iter().flatten() {
        let compiled = env.compile(expression).ok();
        variables.add(name, compiled.as_ref().map(cel::Program::output));
    }
    env
}

/// What is wrong with an expression, kind by kind, as upstream shows it.
fn warning(environments: &[(&GroupVersionKind, Env)], text: &str) -> Option<String> {
    let wrong = environments.iter().filter_map(|(kind, env)| {
        // What has the right types is not run: that a constant cannot be evaluated is nothing about types.
        let issues = env.compile(text).err().filter(|issues| !issues.is_instantiation())?;
        Some(format!("{kind}: {issues}\n"))
    });
    let wrong: Vec<String> = wrong.collect();
    (!wrong.is_empty()).then(|| wrong.join("\n"))
}
