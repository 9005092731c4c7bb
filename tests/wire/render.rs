//! Answers as text that people can review: tables as tables, objects as YAML, what differs from run to run masked.

use crate::Answer;
use serde_json::{Value, json};
use std::fmt::Write;

/// Bodies beyond this are told by their outline.
const LARGE: usize = 12_000;

/// The text of an answer.
pub fn answer(answer: &Answer) -> String {
    let mut out = format!("{} {}\n", answer.code, answer.content_type());
    for name in ["warning", "retry-after", "allow"] {
        for value in answer.headers.get_all(name) {
            writeln!(out, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
    }
    let text = String::from_utf8_lossy(&answer.bytes);
    let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
    match values {
        Ok(values) if answer.content_type().contains("json") => {
            for value in values {
                out.push_str(&body(value));
            }
        }
        _ => {
            out.push_str(&text);
            if !text.ends_with('\n') {
                out.push('\n');
            }
        }
    }
    out
}

fn body(mut value: Value) -> String {
    mask(&mut value);
    match value["kind"].as_str() {
        Some("Table") => table(&value),
        Some("APIGroupDiscoveryList") => discovery(&value),
        _ if value["type"].is_string() && value["object"]["kind"] == "Table" => {
            format!("event {}\n{}", value["type"], table(&value["object"]))
        }
        _ => {
            let yaml = api::yaml::to_string(&value);
            if yaml.len() <= LARGE { yaml } else { outline(&value) }
        }
    }
}

/// Revisions, uids, tokens and the like say nothing; owned fields are one line per manager.
fn mask(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match (name.as_str(), &*value) {
                    ("resourceVersion" | "continue" | "token" | "serverAddress" | "platform", Value::String(text))
                        if text.len() > 1 =>
                    {
                        *value = "*".into();
                    }
                    ("serverRelativeURL", Value::String(url)) => *value = url.split('?').next().into(),
                    ("uid", Value::String(_)) => *value = "*".into(),
                    ("resourceVersion", _) => *value = "*".into(),
                    ("managedFields", Value::Array(entries)) => *value = entries.iter().map(owned).collect(),
                    _ => mask(value),
                }
            }
        }
        _ => {}
    }
}

fn owned(entry: &Value) -> Value {
    let word = |name: &str| entry[name].as_str().unwrap_or_default();
    let (manager, operation, version) = (word("manager"), word("operation"), word("apiVersion"));
    json!(format!("{manager} {operation} {version} {} {}", word("subresource"), entry["fieldsV1"]))
}

fn table(table: &Value) -> String {
    let mut out = String::from("table\n");
    let cells =
        |row: &Value| row["cells"].as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(" | ");
    let columns = table["columnDefinitions"].as_array().cloned().unwrap_or_default();
    let named =
        |c: &Value| format!("{}:{}:{}", c["name"].as_str().unwrap(), c["type"].as_str().unwrap(), c["priority"]);
    writeln!(out, "  {}", columns.iter().map(named).collect::<Vec<_>>().join(" | ")).unwrap();
    for row in table["rows"].as_array().unwrap() {
        let object = &row["object"];
        writeln!(out, "  {} [{} {}]", cells(row), object["kind"], object["metadata"]["name"]).unwrap();
    }
    writeln!(out, "  metadata {}", table["metadata"]).unwrap();
    out
}

fn discovery(list: &Value) -> String {
    let mut out = String::from("discovery\n");
    for group in list["items"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            writeln!(out, "  {} {} {}", group["metadata"]["name"], version["version"], version["freshness"]).unwrap();
            for resource in version["resources"].as_array().unwrap() {
                let subresources = resource["subresources"].as_array().cloned().unwrap_or_default();
                let subresources: Vec<String> =
                    subresources.iter().map(|s| format!("{}{}", s["subresource"], s["verbs"])).collect();
                writeln!(
                    out,
                    "    {} {} {} {} {} {} {} {}",
                    resource["resource"],
                    resource["responseKind"]["kind"],
                    resource["scope"],
                    resource["singularResource"],
                    resource["shortNames"],
                    resource["categories"],
                    resource["verbs"],
                    subresources.join(" ")
                )
                .unwrap();
            }
        }
    }
    out
}

/// The first two levels of a large body.
fn outline(value: &Value) -> String {
    let mut out = String::from("large\n");
    for (name, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::Object(fields) => {
                let names: Vec<_> = fields.keys().map(String::as_str).collect();
                writeln!(out, "  {name}: {{{}}}", names.join(" ")).unwrap();
            }
            Value::Array(items) => {
                let names = items.iter().map(|item| item["metadata"]["name"].to_string());
                writeln!(out, "  {name}: [{}]", names.collect::<Vec<_>>().join(" ")).unwrap();
            }
            plain => writeln!(out, "  {name}: {plain}").unwrap(),
        }
    }
    out
}
