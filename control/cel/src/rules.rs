//! Rules of custom resources (`x-kubernetes-validations`): how they are compiled and what they may cost.

use crate::{
    env::{Env, Program},
    schema::Schema,
    types::Type,
};
use serde_json::Value as Json;
use std::sync::Arc;

/// What one rule or message may cost when it runs.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all rules of an object, or all expressions of a policy's binding, may cost together when they run.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// What the match conditions of a webhook or of a policy's binding may cost together when they run.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;
/// What a rule may cost by its estimate.
pub const RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a definition may cost together by their estimates.
pub const DEFINITION_LIMIT: u64 = 100_000_000;
/// The longest message that a `messageExpression` may give, in bytes.
pub const MAX_MESSAGE: usize = 5 * 1024;

/// How often a part of a schema can be in one object by the bounds of the lists and maps around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cardinality(Option<u64>);

impl Cardinality {
    /// Of a whole object: once.
    pub const ROOT: Cardinality = Cardinality(Some(1));

    /// Of what is right below a schema: its properties, elements or values.
    #[must_use]
    pub fn below(self, schema: &Json) -> Cardinality {
        let bound = |name: &str| {
            let bound = schema.get(name)?;
            bound.as_u64().or_else(|| bound.as_i64().map(|_| 0))
        };
        let most = match schema.get("type").and_then(Json::as_str) {
            Some("array") => bound("maxItems"),
            Some("object") if schema.get("additionalProperties").is_some_and(|more| !more.is_null()) => {
                bound("maxProperties")
            }
            _ => Some(1),
        };
        Cardinality(self.0.zip(most).map(|(outer, inner)| outer.saturating_mul(inner)))
    }

    /// What a rule can cost that costs so much each time. Where nothing bounds how often, the size of requests does.
    pub fn cost(self, each: u64, schema: &Schema) -> u64 {
        each.saturating_mul(self.0.unwrap_or_else(|| schema.max_cardinality()))
    }
}

/// The text for an estimate above its limit: `estimated rule cost exceeds budget by factor of …`.
pub fn cost_message(what: &str, cost: u64, limit: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a factor for people")]
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// Compiles the rules of one part of a schema, in which `self` and `oldSelf` are of this schema.
pub struct Rules {
    env: Env,
    with_optional: Env,
}

impl Rules {
    /// For a part of a schema; nothing if expressions may not see it.
    pub fn new(schema: &Arc<Schema>) -> Option<Self> {
        let of = schema.to_type("selfType")?;
        let env = Env::kubernetes().with_variable("self", of.clone());
        let with_optional = env.clone().with_variable("oldSelf", Type::optional(of.clone()));
        Some(Self { env: env.with_variable("oldSelf", of), with_optional })
    }

    /// Compiles a rule. With `optionalOldSelf`, `oldSelf` is optional.
    ///
    /// # Errors
    /// The detail of the cause, in upstream's words.
    pub fn rule(&self, text: &str, optional_old_self: bool) -> Result<Program, String> {
        let program = self.compile(text, optional_old_self).map_err(|issues| {
            format!("{}: {issues}", if issues.is_instantiation() { INSTANTIATION } else { COMPILATION })
        })?;
        match program.output() {
            Type::Bool => Ok(program),
            _ => Err("cel expression must evaluate to a bool".to_owned()),
        }
    }

    /// Compiles a `messageExpression`.
    ///
    /// # Errors
    /// The detail of the cause, in upstream's words.
    pub fn message(&self, text: &str, optional_old_self: bool) -> Result<Program, String> {
        let program = self.compile(text, optional_old_self).map_err(|issues| {
            let what = if issues.is_instantiation() { "instantiation failed" } else { COMPILATION };
            format!("messageExpression {what}: {issues}")
        })?;
        match program.output() {
            Type::String => Ok(program),
            _ => Err("messageExpression must evaluate to a string".to_owned()),
        }
    }

    fn compile(&self, text: &str, optional_old_self: bool) -> Result<Program, crate::Issues> {
        if optional_old_self { self.with_optional.compile(text) } else { self.env.compile(text) }
    }
}

const COMPILATION: &str = "compilation failed";
const INSTANTIATION: &str = "program instantiation failed";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules() -> Rules {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}});
        Rules::new(&Schema::new(&schema)).expect("seen")
    }

    #[test]
    fn rules_are_compiled_with_upstreams_words() {
        let rules = rules();
        for (rule, detail) in [
            ("self.n", "cel expression must evaluate to a bool"),
            ("self.m > 1", "compilation failed: ERROR: <input>:1:5: undefined field 'm'\n | self.m > 1\n | ....^"),
            ("self.s.find(')') == ''", "program instantiation failed: error parsing regexp: unexpected ): `)`"),
        ] {
            assert_eq!(rules.rule(rule, false).err().as_deref(), Some(detail), "{rule}");
        }
        assert_eq!(
            rules.message("self.n", false).err().as_deref(),
            Some("messageExpression must evaluate to a string")
        );
        let issues = rules.message("self.m", false).err().expect("no such field");
        assert!(issues.starts_with("messageExpression compilation failed: ERROR: "), "{issues}");
        assert!(rules.rule("oldSelf.hasValue()", false).is_err() && rules.rule("oldSelf.hasValue()", true).is_ok());
    }

    #[test]
    fn costs_count_for_each_element() {
        let list = json!({"type": "array", "maxItems": 5, "items": {"type": "string"}});
        let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
        let object = json!({"type": "object", "properties": {}});
        let schema = Schema::new(&json!({"type": "string"}));
        let inner = Cardinality::ROOT.below(&object).below(&list).below(&list);
        assert_eq!(inner.cost(3, &schema), 75);
        assert_eq!(inner.below(&map).cost(3, &schema), 3 * (3 << 20) / 3);
        assert_eq!(Cardinality::ROOT.below(&map).below(&list).cost(1, &schema), schema.max_cardinality());
        let message = |cost| cost_message("estimated rule cost", cost, RULE_LIMIT);
        assert!(message(11_000_000).starts_with("estimated rule cost exceeds budget by factor of 1.100000x (try "));
        assert!(message(25_000_000).contains("factor of 2.5x (") && message(2_000_000_000).contains("more than 100x"));
    }
}
