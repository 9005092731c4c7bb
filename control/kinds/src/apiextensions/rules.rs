//! Validation by rules in CEL. The rules of a schema are compiled once, in a tree of the places that have any; a value is walked along it.
//! Follows upstream's `apiextensions-apiserver/pkg/apiserver/schema/cel/validation.go`.

use super::rule::{Compiled, compile, rules_of};
use api::{Cause, CauseKind, FieldPath};
use cel::{Activation, Budget, Error, MAX_MESSAGE, PER_CALL_LIMIT, Program, RUNTIME_BUDGET, Schema, Value as Cel};
use serde_json::{Value, json};
use server::{Deadline, Warnings};
use std::{collections::BTreeMap, sync::Arc};

/// How deep a schema is read; deeper ones are refused.
const MAX_DEPTH: usize = 128;

/// The rules of a place and of what is below it.
pub(super) struct Rules {
    schema: Arc<Schema>,
    kind: String,
    /// The keys by which an element of an old list is found; none: it cannot be found.
    keys: Vec<String>,
    compiled: Vec<Compiled>,
    properties: BTreeMap<String, Rules>,
    elements: Option<Box<Rules>>,
    additional: Option<Box<Rules>>,
}

impl Rules {
    /// Of the schema of a whole object; `None`: it has none.
    pub(super) fn new(document: &Value) -> Option<Self> {
        has_any(document, 0).then(|| Self::of(document, &Schema::root(document), 0))?
    }

    /// Of the schema of a part of an object.
    pub(super) fn of_part(document: &Value) -> Option<Self> {
        has_any(document, 0).then(|| Self::of(document, &Schema::new(document), 0))?
    }

    fn of(document: &Value, schema: &Arc<Schema>, depth: usize) -> Option<Self> {
        if depth > MAX_DEPTH || !document.is_object() {
            return None;
        }
        let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
        let below = |name: &str| {
            let (inner, schema) = (document.get(name)?, schema.element()?);
            Self::of(inner, schema, depth + 1).map(Box::new)
        };
        let properties = document.get("properties").and_then(Value::as_object).into_iter().flatten();
        let properties = properties.filter_map(|(name, inner)| {
            let rules = Self::of(inner, schema.property(name)?, depth + 1)?;
            Some((name.clone(), rules))
        });
        let listed = document.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
        let keys = listed.filter_map(Value::as_str).filter(|_| text("x-kubernetes-list-type") == "map");
        let made = Self {
            schema: schema.clone(),
            kind: text("type").to_owned(),
            keys: keys.map(str::to_owned).collect(),
            compiled: compile(rules_of(document), schema),
            properties: properties.collect(),
            elements: below("items"),
            additional: below("additionalProperties"),
        };
        let empty = made.compiled.is_empty()
            && made.properties.is_empty()
            && made.elements.is_none()
            && made.additional.is_none();
        (!empty).then_some(made)
    }

    /// All violations of an object; `old` is what it was before. What was wrong before is only told to `warnings`. When the request is over,
    /// that is the last one.
    pub(super) fn validate(
        &self,
        object: &Value,
        old: Option<&Value>,
        warnings: &Warnings,
        deadline: &Deadline,
    ) -> Vec<Cause> {
        let over = || deadline.is_over();
        self.validate_within(object, old, warnings, Budget::new(PER_CALL_LIMIT).with_stop(&over))
    }

    fn validate_within(
        &self,
        object: &Value,
        old: Option<&Value>,
        warnings: &Warnings,
        budget: Budget<'_>,
    ) -> Vec<Cause> {
        let mut walk = Walk { left: RUNTIME_BUDGET, budget, out: Vec::new(), warnings };
        let place = Place { new: object, old, above: None };
        let _ended = walk.at(self, &FieldPath::default(), &place, old);
        let named = |mut cause: Cause| {
            // What Go prints for no path.
            if cause.field == FieldPath::default() {
                cause.field = FieldPath::new("<nil>");
            }
            cause
        };
        walk.out.into_iter().map(named).collect()
    }

