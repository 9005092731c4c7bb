//! Values of schemas, and what expressions on them cost.

use super::*;
use serde_json::{Value as Json, json};

pub(crate) fn object(properties: Json) -> Json {
    json!({"type": "object", "properties": properties})
}

fn list(items: Json) -> Json {
    json!({"type": "array", "items": items})
}

fn of(kind: &str) -> Json {
    json!({"type": kind})
}

fn format(format: &str) -> Json {
    json!({"type": "string", "format": format})
}

/// Runs a rule on an object; what it gives and costs.
fn run(schema: &Json, self_: &Json, rule: &str) -> Result<(Json, u64), String> {
    let schema = Schema::new(schema);
    let env = Env::kubernetes().with_variable("self", schema.to_type("self").ok_or("hidden")?);
    let program = env.compile(rule).map_err(|issues| issues.to_string())?;
    let activation = Activation::new().with("self", Value::typed(self_, &schema).map_err(|error| error.to_string())?);
    let mut budget = Budget::new(10_000_000);
    let value = program.eval(&activation, &mut budget).map_err(|error| error.to_string())?;
    Ok((value.to_json()?, budget.used()))
}

#[track_caller]
fn costs(schema: &Json, self_: &Json, rules: &[(&str, u64)]) {
    for (rule, cost) in rules {
        assert_eq!(run(schema, self_, rule), Ok((json!(true), *cost)), "{rule}");
    }
}

#[test]
fn scalars_cost_what_they_cost_upstream() {
    let values =
        object(json!({"int": of("integer"), "number": of("number"), "text": of("string"), "bytes": format("byte"),
        "flag": of("boolean"), "span": format("duration"), "day": format("date"), "time": format("date-time"),
        "enum": {"type": "string", "enum": ["Pending", "Bound"]}, "either": {"x-kubernetes-int-or-string": true}}));
    let self_ = json!({"int": 5, "number": 10, "text": "Rook takes 👑", "bytes": "QUI=", "flag": true, "span": "1h2m3s4ms",
        "day": "1997-07-16", "time": "2011-08-18T19:03:37.010000000+01:00", "enum": "Pending", "either": "50%"});
    costs(
        &values,
        &self_,
        &[
            ("self.int == self.int", 5),
            ("type(self.int) == int", 4),
            ("self.int + 1 == 5 + 1", 5),
            ("type(self.number) == double && self.number == 10.0", 7),
            ("double(self.int) < self.number", 6),
            ("self.int < int(self.number)", 6),
            ("double(5) < 10.0", 1),
            ("self.text.startsWith('Rook')", 4),
            ("!self.text.startsWith('knight')", 5),
            ("self.text.matches('^[^0-9]*$')", 8),
            ("!self.text.matches('^[0-9]*$')", 7),
            ("size(self.text) == 12", 4),
            ("self.text.charAt(3) == 'k'", 4),
            ("self.text.indexOf('o') == 1", 4),
            ("self.text.indexOf('o', 2) == 2", 4),
            ("self.text.replace(' ', 'x') == 'Rookxtakesx👑'", 7),
            ("self.text.replace(' ', 'x', 1) == 'Rookxtakes 👑'", 7),
            ("self.text.split(' ') == ['Rook', 'takes', '👑']", 6),
            ("self.text.split(' ', 2) == ['Rook', 'takes 👑']", 6),
            ("self.text.substring(5) == 'takes 👑'", 5),
            ("self.text.substring(4, 10).trim() == 'takes'", 6),
            ("self.text.upperAscii() == 'ROOK TAKES 👑'", 6),
            ("self.text.lowerAscii() == self.text.lowerAscii()", 10),
            (
                "'%d %s %f %s %s'.format([1, 'abc', 1.0, duration('1m'), timestamp('2000-01-01T00:00:00.000Z')]) == '1 abc 1.000000 60s 2000-01-01T00:00:00Z'",
                6,
            ),
            ("'%e'.format([3.14]) == '3.140000×10⁰⁰'", 3),
            ("'%o %o %o'.format([7, 8, 9]) == '7 10 11'", 2),
            ("'%b %b %b'.format([7, 8, 9]) == '111 1000 1001'", 3),
            ("self.bytes == b'AB'", 3),
            ("size(self.bytes) == 2", 4),
            ("type(self.flag) == bool", 4),
            ("self.span == duration('1h2m') + duration('3s4ms')", 4),
            ("self.span.getHours() == 1", 4),
            ("type(self.span) == google.protobuf.Duration", 4),
            ("self.day.getDate() == 16", 4),
            ("self.time == timestamp('2011-08-18T00:00:00.000+01:00') + duration('19h3m37s10ms')", 4),
            ("self.time.getDate('01:00') == 18", 4),
            ("self.enum == 'Pending'", 3),
            ("self.enum in ['Pending', 'Available']", 2),
            ("type(self.either) == string ? self.either.matches('^[0-9]+%$') : self.either > 0", 9),
            ("self.either != 5", 3),
        ],
    );
}

