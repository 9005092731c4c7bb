//! Expressions and what they give, and the messages for what is wrong.

use super::*;
use serde_json::{Value as Json, json};

pub(crate) fn eval(text: &str) -> Result<Json, String> {
    let program = Env::kubernetes().compile(text).map_err(|issues| issues.to_string())?;
    let value = program.eval(&Activation::new(), &mut Budget::new(10_000_000)).map_err(|error| error.to_string())?;
    value.to_json()
}

#[track_caller]
pub(crate) fn holds(expressions: &[&str]) {
    for text in expressions {
        assert_eq!(eval(text), Ok(json!(true)), "{text}");
    }
}

#[track_caller]
pub(crate) fn fails(expressions: &[(&str, &str)]) {
    for (text, message) in expressions {
        assert_eq!(eval(text), Err((*message).to_owned()), "{text}");
    }
}

/// What is wrong with an expression, without the lines of its source.
#[track_caller]
fn refused(expressions: &[(&str, &str)]) {
    for (text, message) in expressions {
        let issues = Env::kubernetes().compile(text).err().map(|issues| issues.to_string()).unwrap_or_default();
        let heads: Vec<&str> = issues.lines().filter(|line| !line.starts_with(" | ")).collect();
        assert_eq!(heads.join("\n"), *message, "{text}");
    }
}

/// Programs are shared between threads.
#[test]
fn programs_are_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<Program>();
    shared::<Env>();
    shared::<Rules>();
    shared::<Activation<'_>>();
}

#[test]
fn literals() {
    holds(&[
        "0x1F == 31 && -0x1f == -31 && 0xffu == 255u",
        "-9223372036854775808 < 9223372036854775807",
        "1.5e2 == 150.0 && .5 == 0.5 && 1e-1 == 0.1",
        r#"'a' == "a" && '''a'b''' == "a'b" && """a"b""" == 'a"b'"#,
        r#"r'\n' == '\\n' && R"\d" == '\\d' && r'''\'x''' == "\\'x""#,
        r#"'\u00e9' == 'é' && '\U0001F451' == '👑' && '\x41\101\t' == 'AA\t' && '\?\`' == '?`'"#,
        r#"b'\xff' != b'\xfe' && b'é' == b'\303\251' && size(b'é') == 2 && bR'\x' == br'\x'"#,
        "[1, 2,] == [1, 2] && {'a': 1,} == {'a': 1} && [] == [] && {} == {}",
        "null == null && dyn(1) != null",
        "// a comment\ntrue",
    ]);
    refused(&[
        ("9223372036854775808", "ERROR: <input>:1:1: invalid int literal"),
        ("-1u == 0u", "ERROR: <input>:1:1: found no matching overload for '-_' applied to '(uint)'"),
        ("18446744073709551616u", "ERROR: <input>:1:1: invalid uint literal"),
        ("1e999", "ERROR: <input>:1:1: invalid double literal"),
        (r"'\q'", "ERROR: <input>:1:1: unable to unescape string"),
        (r"'\ud800'", "ERROR: <input>:1:1: invalid unicode code point"),
        ("for == 1", "ERROR: <input>:1:1: reserved identifier: for"),
        ("a.`b`", "ERROR: <input>:1:3: unsupported syntax: '`'"),
    ]);
}

