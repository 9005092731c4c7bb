use super::*;
use serde_json::json;
use std::time::{Duration, Instant};

mod alternatives;
mod definitions;
mod hostile;
mod objects;
mod ratcheting;
mod values;

/// The causes of a new object, as text.
fn causes(schema: &Value, value: &Value) -> Vec<String> {
    let validator = Validator::new(schema).expect("a schema");
    texts(&validator.validate(&FieldPath::default(), value))
}

fn texts(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(ToString::to_string).collect()
}
