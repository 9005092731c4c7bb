//! `x-kubernetes-validations`: the rules of a place of a schema, compiled. Definitions are refused for what cannot be compiled; custom resources
//! are validated with it. Follows upstream's `apiextensions-apiserver/pkg/apiserver/schema/cel/compilation.go`.

use cel::{Program, Rules, Schema};
use serde_json::Value;
use std::sync::Arc;

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
    let Some(within) = Rules::new(schema) else { return Vec::new() };
    rules.iter().map(|rule| one(Rule::new(rule), &within)).collect()
}

fn one(rule: Rule, within: &Rules) -> Compiled {
    let mut made = Compiled { rule, program: Ok(None), message: Ok(None), uses_old: false };
    let rule = &made.rule;
    if rule.rule.trim().is_empty() {
        return made;
    }
    made.program = within.rule(&rule.rule, rule.optional_old).map(Some);
    let Ok(Some(program)) = &made.program else { return made };
    made.uses_old = program.uses("oldSelf");
    if !rule.message_expression.is_empty() {
        made.message = within.message(&rule.message_expression, rule.optional_old).map(Some);
    }
    made
}

/// The rules of a schema in JSON.
pub(super) fn rules_of(schema: &Value) -> &[Value] {
    schema.get("x-kubernetes-validations").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