    /// All violations of a default, as a value that was there before and as one that was not. `left` is what rules may cost yet.
    pub(super) fn validate_default(&self, at: &FieldPath, default: &Value, left: &mut u64) -> Vec<Cause> {
        let warnings = Warnings::default();
        let (mut least, mut out) = (*left, Vec::new());
        for old in [Some(default), None] {
            let budget = Budget::new(PER_CALL_LIMIT);
            let mut walk = Walk { left: *left, budget, out: Vec::new(), warnings: &warnings };
            // Nothing is spared for being as it was.
            let place = Place { new: default, old: None, above: None };
            let _ended = walk.at(self, at, &place, old);
            (least, out) = (least.min(walk.left), walk.out);
            if !out.is_empty() {
                break;
            }
        }
        *left = least;
        out
    }
}

fn has_any(schema: &Value, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    let below = |name: &str| schema.get(name).is_some_and(|inner| has_any(inner, depth + 1));
    let mut properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    !rules_of(schema).is_empty()
        || below("items")
        || below("additionalProperties")
        || properties.any(|(_, inner)| has_any(inner, depth + 1))
}

/// A value and what it was before, as far as that can be told; and the value around it.
struct Place<'a> {
    new: &'a Value,
    old: Option<&'a Value>,
    above: Option<&'a Place<'a>>,
}

impl Place<'_> {
    /// Whether the value, or the nearest one around it that can be told, is as it was: what was wrong before may stay (ratcheting).
    fn is_unchanged(&self) -> bool {
        match (self.old, self.above) {
            (Some(old), _) => api::semantic::deep_equal(old, self.new),
            (None, Some(above)) => above.is_unchanged(),
            (None, None) => false,
        }
    }
}

/// No further rule runs.
struct Ended;

struct Walk<'w> {
    left: u64,
    /// One for all rules.
    budget: Budget<'w>,
    out: Vec<Cause>,
    warnings: &'w Warnings,
}