#[test]
fn conversions_cost_what_they_cost_upstream() {
    let schema = object(
        json!({"int": of("integer"), "whole": of("number"), "half": of("number"), "digits": of("string"), "bytes": format("byte"),
        "spanText": of("string"), "span": format("duration"), "timeText": of("string"), "time": format("date-time"),
        "dayText": of("string"), "day": format("date")}),
    );
    let self_ = json!({"int": 10, "whole": 10.0, "half": 10.5, "digits": "10", "bytes": "MTA=", "spanText": "1h2m3s4ms", "span": "1h2m3s4ms",
        "timeText": "2011-08-18T19:03:37.01+01:00", "time": "2011-08-18T19:03:37.01+01:00",
        "dayText": "2011-08-18T00:00:00Z", "day": "2011-08-18"});
    costs(
        &schema,
        &self_,
        &[
            ("int(self.whole) == self.int", 6),
            ("double(self.int) == self.whole", 6),
            ("bytes(self.digits) == self.bytes", 6),
            ("string(self.int) == self.digits", 6),
            ("string(self.half) == '10.5'", 4),
            ("string(self.bytes) == self.digits", 6),
            ("duration(self.spanText) == self.span", 6),
            ("timestamp(self.timeText) == self.time", 6),
            ("string(self.time) == self.timeText", 8),
            ("timestamp(self.dayText) == self.day", 6),
            ("string(self.day) == self.dayText", 7),
        ],
    );
}

#[test]
fn lists_cost_what_they_cost_upstream() {
    let numbers = object(json!({"val1": list(of("integer")), "val2": list(of("integer"))}));
    costs(
        &numbers,
        &json!({"val1": [1, 2, 3], "val2": [1, 2, 3]}),
        &[
            ("1 in self.val1", 5),
            ("self.val2[0] in self.val1", 8),
            ("!(0 in self.val1)", 6),
            ("self.val1 + self.val2 == [1, 2, 3, 1, 2, 3]", 6),
            ("self.val1 + [4, 5] == [1, 2, 3, 4, 5]", 4),
            ("has(self.val1)", 1),
            ("has(self.val1) && has(self.val2)", 2),
        ],
    );
    let set = |items: Json| json!({"type": "array", "x-kubernetes-list-type": "set", "items": items});
    let sets = object(json!({"val1": set(of("string")), "val2": set(of("string")), "val3": set(of("integer"))}));
    let many: Vec<i64> = (0..1000).collect();
    costs(
        &sets,
        &json!({"val1": ["a", "b", "c"], "val2": ["a", "c", "b"], "val3": many}),
        &[
            ("self.val1 == ['c', 'b', 'a']", 3),
            ("self.val1 == self.val2", 5),
            ("'a' in self.val1", 5),
            ("self.val2[0] in self.val1", 8),
            ("!('x' in self.val1)", 6),
            ("self.val1 + self.val2 == ['a', 'b', 'c']", 6),
            ("self.val1 + ['c', 'd'] == ['a', 'b', 'c', 'd']", 4),
            ("sets.contains(self.val1, ['a'])", 6),
            ("sets.equivalent(self.val1, ['a', 'b', 'c'])", 21),
            ("sets.intersects(self.val1, ['a'])", 6),
            ("sets.contains(self.val3, [1])", 1003),
            ("!sets.equivalent(self.val3, [1, 2, 3])", 6004),
            ("sets.intersects(self.val3, [1])", 1003),
        ],
    );
    let entry = object(json!({"k": of("string"), "v": of("string"), "v2": of("string")}));
    let by_key =
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": entry});
    let self_ = json!({"objs": [
        [{"k": "a", "v": "1"}, {"k": "b", "v": "2"}],
        [{"k": "b", "v": "2"}, {"k": "a", "v": "1"}],
        [{"k": "b", "v": "3"}, {"k": "a", "v": "1"}],
        [{"k": "c", "v": "4"}]]});
    costs(
        &object(json!({"objs": list(by_key.clone())})),
        &self_,
        &[
            ("self.objs[0] == self.objs[1]", 7),
            ("self.objs[0] + self.objs[2] == self.objs[2]", 11),
            ("self.objs[2] + self.objs[0] == self.objs[0]", 11),
            ("self.objs[0] == [self.objs[0][0], self.objs[0][1]]", 22),
            ("self.objs[0] == [self.objs[0][1], self.objs[0][0]]", 22),
            ("self.objs[2] + [self.objs[0][0], self.objs[0][1]] == self.objs[0]", 26),
            ("size(self.objs[0] + [self.objs[3][0]]) == 3", 20),
        ],
    );
    let self_ = json!({"listMap": [{"k": "a1", "v": "b1"}, {"k": "a2", "v": "b2"}, {"k": "a3", "v": "b3", "v2": "z"}]});
    costs(
        &object(json!({"listMap": by_key})),
        &self_,
        &[
            ("has(self.listMap[0].v)", 3),
            ("self.listMap.all(m, m.k.startsWith('a'))", 21),
            ("self.listMap.all(m, !has(m.v2) || m.v2 == 'z')", 21),
            ("self.listMap.exists(m, m.k.endsWith('1'))", 13),
            ("self.listMap.exists_one(m, m.k == 'a3')", 15),
        ],
    );
}