#[test]
fn operators() {
    holds(&[
        "7 / 2 == 3 && -7 / 2 == -3 && -7 % 3 == -1 && 7u % 4u == 3u && 1.0 / 0.0 > 1e308",
        "2 + 3 * 4 - 1 == 13 && (2 + 3) * 4 == 20 && 10 - 2 - 3 == 5 && --1 == 1 && !!true && -(-1) == 1",
        "1 < 2 == true && 'a' + 'b' == 'ab' && b'a' + b'b' == b'ab' && [1] + [2] == [1, 2]",
        "dyn(1) == dyn(1.0) && dyn(1) == dyn(1u) && dyn(1u) == dyn(1.0) && dyn(1) != dyn('1')",
        "1 < 2u && 1 < 1.5 && 2u > 1.5 && -1 < 0u && 1u <= 1 && 1.0 >= 1",
        "'a' < 'b' && b'a' < b'b' && false < true && duration('1s') < duration('1m')",
        "2 in [1, 2] && 'a' in {'a': 1} && !(3 in [1, 2]) && 1.0 in [dyn(1), dyn(2)] && dyn(1u) in [1, 2]",
        "true ? true : (1 / 0 == 1)",
        "(1 / 0 == 1) || true",
        "true || (1 / 0 == 1)",
        "!((1 / 0 == 1) && false)",
        "{'a': {'b': 1}}.a.b == 1 && {'a': 1}['a'] == 1 && {1: 'x'}[1] == 'x' && {1u: 'x'}[dyn(1)] == 'x'",
        "[1, 2, 3][1] == 2 && [1, 2][dyn(1.0)] == 2 && [1, 2][dyn(0u)] == 1",
        "has({'a': 1}.a) && !has({'a': 1}.b) && has({'a': null}.a)",
    ]);
    fails(&[
        ("1 / 0 == 1", "division by zero"),
        ("1 % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + 1 > 0", "integer overflow"),
        ("-9223372036854775807 - 2 > 0", "integer overflow"),
        ("0u - 1u == 0u", "unsigned integer overflow"),
        ("[1][3] == 1", "index out of bounds: 3"),
        ("[1][-1] == 1", "index out of bounds: -1"),
        ("{'a': 1}.b == 1", "no such key: b"),
        ("{'a': 1}['b'] == 1", "no such key: b"),
        ("dyn('a') < 1", "no such overload"),
        ("dyn(1) && true", "no such overload"),
        ("(1 / 0 == 1) || false", "division by zero"),
        ("0.0 / 0.0 < 1.0", "NaN values cannot be ordered"),
        ("dyn([1])['a'] == 1", "unsupported index type 'string' in list"),
    ]);
}

