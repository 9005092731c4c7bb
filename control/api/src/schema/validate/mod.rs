//! Validates the values of custom resources against the `openAPIV3Schema` of their definition, with upstream's causes.
//!
//! A [`Validator`] is a compiled schema. Upstream asks it in this order: [`Validator::validate`] (or [`Validator::validate_update`]), then
//! [`Validator::validate_embedded`], then [`Validator::validate_lists`] (or [`Validator::validate_lists_update`]); then the rules in CEL, unless
//! [`blocks_rules`]. The checks are bounded: at most a thousand causes, and a number of steps that only a schema of very many alternatives or of
//! patterns that are in very many states at once reaches, which is then a cause itself.
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation>.

mod defaults;
mod embedded;
mod formats;
mod lists;
mod node;
mod numbers;
mod pattern;
mod place;
mod prune;
mod ratchet;
mod report;
mod walk;

use crate::{Cause, CauseKind, FieldPath};
use node::{Node, Reading};
pub use pattern::Pattern;
use serde_json::Value;
use std::sync::Arc;

/// A compiled schema. Cheap to clone.
///
/// To compile it costs about as much as to read it: a server of many definitions does it when the first object comes. Regular expressions are
/// compiled when they are used first.
#[derive(Clone, Debug)]
pub struct Validator {
    root: Arc<Node>,
}

impl Validator {
    /// Compiles a schema. Wrong regular expressions are no error here, but causes of the values that they concern, as upstream's; the validation
    /// of the definition refuses them with [`check_pattern`].
    ///
    /// # Errors
    /// The schema nests too deep.
    pub fn new(schema: &Value) -> Result<Self, String> {
        Ok(Self { root: Arc::new(Node::compile(schema, Reading::Objects)?) })
    }

    /// The validator of a declared field, for what is validated by itself, as `status`.
    pub fn field(&self, name: &str) -> Option<Self> {
        self.root.property(name).map(|node| Self { root: node.clone() })
    }

    /// All causes of a new value. `at` is its field, which is empty for a whole object; causes of alternatives are at this field, and for a whole
    /// object at `<nil>`, as upstream's. They are in the order of the checks and, within an object, of the names.
    pub fn validate(&self, at: &FieldPath, value: &Value) -> Vec<Cause> {
        walk::validate(at, &self.root, value, None)
    }

    /// All causes of a changed value. A value that is not changed is valid (ratcheting), if it is clear which value of the old object it was: by
    /// the names of fields, and the keys of `x-kubernetes-list-type: map`.
    pub fn validate_update(&self, at: &FieldPath, new: &Value, old: &Value) -> Vec<Cause> {
        walk::validate(at, &self.root, new, Some(old))
    }

    /// Whether the schema has rules in CEL (`x-kubernetes-validations`), so that [`blocks_rules`] matters.
    pub fn has_rules(&self) -> bool {
        self.root.has_rules
    }

    /// The causes of objects within the object: each has a type, and right metadata if it has any. Unchanged ones are not spared.
    pub fn validate_embedded(&self, at: &FieldPath, value: &Value) -> Vec<Cause> {
        embedded::validate(at, &self.root, value, false)
    }

    /// The duplicates of `x-kubernetes-list-type` `set` and `map`: of each element the second appearance.
    pub fn validate_lists(&self, at: &FieldPath, value: &Value) -> Vec<Cause> {
        lists::validate(at, &self.root, value)
    }

    /// As [`Validator::validate_lists`]; nothing if the old object has duplicates anywhere.
    pub fn validate_lists_update(&self, at: &FieldPath, new: &Value, old: &Value) -> Vec<Cause> {
        let causes = self.validate_lists(at, new);
        if causes.is_empty() || !self.validate_lists(at, old).is_empty() { Vec::new() } else { causes }
    }
}

/// The causes of the defaults of a definition's schema, for a schema that is structural. `at` is the field of the schema.
pub fn validate_defaults(at: &FieldPath, schema: &Value) -> Vec<Cause> {
    validate_defaults_and(at, schema, &mut |_, _, _| Vec::new())
}

/// As [`validate_defaults`]. Of a default that is valid so far, `rules` tells what else is wrong, given its field, its schema and its value: the
/// rules in CEL.
pub fn validate_defaults_and(
    at: &FieldPath,
    schema: &Value,
    rules: &mut dyn FnMut(&FieldPath, &Value, &Value) -> Vec<Cause>,
) -> Vec<Cause> {
    defaults::validate(at, schema, rules)
}

/// Checks a regular expression, which [`Validator`] compiles in the same way.
///
/// # Errors
/// Go's text: ``error parsing regexp: missing closing ]: `[a` ``.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    Pattern::problem(pattern).map_or(Ok(()), Err)
}

/// Whether upstream would not run the rules in CEL because of these causes, and says so with a cause at no field. It asks only if there are
/// rules ([`Validator::has_rules`]).
pub fn blocks_rules(causes: &[Cause]) -> Option<Cause> {
    const BLOCKING: [CauseKind; 5] =
        [CauseKind::NotSupported, CauseKind::Required, CauseKind::TooLong, CauseKind::TooMany, CauseKind::TypeInvalid];
    causes.iter().any(|cause| BLOCKING.contains(&cause.kind)).then(|| {
        let text = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        Cause::invalid(&FieldPath::new("<nil>"), &Value::Null, text)
    })
}

#[cfg(test)]
mod tests;
