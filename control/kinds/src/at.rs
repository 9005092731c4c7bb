//! A cursor into a JSON object that knows its path, so that validation errors name their field.
//!
//! `null` and a value of the wrong type read as absent: the schema check has reported them before.

use api::{Cause, FieldPath, Object, schema::Schema};
use serde_json::Value;

/// The deepest path that any rule reads, plus that of kinds that contain a pod template twice as deep.
const DEPTH: usize = 18;

static NULL: Value = Value::Null;

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

/// A position in an object. A copy allocates nothing; only an error formats the path.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    steps: [Step<'a>; DEPTH],
    len: usize,
    value: &'a Value,
}

impl<'a> At<'a> {
    /// The top-level field `name` of an object.
    pub(crate) fn of(object: &'a Object, name: &'a str) -> Self {
        Self::root(object.0.get(name).unwrap_or(&NULL)).step(Step::Field(name), object.0.get(name))
    }

    /// A value with an empty path.
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { steps: [Step::Index(0); DEPTH], len: 0, value }
    }

    // Not by value: rustc 1.95 then gives two places that are compared one memory (DestinationPropagation of an optimised build), and a rule
    // that a field may not change never holds.
    fn step(&self, step: Step<'a>, value: Option<&'a Value>) -> Self {
        let mut next = *self;
        if next.len < DEPTH {
            next.steps[next.len] = step;
            next.len += 1;
        }
        next.value = value.unwrap_or(&NULL);
        next
    }

    /// A field of this object.
    pub(crate) fn get(&self, name: &'a str) -> Self {
        let value = self.value.get(name);
        self.step(Step::Field(name), value)
    }

    /// A field further down.
    pub(crate) fn down(&self, names: &[&'a str]) -> Self {
        names.iter().fold(*self, |at, name| at.get(name))
    }

    /// An entry of this map.
    pub(crate) fn key(&self, name: &'a str) -> Self {
        let value = self.value.get(name);
        self.step(Step::Key(name), value)
    }

    /// An element of this list.
    pub(crate) fn index(&self, index: usize) -> Self {
        let value = self.value.get(index);
        self.step(Step::Index(index), value)
    }

    /// The elements of this list.
    pub(crate) fn items(self) -> impl ExactSizeIterator<Item = At<'a>> + DoubleEndedIterator + Clone {
        let list: &'a [Value] = self.value.as_array().map_or(&[], Vec::as_slice);
        list.iter().enumerate().map(move |(i, value)| self.step(Step::Index(i), Some(value)))
    }

    /// The entries of this map.
    pub(crate) fn entries(self) -> impl Iterator<Item = (&'a str, At<'a>)> {
        self.value.as_object().into_iter().flatten().map(move |(k, v)| (k.as_str(), self.step(Step::Key(k), Some(v))))
    }

    /// The same path with another value, for errors.
    pub(crate) fn with(mut self, value: &'a Value) -> Self {
        self.value = value;
        self
    }

    /// The value, `null` when absent.
    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    /// Whether the value is present and not `null`.
    pub(crate) fn is_set(self) -> bool {
        !self.value.is_null()
    }

    /// Whether the value is absent, or an empty string, list or map.
    pub(crate) fn is_empty(self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// The number of elements or entries.
    pub(crate) fn len(self) -> usize {
        match self.value {
            Value::Array(a) => a.len(),
            Value::Object(o) => o.len(),
            _ => 0,
        }
    }

    /// The string, empty when absent.
    pub(crate) fn str(self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The integer.
    pub(crate) fn int(self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The boolean, false when absent.
    pub(crate) fn bool(self) -> bool {
        self.value.as_bool().unwrap_or(false)
    }

    /// The names of the fields on the path from `root` to here, without list indexes.
    pub(crate) fn names_below(&self, root: At<'_>) -> impl Iterator<Item = &'a str> {
        self.steps[root.len.min(self.len)..self.len].iter().filter_map(|step| match step {
            Step::Field(name) | Step::Key(name) => Some(*name),
            Step::Index(_) => None,
        })
    }

    /// The path as errors print it.
    pub(crate) fn field(self) -> FieldPath {
        self.steps[..self.len].iter().fold(FieldPath::default(), |path, step| match step {
            Step::Field(name) => path.child(name),
            Step::Index(index) => path.index(*index),
            Step::Key(name) => path.key(name),
        })
    }

    /// `Required value`, with a detail if there is one.
    pub(crate) fn required(self, detail: &str) -> Cause {
        Cause::required(&self.field(), detail)
    }

    /// `Invalid value: <value>: detail`.
    pub(crate) fn invalid(self, detail: &str) -> Cause {
        Cause::invalid(&self.field(), self.value, detail)
    }

    /// The value as upstream prints its Go type, which `definition` (`io.k8s.api.core.v1.Taint`) describes; of a list, each element.
    pub(crate) fn printed(self, definition: &str) -> String {
        let Some(schema) = Schema::named(definition) else { return self.value.to_string() };
        match self.value {
            Value::Array(list) => {
                let each: Vec<_> = list.iter().map(|one| schema.internal_form(one)).collect();
                format!("[{}]", each.join(","))
            }
            one => schema.internal_form(one),
        }
    }

    /// The same path with an empty string for an absent value, as upstream shows an absent string.
    pub(crate) fn or_empty(self) -> Self {
        static EMPTY: Value = Value::String(String::new());
        if self.is_set() { self } else { self.with(&EMPTY) }
    }

    /// `Invalid value` of a string, once for each message.
    pub(crate) fn invalid_all(self, details: Vec<String>, out: &mut Vec<Cause>) {
        out.extend(details.iter().map(|detail| self.or_empty().invalid(detail)));
    }

    /// `Unsupported value`.
    pub(crate) fn not_supported(self, supported: &[&str]) -> Cause {
        Cause::not_supported(&self.field(), self.value, supported)
    }

    /// `Forbidden: detail`.
    pub(crate) fn forbidden(self, detail: &str) -> Cause {
        Cause::forbidden(&self.field(), detail)
    }

    /// `Duplicate value`.
    pub(crate) fn duplicate(self) -> Cause {
        Cause::duplicate(&self.field(), self.value)
    }

    /// `Not found`.
    pub(crate) fn not_found(self) -> Cause {
        Cause::not_found(&self.field(), self.value)
    }

    /// A required choice: `Required value`, or `Unsupported value` when it is none of `supported`.
    pub(crate) fn one_of(self, supported: &[&str], out: &mut Vec<Cause>) {
        if self.str().is_empty() {
            out.push(self.required(""));
        } else if !supported.contains(&self.str()) {
            out.push(self.not_supported(supported));
        }
    }

    /// `Invalid value` unless the integer, where present, is at least 0.
    pub(crate) fn not_negative(self, out: &mut Vec<Cause>) {
        if self.int().is_some_and(|n| n < 0) {
            out.push(self.invalid(NOT_NEGATIVE));
        }
    }

    /// `Invalid value: …: field is immutable` when it differs from the old value.
    pub(crate) fn immutable(self, old: At<'_>, out: &mut Vec<Cause>) {
        if !super::edit::deep_equal(self.value, old.value) {
            out.push(Cause::immutable(&self.field(), self.value));
        }
    }
}

/// Upstream's message for a negative number.
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_place_knows_its_path_and_reads_null_as_absent() {
        let object =
            Object::from_value(json!({"spec": {"containers": [{"name": "a"}, {"name": null}], "m": {"k": "v"}}}))
                .unwrap();
        let spec = At::of(&object, "spec");
        let second = spec.get("containers").items().nth(1).unwrap().get("name");
        assert_eq!(second.field().to_string(), "spec.containers[1].name");
        assert!(!second.is_set());
        assert_eq!(second.required("").to_string(), "spec.containers[1].name: Required value");
        let (key, value) = spec.get("m").entries().next().unwrap();
        assert_eq!((key, value.str(), value.field().to_string()), ("k", "v", "spec.m[k]".to_owned()));
        assert!(spec.get("none").get("deeper").items().next().is_none());
    }
}