#[test]
fn macros() {
    holds(&[
        "[1, 2, 3].all(x, x > 0) && ![1, 2, 0].all(x, x > 0) && [].all(x, x > 0)",
        "[1, 2].exists(x, x == 2) && ![1].exists(x, x == 2) && ![].exists(x, true)",
        "[1, 2, 2].exists_one(x, x == 1) && ![1, 2, 2].existsOne(x, x == 2)",
        "[1, 2].map(x, x * 2) == [2, 4] && [1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
        "[1, 2, 3].filter(x, x % 2 == 1) == [1, 3] && {'a': 1, 'b': 2}.filter(k, k != 'a') == ['b']",
        "{'a': 1}.map(k, k) == ['a'] && [[1], [2, 3]].map(l, l.map(x, x + 1)) == [[2], [3, 4]]",
        "[0, 1].exists(x, 1 / x == 1) && ![0, 1].all(x, 1 / x == 2)",
        "[1, 2].all(i, v, v == i + 1) && {'a': 1}.all(k, v, k == 'a' && v == 1)",
        "[5, 6].exists(i, v, i == 1 && v == 6) && [5, 6].existsOne(i, v, v == 5) && [5].exists_one(i, v, i == 0)",
        "[5, 6].transformList(i, v, i * v) == [0, 6] && [5, 6].transformList(i, v, i > 0, v) == [6]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && [7].transformMap(i, v, v) == {0: 7}",
        "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v) == {'b': 2}",
        "{'a': 'b'}.transformMapEntry(k, v, {v: k}) == {'b': 'a'}",
        "['a', 'b'].transformMapEntry(i, v, i > 0, {v: i}) == {'b': 1}",
        "[3, 1, 2].sortBy(x, -x) == [3, 2, 1] && ['bb', 'a'].sortBy(s, size(s)) == ['a', 'bb']",
    ]);
    refused(&[
        ("[1].all(1, true)", "ERROR: <input>:1:9: argument must be a simple name"),
        ("[1].map(1, true)", "ERROR: <input>:1:9: argument is not an identifier"),
        ("[1].all(a, a, true)", "ERROR: <input>:1:12: duplicate variable name: a"),
        ("[1].all(__result__, true)", "ERROR: <input>:1:9: iteration variable overwrites accumulator variable"),
        ("has(1)", "ERROR: <input>:1:5: invalid argument to has() macro"),
        (
            "1.all(x, true)",
            "ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("[1].all(x, x)", "ERROR: <input>:1:12: expected type 'bool' but found 'int'"),
        ("[1].map(x, x).all(y, z == 1)", "ERROR: <input>:1:22: undeclared reference to 'z' (in container '')"),
    ]);
    fails(&[
        ("['a', 'a'].transformMapEntry(i, v, {v: i}) == {}", "insert failed: key a already exists"),
        ("[0].all(x, 1 / x == 1)", "division by zero"),
        ("[1, 2].map(x, dyn('a') + x) == []", "no such overload"),
    ]);
}

#[test]
fn optionals() {
    holds(&[
        "optional.of(1).value() == 1 && optional.of(1).hasValue() && !optional.none().hasValue()",
        "optional.ofNonZeroValue(0) == optional.none() && optional.ofNonZeroValue('a') == optional.of('a')",
        "{'a': {'b': 1}}.?a.?b.orValue(2) == 1 && {'a': {'b': 1}}.?a.b.orValue(2) == 1",
        "{'a': {'b': 1}}.?x.b.orValue(2) == 2 && {}.?a == optional.none()",
        "[1, 2][?1] == optional.of(2) && [1][?5].orValue(7) == 7 && {'a': 1}[?'b'].orValue(3) == 3",
        "optional.none().or(optional.of(1)).value() == 1 && optional.of(1).or(optional.of(1 / 0)).value() == 1",
        "[?optional.none(), ?optional.of(2)] == [2] && {?'a': optional.none(), 'b': 1} == {'b': 1}",
        "optional.of(2).optMap(x, x * 2).value() == 4 && !optional.none().optMap(x, x).hasValue()",
        "{'k': {'s': 1}}.?k.optFlatMap(k, k.?s).orValue(0) == 1",
        "[1, 2].first().value() == 1 && [1, 2].last().value() == 2 && ![].first().hasValue()",
        "[optional.of(1), optional.none()].unwrapOpt() == [1] && optional.unwrap([optional.of(1)]) == [1]",
        "has({'a': {'b': 1}}.?a.b) && !has({'a': {'b': 1}}.?x.b)",
    ]);
    fails(&[("optional.none().value() == 1", "optional.none() dereference")]);
    refused(&[("[?1]", "ERROR: <input>:1:3: expected type 'optional_type(int)' but found 'int'")]);
}

#[test]
fn conversions_and_types() {
    holds(&[
        "int('-12') == -12 && int(3.9) == 3 && int(5u) == 5 && int(timestamp('1970-01-01T00:00:02Z')) == 2",
        "uint('7') == 7u && uint(3.2) == 3u && double('1.5') == 1.5 && double(2) == 2.0",
        "string(1) == '1' && string(true) == 'true' && string(1.5) == '1.5' && string(b'ab') == 'ab'",
        "string(123456.0) == '123456' && string(1000000.0) == '1e+06' && string(0.00001) == '1e-05'",
        "string(duration('1h30m')) == '5400s' && string(timestamp('2011-08-18T19:03:37.01+01:00')) == '2011-08-18T19:03:37.01+01:00'",
        "bool('true') && !bool('F') && bytes('a') == b'a' && dyn(1) == 1",
        "type(1) == int && type('') == string && type(null) == null_type && type([]) == list && type({}) == map",
        "type(type(1)) == type && type(1.0) == double && type(duration('1s')) == google.protobuf.Duration",
        "type(timestamp(0)) == google.protobuf.Timestamp && type(1u) == uint && type(b'') == bytes",
        "type(optional.of(1)) == optional_type && type(quantity('1')) == kubernetes.Quantity && type(true) == bool",
        "size('👑é') == 2 && 'abc'.size() == 3 && size([1]) == 1 && {'a': 1}.size() == 1",
    ]);
    fails(&[
        ("int(9223372036854775807u + 1u) == 1", "integer overflow"),
        ("uint(dyn(-1)) == 1u", "unsigned integer overflow"),
        ("int(dyn('x')) == 1", "type conversion error from 'string' to 'int'"),
        ("timestamp(dyn('x')) == timestamp(0)", "type conversion error from 'string' to 'google.protobuf.Timestamp'"),
        ("string(dyn(b'\\xff')) == ''", "invalid UTF-8 in bytes, cannot convert to string"),
    ]);
    let issues = Env::kubernetes().compile("int('x') == 1").err().expect("a constant that is no int");
    assert!(issues.is_instantiation());
    assert_eq!(issues.to_string(), "type conversion error from 'string' to 'int'");
    refused(&[
        ("duration('1x') == duration('1s')", "ERROR: <input>:1:10: invalid duration argument"),
        ("timestamp('1') == timestamp(0)", "ERROR: <input>:1:11: invalid timestamp argument"),
        ("'a'.matches('(')", "ERROR: <input>:1:13: invalid matches argument"),
        ("[1, 'a'] == []", "ERROR: <input>:1:5: expected type 'int' but found 'string'"),
        ("{'a': 1, 'b': 'c'} == {}", "ERROR: <input>:1:15: expected type 'int' but found 'string'"),
    ]);
}

#[test]
fn times() {
    holds(&[
        "timestamp('2023-07-14T10:30:45.123Z').getFullYear() == 2023",
        "timestamp('2023-07-14T10:30:45.123Z').getMonth() == 6 && timestamp('2023-01-02T00:00:00Z').getDayOfYear() == 1",
        "timestamp('2023-07-14T10:30:45.123Z').getDayOfMonth() == 13 && timestamp('2023-07-14T10:30:45.123Z').getDate() == 14",
        "timestamp('2023-07-14T10:30:45.123Z').getDayOfWeek() == 5 && timestamp('2023-07-14T10:30:45.123Z').getHours() == 10",
        "timestamp('2023-07-14T10:30:45.123Z').getHours('America/Los_Angeles') == 3",
        "timestamp('2023-07-14T10:30:45.123Z').getMinutes('+05:30') == 0 && timestamp('2023-07-14T10:30:45.123Z').getHours('-08:00') == 2",
        "timestamp('2023-07-14T10:30:45.123Z').getSeconds() == 45 && timestamp('2023-07-14T10:30:45.123Z').getMilliseconds() == 123",
        "duration('3723.456s').getHours() == 1 && duration('3723s').getMinutes() == 62 && duration('3723.4s').getSeconds() == 3723",
        "duration('1h2m3s4ms5us6ns') == duration('3723004005006ns') && duration('-1.5h') == duration('-90m')",
        "timestamp('2023-01-01T00:00:00Z') + duration('24h1m2s') == timestamp('2023-01-02T00:01:02Z')",
        "timestamp('2023-01-10T12:00:00Z') - timestamp('2023-01-10T00:00:00Z') == duration('12h')",
        "timestamp('2023-01-01T00:00:00Z') - duration('1ns') == timestamp('2022-12-31T23:59:59.999999999Z')",
        "timestamp('2024-02-29T00:00:00Z') < timestamp('2024-03-01T00:00:00+01:00')",
    ]);
    fails(&[
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s') > timestamp(0)", "timestamp overflow"),
        ("timestamp(0).getHours('Mars/Olympus') == 1", "unknown time zone Mars/Olympus"),
    ]);
}

#[test]
fn faults_of_syntax() {
    let expecting = "expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
    refused(&[
        ("1 +", &format!("ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' {expecting}")),
        ("", &format!("ERROR: <input>:1:1: Syntax error: mismatched input '<EOF>' {expecting}")),
        ("1 2", "ERROR: <input>:1:3: Syntax error: extraneous input '2' expecting <EOF>"),
        ("(1", "ERROR: <input>:1:3: Syntax error: mismatched input '<EOF>' expecting ')'"),
        ("a.1", "ERROR: <input>:1:2: Syntax error: extraneous input '.1' expecting <EOF>"),
        ("true @", "ERROR: <input>:1:6: Syntax error: token recognition error at: '@'"),
        ("nope", "ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')"),
        ("nope(1)", "ERROR: <input>:1:5: undeclared reference to 'nope' (in container '')"),
        ("1 + 'a'", "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'"),
        ("'a'.contains(1)", "ERROR: <input>:1:13: found no matching overload for 'contains' applied to 'string.(int)'"),
        ("1.foo", "ERROR: <input>:1:2: type 'int' does not support field selection"),
    ]);
    let issues = Env::kubernetes().compile("true &&\n\t'é' + 1").err().expect("a fault");
    assert_eq!(
        issues.to_string(),
        "ERROR: <input>:2:6: found no matching overload for '_+_' applied to '(string, int)'\n |  'é' + 1\n | ..．..^"
    );
}

#[test]
fn depth_and_size_are_bounded() {
    let limit = "ERROR: <input>:-1:0: expression recursion limit exceeded: 250";
    let nested = |open: &str, close: &str, count: usize| format!("{}1{}", open.repeat(count), close.repeat(count));
    for (open, close) in [("(", ")"), ("[", "]"), ("{1:", "}"), ("dyn(", ")"), ("-(", ")"), ("true?1:", "")] {
        assert!(eval(&nested(open, close, 200)).is_ok(), "{open}");
        let deep = nested(open, close, 100_000 / (open.len() + close.len() + 1));
        assert_eq!(eval(&deep), Err(limit.to_owned()), "{open}");
    }
    let chain = |sign: &str, count: usize| vec!["1"; count].join(sign);
    assert_eq!(eval(&chain("+", 200)), Ok(json!(200)));
    assert_eq!(eval(&chain("+", 20_000)), Err(limit.to_owned()));
    assert_eq!(eval(&format!("[1]{}", "[0]".repeat(400))), Err(limit.to_owned()));
    // Terms of `||` become a balanced tree, so that there may be many.
    assert_eq!(eval(&vec!["1==2"; 10_000].join("||")), Ok(json!(false)));
    let long = format!("'{}'", "é".repeat(100_000));
    let message = "ERROR: <input>:-1:0: expression code point size exceeds limit: size: 100002, limit 100000";
    assert_eq!(eval(&long), Err(message.to_owned()));
    let doubling = "a.optMap(x, x)".to_owned() + &".optMap(x, x)".repeat(60);
    assert!(eval(&doubling.replacen('a', "optional.of(1)", 1)).is_err());
}

/// The deepest trees that are accepted are parsed, checked, run and dropped on the stack of a worker thread.
#[test]
fn the_deepest_expressions_fit_the_stack() {
    let wrapped = |before: &str, inner: &str, after: &str, count: usize| {
        format!("{}{inner}{}", before.repeat(count), after.repeat(count))
    };
    let all = [
        wrapped("[1].map(x,", "1", ")", 120),
        wrapped("[1].all(x,", "true", ")", 120),
        wrapped("{'a':", "1", "}", 240),
        wrapped("([1].filter(x, true) == [1] ?", "1", ": 2)", 120),
        wrapped("", "[1]", ".map(x,x)", 240),
        wrapped("optional.of(1).optMap(x,", "1", ")", 80),
    ];
    let run = move || {
        for text in all {
            let found = Env::kubernetes().compile(&text).map(|program| {
                let result = program.eval(&Activation::new(), &mut Budget::new(10_000_000));
                result.map(|value| value.to_json()).is_ok()
            });
            assert!(matches!(found, Ok(true)), "{:.40}", text);
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run).expect("a thread");
    thread.join().expect("no overflow");
}

#[test]
fn budgets_end_evaluations_in_the_middle() {
    let text = "[1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, [1,2,3,4,5,6,7,8,9,10].map(c, [a,b,c]))).size() > 0";
    let program = Env::kubernetes().compile(text).expect("an expression");
    let mut budget = Budget::new(1000);
    assert_eq!(program.eval(&Activation::new(), &mut budget).err(), Some(Error::Budget));
    assert!((1000..1100).contains(&budget.used()), "{}", budget.used());
    assert_eq!(Error::Budget.to_string(), "operation cancelled: actual cost limit exceeded");

    // Nothing absorbs it.
    let absorbing = Env::kubernetes()
        .compile(
            &format!("true || {text}")
                .replace("true ||", "({0} > 1) || true ||")
                .replace("{0}", "[1].map(a, a).map(a, a).map(a, a).size()"),
        )
        .expect("an expression");
    assert_eq!(absorbing.eval(&Activation::new(), &mut Budget::new(20)).err(), Some(Error::Budget));

    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    let mut budget = Budget::new(10_000_000).with_stop(&stop);
    assert_eq!(program.eval(&Activation::new(), &mut budget).err(), Some(Error::Interrupted));
    assert_eq!(asked.get(), 3, "once in a hundred rounds");

    let doubled =
        "'x'.replace('x', 'xxxxxxxxxxxxxxxxxxxx')".to_owned() + &".replace('x', 'xxxxxxxxxxxxxxxxxxxx')".repeat(9);
    let program = Env::kubernetes().compile(&format!("size({doubled}) > 0")).expect("an expression");
    assert_eq!(program.eval(&Activation::new(), &mut Budget::new(u64::MAX)).err(), Some(Error::Budget), "memory");

    // Values that share their parts are trees of 2^60 elements to whoever compares them.
    let mut shared = "[1]".to_owned();
    for _ in 0..60 {
        shared = format!("optional.of({shared}).optMap(x, [x, x]).value()");
    }
    if let Ok(program) = Env::kubernetes().compile(&format!("{shared} == {shared}")) {
        assert_eq!(
            program.eval(&Activation::new(), &mut Budget::new(u64::MAX).with_work(100_000)).err(),
            Some(Error::Budget),
            "work"
        );
    }
}

/// Types share their parts as values do: nested loops make one of 2^100 parts in a line.
#[test]
fn types_are_bounded() {
    let mut text = "1".to_owned();
    for _ in 0..60 {
        text = format!("[{text}].map(x, {{[x]: x}})");
    }
    let message = eval(&text).expect_err("too large");
    assert!(message.contains("the type is too large"), "{message:.200}");
    let mut text = "[]".to_owned();
    for _ in 0..60 {
        text = format!("[{text}].map(x, [x, []])");
    }
    assert!(eval(&text).is_ok_and(|_| true) || eval(&text).is_err());
    let patterns = vec!["''.matches('a')"; 65].join(" && ");
    assert!(eval(&patterns).is_err_and(|message| message.contains("too many patterns")));
}

/// What costs little upstream and takes long for large texts is bounded all the same.
#[test]
fn long_texts_are_not_walked_without_end() {
    let text = "x".repeat(3 << 20);
    for rule in ["l.all(i, size(s) > 0)", "l.all(i, s.charAt(3000000) == 'x')", "l.all(i, s != t)"] {
        let env = Env::kubernetes()
            .with_variable("s", Type::String)
            .with_variable("t", Type::String)
            .with_variable("l", Type::list(Type::Int));
        let program = env.compile(rule).map_err(|issues| issues.to_string()).expect(rule);
        let numbers = json!(vec![1; 100_000]);
        let other = format!("{text}y");
        let activation = Activation::new()
            .with("s", Value::borrowed(&text))
            .with("t", Value::borrowed(&other))
            .with("l", Value::json(&numbers));
        let result = program.eval(&activation, &mut Budget::new(u64::MAX).with_work(1_000_000));
        assert_eq!(result.err(), Some(Error::Budget), "{rule}");
    }
}
