//! The table of a custom resource: `additionalPrinterColumns`, or the age. Follows upstream's `tableconvertor`.

use crate::cells;
use api::{Object, jsonpath::JsonPath};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, columns};

/// Upstream's descriptions of the metadata.
const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The columns of one version.
pub(super) struct Columns {
    columns: Vec<Column>,
    /// Of each column but the name.
    paths: Vec<JsonPath>,
}

impl Columns {
    /// Of a version. A column whose path cannot be read is left out with all that follow, as upstream does.
    pub(super) fn new(version: &Value) -> Self {
        let mut name = Column::name();
        name.description = NAME.into();
        let mut made = Self { columns: vec![name], paths: Vec::new() };
        let defined = version.get("additionalPrinterColumns").and_then(Value::as_array).filter(|all| !all.is_empty());
        let age =
            json!([{"name": "Age", "type": "date", "description": CREATED, "jsonPath": ".metadata.creationTimestamp"}]);
        for column in defined.or(age.as_array()).into_iter().flatten() {
            let path = text(column, "jsonPath");
            let Ok(parsed) = JsonPath::parse(path) else { break };
            let description = match text(column, "description") {
                "" => format!("Custom resource definition column (in JSONPath format): {path}"),
                own => own.to_owned(),
            };
            made.paths.push(parsed);
            made.columns.push(Column {
                name: text(column, "name").to_owned().into(),
                kind: match text(column, "type") {
                    "integer" => "integer",
                    "number" => "number",
                    "boolean" => "boolean",
                    "date" => "date",
                    _ => "string",
                },
                format: text(column, "format").to_owned().into(),
                description: description.into(),
                priority: column.get("priority").and_then(Value::as_i64).and_then(|p| p.try_into().ok()).unwrap_or(0),
            });
        }
        made
    }
}

impl Columns {
    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    pub(super) fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let value = Value::Object(object.0.clone());
        let mut cells = vec![json!(cells::text(object, &["metadata", "name"]))];
        for (column, path) in self.columns.iter().skip(1).zip(&self.paths) {
            cells.push(path.find(&value).first().map_or(Value::Null, |found| cell(column.kind, found, now)));
        }
        cells
    }
}

fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => json!("<no value>"),
        ("string", other) => json!(other.to_string()),
        ("integer", Value::Number(n)) => {
            #[allow(clippy::cast_possible_truncation, reason = "upstream truncates, too")]
            let whole = n.as_i64().or_else(|| n.as_f64().map(|x| x as i64));
            json!(whole)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(_) => json!(columns::since(Some(text), now)),
            Err(_) => json!("<invalid>"),
        },
        _ => Value::Null,
    }
}
