//! What has no cost upstream and yet takes time or memory is counted apart: an expression may ask for it a hundred thousand times.

use super::*;
use serde_json::json;
use std::sync::Arc;

struct Nobody;

impl Authorizer for Nobody {
    fn authorize(&self, _: &Attributes) -> Decision {
        Decision::default()
    }
}

/// An expression over long texts, and the error of its evaluation within so many steps and bytes.
fn error_within(text: &str, steps: u64, bytes: u64) -> Option<Error> {
    let (long, number) = ("x".repeat(1 << 20), "0".repeat(1 << 20));
    let map = serde_json::Map::from_iter([(long.clone(), json!(1))]);
    let object = json!({"s": long, "n": number, "bytes": "AAAA".repeat(1 << 18), "time": format!("1s{}", " 1ns".repeat(1 << 18)),
        "list": [long], "map": map, "o": {"hidden": long}, "p": {"hidden": long}, "blobs": ["AAAA".repeat(1 << 18)]});
    let byte = json!({"type": "string", "format": "byte"});
    let open = json!({"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": true});
    let schema = Schema::new(&json!({"type": "object", "properties": {
        "s": {"type": "string"}, "n": {"type": "string"}, "bytes": byte, "time": {"type": "string", "format": "duration"},
        "list": {"type": "array", "items": {"type": "string"}}, "blobs": {"type": "array", "items": byte},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}}, "o": open, "p": open}}));
    let of = schema.to_type("self").expect("seen");
    let env = Env::kubernetes().with_variable("self", of).with_variable("authorizer", AUTHORIZER);
    let program = env.compile(text).map_err(|issues| issues.to_string()).expect(text);
    let activation = Activation::new()
        .with("self", Value::typed(&object, &schema).expect("of its schema"))
        .with("authorizer", Value::authorizer(Arc::new(Nobody)));
    let mut budget = Budget::new(10_000_000).with_work(steps).with_memory(bytes);
    program.eval(&activation, &mut budget).err()
}

#[test]
fn reading_and_comparing_long_texts_takes_steps() {
    for text in [
        "int(self.n) == 0",
        "uint(self.n) == 0u",
        "double(self.n) == 0.0",
        "!isURL(self.s)",
        "self.time > duration('1s')",
        "self.bytes.size() > 0",
        "self.blobs[0].size() > 0",
        "self.blobs.all(x, x.size() > 0)",
        "self.s in self.map",
        "self.map[self.s] == 1",
        "self.list == [self.s + '']",
        "self.s + '' in self.list",
        "dyn(self.o) == dyn(self.p)",
        "'%x'.format([self.s]).size() > 0",
        "'%s'.format([[self.s]]).size() > 0",
        "'%.999f'.format([1e300]).size() > 1000",
        "'%.999e'.format([5e-324]).size() > 1000",
    ] {
        assert_eq!(error_within(text, 8_000, 128 << 20), Some(Error::Budget), "{text}");
        assert_eq!(error_within(text, 3_000_000, 128 << 20), None, "{text}");
    }
}

/// They cost little, and their engine is in very many states at once.
#[test]
fn searches_take_steps() {
    for text in [
        "self.s.matches('(.?x){1000}y')",
        "self.s.matches('((.?x){30}){30}y')",
        "self.s.matches(['([x-z]?){200}x{200}y'][0])",
        "self.s.find('(.?x){1000}y') == ''",
        "self.s.findAll('(.?x){300}y', 1).size() == 0",
        "self.s.findAll('x.*y|x').size() > 0",
        "lists.range(100).all(i, !self.s.matches('(?i)[b-🐀]{1,100}' + string(i)))",
        "lists.range(100).exists(i, self.s.matches('.{1000}' + string(i)))",
    ] {
        assert_eq!(error_within(text, 1_000_000, 128 << 20), Some(Error::Budget), "{text}");
    }
    for text in [
        "self.s.matches('^x*$') && self.s.find('^(x|y)+$') == self.s && self.n.matches('^[0-9]{1,}$')",
        "self.s.find('x{500}').size() == 500 && self.s.findAll('x', 1000).size() == 1000",
        "self.n.matches('(?i)password|secret|token') || lists.range(5).all(i, !self.n.matches('(?i)password|secret|token'))",
    ] {
        assert_eq!(error_within(text, 30_000_000, 128 << 20), None, "{text}");
    }
}

#[test]
fn evaluations_stop_in_a_search_and_in_a_loop() {
    let long = "x".repeat(1 << 20);
    let env = Env::kubernetes().with_variable("s", Type::String);
    for text in [
        "s.matches('(.?x){1000}y')",
        "s.find('(.?x){1000}y') == '' || true",
        "[1].all(i, s.matches('(.?x){1000}y') || true)",
        "lists.range(100).all(i, i >= 0)",
        "lists.range(20).all(i, lists.range(20).exists(k, k > 30) || true)",
        "lists.range(200).map(i, i).filter(i, i > 300).size() == 0",
        "lists.range(200).transformMap(i, k, k).size() == 200",
    ] {
        let program = env.compile(text).map_err(|issues| issues.to_string()).expect(text);
        let activation = Activation::new().with("s", Value::string(long.as_str()));
        let asked = std::cell::Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) == 0;
        let mut budget = Budget::new(10_000_000).with_stop(&stop);
        assert_eq!(program.eval(&activation, &mut budget).err(), Some(Error::Interrupted), "{text}");
        assert_eq!(asked.get(), 1, "{text}");
    }
}

#[test]
fn evaluations_one_after_the_other_share_their_steps() {
    let env = Env::kubernetes().with_variable("s", Type::String);
    let program = env.compile("!s.matches('(.?x){300}y')").map_err(|issues| issues.to_string()).expect("an expression");
    let long = "x".repeat(500);
    let activation = Activation::new().with("s", Value::string(long.as_str()));
    // Those that are not counted, and three times as many as one may take.
    let mut budget = Budget::new(1_000_000).with_work(500_000);
    let mut done = 0;
    let error = loop {
        budget.renew(1_000_000);
        match program.eval(&activation, &mut budget) {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        assert!(budget.used() < 10_000, "each is cheap");
    };
    assert_eq!(error, Error::Budget);
    assert!((6..60).contains(&done), "{done}");
}

#[test]
fn copies_of_long_texts_take_memory() {
    for text in [
        "[self.bytes].size() == 1",
        "[self.blobs[0]].size() == 1",
        "[authorizer.path(self.s)].size() == 1",
        "[authorizer.group(self.s)].size() == 1",
        "[authorizer.group('a').resource(self.s)].size() == 1",
        "[authorizer.group('a').resource('b').namespace(self.s)].size() == 1",
    ] {
        assert_eq!(error_within(text, 30_000_000, 1 << 19), Some(Error::Budget), "{text}");
        assert_eq!(error_within(text, 30_000_000, 4 << 20), None, "{text}");
    }
    // The same bytes a thousand times are JSON of a gigabyte.
    let bytes = Value::Bytes(vec![0; 1 << 20].into());
    assert!(Value::list(vec![bytes; 1000]).to_json().is_err());
    let object = json!({"n".repeat(1 << 20): 1});
    assert!(Value::list(vec![Value::json(&object); 1000]).to_json().is_err());
}
