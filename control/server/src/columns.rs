//! Tables of a kind: its columns, and the cells of a row. Follows `rest.TableConvertor`.

use api::Object;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::borrow::Cow;

/// One column of a table (`meta.k8s.io/v1 TableColumnDefinition`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// `Ready`.
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the first column, else mostly empty.
    pub format: Cow<'static, str>,
    /// For people.
    pub description: Cow<'static, str>,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A string column that is always shown.
    pub const fn new(name: &'static str, description: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            kind: "string",
            format: Cow::Borrowed(""),
            description: Cow::Borrowed(description),
            priority: 0,
        }
    }

    /// The `Name` column.
    pub const fn name() -> Self {
        Self {
            name: Cow::Borrowed("Name"),
            kind: "string",
            format: Cow::Borrowed("name"),
            description: Cow::Borrowed("Name must be unique within a namespace."),
            priority: 0,
        }
    }

    /// The `Age` column.
    pub const fn age() -> Self {
        Self::new("Age", "Time since the object was created.")
    }

    /// Shown with `-o wide` only.
    pub const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    /// Its cells are integers.
    pub const fn integer(mut self) -> Self {
        self.kind = "integer";
        self
    }

    /// Its cells are booleans.
    pub const fn boolean(mut self) -> Self {
        self.kind = "boolean";
        self
    }

    /// Its cells are RFC 3339 times.
    pub const fn date(mut self) -> Self {
        self.kind = "date";
        self
    }
}

/// The columns of a kind that has none of its own: `Name` and `Created At`.
pub const DEFAULT_COLUMNS: &[Column] =
    &[Column::name(), Column::new("Created At", "Time the object was created.").date()];

/// Makes table rows of the objects of a kind.
pub trait TableConvertor: Send + Sync + 'static {
    /// The columns, in their order: name and time of creation, as upstream's default.
    fn columns(&self) -> &[Column] {
        DEFAULT_COLUMNS
    }

    /// The cells of an object's row, one per column.
    fn row(&self, object: &Object, _now: Timestamp) -> Vec<Value> {
        let created = object.at(&["metadata", "creationTimestamp"]).cloned();
        // Go's zero time, as upstream prints it
        vec![json!(object.name()), created.unwrap_or_else(|| json!("0001-01-01T00:00:00Z"))]
    }

    /// The row's conditions (finished pods: `Completed`).
    fn conditions(&self, _object: &Object) -> Vec<Value> {
        Vec::new()
    }
}

/// The cell of the `Age` column.
pub fn age(object: &Object, now: Timestamp) -> Value {
    since(object.str_at(&["metadata", "creationTimestamp"]), now).into()
}

/// How long ago a time was, as `kubectl` prints it; `<unknown>` without one.
pub fn since(time: Option<&str>, now: Timestamp) -> String {
    match time.and_then(|t| t.parse::<Timestamp>().ok()) {
        Some(time) => api::time::human_duration(now.duration_since(time)),
        None => "<unknown>".to_owned(),
    }
}
