//! Parses and prints YAML as Kubernetes does: YAML 1.1 booleans (`yes`, `on`) and octal numbers (`0777`); every document is a JSON value.
//!
//! The only module that uses `serde_yaml`. Nesting is limited, and so is the content of aliases, relative to the length of the text: a
//! short text can become neither a large value nor much work.

mod duplicates;

use crate::tree::{MAX_DEPTH, Tree};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_yaml::options::{AliasLimits, DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use std::fmt;

/// Parses the only YAML document, and returns its duplicate keys as problems, as [`crate::json::parse`] does. Whole floats become integers, as
/// upstream's conversion to JSON does.
///
/// # Errors
/// A message with line and column after upstream's `yaml: `.
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>), String> {
    // Server-side apply mostly sends JSON as YAML, for which the faster parser suffices.
    if bytes.trim_ascii_start().starts_with(b"{")
        && let Ok(read) = crate::json::parse(bytes)
    {
        return Ok(read);
    }
    let text = text(bytes)?;
    let tree: Tree = serde_yaml::from_str_with_options(text, options(text.len())).map_err(explain)?;
    Ok(finish(tree))
}

/// What upstream's strict parser says of the duplicate keys of a document that [`parse`] has read.
pub fn strict_error(bytes: &[u8]) -> String {
    let found = text(bytes).ok().and_then(|text| serde_yaml::from_str_with_options(text, options(text.len())).ok());
    let duplicates::Duplicates(found) = found.unwrap_or_default();
    format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {}", found.join("\n  "))
}

/// Every non-empty document of a text, each with its problems.
///
/// # Errors
/// As [`parse`], for the first invalid document.
pub fn documents(text: &str) -> Result<Vec<(Value, Vec<String>)>, String> {
    let trees: Vec<Tree> = serde_yaml::from_multiple_with_options(text, options(text.len())).map_err(explain)?;
    Ok(trees.into_iter().map(finish).filter(|(value, _)| !value.is_null()).collect())
}

/// A top-level field of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// The line of its name, from 1.
    pub line: u64,
    /// Its value.
    pub value: Value,
}

/// The top-level fields of the only document in their order, duplicates included, for configuration files, whose errors name lines. An
/// empty text has none.
///
/// # Errors
/// As [`parse`]; also for a document that is no mapping.
pub fn fields(bytes: &[u8]) -> Result<Vec<Field>, String> {
    let text = text(bytes)?;
    let Fields(mut fields) = serde_yaml::from_str_with_options(text, options(text.len())).map_err(explain)?;
    fields.iter_mut().for_each(|field| whole_floats(&mut field.value));
    Ok(fields)
}

