//! What upstream's `/debug/api_priority_and_fairness/dump_priority_levels` shows: a table of the levels, in its columns.

use super::level::Level;
use std::sync::Arc;

/// The path of the page.
pub(crate) const PATH: &str = "/debug/api_priority_and_fairness/dump_priority_levels";

const COLUMNS: [&str; 10] = [
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];
/// The least width of a column.
const LEAST: usize = 8;

/// The levels, each in a row.
pub(super) fn levels(levels: &[Arc<Level>]) -> String {
    let row = |level: &Arc<Level>| {
        let ((executing, waiting), queues, totals) = level.count();
        let idle = executing == 0 && waiting == 0;
        // Levels that go away are not in the table, and as upstream who waited too long is counted among the cancelled.
        let [dispatched, rejected, cancelled] =
            [totals.dispatched, totals.rejected, totals.cancelled].map(|n| n.to_string());
        [
            level.name.clone(),
            queues.to_string(),
            idle.to_string(),
            false.to_string(),
            waiting.to_string(),
            executing.to_string(),
            dispatched,
            rejected,
            0.to_string(),
            cancelled,
        ]
    };
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(levels.iter().map(row));
    table(&rows)
}

/// As Go's tabwriter aligns cells that end with a comma.
fn table(rows: &[[String; 10]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len() + 2).max().unwrap_or_default().max(LEAST);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            match at + 1 == row.len() {
                true => out.push_str(cell),
                false => out.push_str(&format!("{:width$}", format!("{cell},"), width = widths[at])),
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let cell = |text: &str| text.to_owned();
        let row = |name: &str| std::array::from_fn(|at| cell(if at == 0 { name } else { "1" }));
        assert_eq!(
            table(&[row("a-long-name"), row("b")]),
            "a-long-name, 1,      1,      1,      1,      1,      1,      1,      1,      1\n\
             b,           1,      1,      1,      1,      1,      1,      1,      1,      1\n"
        );
        assert_eq!(levels(&[]).lines().count(), 1);
    }
}
