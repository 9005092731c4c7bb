//! The code of validation rules in a definition: that it can be compiled, and what it may cost. Follows upstream's
//! `apiextensions-apiserver/pkg/apis/apiextensions/validation/cel_validation.go`.

use super::path::Path;
use crate::apiextensions::rule::{Compiled, compile, rules_of};
use api::{Cause, FieldPath};
use cel::{Cardinality, DEFINITION_LIMIT, Program, RULE_LIMIT, Schema, cost_message};
use serde_json::{Value, json};
use std::sync::Arc;

/// Of a schema that costs too much, the most expensive expressions that are named.
const NAMED: usize = 4;

/// Where rules are compiled.
#[derive(Clone)]
pub(super) struct Scope<'a> {
    schema: Arc<Schema>,
    /// This place, or one around it, has rules.
    within: bool,
    /// A place around it has rules, and no type.
    failed: bool,
    /// How many values of this place an object has at most.
    cardinality: Cardinality,
    /// The first place around it whose values cannot be told from their old ones.
    uncorrelated: Option<&'a Path<'a>>,
}

impl<'a> Scope<'a> {
    /// The scope of a whole object.
    pub(super) fn root(schema: &Value) -> Self {
        let within = !rules_of(schema).is_empty();
        Self { schema: Schema::root(schema), within, failed: false, cardinality: Cardinality::ROOT, uncorrelated: None }
    }

    /// That of a place directly within this one; `known`: its type as the type of this one has it.
    fn below(&self, known: Option<&Arc<Schema>>, schema: &Value, around: &Value) -> Self {
        Self {
            schema: known.cloned().unwrap_or_else(|| Schema::new(schema)),
            within: self.within || !rules_of(schema).is_empty(),
            failed: self.failed || (self.within && !self.has_type()),
            cardinality: self.cardinality.below(around),
            uncorrelated: self.uncorrelated,
        }
    }

    fn has_type(&self) -> bool {
        !self.failed && self.schema.to_type("self").is_some()
    }

    /// That of a property; `around` is the schema that has it.
    pub(super) fn property(&self, name: &str, schema: &Value, around: &Value) -> Self {
        self.below(self.schema.property(name), schema, around)
    }

    /// That of the values of a map.
    pub(super) fn values(&self, schema: &Value, around: &Value) -> Self {
        self.below(self.schema.element(), schema, around)
    }

    /// That of the elements of a list at `at`.
    pub(super) fn elements(&self, schema: &Value, around: &Value, at: &'a Path<'a>) -> Self {
        let keyed = around.get("x-kubernetes-list-type").and_then(Value::as_str) == Some("map");
        let inner = self.below(self.schema.element(), schema, around);
        let uncorrelated = self.uncorrelated.or((!keyed).then_some(at));
        Self { uncorrelated, ..inner }
    }
}

/// What the expressions of a schema cost, and what is wrong with them.
pub(super) struct Costs {
    /// Each expression may cost what it costs: it was accepted before.
    known: bool,
    total: u64,
    expensive: Vec<(u64, FieldPath)>,
    causes: Vec<Cause>,
}

impl Costs {
    pub(super) fn new(known: bool) -> Self {
        Self { known, total: 0, expensive: Vec::new(), causes: Vec::new() }
    }

    fn add(&mut self, what: &str, at: FieldPath, cost: u64) {
        if !self.known && cost > RULE_LIMIT {
            self.causes.push(Cause::forbidden(&at, &cost_message(&format!("estimated {what} cost"), cost, RULE_LIMIT)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= DEFINITION_LIMIT / 100 {
            self.expensive.push((cost, at));
        }
    }

    /// Adds all causes, those of the schema as a whole last.
    pub(super) fn finish(mut self, at: &Path<'_>, out: &mut Vec<Cause>) {
        out.append(&mut self.causes);
        if self.total <= DEFINITION_LIMIT {
            return;
        }
        self.expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (_, at) in self.expensive.iter().take(NAMED) {
            let text = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            out.push(Cause::forbidden(at, text));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        out.push(Cause::forbidden(&at.field(), &cost_message(what, self.total, DEFINITION_LIMIT)));
    }
}

/// A rule as upstream prints its type.
fn printed(rule: &Value) -> String {
    let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ValidationRule";
    api::schema::Schema::named(name).map_or_else(|| rule.to_string(), |schema| schema.internal_form(rule))
}

/// Compiles the rules of a schema and estimates what they cost.
pub(super) fn check(schema: &Value, at: &Path<'_>, scope: &Scope<'_>, costs: &mut Costs) {
    let rules = rules_of(schema);
    if rules.is_empty() {
        return;
    }
    let all = at.child("x-kubernetes-validations");
    if !scope.has_type() {
        let text = "Internal error: internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
        let (kind, field) = (api::CauseKind::Internal, all.field());
        costs.causes.push(Cause { kind, field, message: text.to_owned() });
        return;
    }
    for (index, (compiled, rule)) in compile(rules, &scope.schema).iter().zip(rules).enumerate() {
        one(compiled, rule, &all.index(index), scope, costs);
    }
}

fn one(compiled: &Compiled, rule: &Value, here: &Path<'_>, scope: &Scope<'_>, costs: &mut Costs) {
    let cost = |program: &Program| program.cost(&*scope.schema).1;
    let (rule_at, message_at) = (here.child("rule").field(), here.child("messageExpression").field());
    match &compiled.program {
        Ok(Some(program)) => {
            costs.add("rule", rule_at.clone(), scope.cardinality.cost(cost(program), &scope.schema));
        }
        Ok(None) => {}
        Err(error) => costs.causes.push(Cause::invalid_shown(&rule_at, &printed(rule), error)),
    }
    match &compiled.message {
        Ok(Some(program)) => costs.add("messageExpression", message_at, cost(program)),
        Ok(None) => {}
        Err(error) => costs.causes.push(Cause::invalid_shown(&message_at, &printed(rule), error)),
    }
    if compiled.uses_old {
        if let Some(around) = scope.uncorrelated {
            let text =
                format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {}", around.field());
            costs.causes.push(Cause::invalid(&rule_at, &json!(compiled.rule.rule), &text));
        }
    } else if let Some(optional) = rule.get("optionalOldSelf").filter(|value| !value.is_null()) {
        let text = "may not be set if oldSelf is not used in rule";
        costs.causes.push(Cause::invalid(&here.child("optionalOldSelf").field(), optional, text));
    }
}