impl Walk<'_> {
    /// Adds a violation, or warns of it if it was there before.
    fn add(&mut self, cause: Cause, compiled: &Compiled, place: &Place<'_>) {
        if !compiled.uses_old && place.is_unchanged() {
            self.warnings.add(cause.to_string());
        } else {
            self.out.push(cause);
        }
    }

    /// Validates a value and what is below. `before` is the old value for `oldSelf`.
    fn at(&mut self, rules: &Rules, at: &FieldPath, place: &Place<'_>, before: Option<&Value>) -> Result<(), Ended> {
        if place.new.is_null() {
            return Ok(());
        }
        self.rules(rules, at, place, before.filter(|old| !old.is_null()))?;
        match place.new {
            Value::Object(map) => {
                let old = before.and_then(Value::as_object);
                for (name, value) in map {
                    let was = old.and_then(|old| old.get(name));
                    let inner = Place { new: value, old: place.old.and_then(|old| old.get(name)), above: Some(place) };
                    if let Some(rules) = &rules.additional {
                        self.at(rules, &at.key(name), &inner, was)?;
                    }
                    if let Some(rules) = rules.properties.get(name) {
                        self.at(rules, &at.child(name), &inner, was)?;
                    }
                }
            }
            Value::Array(list) => {
                let Some(elements) = &rules.elements else { return Ok(()) };
                let index = |old: Option<&Value>| {
                    let old = old.and_then(Value::as_array).into_iter().flatten();
                    let keyed: BTreeMap<String, Value> =
                        old.filter_map(|one| Some((rules.key(one)?, one.clone()))).collect();
                    keyed
                };
                let (was, correlated) = (index(before), index(place.old));
                for (at_index, value) in list.iter().enumerate() {
                    let key = rules.key(value);
                    let found = |all: &'_ BTreeMap<String, Value>| key.as_ref().and_then(|key| all.get(key)).cloned();
                    let (was, old) = (found(&was), found(&correlated));
                    let inner = Place { new: value, old: old.as_ref(), above: Some(place) };
                    self.at(elements, &at.index(at_index), &inner, was.as_ref())?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rules(&mut self, rules: &Rules, at: &FieldPath, place: &Place<'_>, old: Option<&Value>) -> Result<(), Ended> {
        if rules.compiled.is_empty() {
            return Ok(());
        }
        let kind = json!(rules.kind);
        let value = match Cel::typed(place.new, &rules.schema) {
            Ok(value) => value,
            Err(error) => {
                // Each rule that looks at the value fails with it.
                let fails = |compiled: &&Compiled| match &compiled.program {
                    Ok(Some(program)) => program.uses("self"),
                    Ok(None) | Err(_) => false,
                };
                for compiled in rules.compiled.iter().filter(fails) {
                    let text = format!("{error} evaluating rule: {}", compiled.rule.shown());
                    self.out.push(Cause::invalid(at, &kind, &text));
                }
                return Ok(());
            }
        };
        let before = old.and_then(|old| Cel::typed(old, &rules.schema).ok());
        for compiled in &rules.compiled {
            self.rule(compiled, (at, &kind), place, (&value, before.as_ref()))?;
        }
        Ok(())
    }

    fn rule(
        &mut self,
        compiled: &Compiled,
        (at, kind): (&FieldPath, &Value),
        place: &Place<'_>,
        (value, before): (&Cel<'_>, Option<&Cel<'_>>),
    ) -> Result<(), Ended> {
        let rule = &compiled.rule;
        let program = match &compiled.program {
            Ok(Some(program)) => program,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.out.push(Cause::invalid(at, kind, &format!("rule compile error: {error}")));
                return Ok(());
            }
        };
        if compiled.uses_old && before.is_none() && !rule.optional_old {
            return Ok(());
        }
        let mut activation = Activation::new().with("self", value.clone());
        if rule.optional_old {
            activation = activation.with("oldSelf", Cel::optional(before.cloned()));
        } else if let Some(before) = before {
            activation = activation.with("oldSelf", before.clone());
        }
        let result = self.run(program, &activation);
        let end = |walk: &mut Self, text: &str| {
            walk.out.push(Cause::invalid(at, kind, text));
            Err(Ended)
        };
        let shown = rule.shown();
        match result {
            Run::Exhausted => {
                return end(
                    self,
                    "validation failed due to running out of cost budget, no further validation rules will be run",
                );
            }
            Run::Failed(error @ Error::Interrupted) => return end(self, &format!("{error} evaluating rule: {shown}")),
            Run::Failed(error @ Error::Budget) => {
                let why = "no further validation rules will be run due to call cost exceeds limit for rule";
                return end(self, &format!("'{error}': {why}: {shown}"));
            }
            Run::Failed(Error::Eval(error)) => {
                let text = if error.starts_with("no such overload") {
                    let why = "call arguments did not match a supported operator, function or macro signature for rule";
                    format!("'{error}': {why}: {shown}")
                } else {
                    format!("{error} evaluating rule: {shown}")
                };
                self.out.push(Cause::invalid(at, kind, &text));
                return Ok(());
            }
            Run::Done(result) if result.as_bool() == Some(true) => return Ok(()),
            Run::Done(_) => {}
        }
        let field = along(at, &rule.field_path);
        let detail = match self.message(compiled, &activation) {
            Ok(detail) => detail.unwrap_or_else(|| rule.says()),
            Err(text) => {
                self.add(Cause::invalid(&field, kind, &text), compiled, place);
                return Err(Ended);
            }
        };
        let whole = matches!(kind.as_str(), Some("object" | "array"));
        self.add(violation(&field, place.new, whole, &detail, &rule.reason), compiled, place);
        Ok(())
    }

    fn run<'a>(&mut self, program: &Program, activation: &Activation<'a>) -> Run<'a> {
        if self.left == 0 {
            return Run::Exhausted;
        }
        self.budget.renew(PER_CALL_LIMIT);
        let result = program.eval(activation, &mut self.budget);
        let used = self.budget.used();
        if used > self.left {
            self.left = 0;
            return Run::Exhausted;
        }
        self.left -= used;
        result.map_or_else(Run::Failed, Run::Done)
    }

    /// What the message expression says; nothing if there is none or it says nothing of use.
    fn message(&mut self, compiled: &Compiled, activation: &Activation<'_>) -> Result<Option<String>, String> {
        let Ok(Some(program)) = &compiled.message else { return Ok(None) };
        let text = &compiled.rule.message_expression;
        match self.run(program, activation) {
            Run::Exhausted => Err(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned(),
            ),
            Run::Failed(Error::Budget) => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {text:?}"
            )),
            Run::Failed(error) => {
                tracing::debug!(%error, "a messageExpression failed");
                Ok(None)
            }
            Run::Done(value) => {
                let said = value.as_str().unwrap_or_default().trim();
                let useful = !said.is_empty() && said.len() <= MAX_MESSAGE && !said.contains('\n');
                Ok(useful.then(|| said.to_owned()))
            }
        }
    }
}

