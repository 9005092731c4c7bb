//! `x-kubernetes-validations`: the rules of a place of a schema, compiled. Definitions are refused for what cannot be compiled; custom resources
//! are validated with it. Follows upstream's `apiextensions-apiserver/pkg/apiserver/schema/cel/compilation.go`.

use cel::{Env, Program, Schema, Type};
use serde_json::Value;
use std::sync::Arc;

/// What one rule may cost when it runs; upstream's `PerCallLimit`.
pub(super) const CALL_LIMIT: u64 = 1_000_000;

/// A rule as it is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    pub(super) rule: String,
    pub(super) message: String,
    pub(super) message_expression: String,
    pub(super) reason: String,
    pub(super) field_path: String,
    /// Whether it runs without an old value, too.
    pub(super) optional_old: bool,
}

impl Rule {
    fn new(rule: &Value) -> Self {
        let text = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            rule: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old: rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
        }
    }

    /// The rule as errors name it.
    pub(super) fn shown(&self) -> &str {
        if self.message.is_empty() { self.rule.trim() } else { self.message.trim() }
    }

    /// What a violation says, unless an expression does.
    pub(super) fn says(&self) -> String {
        if self.message.is_empty() { format!("failed rule: {}", self.shown()) } else { self.message.trim().to_owned() }
    }
}

/// A compiled rule.
pub(super) struct Compiled {
    pub(super) rule: Rule,
    /// `Ok(None)`: the rule is empty.
    pub(super) program: Result<Option<Program>, String>,
    pub(super) message: Result<Option<Program>, String>,
    pub(super) uses_old: bool,
}

/// Compiles the rules of a place, whose values have this schema. A place that expressions may not see has none.
pub(super) fn compile(rules: &[Value], schema: &Arc<Schema>) -> Vec<Compiled> {
    let Some(of) = schema.to_type("selfType") else { return Vec::new() };
    rules.iter().map(|rule| one(Rule::new(rule), &of)).collect()
}

fn one(rule: Rule, of: &Type) -> Compiled {
    let old = if rule.optional_old { Type::optional(of.clone()) } else { of.clone() };
    let env = Env::kubernetes().with_variable("self", of.clone()).with_variable("oldSelf", old);
    let mut made = Compiled { rule, program: Ok(None), message: Ok(None), uses_old: false };
    if made.rule.rule.trim().is_empty() {
        return made;
    }
    made.program = match env.compile(&made.rule.rule) {
        Err(issues) => Err(format!("compilation failed: {issues}")),
        Ok(program) if !matches!(program.output(), Type::Bool) => {
            Err("cel expression must evaluate to a bool".to_owned())
        }
        Ok(program) => Ok(Some(program)),
    };
    let Ok(Some(program)) = &made.program else { return made };
    made.uses_old = program.uses("oldSelf");
    if !made.rule.message_expression.is_empty() {
        made.message = match env.compile(&made.rule.message_expression) {
            Err(issues) => Err(format!("messageExpression compilation failed: {issues}")),
            Ok(program) if !matches!(program.output(), Type::String) => {
                Err("messageExpression must evaluate to a string".to_owned())
            }
            Ok(program) => Ok(Some(program)),
        };
    }
    made
}

/// The rules of a schema in JSON.
pub(super) fn rules_of(schema: &Value) -> &[Value] {
    schema.get("x-kubernetes-validations").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
