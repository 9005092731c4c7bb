//! Validates the defaults of a schema: they are valid themselves, have no unknown fields, and those within metadata make right metadata.
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#defaulting>.

use super::{
    embedded,
    node::{Node, Reading},
    prune, walk,
};
use crate::{Cause, FieldPath, show};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// What else is asked of a default that is valid so far: its field, its schema and its value.
pub(super) type Rules<'a> = &'a mut dyn FnMut(&FieldPath, &Value, &Value) -> Vec<Cause>;

/// How deep a schema may nest.
const MAX_DEPTH: usize = 128;
/// Most causes.
const MAX_CAUSES: usize = 1000;

/// See [`super::validate_defaults`].
pub(super) fn validate(at: &FieldPath, schema: &Value, rules: Rules<'_>) -> Vec<Cause> {
    let mut walk = Walk { rules, causes: Vec::new() };
    walk.place(at, schema, &Surroundings { root: schema, way: Vec::new() }, false, 0);
    walk.causes
}

/// One step from an object to the place of a default in it.
#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Element,
}

/// The object in which a default stands, and where.
struct Surroundings<'a> {
    root: &'a Value,
    way: Vec<Step<'a>>,
}

impl<'a> Surroundings<'a> {
    fn with(&self, step: Step<'a>) -> Self {
        Self { root: self.root, way: self.way.iter().copied().chain([step]).collect() }
    }

    /// An object that has the default at its place, and nothing else.
    fn object(&self, default: &Value) -> Value {
        let mut value = default.clone();
        for step in self.way.iter().rev() {
            value = match step {
                Step::Field(name) => Value::Object(Map::from_iter([((*name).to_owned(), value)])),
                Step::Element => json!([value]),
            };
        }
        if let Value::Object(map) = &mut value {
            map.entry("kind").or_insert_with(|| json!("Validation"));
            map.entry("apiVersion").or_insert_with(|| json!("validation/v1"));
        }
        value
    }
}

struct Walk<'r> {
    rules: Rules<'r>,
    causes: Vec<Cause>,
}

impl Walk<'_> {
    /// `meta`: the place is within the type or the metadata of an object.
    fn place(&mut self, at: &FieldPath, schema: &Value, around: &Surroundings<'_>, meta: bool, depth: usize) {
        if depth > MAX_DEPTH || self.causes.len() >= MAX_CAUSES {
            return;
        }
        let flagged = schema.get("x-kubernetes-embedded-resource").and_then(Value::as_bool).unwrap_or_default();
        let whole = flagged || depth == 0;
        let own = Surroundings { root: schema, way: Vec::new() };
        let (around, meta) = if whole { (&own, false) } else { (around, meta) };
        if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
            let found = self.default(&at.child("default"), schema, default, meta.then_some(around), whole);
            self.causes.extend(found);
        }
        if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
            self.place(&at.child("items"), items, &around.with(Step::Element), meta, depth + 1);
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let meta = meta || (whole && matches!(name.as_str(), "metadata" | "apiVersion" | "kind"));
            let at = at.child("properties").key(name);
            self.place(&at, property, &around.with(Step::Field(name)), meta, depth + 1);
        }
    }

    fn default(
        &mut self,
        at: &FieldPath,
        schema: &Value,
        default: &Value,
        around: Option<&Surroundings<'_>>,
        whole: bool,
    ) -> Vec<Cause> {
        let Ok(node) = Node::compile(schema, Reading::Defaults) else { return Vec::new() };
        let mut causes = Vec::new();
        let found = match around {
            Some(around) => within_metadata(at, default, around),
            None => {
                let mut pruned = default.clone();
                prune::prune(&node, &mut pruned, whole);
                if pruned != *default {
                    causes.push(Cause::invalid(at, default, "must not have unknown fields"));
                }
                let mut coerced = default.clone();
                match embedded::coerce(at, &node, &mut coerced, whole) {
                    Err(cause) => vec![*cause],
                    Ok(()) => embedded::validate(at, &node, &coerced, whole),
                }
            }
        };
        let mut found = Some(found).filter(|found| !found.is_empty());
        found = found.or_else(|| Some(walk::validate(at, &node, default, None)).filter(|found| !found.is_empty()));
        causes.extend(found.unwrap_or_else(|| (self.rules)(at, schema, default)));
        causes
    }
}

/// The one cause of a default that makes wrong metadata.
fn within_metadata(at: &FieldPath, default: &Value, around: &Surroundings<'_>) -> Vec<Cause> {
    let Ok(root) = Node::compile(around.root, Reading::Defaults) else { return Vec::new() };
    let (nowhere, mut object) = (FieldPath::default(), around.object(default));
    let problem = match embedded::coerce(&nowhere, &root, &mut object, true) {
        Err(cause) => cause.to_string(),
        Ok(()) => {
            let mut seen = HashSet::new();
            let causes = embedded::validate(&nowhere, &root, &object, true);
            let texts: Vec<String> =
                causes.iter().map(ToString::to_string).filter(|t| seen.insert(t.clone())).collect();
            match texts.as_slice() {
                [] => return Vec::new(),
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            }
        }
    };
    let problem = format!("must result in valid metadata: {problem}");
    vec![Cause::invalid(at, default, &show::cut(&problem))]
}
