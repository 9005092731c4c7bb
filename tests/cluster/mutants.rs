//! Objects that are changed somewhere, by their schema, from a seed.

use api::schema::{Schema, Shape};
use fastrand::Rng;
use serde_json::{Map, Value, json};

/// Values that somewhere mean something odd.
fn odd(rng: &mut Rng) -> Value {
    let deep = |depth: usize| (0..depth).fold(json!({}), |inner, _| json!({"f:a": inner}));
    match rng.u8(..34) {
        0..4 => Value::Null,
        4 => json!({}),
        5 => json!([]),
        6 => json!([null]),
        7 => json!({"k": null}),
        8 => json!([{}]),
        9 => json!(""),
        10 => json!("x"),
        11 => json!("0000-01-01T00:00:00+23:59"),
        12 => json!("9999-12-31T23:59:59-23:59"),
        13 => json!("0000-01-01T00:00:00Z"),
        14 => json!("0001-01-01T00:00:00.000000Z"),
        15 => json!("2026-01-01T00:00:00.123456+05:30"),
        16 => json!("1e999"),
        17 => json!("999999999999999999E"),
        18 => json!("-0.0000000001"),
        19 => json!(i64::MAX),
        20 => json!(i64::MIN),
        21 => json!(i32::MAX),
        22 => json!(-1),
        23 => json!(0),
        24 => json!(1.5e300),
        25 => json!(true),
        26 => deep(40),
        27 => deep(55),
        28 => deep(70),
        29 => json!("AA==\n"),
        30 => json!("50%"),
        31 => json!("10.300.0.1"),
        32 => json!("\u{0}\u{feff}\u{2028}"),
        _ => json!("é".repeat(300)),
    }
}

/// A value that a schema allows, mostly.
fn fitting(schema: &Schema, rng: &mut Rng, depth: usize) -> Value {
    if depth == 0 || rng.u8(..10) == 0 {
        return odd(rng);
    }
    match schema.shape() {
        Shape::Any => odd(rng),
        Shape::Object => {
            let mut map = Map::new();
            for (name, field) in schema.fields() {
                if schema.is_required(name) || rng.u8(..4) == 0 {
                    map.insert(name.to_owned(), fitting(&field, rng, depth - 1));
                }
            }
            Value::Object(map)
        }
        Shape::Map => json!({"a": fitting(&schema.items().unwrap(), rng, depth - 1)}),
        Shape::List => (0..rng.u8(..3)).map(|_| fitting(&schema.items().unwrap(), rng, depth - 1)).collect(),
        Shape::Integer | Shape::IntOrString | Shape::Number => json!(rng.i32(-2..70_000)),
        Shape::Boolean => json!(rng.bool()),
        Shape::Quantity => json!(["1", "100m", "1Gi", "0"][rng.usize(..4)]),
        Shape::String => {
            let words = [
                "x",
                "True",
                "a/b",
                "2026-01-01T00:00:00Z",
                "2026-01-01T00:00:00.000001Z",
                "AA==",
                "10.0.0.7",
                "Always",
                "http",
            ];
            let fits = |word: &&&str| schema.decode_check(&mut json!(word)).is_ok();
            let fitting: Vec<&&str> = words.iter().filter(fits).collect();
            json!(fitting[rng.usize(..fitting.len())])
        }
    }
}

/// Changes one place of a value.
pub fn mutate(value: &mut Value, schema: &Schema, rng: &mut Rng) {
    let further = rng.u8(..8) != 0;
    match value {
        Value::Object(map) if further && schema.shape() == Shape::Object => {
            let there: Vec<String> =
                map.keys().filter(|k| !matches!(k.as_str(), "kind" | "apiVersion")).cloned().collect();
            let known: Vec<(&str, Schema)> =
                schema.fields().filter(|(name, _)| !matches!(*name, "kind" | "apiVersion")).collect();
            let name = match rng.u8(..5) {
                0..3 if !there.is_empty() => there[rng.usize(..there.len())].clone(),
                _ if known.is_empty() => return,
                _ => known[rng.usize(..known.len())].0.to_owned(),
            };
            let Some(field) = schema.field(&name) else { return };
            match (map.get_mut(&name), rng.u8(..12)) {
                (Some(_), 0) => drop(map.remove(&name)),
                (Some(child), _) => mutate(child, &field, rng),
                (None, _) => drop(map.insert(name, fitting(&field, rng, 5))),
            }
        }
        Value::Object(map) if further && schema.shape() == Shape::Map => {
            let item = schema.items().unwrap();
            map.insert(format!("k{}", rng.u8(..3)), fitting(&item, rng, 4));
        }
        Value::Array(list) if further && schema.shape() == Shape::List => {
            let item = schema.items().unwrap();
            match (list.is_empty(), rng.u8(..3)) {
                (false, 0) => list.push(list[0].clone()),
                (false, 1) => {
                    let at = rng.usize(..list.len());
                    mutate(&mut list[at], &item, rng);
                }
                _ => list.push(fitting(&item, rng, 4)),
            }
        }
        other => *other = if rng.bool() { odd(rng) } else { fitting(schema, rng, 4) },
    }
}

/// Few pods: what a million of them cost is another test's.
pub fn few(value: &mut Value) {
    let Some(map) = value.as_object_mut() else { return };
    for (name, child) in map {
        match name.as_str() {
            "replicas" | "parallelism" | "completions" if child.as_i64().is_some_and(|n| n > 2) => *child = json!(2),
            _ => few(child),
        }
    }
}
