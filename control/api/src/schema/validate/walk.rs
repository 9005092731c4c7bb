//! Checks a value against a schema, in upstream's order, with upstream's choice of which alternative to report.

use super::{
    node::{Additional, ListRules, Logic, Node, ObjectRules, TextRules},
    numbers::{self, Parsed},
    ratchet,
    report::{Report, Spent},
};
use crate::{CauseKind, FieldPath};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// What is known of a value before a part of the schema.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    pub valid: bool,
    /// Upstream's count of what was checked, by which it chooses the alternative that fits best.
    matches: u64,
}

impl Outcome {
    const fn new(valid: bool, matches: u64) -> Self {
        Self { valid, matches }
    }

    fn add(&mut self, other: Self) {
        self.valid &= other.valid;
        self.matches += other.matches;
    }
}

/// See [`super::Validator::validate`].
pub(super) fn validate(at: &FieldPath, node: &Node, new: &Value, old: Option<&Value>) -> Vec<crate::Cause> {
    let mut walk = Walk { report: Report::new(at) };
    // An object that is right by itself needs no old one, which takes an index of each of its lists.
    if old.is_some() {
        let outcome = walk.quietly(node, new);
        if outcome.valid || walk.report.is_spent() {
            return walk.report.into_causes(outcome.valid);
        }
    }
    let mut walk = Walk { report: Report::new(at) };
    let outcome = walk.value(node, new, old);
    walk.report.into_causes(outcome.valid)
}

struct Walk<'a> {
    report: Report<'a>,
}

