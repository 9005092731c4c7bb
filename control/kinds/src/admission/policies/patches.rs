//! What a mutating policy makes of an object: an applied configuration that is merged into it, or a JSON patch.

use super::{
    compiler::{Compiler, Purpose},
    policy::{Rules, Variables},
    scope::Scope,
};
use crate::{
    admission::{
        expressions::{Expression, Input},
        matching::{About, Served},
    },
    at::At,
};
use api::{Object, Status, patch};
use cel::{RUNTIME_BUDGET, Value};
use serde_json::Value as Json;

/// One mutation of a policy.
pub(super) enum Mutation {
    /// Its expression gives a partial object, which is merged.
    Apply(Expression),
    /// Its expression gives a list of operations.
    JsonPatch(Expression),
}

/// What a mutating policy does.
pub(super) struct Mutations {
    pub(super) all: Vec<Mutation>,
    /// The policy is evaluated again after somebody else has changed the object.
    pub(super) again_if_needed: bool,
}

impl Rules for Mutations {
    fn compile(spec: At<'_>, compiler: &Compiler) -> Self {
        let mutation = |one: At<'_>| {
            let text = |name| one.get(name).get("expression").str();
            match one.get("patchType").str() {
                "JSONPatch" => Mutation::JsonPatch(compiler.expression(Purpose::JsonPatch, text("jsonPatch"))),
                _ => {
                    let text = text("applyConfiguration");
                    Mutation::Apply(compiler.expression(Purpose::ApplyConfiguration, text))
                }
            }
        };
        Self {
            all: spec.get("mutations").items().map(mutation).collect(),
            again_if_needed: spec.get("reinvocationPolicy").str() == "IfNeeded",
        }
    }
}

/// Why a mutation was not made.
#[derive(Debug)]
pub(super) enum Failure {
    /// The policy's failure policy decides.
    Policy(String),
    /// The request is refused with this.
    Refused(Status),
}

impl Mutation {
    /// What its expression gives for a request, as JSON.
    pub(super) fn evaluate(
        &self,
        variables: &Variables,
        input: &Input<'_>,
        params: Option<&Object>,
    ) -> Result<Json, String> {
        let (Self::Apply(expression) | Self::JsonPatch(expression)) = self;
        if let Some(fault) = expression.fault() {
            return Err(fault.to_owned());
        }
        let (scope, mut left) = (Scope::new(variables, input, params), RUNTIME_BUDGET);
        let value = scope.evaluate(expression, &mut left).map_err(|exhausted| exhausted.to_string())??;
        match self {
            Self::Apply(_) => {
                let misnamed = value.misnamed_types();
                if !misnamed.is_empty() {
                    return Err(format!("type mismatch: {}", misnamed.join("\n")));
                }
                value.to_json().map_err(|error| format!("invalid return type: {error}"))
            }
            Self::JsonPatch(_) => operations(&value),
        }
    }

    /// The object after the mutation, which gave this for it.
    pub(super) fn applied(
        &self,
        about: &About<'_>,
        before: &Object,
        given: Json,
        served: &Served,
    ) -> Result<Object, Failure> {
        match self {
            Self::Apply(_) => {
                let failed = |why: &str| Failure::Policy(format!("error applying patch: {why}"));
                let mut config = Object::from_value(given).ok_or_else(|| failed("it is no object"))?;
                for field in ["apiVersion", "kind"] {
                    config.set(&[field], before.at(&[field]).cloned().unwrap_or_default());
                }
                let Some(versions) = &about.attributes.versions else { return Err(failed("there is no schema")) };
                versions.merge(before, &config, &served.resource, &served.kind).map_err(|why| failed(&why))
            }
            Self::JsonPatch(_) => match patch::json(&Json::Object(before.0.clone()), &given) {
                Ok(after) => Object::from_value(after)
                    .ok_or_else(|| Failure::Refused(Status::internal("the patched document is not an object"))),
                // A test that fails is a condition that does not hold.
                Err(error) if error.is_failed_test() => Ok(before.clone()),
                Err(error) => Err(Failure::Policy(format!("JSON Patch: {error}"))),
            },
        }
    }
}

/// The operations of a JSON patch.
fn operations(value: &Value<'_>) -> Result<Json, String> {
    let unserializable =
        |error| format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}");
    let Value::List(list) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let mut budget = cel::Budget::new(RUNTIME_BUDGET);
    for index in 0..list.len() {
        let operation = list.get(index, &mut budget).map_err(|error| error.to_string())?;
        let Some(Value::Map(fields)) = &operation else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
        };
        if let Ok(Some(value)) = fields.field("value", &mut budget) {
            let misnamed = value.misnamed_types();
            if !misnamed.is_empty() {
                return Err(format!("type mismatch: {}", misnamed.join("\n")));
            }
        }
    }
    // All at once, since there is one limit for all of them.
    let mut operations = value.to_json().map_err(unserializable)?;
    for operation in operations.as_array_mut().into_iter().flatten() {
        if let Some(fields) = operation.as_object_mut()
            && fields.get("from").and_then(Json::as_str) == Some("")
        {
            fields.remove("from");
        }
    }
    Ok(operations)
}
