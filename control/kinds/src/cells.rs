//! Table cells that several kinds share.

use crate::at::At;
use api::{Object, selector::Selector};
use serde_json::Value;
pub(crate) use server::columns::{age, since};
use std::collections::BTreeMap;

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels(map: Option<&Value>) -> String {
    let sorted: BTreeMap<&String, &Value> = map.and_then(Value::as_object).into_iter().flatten().collect();
    let pairs: Vec<String> = sorted.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A label selector as text; `<none>` when it selects everything, `<error>` when it is invalid.
pub(crate) fn label_selector(selector: Option<&Value>) -> String {
    match selector_text(selector) {
        None => "<error>".to_owned(),
        Some(text) if text.is_empty() => "<none>".to_owned(),
        Some(text) => text,
    }
}

/// A label selector in the syntax of `-l`; `None` when it is invalid.
pub(crate) fn selector_text(selector: Option<&Value>) -> Option<String> {
    match selector {
        None | Some(Value::Null) => Some(String::new()),
        Some(selector) => Selector::from_label_selector(selector).ok().map(|s| s.to_string()),
    }
}

/// Names and images of the containers of a pod spec.
pub(crate) fn containers(spec: At<'_>) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let texts: Vec<&str> = spec.get("containers").items().map(|c| c.get(field).str()).collect();
        texts.join(",").into()
    })
}

/// The integer at a path, 0 when absent.
pub(crate) fn number(object: &Object, path: &[&str]) -> i64 {
    object.int_at(path).unwrap_or(0)
}

/// The string at a path, empty when absent.
pub(crate) fn text<'a>(object: &'a Object, path: &[&str]) -> &'a str {
    object.str_at(path).unwrap_or_default()
}

/// Up to three texts, then ` + N more...`; `empty` when there are none.
pub(crate) fn up_to_three(all: &[String], empty: &str) -> String {
    match all {
        [] => empty.to_owned(),
        few if few.len() <= 3 => few.join(","),
        many => format!("{} + {} more...", many[..3].join(","), many.len() - 3),
    }
}