/// Go's name of the type and the format of a value.
fn kind_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(number) if number.is_i64() => ("integer", "int64"),
        Value::Number(_) => ("number", "float64"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

impl Walk<'_> {
    /// With an old value to which this one belongs: if they are equal, it is valid.
    fn value(&mut self, node: &Node, new: &Value, old: Option<&Value>) -> Outcome {
        let mark = self.report.mark();
        let mut outcome = self.check(node, new, old);
        if !outcome.valid && old.is_some_and(|old| ratchet::is_same(node, new, old)) {
            self.report.forget(mark);
            outcome.valid = true;
        }
        outcome
    }

    fn check(&mut self, node: &Node, value: &Value, old: Option<&Value>) -> Outcome {
        if !self.report.spend(1 + node.properties.len() / 4 + node.choices.len() / 4) {
            return Outcome::new(false, 0);
        }
        if value.is_null() {
            let mut outcome = self.types(node, value);
            outcome.valid &= self.choice(node, value);
            return outcome;
        }
        // The last one is that of the schema itself.
        let mut outcome = Outcome::new(true, 1);
        if !node.types.is_empty() || !node.format.is_empty() {
            outcome.add(self.types(node, value));
            outcome.matches += 1;
        }
        if let Some(logic) = &node.logic {
            outcome.add(self.logic(logic, value));
        }
        outcome.matches += 2;
        match value {
            Value::String(text) => {
                outcome.add(Outcome::new(self.text(node.text.as_deref(), text), 1));
                if let Some(check) = node.check {
                    outcome.add(Outcome::new(self.format(node, check, text), 1));
                }
            }
            Value::Number(number) => {
                let valid = numbers::check(&mut self.report, node.number.as_deref(), node.range, number);
                outcome.add(Outcome::new(valid, 2));
            }
            Value::Array(list) => {
                outcome.add(self.list(node, list, old));
                outcome.matches += 2;
            }
            _ => {}
        }
        outcome.add(Outcome::new(self.choice(node, value), 1));
        if let Value::Object(map) = value {
            outcome.add(self.object(node, map, old));
            outcome.matches += 1;
        }
        outcome
    }

    fn types(&mut self, node: &Node, value: &Value) -> Outcome {
        let (kind, format) = kind_of(value);
        let wanted = &node.types;
        if value.is_null() {
            let valid = wanted.is_empty() || node.nullable || node.has_type("null");
            if !valid {
                let rest = format_args!("must be of type {wanted}: \"null\"");
                self.report.wrong(CauseKind::TypeInvalid, &json!("null"), rest);
            }
            return Outcome::new(valid, u64::from(valid));
        }
        let whole = match value {
            Value::Number(number) => match Parsed::of(number) {
                Parsed::Int(_) => node.has_type("number"),
                Parsed::Float(x) => node.has_type("integer") && numbers::is_whole(x),
            },
            _ => false,
        };
        let fits = whole || node.has_type(kind);
        if !node.format.is_empty() {
            if matches!(value, Value::String(_) | Value::Array(_)) {
                if !node.has_type("number") && !node.has_type("integer") {
                    return Outcome::new(true, 1);
                }
            } else if !fits && *node.format != *format {
                let rest = format_args!("must be of type {}: {format:?}", node.format);
                self.report.wrong(CauseKind::TypeInvalid, &json!(format), rest);
                return Outcome::new(false, 0);
            }
        }
        if !fits {
            let rest = format_args!("must be of type {wanted}: {kind:?}");
            self.report.wrong(CauseKind::TypeInvalid, &json!(kind), rest);
        }
        Outcome::new(fits, u64::from(fits))
    }

    fn choice(&mut self, node: &Node, value: &Value) -> bool {
        let valid = node.choices.is_empty() || node.choices.iter().any(|choice| is_choice(choice, value));
        if !valid {
            self.report.unsupported(value, &node.choices);
        }
        valid
    }

    /// Only the first failure of a string counts.
    fn text(&mut self, rules: Option<&TextRules>, text: &str) -> bool {
        let Some(rules) = rules else { return true };
        if !self.report.spend(text.len() / 64) {
            return false;
        }
        if rules.most.is_some() || rules.least.is_some() {
            let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
            if let Some(most) = rules.most.filter(|most| length > *most) {
                self.report.too_long(most);
                return false;
            }
            if let Some(least) = rules.least.filter(|least| length < *least) {
                let rest = format_args!("should be at least {least} chars long");
                self.report.wrong(CauseKind::Invalid, &json!(text), rest);
                return false;
            }
        }
        let Some(pattern) = &rules.pattern else { return true };
        if !self.report.spend(text.len() / 8) {
            return false;
        }
        let problem = match pattern.matches(text, &mut self.report) {
            Ok(Ok(true)) => return true,
            Ok(Ok(false)) => String::new(),
            Ok(Err(problem)) => format!(", but pattern is invalid: {problem}"),
            Err(Spent) => return false,
        };
        if self.report.listens() {
            let rest = format_args!("should match '{}{problem}'", pattern.text());
            self.report.wrong(CauseKind::Invalid, &json!(text), rest);
        }
        false
    }

    fn format(&mut self, node: &Node, check: super::formats::Check, text: &str) -> bool {
        let valid = self.report.spend(text.len() / 16) && check(text);
        if !valid && self.report.listens() {
            let rest = format_args!("must be of type {}: {}", node.format, crate::show::quoted(text));
            self.report.wrong(CauseKind::TypeInvalid, &json!(text), rest);
        }
        valid
    }

    fn list(&mut self, node: &Node, list: &[Value], old: Option<&Value>) -> Outcome {
        let mut outcome = Outcome::new(true, 0);
        if let Some(items) = &node.items {
            let index = ratchet::Index::new(node, old);
            for (at, item) in list.iter().enumerate() {
                let mark = self.report.enter_element(at);
                let was = index.as_ref().and_then(|index| index.get(item));
                outcome.add(self.value(items, item, was));
                self.report.leave(mark);
            }
        }
        if let Some(rules) = &node.list {
            outcome.valid &= self.list_rules(rules, list);
        }
        outcome
    }

    fn list_rules(&mut self, rules: &ListRules, list: &[Value]) -> bool {
        let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
        let mut valid = true;
        if let Some(least) = rules.least.filter(|least| length < *least) {
            valid = false;
            let rest = format_args!("should have at least {least} items");
            self.report.wrong(CauseKind::Invalid, &json!(length), rest);
        }
        if let Some(most) = rules.most.filter(|most| length > *most) {
            valid = false;
            self.report.too_many(list.len(), most);
        }
        if rules.unique && !self.is_unique(list) {
            valid = false;
            self.report.wrong(CauseKind::Invalid, &json!(""), format_args!("shouldn't contain duplicates"));
        }
        valid
    }

    fn is_unique(&mut self, list: &[Value]) -> bool {
        let mut seen = HashSet::new();
        list.iter().all(|item| {
            let text = item.to_string();
            self.report.spend(1 + text.len() / 16) && seen.insert(text)
        })
    }

    fn object(&mut self, node: &Node, map: &Map<String, Value>, old: Option<&Value>) -> Outcome {
        let rules = node.object.as_deref();
        self.report.spend(rules.map_or(0, |rules| rules.required.len() / 4) + map.len() / 4);
        let mut outcome = Outcome::new(rules.is_none_or(|rules| self.object_size(rules, map.len())), 0);
        match &node.additional {
            Additional::Forbidden => {
                for key in map.keys().filter(|key| node.property(key).is_none()) {
                    outcome.valid = false;
                    self.report.forbidden_key(key);
                }
            }
            Additional::Schema(entry) => {
                for (key, value) in map.iter().filter(|(key, _)| node.property(key).is_none()) {
                    self.report.spend(key.len() / 64);
                    let was = self.old_field(node, old, key);
                    let mark = self.report.enter_entry(key);
                    outcome.add(self.value(entry, value, was));
                    self.report.leave(mark);
                }
            }
            Additional::Allowed | Additional::Unsaid => {}
        }
        for (name, property) in &node.properties {
            if let Some(value) = map.get(&**name) {
                let was = self.old_field(node, old, name);
                let mark = self.report.enter_field(name);
                outcome.add(self.value(property, value, was));
                self.report.leave(mark);
            }
        }
        for name in rules.iter().flat_map(|rules| &rules.required).filter(|name| !map.contains_key(&***name)) {
            outcome.valid = false;
            self.report.missing(name);
        }
        outcome
    }

    /// Changes of the type of an object cannot be seen here, so that it is always checked.
    fn old_field<'o>(&self, node: &Node, old: Option<&'o Value>, name: &str) -> Option<&'o Value> {
        let typed = self.report.is_at_root() && matches!(name, "apiVersion" | "kind");
        if typed { None } else { ratchet::field(node, old, name) }
    }

    fn object_size(&mut self, rules: &ObjectRules, size: usize) -> bool {
        let count = i64::try_from(size).unwrap_or(i64::MAX);
        let mut valid = true;
        if let Some(least) = rules.least.filter(|least| count < *least) {
            valid = false;
            let rest = format_args!("should have at least {least} properties");
            self.report.wrong(CauseKind::Invalid, &json!(count), rest);
        }
        if let Some(most) = rules.most.filter(|most| count > *most) {
            valid = false;
            self.report.too_many(size, most);
        }
        valid
    }

    /// Within alternatives nothing is matched with the old object.
    fn logic(&mut self, logic: &Logic, value: &Value) -> Outcome {
        let mut outcome = Outcome::new(true, 0);
        if !logic.any_of.is_empty() {
            outcome.add(self.any_of(&logic.any_of, value));
        }
        if !logic.one_of.is_empty() {
            outcome.add(self.one_of(&logic.one_of, value));
        }
        if !logic.all_of.is_empty() {
            outcome.add(self.all_of(&logic.all_of, value));
        }
        if logic.not.as_ref().is_some_and(|not| self.quietly(not, value).valid) {
            outcome.valid = false;
            self.whole("must not validate the schema (not)");
        }
        outcome
    }

    fn quietly(&mut self, node: &Node, value: &Value) -> Outcome {
        self.report.hush();
        let outcome = self.check(node, value, None);
        self.report.speak();
        outcome
    }

    /// Reports what is wrong with the alternative that fits best.
    fn explain(&mut self, best: Option<(&Node, u64)>, value: &Value) -> u64 {
        let Some((node, matches)) = best else { return 0 };
        if !self.report.is_quiet() {
            self.check(node, value, None);
        }
        matches
    }

    fn whole(&mut self, what: &str) {
        if self.report.listens() {
            let text = format!("{} {what}", crate::show::quoted(self.report.path()));
            self.report.anywhere(&text);
        }
    }

    fn any_of(&mut self, branches: &[Node], value: &Value) -> Outcome {
        let mut best = None;
        for branch in branches {
            let outcome = self.quietly(branch, value);
            if outcome.valid {
                return outcome;
            }
            better(&mut best, branch, outcome);
        }
        self.whole("must validate at least one schema (anyOf)");
        Outcome::new(false, self.explain(best, value))
    }

    fn one_of(&mut self, branches: &[Node], value: &Value) -> Outcome {
        let (mut best, mut first, mut count) = (None, None, 0);
        for branch in branches {
            let outcome = self.quietly(branch, value);
            if outcome.valid {
                count += 1;
                first = first.or(Some(outcome));
            } else if count == 0 {
                better(&mut best, branch, outcome);
            }
        }
        match (first, count) {
            (Some(first), 1) => first,
            (None, _) => {
                self.whole("must validate one and only one schema (oneOf). Found none valid");
                Outcome::new(false, self.explain(best, value))
            }
            _ => {
                let text = format!("must validate one and only one schema (oneOf). Found {count} valid alternatives");
                self.whole(&text);
                Outcome::new(false, 0)
            }
        }
    }

    fn all_of(&mut self, branches: &[Node], value: &Value) -> Outcome {
        let mut outcome = Outcome::new(true, 0);
        let mut count = 0;
        for branch in branches {
            let one = self.check(branch, value, None);
            count += usize::from(one.valid);
            outcome.add(one);
        }
        match count {
            _ if outcome.valid => {}
            0 => self.whole("must validate all the schemas (allOf). None validated"),
            _ => self.whole("must validate all the schemas (allOf)"),
        }
        outcome
    }
}

fn better<'n>(best: &mut Option<(&'n Node, u64)>, branch: &'n Node, outcome: Outcome) {
    if best.is_none_or(|(_, matches)| outcome.matches > matches) {
        *best = Some((branch, outcome.matches));
    }
}

/// Whether a value is equal to one of an enumeration, after Go's conversion to its type. Null never is.
fn is_choice(choice: &Value, value: &Value) -> bool {
    match (choice, value) {
        (Value::Null, _) => false,
        (Value::Number(a), Value::Number(b)) => match (Parsed::of(a), Parsed::of(b)) {
            (Parsed::Int(a), Parsed::Float(b)) => numbers::truncated(b) == a,
            #[allow(clippy::cast_precision_loss, reason = "as Go's")]
            (Parsed::Float(a), Parsed::Int(b)) => a.total_cmp(&(b as f64)).is_eq(),
            _ => a == b,
        },
        // Go makes a string of a code point.
        (Value::String(a), Value::Number(b)) => b.as_i64().is_some_and(|code| {
            let c = u32::try_from(code).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
            let mut chars = a.chars();
            chars.next() == Some(c) && chars.as_str().is_empty()
        }),
        _ => choice == value,
    }
}
