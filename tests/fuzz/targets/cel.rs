//! Expressions in CEL: the text of one, over values of a small schema.
#![no_main]

use cel::{AUTHORIZER, Activation, Attributes, Authorizer, Budget, Decision, Env, Error, Program, Schema, Type, Value};
use fuzz::within;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value as Json, json};
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

/// Letters of texts that are long enough to take time, should nobody count it.
const LONG: usize = 64 << 10;
const LIMIT: u64 = cel::PER_CALL_LIMIT;
/// What one evaluation may take of the CPU, unoptimised instrumentation included.
const LONGEST: Duration = Duration::from_secs(1);

static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let one_of_each = json!({"type": "object", "properties": {
        "i": {"type": "integer"}, "d": {"type": "number"}, "s": {"type": "string", "maxLength": 20}, "b": {"type": "boolean"},
        "l": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 9}},
        "n": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
        "m": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "integer"}},
        "e": {"x-kubernetes-int-or-string": true}, "t": {"type": "string", "format": "date-time"},
        "long": {"type": "string"}, "blob": {"type": "string", "format": "byte"}, "span": {"type": "string", "format": "duration"},
        "o": {"type": "object", "properties": {"a-b": {"type": "string"}, "z": {"type": "integer", "nullable": true}}}}});
    Schema::new(&one_of_each)
});
static OBJECT: LazyLock<Json> = LazyLock::new(|| {
    json!({"i": -3, "d": 2.5, "s": "héllo", "b": true, "l": ["a", "bb", ""], "n": [1, 2], "m": {"k": 1, "x y": 2},
        "long": "0".repeat(LONG), "blob": "AAAA".repeat(LONG / 4), "span": "1ns ".repeat(LONG / 4),
        "e": "50%", "t": "2020-02-29T12:00:00Z", "o": {"a-b": "q", "z": null}})
});
static ENV: LazyLock<Env> = LazyLock::new(|| {
    let of = SCHEMA.to_type("self").expect("seen");
    Env::kubernetes()
        .with_variable("self", of)
        .with_variable("any", Type::Dyn)
        .with_variable("authorizer", AUTHORIZER)
        .with_mutation()
});

/// May get, and nothing else.
struct Reader;

impl Authorizer for Reader {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        Decision { allowed: attributes.verb == "get", reason: "because".to_owned(), error: None }
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let program = match within(LONGEST, || ENV.compile(text)) {
        Ok(program) => program,
        Err(issues) => return assert!(!issues.to_string().is_empty()),
    };
    let (least, most) = within(LONGEST, || program.cost(&**SCHEMA));
    assert!(least <= most || most == 0, "costs {least} to {most}");
    let (outcome, used) = run(&program, LIMIT);
    assert!(used <= LIMIT || outcome == Err(Error::Budget.to_string()), "used {used}");
    // What knows its types is bounded by its estimate.
    if outcome.is_ok() && !program.uses("any") {
        assert!(used <= most, "used {used}, estimated {most}");
    }
    assert_eq!(run(&program, LIMIT), (outcome.clone(), used), "the same again");
    // A smaller budget either suffices or ends it.
    if used > 0 && used <= LIMIT {
        let (short, spent) = run(&program, used - 1);
        assert!(short == Err(Error::Budget.to_string()), "{short:?} within {spent} of {}", used - 1);
    }
    cel::escape(text);
});

/// Runs it within a budget; returns what it gave as JSON, and the cost.
fn run(program: &Program, limit: u64) -> (Result<String, String>, u64) {
    within(LONGEST, || {
        let mut budget = Budget::new(limit);
        let value = Value::typed(&OBJECT, &SCHEMA).expect("of its schema");
        let activation = Activation::new().with("self", value).with("any", Value::json(&OBJECT));
        let activation = activation.with("authorizer", Value::authorizer(Arc::new(Reader)));
        let outcome = program.eval(&activation, &mut budget).map(|value| format!("{:?}", value.to_json()));
        (outcome.map_err(|error| error.to_string()), budget.used())
    })
}