#[test]
fn maps_cost_what_they_cost_upstream() {
    let map = |values: Json| json!({"type": "object", "additionalProperties": values});
    let texts = object(json!({"val1": map(of("string")), "val2": map(of("string"))}));
    costs(
        &texts,
        &json!({"val1": {"k1": "a", "k2": "b"}, "val2": {"k2": "b", "k1": "a"}}),
        &[
            ("self.val1 == self.val2", 5),
            ("'k1' in self.val1", 3),
            ("!('k3' in self.val1)", 4),
            ("self.val1 == {'k1': 'a', 'k2': 'b'}", 3),
        ],
    );
    costs(
        &object(json!({"val": map(of("integer"))})),
        &json!({"val": {"b": 1, "d": 2}}),
        &[
            ("!has(self.val.a)", 3),
            ("has(self.val.b)", 2),
            ("self.val.all(k, self.val[k] > 0)", 17),
            ("!self.val.exists(k, self.val[k] == 3)", 20),
            ("self.val.exists_one(k, self.val[k] == 2)", 14),
            ("!self.val.exists_one(k, self.val[k] > 0)", 17),
            ("size(self.val) == 2", 4),
            ("size(self.val.filter(k, self.val[k] > 1)) == 1", 26),
            ("self.val.all(k, v, v > 0)", 13),
            ("!self.val.exists(k, v, v == 3)", 16),
            ("self.val.existsOne(k, v, v == 2)", 10),
            ("self.val.transformMap(k, v, v > 1, v + 1).size() == 1", 14),
            ("self.val.transformMap(k, v, v + 1).size() == 2", 15),
            ("self.val.transformMapEntry(k, v, v > 1, {k + '2': v + 1}).size() == 1", 45),
            ("self.val.transformMapEntry(k, v, {k + '2': v + 1}).size() == 2", 77),
        ],
    );
    let nested = object(json!({
        "a": object(json!({"b": of("integer"), "c": of("integer"), "d": {"type": "integer", "nullable": true}})),
        "a1": object(json!({"b1": object(json!({"c1": of("integer")})), "d2": object(json!({"e2": of("integer")}))}))}));
    costs(
        &nested,
        &json!({"a": {"b": 1, "d": null}, "a1": {"b1": {"c1": 4}}}),
        &[
            ("has(self.a.b)", 2),
            ("has(self.a1.b1.c1)", 3),
            ("!(has(self.a1.d2) && has(self.a1.d2.e2))", 3),
            ("!has(self.a1.d2)", 3),
            ("!has(self.a.d)", 3),
        ],
    );
}

