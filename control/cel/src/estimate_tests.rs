//! Costs that are estimated, with upstream's figures for the same schemas and rules.

use super::*;
use serde_json::{Value as Json, json};

/// The schema with a bound if there is one.
fn bounded(mut schema: Json, name: &str, bound: Option<u64>) -> Json {
    if let Some(bound) = bound {
        schema[name] = json!(bound);
    }
    schema
}

fn item(kind: &str) -> Json {
    match kind {
        "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        "duration" | "date" | "date-time" => json!({"type": "string", "format": kind}),
        "object" => json!({"type": "object", "required": ["required"],
            "properties": {"required": {"type": "string"}, "optional": {"type": "string"}}}),
        "numbers" => json!({"type": "array", "items": {"type": "number"}}),
        "number map" => json!({"type": "object", "additionalProperties": {"type": "number"}}),
        kind => json!({"type": kind}),
    }
}

/// A list or map of something, or a text, bounded if there is a bound.
fn schema(of: &str, bound: Option<u64>) -> Json {
    match of.split_once(' ') {
        Some(("list", of)) => bounded(json!({"type": "array", "items": item(of)}), "maxItems", bound),
        Some(("map", of)) => {
            bounded(json!({"type": "object", "additionalProperties": item(of)}), "maxProperties", bound)
        }
        Some((kind, format)) => bounded(json!({"type": kind, "format": format}), "maxLength", bound),
        None => bounded(item(of), "maxLength", bound),
    }
}

fn most(schema: &Json, rule: &str) -> u64 {
    let schema = Schema::new(schema);
    let of = schema.to_type("self").expect("seen");
    let env = Env::kubernetes().with_variable("self", of.clone()).with_variable("oldSelf", of);
    let program = env.compile(rule).map_err(|issues| issues.to_string()).expect(rule);
    program.cost(&*schema).1
}