enum Run<'a> {
    Done(Cel<'a>),
    Failed(Error),
    /// All rules together have used up what the object may cost.
    Exhausted,
}

impl Rules {
    /// What tells an element of the list from the others.
    fn key(&self, element: &Value) -> Option<String> {
        if self.keys.is_empty() {
            return None;
        }
        let values = self.keys.iter().map(|key| element.get(key).unwrap_or(&Value::Null));
        Some(values.map(Value::to_string).collect::<Vec<_>>().join(","))
    }
}

/// The field at a `fieldPath`, such as `.spec.size`.
fn along(at: &FieldPath, path: &str) -> FieldPath {
    let mut field = at.clone();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("['") {
            let end = after.find("']").unwrap_or(after.len());
            field = field.child(after.get(..end).unwrap_or_default());
            rest = after.get(end + 2..).unwrap_or_default();
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let end = after.find(['.', '[']).unwrap_or(after.len());
            field = field.child(after.get(..end).unwrap_or_default());
            rest = after.get(end..).unwrap_or_default();
            if end == 0 {
                break;
            }
        }
    }
    field
}

fn violation(field: &FieldPath, value: &Value, whole: bool, detail: &str, reason: &str) -> Cause {
    match (reason, whole) {
        ("FieldValueForbidden", _) => Cause::forbidden(field, detail),
        ("FieldValueRequired", _) => Cause::required(field, detail),
        ("FieldValueDuplicate", false) => Cause::duplicate(field, value),
        ("FieldValueDuplicate", true) => {
            Cause { kind: CauseKind::Duplicate, field: field.clone(), message: "Duplicate value".to_owned() }
        }
        (_, true) => Cause::invalid_unshown(field, detail),
        (_, false) => Cause::invalid(field, value, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn said(schema: &Value, object: &Value, old: Option<&Value>) -> String {
        said_until(schema, object, old, &Deadline::default())
    }

    fn said_until(schema: &Value, object: &Value, old: Option<&Value>, deadline: &Deadline) -> String {
        let rules = Rules::new(schema).expect("it has rules");
        let warnings = Warnings::default();
        let causes = rules.validate(object, old, &warnings, deadline);
        let mut out: String = causes.iter().map(|cause| format!("{cause}\n")).collect();
        out.extend(warnings.take().iter().map(|warning| format!("warning: {warning}\n")));
        out
    }

    fn schema(spec: Value) -> Value {
        json!({"type": "object", "properties": {"spec": spec}})
    }

    #[test]
    fn rules_end_with_their_request() {
        let rule = json!([{"rule": "self.all(x, x > 0)"}, {"rule": "false"}]);
        let spec = json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": rule});
        let object = json!({"spec": vec![1; 200]});
        let over = said_until(&schema(spec.clone()), &object, None, &Deadline::after(std::time::Duration::ZERO));
        assert_eq!(over, "spec: Invalid value: \"array\": operation interrupted evaluating rule: self.all(x, x > 0)\n");
        assert_eq!(said(&schema(spec), &object, None), "spec: Invalid value: failed rule: false\n");
    }

    /// One text takes less than an evaluation may, and costs little.
    #[test]
    fn patterns_of_all_elements_are_bounded_together() {
        let rule = "!self.matches('(.?a){300}y')";
        let items = json!({"type": "string", "x-kubernetes-validations": [{"rule": rule}]});
        let spec = json!({"type": "array", "items": items});
        let rules = Rules::new(&schema(spec)).expect("it has rules");
        let said = |count: usize| {
            let object = json!({"spec": vec!["a".repeat(1000); count]});
            let budget = Budget::new(PER_CALL_LIMIT).with_work(1_000_000);
            let causes = rules.validate_within(&object, None, &Warnings::default(), budget);
            causes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(said(4), [""; 0]);
        let why = format!(
            "'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for \
             rule: {rule}"
        );
        let many = said(100);
        assert!(many.len() == 1 && many.concat().ends_with(&why), "{many:?}");
    }

    #[test]
    fn a_violation_says_what_its_rule_says() {
        let spec = json!({"type": "object", "x-kubernetes-validations": [
                {"rule": "self.min <= self.max"},
                {"rule": "self.min > 0", "message": " min is positive ", "fieldPath": ".min", "reason": "FieldValueForbidden"},
                {"rule": "self.max < 10", "messageExpression": "'max is ' + string(self.max)"},
                {"rule": "self.names[5] == 'x'"},
                {"rule": "has(self.none)", "reason": "FieldValueRequired", "fieldPath": ".none"}],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer", "x-kubernetes-validations": [{"rule": "self != 20"}]},
                "names": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}},
                "none": {"type": "string"},
                "map": {"type": "object", "additionalProperties": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]}}}});
        let object = json!({"spec": {"min": 0, "max": 20, "names": ["ab", "b"], "map": {"k": 0}}});
        expect![[r#"
            spec.min: Forbidden: min is positive
            spec: Invalid value: max is 20
            spec: Invalid value: "object": index out of bounds: 5 evaluating rule: self.names[5] == 'x'
            spec.none: Required value: failed rule: has(self.none)
            spec.map[k]: Invalid value: 0: failed rule: self > 0
            spec.max: Invalid value: 20: failed rule: self != 20
            spec.names[1]: Invalid value: "b": failed rule: self.startsWith('a')
        "#]]
        .assert_eq(&said(&schema(spec), &object, None));
    }

    #[test]
    fn a_rule_of_transitions_runs_where_there_is_an_old_value() {
        let spec = json!({"type": "object", "properties": {
            "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]},
            "m": {"type": "integer", "x-kubernetes-validations": [{"rule": "oldSelf.hasValue() || self == 1", "optionalOldSelf": true}]},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object",
                "properties": {"k": {"type": "string"}, "v": {"type": "integer", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}}}});
        let schema = schema(spec);
        let object = |n: i64, m: i64, v: i64| json!({"spec": {"n": n, "m": m, "list": [{"k": "b", "v": 9}, {"k": "a", "v": v}]}});
        let old = json!({"spec": {"n": 2, "m": 1, "list": [{"k": "a", "v": 3}]}});
        assert_eq!(said(&schema, &object(1, 1, 3), None), "");
        expect![[r#"
            spec.m: Invalid value: 2: failed rule: oldSelf.hasValue() || self == 1
        "#]]
        .assert_eq(&said(&schema, &object(1, 2, 3), None));
        expect![[r#"
            spec.list[1].v: Invalid value: 4: failed rule: self == oldSelf
            spec.n: Invalid value: 1: failed rule: self >= oldSelf
        "#]]
        .assert_eq(&said(&schema, &object(1, 2, 4), Some(&old)));
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let schema = schema(json!({"type": "object", "properties": {
            "a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 5"}]}, "b": {"type": "integer"}}}));
        let object = |a: i64, b: i64| json!({"spec": {"a": a, "b": b}});
        assert_eq!(
            said(&schema, &object(1, 2), Some(&object(1, 1))),
            "warning: spec.a: Invalid value: 1: failed rule: self > 5\n"
        );
        assert_ne!(said(&schema, &object(2, 1), Some(&object(1, 1))), "");
    }

    #[test]
    fn an_expensive_rule_ends_all() {
        let all = (0..2_000).map(|n| json!(n)).collect::<Vec<_>>();
        let schema = schema(json!({"type": "object", "x-kubernetes-validations": [
            {"rule": "self.l.all(x, self.l.all(y, x + y >= 0))"}, {"rule": "false"}],
            "properties": {"l": {"type": "array", "items": {"type": "integer"}}}}));
        expect![[r#"
            spec: Invalid value: "object": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: self.l.all(x, self.l.all(y, x + y >= 0))
        "#]]
        .assert_eq(&said(&schema, &json!({"spec": {"l": all}}), None));
    }

    #[test]
    fn a_schema_without_rules_costs_nothing() {
        assert!(Rules::new(&schema(json!({"type": "object"}))).is_none());
    }
}