#[test]
fn names_are_escaped() {
    for (name, escaped) in [
        ("a", Some("a")),
        ("a-b", Some("a__dash__b")),
        ("a.b/c", Some("a__dot__b__slash__c")),
        ("a__b", Some("a__underscores__b")),
        ("namespace", Some("__namespace__")),
        ("if", Some("__if__")),
        ("_", Some("_")),
        ("___", Some("__underscores___")),
        ("1a", None),
        ("", None),
        ("a b", None),
        ("é", None),
    ] {
        assert_eq!(escape(name).as_deref(), escaped, "{name}");
        if let Some(escaped) = escaped {
            assert_eq!(unescape(escaped).as_deref(), Some(name), "{escaped}");
        }
    }
    let schema = object(json!({"namespace": of("string"), "if": of("integer")}));
    let rule = "self.namespace == 'x' && self.__if__ == 1 && self.if == 1 && has(self.namespace)";
    assert_eq!(run(&schema, &json!({"namespace": "x", "if": 1}), rule).map(|(value, _)| value), Ok(json!(true)));
    assert_eq!(unescape("a__nope__b"), None);
    assert_eq!(unescape("a__if__"), None);
    let schema = object(json!({"a-b": of("integer"), "namespace": of("string"), "a__b": of("string")}));
    let self_ = json!({"a-b": 1, "namespace": "x", "a__b": "y"});
    let rule =
        "self.a__dash__b == 1 && self.__namespace__ == 'x' && self.a__underscores__b == 'y' && has(self.a__dash__b)";
    assert_eq!(run(&schema, &self_, rule).map(|(value, _)| value), Ok(json!(true)));
}

#[test]
fn what_has_no_type_is_hidden() {
    let schema = object(
        json!({"any": {"x-kubernetes-preserve-unknown-fields": true}, "list": list(json!({"x-kubernetes-preserve-unknown-fields": true})),
        "map": {"type": "object", "additionalProperties": {"x-kubernetes-preserve-unknown-fields": true}},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}),
    );
    for name in ["any", "list", "map", "nope"] {
        let message = format!("ERROR: <input>:1:5: undefined field '{name}'\n | self.{name} == null\n | ....^");
        assert_eq!(run(&schema, &json!({}), &format!("self.{name} == null")), Err(message));
    }
    assert_eq!(run(&schema, &json!({"open": {"a": 1}}), "has(self.open)").map(|(value, _)| value), Ok(json!(true)));
    assert!(Schema::new(&json!({"type": "array"})).to_type("self").is_none());

    // It counts for equality all the same.
    let pair = object(json!({"l": list(object(json!({"x": {"x-kubernetes-preserve-unknown-fields": true}})))}));
    for (other, same) in [(1, true), (2, false)] {
        let self_ = json!({"l": [{"x": {"y": [1]}}, {"x": {"y": [other]}}]});
        assert_eq!(run(&pair, &self_, "self.l[0] == self.l[1]").map(|(value, _)| value), Ok(json!(same)));
    }
}

#[test]
fn roots_have_metadata() {
    let schema =
        Schema::root(&object(json!({"spec": {"type": "object", "properties": {}}, "metadata": {"type": "object"}})));
    let env = Env::kubernetes().with_variable("self", schema.to_type("selfType").expect("seen"));
    for rule in [
        "self.metadata.name == 'a'",
        "self.kind == 'A' && self.apiVersion == 'b/v1' && self.metadata.generateName == ''",
    ] {
        env.compile(rule).map_err(|issues| issues.to_string()).expect(rule);
    }
    let issues = env.compile("self.metadata.labels == {}").err().expect("labels are hidden").to_string();
    assert!(issues.starts_with("ERROR: <input>:1:14: undefined field 'labels'"), "{issues}");
    let issues = env.compile("self.spec == 1").err().expect("types differ").to_string();
    assert!(issues.contains("applied to '(selfType.spec, int)'"), "{issues}");
}

#[test]
fn json_that_is_not_of_its_schema_is_an_error() {
    let schema = object(
        json!({"i": of("integer"), "s": of("string"), "l": list(of("string")), "d": format("duration"), "o": object(json!({})), "e": {"x-kubernetes-int-or-string": true}}),
    );
    for (self_, rule, message) in [
        (json!({"i": "x"}), "self.i == 1", "invalid data, expected int, got string"),
        (json!({"s": 1}), "self.s == ''", "invalid data, expected string, got int64"),
        (json!({"l": [1]}), "self.l[0] == ''", "invalid data, expected string, got int64"),
        (json!({"l": {}}), "self.l == []", "invalid data, expected an array for the provided schema with type=array"),
        (json!({"d": "1x"}), "self.d == duration('1s')", "Invalid duration 1x"),
        (
            json!({"o": 1}),
            "has(self.o) && self.o == self.o",
            "invalid data, expected a map for the provided schema with type=object",
        ),
        (
            json!({"e": 1.5}),
            "self.e == 1",
            "invalid data, expected XIntOrString value to be either a string or integer",
        ),
        (json!({"l": [null]}), "self.l[0] == ''", "invalid data, got null for schema with nullable=false"),
        (json!({}), "self.i == 1", "no such key: i"),
    ] {
        assert_eq!(run(&schema, &self_, rule), Err(message.to_owned()), "{rule}");
    }
}
