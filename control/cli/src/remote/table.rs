//! Prints `meta.k8s.io/v1 Table` with padded columns, like kubectl.

use super::resources::Resource;
use serde_json::Value;

/// Prints tables of one kind under one header.
pub(crate) struct Printer<'a> {
    /// Include columns of low priority.
    pub(crate) wide: bool,
    /// Start with the namespace.
    pub(crate) namespaces: bool,
    /// Print names as `deployment.apps/hello`, for several kinds.
    pub(crate) prefix: Option<&'a Resource>,
    /// Omit the header.
    pub(crate) bare: bool,
    /// End with the labels.
    pub(crate) labels: bool,
    widths: Vec<usize>,
    /// The shown columns, from the first table: the later tables of a watch have no columns.
    shown: Vec<usize>,
    headed: bool,
}

impl<'a> Printer<'a> {
    /// For the objects of one kind.
    pub(crate) fn new(wide: bool, namespaces: bool, prefix: Option<&'a Resource>) -> Self {
        let (widths, shown) = (Vec::new(), Vec::new());
        Self { wide, namespaces, prefix, bare: false, labels: false, widths, shown, headed: false }
    }

    /// The lines of a table. Empty if it has no rows. The header precedes the first row.
    pub(crate) fn lines(&mut self, table: &Value) -> Vec<String> {
        let empty = Vec::new();
        let columns = table["columnDefinitions"].as_array().unwrap_or(&empty);
        if !columns.is_empty() {
            let is_shown = |i: &usize| self.wide || columns[*i]["priority"].as_i64().unwrap_or(0) == 0;
            self.shown = (0..columns.len()).filter(is_shown).collect();
        }
        let rows = table["rows"].as_array().unwrap_or(&empty);
        let mut lines: Vec<Vec<String>> = rows.iter().map(|row| self.cells(row)).collect();
        if lines.is_empty() {
            return Vec::new();
        }
        if !std::mem::replace(&mut self.headed, true) && !self.bare {
            let names = self.shown.iter().map(|i| columns[*i]["name"].as_str().unwrap_or_default().to_uppercase());
            let first = self.namespaces.then(|| "NAMESPACE".to_owned());
            let last = self.labels.then(|| "LABELS".to_owned());
            lines.insert(0, first.into_iter().chain(names).chain(last).collect());
        }
        for line in &lines {
            self.widths.resize(self.widths.len().max(line.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
        };
        lines.iter().map(line).collect()
    }

    fn cells(&self, row: &Value) -> Vec<String> {
        let cells = self.shown.iter().map(|i| match &row["cells"][*i] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        });
        let mut cells: Vec<String> = cells.collect();
        if let (Some(resource), Some(first)) = (self.prefix, cells.first_mut()) {
            *first = resource.label(first);
        }
        if self.namespaces {
            cells.insert(0, row["object"]["metadata"]["namespace"].as_str().unwrap_or_default().to_owned());
        }
        if self.labels {
            cells.push(labels(&row["object"]["metadata"]["labels"]));
        }
        cells
    }
}

/// `a=b,c=d`, sorted, like kubectl's --show-labels.
fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let mut pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table() -> Value {
        json!({
        "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "IP", "priority": 1}],
        "rows": [
            {"cells": ["hello-1", "1/1", "10.32.0.2"], "object": {"metadata": {"namespace": "a"}}},
            {"cells": ["x", 2, null], "object": {"metadata": {"namespace": "default"}}},
        ]})
    }

    #[test]
    fn tables_are_padded_and_wide_columns_hidden() {
        let lines = Printer::new(false, false, None).lines(&table());
        assert_eq!(lines, ["NAME      READY", "hello-1   1/1", "x         2"]);
        assert_eq!(Printer::new(true, true, None).lines(&table())[1], "a           hello-1   1/1     10.32.0.2");
    }

    #[test]
    fn labels_stand_last_and_a_header_may_be_left_out() {
        let mut printer = Printer::new(false, false, None);
        (printer.bare, printer.labels) = (true, true);
        let rows =
            json!([{"cells": ["x"], "object": {"metadata": {"labels": {"b": "2", "a": "1"}}}}, {"cells": ["y"]}]);
        let table = json!({"columnDefinitions": [{"name": "Name"}], "rows": rows});
        assert_eq!(printer.lines(&table), ["x   a=1,b=2", "y   <none>"]);
    }

    #[test]
    fn one_header_for_several_tables_and_none_for_nothing() {
        let mut printer = Printer::new(false, false, None);
        assert!(printer.lines(&json!({"columnDefinitions": [{"name": "Name"}], "rows": []})).is_empty());
        assert_eq!(printer.lines(&table()).len(), 3);
        assert_eq!(printer.lines(&table()), ["hello-1   1/1", "x         2"]);
        // The second and later tables of a watch.
        let later = json!({"columnDefinitions": null, "rows": [{"cells": ["y", "0/1", "10.32.0.3"]}]});
        assert_eq!(printer.lines(&later), ["y         0/1"]);
        assert_eq!(printer.lines(&later), ["y         0/1"]);
    }
}