#[test]
fn rules_cost_what_upstream_estimates() {
    // What the rule is on, the rule, its cost without a bound, a bound, and its cost with that bound.
    for (of, rule, unbounded, bound, cost) in [
        ("list number", "self.all(x, true)", 4718591, 10, 32),
        ("list string", "self.all(x, true)", 3145727, 20, 62),
        ("list boolean", "self.all(x, true)", 1887437, 5, 17),
        ("list numbers", "self.all(x, true)", 3145727, 100, 302),
        ("list object", "self.all(x, true)", 555128, 50, 152),
        ("map number", "self.all(x, true)", 1348169, 10, 32),
        ("map number", "has(self.x)", 1, 100, 1),
        ("map string", "self.all(x, true)", 1179647, 3, 11),
        ("map boolean", "self.all(x, true)", 943718, 100, 302),
        ("string", "self.contains('test')", 314574, 10, 5),
        ("string", "self.startsWith('test')", 2, 15, 2),
        ("string", "self.endsWith('test')", 2, 30, 2),
        ("string", r#"size(self + "hello") > size("hello")"#, 314578, 4, 7),
        ("list number", "self[1] == 0.0", 2, 5000, 2),
        ("list string", "self[1] == self[1]", 314577, 8, 314577),
        ("string", r#"self.matches("x")"#, 314574, 50, 22),
        ("string", r#""".matches("(((((((((())))))))))[0-9]")"#, 7, 10, 7),
        ("string", r#"self.matches("")"#, 1, 100, 1),
        ("list number", "self[3] == 0.0", 2, 0, 2),
        ("map number", r#"self["x"] == 0.0"#, 2, 0, 2),
        ("string", r#"self == "x""#, 2, 0, 1),
        ("string byte", r#"self == b"x""#, 2, 0, 1),
        ("list number", "self.all(x, x == 0.0)", 6291454, 6_291_456, 25165826),
        ("list int-or-string", "self.all(x, true)", 4718591, 10, 32),
        ("list int-or-string", "self[0] == 5", 3, 10, 3),
        ("list boolean", "self[0] == false", 2, 25, 2),
        ("list object", "self[0] == null", 2, 422, 2),
        ("list numbers", "self[0][0] == -1.0", 3, 51, 3),
        ("list number map", "self.all(x, x.y == 25.2)", 6291452, 12, 74),
        ("list number map", "self[0].x > 2.0", 4, 3000, 4),
        ("list duration", "self.all(x, true)", 2359295, 5, 17),
        ("list duration", "self[0].getHours() == 2", 4, 525, 4),
        ("list date", "self.all(x, true)", 725936, 15, 47),
        ("list date", "self[2].getDayOfMonth() == 13", 4, 42, 4),
        ("list date-time", "self.all(x, true)", 428963, 25, 77),
        ("list date-time", "self[2].getMinutes() == 45", 4, 99, 4),
        ("map int-or-string", "self.all(x, true)", 1348169, 15, 47),
        ("map object", "self.all(x, true)", 428963, 20, 62),
        ("map object", "has(self.x)", 1, 9001, 1),
        ("map number map", "self.all(x, true)", 1179647, 10, 32),
        ("map numbers", "self.all(x, true)", 1179647, 25, 77),
        ("map duration", "self.all(x, true)", 1048577, 5, 17),
        ("map date", "self.all(x, true)", 524288, 10, 32),
        ("map date-time", "self.all(x, true)", 349526, 25, 77),
        ("string", "self.find('[0-9]+') == ''", 629147, 10, 11),
        ("string", "self.lowerAscii() == 'lower!'", 314575, 10, 6),
        ("map integer", "oldSelf.size() == self.size()", 5, 10, 5),
        ("map date-time", r#"self["a"] == self["b"]"#, 8, 7, 8),
        ("map duration", r#"self["c"] == self["d"]"#, 8, 42, 8),
        ("int-or-string", "isQuantity(self)", 314574, 20, 9),
    ] {
        assert_eq!(most(&schema(of, None), rule), unbounded, "{of}: {rule}");
        assert_eq!(most(&schema(of, Some(bound)), rule), cost, "{of}, at most {bound}: {rule}");
    }
    let twice = most(&schema("list number", None), "self.all(x, self.all(y, true))");
    assert!(twice > 10_000_000, "{twice}");
    assert_eq!(most(&schema("list number", Some(10)), "self.all(x, self.all(y, true))"), 352);
    assert_eq!(most(&schema("list number", Some(10)), "self.all(x, self.all(y, self.all(z, true)))"), 3552);
}

#[test]
fn sizes_are_found_below_the_root() {
    let nested = |bound: Option<u64>| {
        let text = bounded(json!({"type": "string"}), "maxLength", bound);
        bounded(json!({"type": "object", "additionalProperties": text}), "maxProperties", bound)
    };
    let rule = "self.all(x, x.contains(self[x]))";
    assert_eq!((most(&nested(None), rule), most(&nested(Some(10)), rule)), (2752507, 72));
    let texts = |bound: Option<u64>| {
        let text = bounded(json!({"type": "string"}), "maxLength", bound);
        bounded(json!({"type": "array", "items": text}), "maxItems", bound)
    };
    let rule = "self.join(' ') == 'aa bb'";
    assert_eq!((most(&texts(None), rule), most(&texts(Some(10)), rule)), (329853068905, 43));
    let rule = "self.isSorted() == true";
    assert_eq!((most(&texts(None), rule), most(&texts(Some(10)), rule)), (329854432052, 52));
    let replaced = |bound: Option<u64>| {
        let text = bounded(json!({"type": "string"}), "maxLength", bound);
        json!({"type": "object", "properties": {"str": text, "before": {"type": "string", "maxLength": 2}, "after": {"type": "string", "maxLength": 4}}})
    };
    let rule = "self.str.replace(self.before, self.after) == 'does not matter'";
    assert_eq!((most(&replaced(None), rule), most(&replaced(Some(4)), rule)), (629154, 12));
    let split = |bound: Option<u64>| {
        let text = bounded(json!({"type": "string"}), "maxLength", bound);
        json!({"type": "object", "properties": {"str": text.clone(), "separator": text}})
    };
    let rule = "self.str.split(self.separator) == []";
    assert_eq!((most(&split(None), rule), most(&split(Some(10)), rule)), (629160, 22));
    let values = |bound: Option<u64>| {
        bounded(json!({"type": "string", "enum": ["A", "B", "C", "LongValue"]}), "maxLength", bound)
    };
    let rule = "self.contains('A')";
    assert_eq!((most(&values(None), rule), most(&values(Some(1000)), rule)), (2, 401));
}

#[test]
fn cardinality_is_bounded_by_the_size_of_requests() {
    assert_eq!(Schema::new(&json!({"type": "string"})).max_cardinality(), 3145728 / 3);
    let object = Schema::new(&schema("object", None));
    assert_eq!((object.min_serialized_size(), object.max_cardinality()), (16, 3145728 / 17));
    let list = Schema::new(&schema("list string", Some(7)));
    assert_eq!((list.max_elements(), list.element().map(|of| of.min_serialized_size())), (7, Some(2)));
}
