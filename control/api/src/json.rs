//! A JSON parser that reports duplicate keys and limits nesting, for strict decoding.
//!
//! Follows <https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation>.

use crate::tree::{MAX_PROBLEMS, Order, Tree};
use serde::de::DeserializeSeed;
use serde_json::{Value, error::Category};
use std::collections::{HashMap, HashSet};

/// A number as Go's JSON has it: `3` for 3.0.
pub fn go_number(number: &serde_json::Number) -> String {
    crate::show::go_number(number, true)
}

/// Parses one JSON document. The last value of a duplicate key stays, and the path is returned as a problem: `duplicate field "spec.replicas"`.
/// The caller limits the size of the text; nesting is limited here ([`crate::MAX_DEPTH`]).
///
/// # Errors
/// Go's error where possible: `unexpected end of JSON input`, `exceeded max depth`, `invalid character '}' …`.
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>), String> {
    let tree: Tree = serde_json::from_slice(bytes).map_err(|e| explain(bytes, &e))?;
    let problems = tree.duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
    Ok((tree.value, problems))
}

/// The problems of one document in upstream's order, which is that of the fields in the document. `duplicates` are those of [`parse`],
/// `unknown` those of [`crate::schema::Schema::decode_check`]; an unknown field and the fields below it are not reported as duplicates too.
/// For a text that is not JSON (YAML), duplicates come first.
pub fn in_document_order(bytes: &[u8], duplicates: Vec<String>, unknown: Vec<String>) -> Vec<String> {
    let path = |problem: &str| problem.split('"').nth(1).unwrap_or_default().to_owned();
    let strange: HashSet<String> = unknown.iter().map(|p| path(p)).collect();
    let below = |name: &str| {
        let ends = name.match_indices(['.', '[']).map(|(at, _)| at).chain([name.len()]);
        ends.into_iter().any(|end| strange.contains(&name[..end]))
    };
    let mut problems: Vec<String> = duplicates.into_iter().filter(|p| !below(&path(p))).chain(unknown).collect();
    if problems.len() > 1 {
        let mut ranks = ranks(bytes, problems.iter().map(|p| path(p))).into_iter();
        problems.sort_by_cached_key(|_| ranks.next());
    }
    // Upstream has the same limit.
    problems.truncate(MAX_PROBLEMS);
    problems
}

/// The positions of paths in a document, for comparison; absent paths come last.
pub(crate) fn ranks(bytes: &[u8], paths: impl Iterator<Item = String>) -> Vec<usize> {
    let paths: Vec<String> = paths.collect();
    let mut order = Order { wanted: paths.iter().map(|p| (p.as_str(), None)).collect::<HashMap<_, _>>() };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = (&mut order).deserialize(&mut reader).is_ok();
    let rank =
        |path: &String| order.wanted.get(path.as_str()).copied().flatten().filter(|_| read).unwrap_or(usize::MAX);
    paths.iter().map(rank).collect()
}

fn explain(bytes: &[u8], error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("recursion limit exceeded") || text.starts_with("exceeded max depth") {
        return "exceeded max depth".into();
    }
    match error.classify() {
        Category::Eof => "unexpected end of JSON input".into(),
        Category::Syntax => {
            let line = bytes.split(|b| *b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
            let rest = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
            match String::from_utf8_lossy(rest).chars().next() {
                Some(c) if text.starts_with("trailing characters") => {
                    format!("invalid character {c:?} after top-level value")
                }
                Some(c) if text.starts_with("key must be") => {
                    format!("invalid character {c:?} looking for beginning of object key string")
                }
                Some(c) if text.starts_with("expected `,` or `}`") => {
                    format!("invalid character {c:?} after object key:value pair")
                }
                Some(c) if text.starts_with("expected `,` or `]`") => {
                    format!("invalid character {c:?} after array element")
                }
                Some(c) if text.starts_with("expected `:`") => format!("invalid character {c:?} after object key"),
                Some(c) if text.starts_with("expected value") => {
                    format!("invalid character {c:?} looking for beginning of value")
                }
                _ => text,
            }
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_DEPTH;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_named_once_and_the_last_wins() {
        let text = br#"{"spec": {"replicas": 1, "replicas": 2, "a": [{}, {"x": 1, "x": 2, "x": 3}]}, "spec": {"replicas": 3}}"#;
        let (value, problems) = parse(text).expect("JSON");
        assert_eq!(value, json!({"spec": {"replicas": 3}}));
        assert_eq!(
            problems,
            [r#"duplicate field "spec.replicas""#, r#"duplicate field "spec.a[1].x""#, r#"duplicate field "spec""#]
        );
        assert!(parse(br#"{"a": {"x": 1}, "b": {"x": 1}}"#).expect("JSON").1.is_empty());
    }

    #[test]
    fn problems_are_ordered_as_upstream_orders_them() {
        let text = br#"{"spec": {"unknown": 1, "twice": 1, "twice": 2, "replicas": 1, "replicas": 2}, "apple": 1}"#;
        let (_, duplicates) = parse(text).expect("JSON");
        let unknown = ["apple", "spec.twice", "spec.unknown"].map(|p| format!("unknown field \"{p}\"")).to_vec();
        assert_eq!(
            in_document_order(text, duplicates, unknown),
            [
                r#"unknown field "spec.unknown""#,
                r#"unknown field "spec.twice""#,
                r#"duplicate field "spec.replicas""#,
                r#"unknown field "apple""#
            ]
        );
    }

    #[test]
    fn numbers_are_the_nearest_of_their_text() {
        for text in ["31.245270191439438", "121.48791951161945", "2.638344616030823e-256"] {
            let (value, _) = parse(text.as_bytes()).expect("JSON");
            assert_eq!(value.to_string(), text);
        }
    }

    #[test]
    fn errors_are_gos() {
        for (text, error) in [
            ("", "unexpected end of JSON input"),
            (r#"{"a": "#, "unexpected end of JSON input"),
            ("{]", "invalid character ']' looking for beginning of object key string"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a": 1 "b"}"#, r#"invalid character '"' after object key:value pair"#),
            ("{} x", "invalid character 'x' after top-level value"),
            ("[1 2]", "invalid character '2' after array element"),
            ("x", "invalid character 'x' looking for beginning of value"),
        ] {
            assert_eq!(parse(text.as_bytes()).expect_err(text), error, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(parse(deep.as_bytes()).expect_err("deep"), "exceeded max depth");
        for (depth, fits) in [(MAX_DEPTH, true), (MAX_DEPTH + 1, false)] {
            let text = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(parse(text.as_bytes()).is_ok(), fits, "{depth}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_serde_writes_is_read_back(n in any::<i64>(), f in any::<f64>(), text in ".*") {
            let value = json!({"n": n, "f": f, "t": text, "l": [null, true, {"x": []}]});
            prop_assert_eq!(parse(value.to_string().as_bytes()), Ok((value, vec![])));
        }
    }
}
