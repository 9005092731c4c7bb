//! `meta.k8s.io/v1 Table` as lines: columns padded as kubectl does.

use super::resources::Resource;
use serde_json::Value;

/// Prints tables of one kind, one after another, under one header.
pub(crate) struct Printer<'a> {
    /// Columns of low priority too.
    pub(crate) wide: bool,
    /// The namespace first.
    pub(crate) namespaces: bool,
    /// Names as `deployment.apps/hello`, for several kinds at once.
    pub(crate) prefix: Option<&'a Resource>,
    widths: Vec<usize>,
}

impl<'a> Printer<'a> {
    /// For the objects of one kind.
    pub(crate) fn new(wide: bool, namespaces: bool, prefix: Option<&'a Resource>) -> Self {
        Self { wide, namespaces, prefix, widths: Vec::new() }
    }

    /// The lines of a table; none if it has no rows. The header comes before the first.
    pub(crate) fn lines(&mut self, table: &Value) -> Vec<String> {
        let empty = Vec::new();
        let columns = table["columnDefinitions"].as_array().unwrap_or(&empty);
        let shown: Vec<usize> =
            (0..columns.len()).filter(|i| self.wide || columns[*i]["priority"].as_i64().unwrap_or(0) == 0).collect();
        let rows = table["rows"].as_array().unwrap_or(&empty);
        let mut lines: Vec<Vec<String>> = rows.iter().map(|row| self.cells(row, &shown)).collect();
        if lines.is_empty() {
            return Vec::new();
        }
        // Later tables of a watch come without columns; their cells stand under the first header.
        if self.widths.is_empty() {
            let names = shown.iter().map(|i| columns[*i]["name"].as_str().unwrap_or_default().to_uppercase());
            lines.insert(0, self.namespaces.then(|| "NAMESPACE".to_owned()).into_iter().chain(names).collect());
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

    fn cells(&self, row: &Value, shown: &[usize]) -> Vec<String> {
        let cells = shown.iter().map(|i| match &row["cells"][*i] {
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
        cells
    }
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
    fn one_header_for_several_tables_and_none_for_nothing() {
        let mut printer = Printer::new(false, false, None);
        assert!(printer.lines(&json!({"columnDefinitions": [{"name": "Name"}], "rows": []})).is_empty());
        assert_eq!(printer.lines(&table()).len(), 3);
        assert_eq!(printer.lines(&table()), ["hello-1   1/1", "x         2"]);
    }
}