struct Fields(Vec<Field>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Mapping;

        impl<'de> Visitor<'de> for Mapping {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_unit<E>(self) -> Result<Fields, E> {
                Ok(Fields(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(key) = map.next_key::<serde_yaml::Spanned<String>>()? {
                    let value = map.next_value::<Tree>()?.value;
                    fields.push(Field { name: key.value, line: key.referenced.line(), value });
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_any(Mapping)
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())
}

/// Prints a value as one YAML document with a final line break and sorted keys.
pub fn to_string(value: &Value) -> String {
    let options = serde_yaml::ser_options! { prefer_block_scalars: true, folded_wrap_chars: usize::MAX };
    let mut text = serde_yaml::to_string_with_options(value, options).expect("a JSON value is YAML");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Nodes that a text of any length may have: a millisecond or two of work.
const MIN_NODES: usize = 2_000;

/// The limits for a text of so many bytes. A text without anchors does not reach them: a node takes at least one byte, a character of a
/// scalar at least two thirds of its own length. Anchored content is kept once for each anchor around it.
fn options(length: usize) -> serde_yaml::Options {
    let most = MIN_NODES + length;
    serde_yaml::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Merge,
        legacy_octal_numbers: true,
        strict_booleans: false,
        non_finite_float_policy: NonFiniteFloatPolicy::Reject,
        // The budget includes the content of aliases.
        alias_limits: AliasLimits::default(),
        budget: serde_yaml::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: most,
            max_events: 2 * most + 16,
            max_aliases: most,
            max_anchors: most,
            max_merge_keys: most,
            max_documents: most,
            max_recorded_anchor_events: 4 * most,
            max_recorded_anchor_bytes: 64 * most,
            max_total_scalar_bytes: 2 * most,
            enforce_alias_anchor_ratio: false,
        },
    }
}

fn finish(tree: Tree) -> (Value, Vec<String>) {
    let mut value = tree.value;
    whole_floats(&mut value);
    (value, tree.duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect())
}

/// Go writes the float 3.0 as the JSON number 3, so that `replicas: 3.0` is an integer to Kubernetes.
fn whole_floats(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) =
                number.as_f64().filter(|f| !number.is_i64() && !number.is_u64() && f.fract() == 0.0 && f.abs() < 1e18)
            {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(whole_floats),
        Value::Object(map) => map.values_mut().for_each(whole_floats),
        _ => {}
    }
}

/// The library's error in the form of Go's: `yaml: line 3: …`. Texts about Rust types and functions are replaced by YAML's terms.
fn explain(error: serde_yaml::Error) -> String {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let placed = text.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    let (line, what) = match placed {
        Some((place, what)) => (place.split(' ').next(), what),
        None => (None, text),
    };
    let what = if what.starts_with("budget breached: Depth") {
        "exceeded max depth"
    } else if what.starts_with("budget breached") || what.starts_with("alias replay") {
        "document contains excessive aliasing"
    } else if what.starts_with("multiple YAML documents") {
        "more than one document"
    } else if what.starts_with("recursive references") {
        "an anchor that contains itself"
    } else if what.starts_with("non-finite float") {
        "a number that is not finite"
    } else if ["invalid u", "invalid i", "invalid f"].iter().any(|own| what.starts_with(own)) {
        "a scalar that its tag does not allow"
    } else {
        what
    };
    match line {
        Some(line) => format!("yaml: line {line}: {what}"),
        None => format!("yaml: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::{cell::Cell, rc::Rc};

    fn read(text: &str) -> Value {
        parse(text.as_bytes()).expect(text).0
    }

    #[test]
    fn duplicates_are_named_by_the_line_of_the_value() {
        let prefix = "error converting YAML to JSON: yaml: unmarshal errors:\n  ";
        for (text, said) in [
            ("\na: 1\nb:\n  c: 1\n  c: 2\n", "line 5: key \"c\" already set in map"),
            ("a: 1\na:\n  b: 1\n", "line 3: key \"a\" already set in map"),
            (
                "{\"a\": 1, \"a\": [{\"x\": null, \"x\": true}]}",
                "line 1: key \"x\" already set in map\n  line 1: key \"a\" already set in map",
            ),
            (
                "- {a: 1.5, a: b}\n- {a: 1,\n   a: 2, a: 3}",
                "line 1: key \"a\" already set in map\n  line 3: key \"a\" already set in map\n  line 3: key \"a\" already set in map",
            ),
        ] {
            assert_eq!(strict_error(text.as_bytes()), format!("{prefix}{said}"), "{text}");
        }
        let many = format!("{{{}}}", "a: 1, ".repeat(5000));
        assert_eq!(strict_error(many.as_bytes()).lines().count(), 101);
    }

    #[test]
    fn scalars_are_those_of_yaml_1_1() {
        for (text, value) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("\"yes\"", json!("yes")),
            ("0777", json!(511)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("1_000", json!(1000)),
            ("3.0", json!(3)),
            ("1e3", json!(1000)),
            ("1.5", json!(1.5)),
            ("~", json!(null)),
            ("null", json!(null)),
            ("''", json!("")),
            ("2001-12-14", json!("2001-12-14")),
            ("1.2.3", json!("1.2.3")),
            ("v1", json!("v1")),
            ("18446744073709551615", json!(u64::MAX)),
            ("80:80", json!("80:80")),
            ("'0777'", json!("0777")),
            ("500m", json!("500m")),
        ] {
            assert_eq!(read(&format!("a: {text}"))["a"], value, "{text}");
        }
    }

    #[test]
    fn errors_say_the_line_and_nothing_of_rust() {
        for (text, error) in [
            ("a: b: c", "yaml: line 1: mapping values are not allowed in this context"),
            ("a: 1\nb: [", "yaml: line 2: unclosed bracket '['"),
            ("a: 1\n---\nb: 1", "yaml: line 3: more than one document"),
            ("a: &x [*x]", "yaml: line 1: an anchor that contains itself"),
            ("a: .nan", "yaml: line 1: a number that is not finite"),
            ("a: !!int x", "yaml: line 1: a scalar that its tag does not allow"),
            ("a: !!float x", "yaml: line 1: a scalar that its tag does not allow"),
        ] {
            assert_eq!(parse(text.as_bytes()).expect_err(text), error, "{text}");
        }
    }

    #[test]
    fn keys_are_text_and_duplicates_are_named() {
        assert_eq!(read("1: a\ntrue: b"), json!({"1": "a", "true": "b"}));
        let (value, problems) = parse(b"spec:\n  replicas: 1\n  replicas: 2\n").expect("YAML");
        assert_eq!(
            (value, problems),
            (json!({"spec": {"replicas": 2}}), vec![r#"duplicate field "spec.replicas""#.to_owned()])
        );
    }

    #[test]
    fn anchors_merge_keys_and_block_scalars_work() {
        let value = read("base: &b {x: 1}\nmore:\n  <<: *b\n  z: 2\ntext: |\n  one\n  two\n");
        assert_eq!(value, json!({"base": {"x": 1}, "more": {"x": 1, "z": 2}, "text": "one\ntwo\n"}));
    }

    #[test]
    fn documents_are_split_and_empty_ones_left_out() {
        let all = documents("# comment\n---\na: 1\n---\n---\nb: 2\n...\n").expect("YAML");
        assert_eq!(all.into_iter().map(|(v, _)| v).collect::<Vec<_>>(), [json!({"a": 1}), json!({"b": 2})]);
        assert!(parse(b"a: 1\n---\nb: 2\n").is_err());
    }

    #[test]
    fn fields_are_told_with_their_lines() {
        let text = "# settings\na: 1.0\nlist:\n  - x\n\n\"b c\": {d: yes}\na: two\n";
        let field = |name: &str, line, value| Field { name: name.into(), line, value };
        let want = [
            field("a", 2, json!(1)),
            field("list", 3, json!(["x"])),
            field("b c", 6, json!({"d": true})),
            field("a", 7, json!("two")),
        ];
        assert_eq!(fields(text.as_bytes()).expect("YAML"), want);
        for empty in ["", "# nothing\n", "---\n", "~", "{}"] {
            assert_eq!(fields(empty.as_bytes()), Ok(vec![]), "{empty:?}");
        }
        for (wrong, why) in [
            ("- 1", "yaml: invalid type: sequence, expected a mapping"),
            ("words", "yaml: invalid type: string \"words\", expected a mapping"),
            ("a: 1\n---\nb: 2\n", "yaml: line 3: more than one document"),
            ("a: [1", "yaml: line 1: unclosed bracket '['"),
        ] {
            assert_eq!(fields(wrong.as_bytes()).expect_err(wrong), why);
        }
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(
            read(r#"{"a": [1, "x", null], "b": {"c": false}}"#),
            json!({"a": [1, "x", null], "b": {"c": false}})
        );
    }

    #[test]
    fn bombs_and_depths_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb += &format!("a{i}: &a{i} [{refs}]\n");
        }
        let error = parse(bomb.as_bytes()).expect_err("a bomb");
        assert!(
            error.starts_with("yaml: line ") && error.ends_with(": document contains excessive aliasing"),
            "{error}"
        );
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        for (depth, fits) in [(MAX_DEPTH, true), (MAX_DEPTH + 1, false)] {
            let text = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            let read = parse(text.as_bytes());
            assert_eq!(read.is_ok(), fits, "{depth}");
            assert!(fits || read == Err("yaml: line 1: exceeded max depth".into()));
        }
        assert!(parse(b"a: .inf").is_err());
        assert!(parse(b"a: b: c").expect_err("no YAML").starts_with("yaml: "));
        assert!(parse(&[0xff, 0xfe, 0xff]).is_err());
    }

    /// How many nodes are looked at until a text is read or refused.
    fn nodes_of(text: &str) -> (bool, usize) {
        let nodes = Rc::new(Cell::new(0));
        let seen = nodes.clone();
        let options = options(text.len()).with_budget_report(move |report| seen.set(report.nodes));
        let read: Result<Tree, _> = serde_yaml::from_str_with_options(text, options);
        (read.is_ok(), nodes.get())
    }

    #[test]
    fn the_work_for_a_text_is_bounded_by_its_length() {
        let list = |one: &str, count: usize| vec![one; count].join(",");
        let scalar = "x".repeat(3_000);
        let nested = (0..60).fold("x".to_owned(), |inner, level| format!("[&a{level} {inner}]"));
        for (text, fits) in [
            // 6 KB that would be 810,000 nodes, and the same in other ways
            (format!("a: &a [{}]\nb: [{}]", list("x", 900), list("*a", 900)), false),
            (
                format!(
                    "a: &a {{{}}}\nb:\n{}",
                    (0..500).map(|i| format!("k{i}: 1,")).collect::<String>(),
                    "- <<: *a\n".repeat(500)
                ),
                false,
            ),
            (format!("a: &a {scalar}\nb: [{}]", list("*a", 1_500)), false),
            (format!("a: &a []\nb: [{}]", list("*a", 5_000)), true),
            (format!("[{}]", list("&a x", 5_000)), true),
            (format!("[{}]", list(&nested, 50)), false),
            // honest: a hundred containers that share their variables
            (format!("a: &a {{x: 1, y: 2, z: 3}}\nb:\n{}", "- env: *a\n".repeat(300)), true),
            (format!("[{}]", list("", 0)), true),
            (format!("{{{}}}", (0..100_000).map(|i| format!("{i},")).collect::<String>()), true),
            ("- \n".repeat(20_000), true),
            (format!("\"{}\"", "\\L".repeat(20_000)), true),
        ] {
            let (read, nodes) = nodes_of(&text);
            let start: String = text.chars().take(40).collect();
            assert_eq!(
                read,
                fits,
                "{start}: {nodes} nodes of {} bytes: {:?}",
                text.len(),
                parse(text.as_bytes()).err()
            );
            assert!(nodes <= MIN_NODES + text.len() + 1, "{start}: {nodes} nodes of {} bytes", text.len());
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({"yes": "yes", "n": "0777", "t": "a\nb\n", "long": "x ".repeat(200), "e": {}, "l": [], "s": "2001-12-14",
            "q": "1e3", "tilde": "~", "deep": [{"a": [1, {"b": null}]}], "colon": "a: b", "dash": "- a", "empty": "", "tab": "\t"});
        let text = to_string(&value);
        assert_eq!(read(&text), value, "{text}");
    }

    proptest! {
        #[test]
        fn any_string_survives(text in ".*", key in "[ -~]{0,12}") {
            let value = json!({ key: text });
            prop_assert_eq!(read(&to_string(&value)), value);
        }

        #[test]
        fn any_text_is_refused_or_read(text in ".{0,80}") {
            let _ = documents(&text);
        }
    }
}
