//! Whatever is given, nothing panics and everything ends.

use super::*;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value as Json, json};
use std::sync::LazyLock;

static SCHEMA: LazyLock<(Json, std::sync::Arc<Schema>)> = LazyLock::new(|| {
    let schema = json!({"type": "object", "properties": {
        "i": {"type": "integer"}, "d": {"type": "number"}, "s": {"type": "string", "maxLength": 20}, "b": {"type": "boolean"},
        "l": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 9}},
        "n": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
        "m": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "integer"}},
        "e": {"x-kubernetes-int-or-string": true}, "t": {"type": "string", "format": "date-time"},
        "o": {"type": "object", "properties": {"a-b": {"type": "string"}, "z": {"type": "integer", "nullable": true}}}}});
    let schema = Schema::new(&schema);
    let object = json!({"i": -3, "d": 2.5, "s": "héllo", "b": true, "l": ["a", "bb", ""], "n": [1, 2], "m": {"k": 1, "x y": 2},
        "e": "50%", "t": "2020-02-29T12:00:00Z", "o": {"a-b": "q", "z": null}});
    (object, schema)
});

/// Compiles, estimates, runs and shows an expression.
fn exercise(text: &str) -> bool {
    let (object, schema) = &*SCHEMA;
    let of = schema.to_type("self").expect("seen");
    let env = Env::kubernetes()
        .with_variable("self", of)
        .with_variable("any", Type::Dyn)
        .with_variable("authorizer", AUTHORIZER);
    let program = match env.compile(text) {
        Ok(program) => program,
        Err(issues) => {
            assert!(!issues.to_string().is_empty());
            return false;
        }
    };
    let (min, max) = program.cost(&**schema);
    assert!(min <= max || max == 0, "{text}: {min} {max}");
    let mut budget = Budget::new(100_000);
    let activation = Activation::new()
        .with("self", Value::typed(object, schema).expect("of its schema"))
        .with("any", Value::json(object));
    match program.eval(&activation, &mut budget) {
        Ok(value) => drop(value.to_json()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    true
}

const TOKENS: &[&str] = &[
    "self",
    "any",
    "i",
    "s",
    "l",
    "m",
    ".",
    ".?",
    "[",
    "[?",
    "]",
    "(",
    ")",
    "{",
    "}",
    ",",
    ":",
    "?",
    "&&",
    "||",
    "!",
    "-",
    "+",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "in",
    "true",
    "false",
    "null",
    "1",
    "2u",
    "0.5",
    "'a'",
    "b'x'",
    "r'\\d'",
    "has",
    "all",
    "exists",
    "map",
    "filter",
    "size",
    "matches",
    "optional",
    "of",
    "optMap",
    "x",
    "int",
    "string",
    "type",
    "'''",
    "\"",
    "\\",
    "`a`",
    "//",
    "\n",
    "9223372036854775807",
    "1e400",
    "@",
    "é",
];

/// Expressions that are mostly right.
fn expression() -> impl Strategy<Value = String> {
    let leaf = select(vec![
        "self.i",
        "self.d",
        "self.s",
        "self.b",
        "self.l",
        "self.n",
        "self.m",
        "self.e",
        "self.t",
        "self.o",
        "self.o.a__dash__b",
        "any",
        "any.s",
        "any.l",
        "any.nope",
        "1",
        "-7",
        "2u",
        "2.5",
        "'a'",
        "'héé'",
        "''",
        "b'ab'",
        "true",
        "false",
        "null",
        "[]",
        "{}",
        "x",
        "y",
        "int",
        "9223372036854775807",
        "duration('1h')",
        "timestamp('2020-01-01T00:00:00Z')",
        "optional.none()",
        "quantity('1Ki')",
        "ip('10.0.0.1')",
        "cidr('10.0.0.0/8')",
        "semver('1.2.3')",
        "url('https://a.b/c?d=e')",
        "[1, 2, 3]",
        "['a', 'b']",
        "{'a': 1}",
        "lists.range(5)",
        "authorizer",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(5, 40, 3, |inner| {
        let binary = select(vec!["+", "-", "*", "/", "%", "==", "!=", "<", ">", "<=", "in", "&&", "||"]);
        let method = select(vec![
            "size",
            "trim",
            "lowerAscii",
            "sum",
            "min",
            "max",
            "isSorted",
            "sort",
            "reverse",
            "distinct",
            "flatten",
            "getHours",
            "getFullYear",
            "value",
            "hasValue",
            "first",
            "last",
            "join",
            "family",
            "masked",
            "major",
            "getHost",
            "getQuery",
            "asInteger",
            "unwrapOpt",
        ]);
        let with_one = select(vec![
            "contains",
            "startsWith",
            "endsWith",
            "indexOf",
            "lastIndexOf",
            "split",
            "find",
            "findAll",
            "matches",
            "charAt",
            "substring",
            "orValue",
            "or",
            "add",
            "sub",
            "compareTo",
            "isLessThan",
            "containsIP",
            "containsCIDR",
            "format",
            "getMinutes",
            "join",
            "flatten",
        ]);
        let function = select(vec![
            "size",
            "int",
            "uint",
            "double",
            "string",
            "bytes",
            "bool",
            "dyn",
            "type",
            "duration",
            "timestamp",
            "optional.of",
            "optional.ofNonZeroValue",
            "quantity",
            "isQuantity",
            "url",
            "isURL",
            "ip",
            "isIP",
            "cidr",
            "isCIDR",
            "semver",
            "has",
            "strings.quote",
            "lists.range",
            "sign",
        ]);
        let looped = select(vec!["all", "exists", "exists_one", "map", "filter", "optMap", "optFlatMap", "sortBy"]);
        let looped_two =
            select(vec!["all", "exists", "existsOne", "transformList", "transformMap", "transformMapEntry"]);
        prop_oneof![
            (inner.clone(), binary, inner.clone()).prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
            (inner.clone(), method).prop_map(|(a, name)| format!("{a}.{name}()")),
            (inner.clone(), with_one, inner.clone()).prop_map(|(a, name, b)| format!("{a}.{name}({b})")),
            (function, inner.clone()).prop_map(|(name, a)| format!("{name}({a})")),
            (inner.clone(), looped, inner.clone()).prop_map(|(a, name, b)| format!("{a}.{name}(x, {b})")),
            (inner.clone(), looped_two, inner.clone()).prop_map(|(a, name, b)| format!("{a}.{name}(x, y, {b})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[?{b}]")),
            inner.clone().prop_map(|a| format!("{a}.?s")),
            inner.prop_map(|a| format!("dyn({a})")),
        ]
    })
}

/// An expression of each type.
#[derive(Clone, Debug)]
struct Typed {
    int: String,
    text: String,
    truth: String,
    ints: String,
    texts: String,
    optional: String,
    map: String,
}

/// Expressions of right types.
fn typed() -> impl Strategy<Value = Typed> {
    let leaf = (
        select(vec!["self.i", "1", "-7", "0", "9223372036854775807", "self.n[0]", "self.m.k"]),
        select(vec![
            "self.s",
            "'a'",
            "'héllo'",
            "''",
            "self.l[1]",
            "self.o.a__dash__b",
            "'[0-9]+'",
            "'10.0.0.1'",
            "'1.2.3'",
            "'1Ki'",
        ]),
        select(vec![
            "self.b",
            "true",
            "false",
            "has(self.o.z)",
            "self.d > 1.0",
            "self.t > timestamp('2020-01-01T00:00:00Z')",
        ]),
        select(vec!["self.n", "[1, 2, 3]", "[0]", "lists.range(4)"]),
        select(vec!["self.l", "['a', 'b']", "['x']"]),
        select(vec!["optional.of(1)", "self.?i", "self.n[?7]", "self.m[?'k']"]),
        select(vec!["self.m", "{'a': 1}"]),
    )
        .prop_map(|(int, text, truth, ints, texts, optional, map)| Typed {
            int: int.to_owned(),
            text: text.to_owned(),
            truth: truth.to_owned(),
            ints: ints.to_owned(),
            texts: texts.to_owned(),
            optional: optional.to_owned(),
            map: map.to_owned(),
        });
    leaf.prop_recursive(4, 64, 2, |inner| {
        (inner.clone(), inner, any::<[u8; 7]>()).prop_map(|(a, b, choice)| combined(&a, &b, choice))
    })
}

fn combined(a: &Typed, b: &Typed, choice: [u8; 7]) -> Typed {
    let pick = |choice: u8, all: Vec<String>| {
        let index = usize::from(choice) % all.len();
        all.into_iter().nth(index).unwrap_or_default()
    };
    let Typed { int, text, truth, ints, texts, optional, map } = a;
    let int = pick(
        choice[0],
        vec![
            format!("({int} + {})", b.int),
            format!("({int} * {})", b.int),
            format!("({int} / {})", b.int),
            format!("({int} % {})", b.int),
            format!("size({text})"),
            format!("{ints}.sum()"),
            format!("{texts}.size()"),
            format!("{ints}.max()"),
            format!("({truth} ? {int} : {})", b.int),
            format!("{optional}.orValue({int})"),
            format!("{text}.indexOf({})", b.text),
            format!("{ints}[{int}]"),
            format!("int({text})"),
            format!("{map}[{text}]"),
            format!("self.t.getHours() + {int}"),
            format!("{ints}.indexOf({int})"),
            format!("ip({text}).family()"),
            format!("semver({text}).major()"),
            format!("quantity({text}).asInteger()"),
            format!("{optional}.value()"),
            format!("-({int})"),
        ],
    );
    let text = pick(
        choice[1],
        vec![
            format!("({text} + {})", b.text),
            format!("{text}.replace({}, 'z')", b.text),
            format!("{text}.upperAscii()"),
            format!("string({int})"),
            format!("{texts}.join({text})"),
            format!("{texts}[{}]", b.int),
            format!("{text}.substring({})", b.int),
            format!("'%d-%s'.format([{int}, {text}])"),
            format!("({truth} ? {text} : {})", b.text),
            format!("{text}.find({})", b.text),
            format!("strings.quote({text})"),
            format!("{text}.charAt({})", b.int),
            format!("{text}.trim()"),
        ],
    );
    let truth = pick(
        choice[2],
        vec![
            format!("({truth} && {})", b.truth),
            format!("({truth} || {})", b.truth),
            format!("!({truth})"),
            format!("({int} < {})", b.int),
            format!("({text} == {})", b.text),
            format!("({} in {ints})", b.int),
            format!("{ints}.all(x, x > {})", b.int),
            format!("{texts}.exists(x, x == {})", b.text),
            format!("{map}.exists_one(k, {map}[k] == {})", b.int),
            format!("{text}.matches({})", b.text),
            format!("{text}.contains({})", b.text),
            format!("{ints}.isSorted()"),
            format!("sets.contains({ints}, {})", b.ints),
            format!("{optional}.hasValue()"),
            format!("({map} == {})", b.map),
            format!("{map}.all(k, v, v > {})", b.int),
            format!("isIP({text})"),
            format!("({ints} == {})", b.ints),
        ],
    );
    let ints = pick(
        choice[3],
        vec![
            format!("({ints} + {})", b.ints),
            format!("{ints}.map(x, x + {})", b.int),
            format!("{ints}.filter(x, x > {})", b.int),
            format!("{ints}.sort()"),
            format!("{ints}.reverse()"),
            format!("[{int}, {}]", b.int),
            format!("{texts}.map(s, size(s))"),
            format!("{ints}.transformList(i, x, i * x)"),
            format!("{ints}.slice(0, {})", b.int),
            format!("{ints}.distinct()"),
            format!("{ints}.sortBy(x, -x)"),
            format!("[{ints}, {}].flatten()", b.ints),
            format!("[?{optional}, {int}]"),
        ],
    );
    let texts = pick(
        choice[4],
        vec![
            format!("({texts} + {})", b.texts),
            format!("{text}.split({})", b.text),
            format!("{texts}.map(s, s + {})", b.text),
            format!("{map}.map(k, k)"),
            format!("[{text}, {}]", b.text),
            format!("{text}.findAll({})", b.text),
            format!("{texts}.sort()"),
            format!("{texts}.filter(s, s != {})", b.text),
        ],
    );
    let optional = pick(
        choice[5],
        vec![
            format!("optional.of({int})"),
            format!("{optional}.or({})", b.optional),
            format!("{optional}.optMap(x, x + {})", b.int),
            format!("{ints}.first()"),
            format!("{map}[?{text}]"),
            format!("optional.ofNonZeroValue({int})"),
            format!("{optional}.optFlatMap(x, {})", b.optional),
        ],
    );
    let map = pick(
        choice[6],
        vec![
            format!("{{{text}: {int}}}"),
            format!("{map}.transformMap(k, v, v + {})", b.int),
            format!("{map}.transformMap(k, v, v > 0, v)"),
            format!("{map}.transformMapEntry(k, v, {{k + {}: v}})", b.text),
            format!("({truth} ? {map} : {})", b.map),
            format!("{{?{text}: {optional}}}"),
        ],
    );
    Typed { int, text, truth, ints, texts, optional, map }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        exercise(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn letters_do_no_harm(text in "\\PC{0,80}") {
        exercise(&text);
    }

    #[test]
    fn tokens_do_no_harm(tokens in vec(select(TOKENS), 0..60)) {
        exercise(&tokens.concat());
        exercise(&tokens.join(" "));
    }

    #[test]
    fn expressions_do_no_harm(text in expression()) {
        exercise(&text);
    }

    /// Expressions of right types compile, and no overload is missing when they run.
    #[test]
    fn checked_types_hold(typed in typed()) {
        let (object, schema) = &*SCHEMA;
        let env = Env::kubernetes().with_variable("self", schema.to_type("self").expect("seen"));
        for text in [&typed.int, &typed.text, &typed.truth, &typed.ints, &typed.texts, &typed.optional, &typed.map] {
            let program = match env.compile(text) {
                Ok(program) => program,
                Err(issues) => {
                    // Constants that cannot be converted or compiled are found out, and so are lists without a type.
                    let text = issues.to_string();
                    let known = issues.is_instantiation() || text.contains("invalid ") || text.contains("recursion limit")
                        || text.contains("but found 'list(dyn)'") || text.contains("too many patterns");
                    prop_assert!(known, "{}", text);
                    continue;
                }
            };
            let activation = Activation::new().with("self", Value::typed(object, schema).expect("of its schema"));
            let mut budget = Budget::new(100_000);
            let result = program.eval(&activation, &mut budget);
            prop_assert_ne!(result.as_ref().err(), Some(&Error::NO_SUCH_OVERLOAD), "{}", text);
            if let Ok(value) = result {
                prop_assert!(value.to_json().is_ok(), "{}", text);
            }
        }
    }

    #[test]
    fn patterns_do_no_harm(pattern in "[\\[\\](){}*+?|^$.a-c\\\\dwsbQEpx0-9,:-]{0,30}", text in "[a-c0-9 ]{0,20}") {
        if let Ok(regexp) = crate::functions::compile_regexp(&pattern) {
            prop_assert!(regexp.is_match(&text, &mut Budget::new(0)).is_ok());
        }
    }

    #[test]
    fn names_are_escaped_and_back(name in "[a-zA-Z0-9_./-]{0,20}") {
        if let Some(escaped) = escape(&name) {
            prop_assert_eq!(unescape(&escaped), Some(name));
        }
    }

    #[test]
    fn durations_and_times_do_no_harm(text in "[0-9a-zµ.+:TZ-]{0,30}") {
        parse_duration(&text);
        if let Some(stamp) = parse_timestamp(&text) {
            prop_assert_eq!(parse_timestamp(&stamp.to_string()), Some(stamp));
        }
    }
}

/// Ten terms on an object; run it with `--release -- --ignored --nocapture` to see how long one evaluation takes.
#[test]
#[ignore = "a figure, of a release build"]
fn ten_terms() {
    let (object, schema) = &*SCHEMA;
    let env = Env::kubernetes().with_variable("self", schema.to_type("self").expect("seen"));
    let text = "self.i < 5 && self.d > 1.0 && self.s.startsWith('h') && self.b && size(self.l) == 3 && has(self.m) && \
        self.o.a__dash__b == 'q' && self.s != 'x' && self.i + 1 == -2 && 'a' in self.l";
    let program = env.compile(text).map_err(|issues| issues.to_string()).expect("an expression");
    let value = Value::typed(object, schema).expect("of its schema");
    let activation = Activation::new().with("self", value);
    let count = 100_000;
    let start = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
    for _ in 0..count {
        let value = program.eval(&activation, &mut Budget::new(1_000_000)).expect("a value");
        assert_eq!(value.as_bool(), Some(true));
    }
    let took = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock") - start;
    println!("{:.2} µs for one evaluation of ten terms", took.as_secs_f64() * 1e6 / f64::from(count));
    let start = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
    for _ in 0..1000 {
        assert!(env.compile(text).is_ok());
    }
    let took = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock") - start;
    println!("{:.2} µs to compile them", took.as_secs_f64() * 1e3);
}
