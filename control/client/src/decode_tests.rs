//! Every kind, read with every field missing, null or bare, at every level: whatever Go reads is read.

use super::object;
use crate::{Kind, kind};
use api::{
    GroupVersionKind,
    schema::{Schema, Shape},
};
use serde_json::{Value, json};

/// Deeper than any built-in kind; JSON schemas hold themselves.
const DEEPEST: usize = 24;

/// A step from an object down.
enum Step {
    Field(String),
    Key,
    Item,
}

/// An object with nothing in it but the way to a value.
fn at(way: &[Step], value: &Value) -> Value {
    way.iter().rev().fold(value.clone(), |inner, step| match step {
        Step::Field(name) => json!({ name.as_str(): inner }),
        Step::Key => json!({ "key": inner }),
        Step::Item => json!([inner]),
    })
}

/// A value that may stand at a place and says as little as possible.
fn bare(schema: &Schema) -> Value {
    let words = ["x", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000Z", "eA==", "1"].map(Value::from);
    match schema.shape() {
        Shape::Object | Shape::Map | Shape::Any => json!({}),
        Shape::List => json!([]),
        Shape::Integer | Shape::Number => json!(1),
        Shape::Boolean => json!(true),
        Shape::String | Shape::Quantity | Shape::IntOrString => {
            let fits = |word: &Value| schema.decode_check(&mut word.clone()).is_ok_and(|problems| problems.is_empty());
            words.into_iter().find(fits).expect("one fits")
        }
    }
}

/// Walks all places of a schema and calls `each` with the way there and what stands there.
fn walk(schema: &Schema, way: &mut Vec<Step>, each: &mut impl FnMut(&[Step], &Value)) {
    for value in [bare(schema), Value::Null] {
        each(way, &value);
    }
    if way.len() >= DEEPEST {
        return;
    }
    let below: Vec<(Step, Schema)> = match schema.shape() {
        Shape::Object => schema.fields().map(|(name, field)| (Step::Field(name.to_owned()), field)).collect(),
        Shape::Map => schema.items().map(|item| (Step::Key, item)).into_iter().collect(),
        Shape::List => schema.items().map(|item| (Step::Item, item)).into_iter().collect(),
        _ => Vec::new(),
    };
    for (step, child) in below {
        way.push(step);
        walk(&child, way, each);
        way.pop();
    }
}

/// Reads each kind, and counts the bodies.
struct Reads(usize);

impl kind::Visitor for Reads {
    fn visit<K: Kind>(&mut self) {
        reads::<K>(&mut self.0);
    }
}

fn reads<K: Kind>(counted: &mut usize) {
    let kind = GroupVersionKind::new(K::GROUP, K::VERSION, K::KIND);
    let schema = Schema::for_kind(&kind).expect("built in");
    walk(&schema, &mut Vec::new(), &mut |way, value| {
        let mut whole = at(way, value);
        let Some(map) = whole.as_object_mut() else { return };
        map.insert("apiVersion".into(), kind.api_version().into());
        map.insert("kind".into(), kind.kind.clone().into());
        let as_sent = whole.to_string();
        schema.decode_check(&mut whole).unwrap_or_else(|e| panic!("{as_sent}: the server refuses it: {e}"));
        for text in [as_sent, whole.to_string()] {
            object::<K>(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            *counted += 1;
        }
    });
}

#[test]
fn every_kind_is_read_with_whatever_is_missing() {
    let mut read = Reads(0);
    kind::each(&mut read);
    assert!(read.0 > 40_000, "{} bodies are too few: the walk does not go down", read.0);
}
