//! Standard output. Its reader may stop reading (`sampan get pods | head -1`): a command that only prints then ends without a message, like
//! kubectl; other commands continue.

use std::{
    io::{ErrorKind, Write, stdout},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Whether `--quiet` is set.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Suppresses progress and messages about completed actions.
pub(crate) fn be_quiet(quiet: bool) {
    QUIET.store(quiet, Relaxed);
}

/// Whether `--quiet` was given.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Relaxed)
}

/// Prints a message about a completed action. A closed pipe is ignored.
pub(crate) fn say(line: &str) {
    if !is_quiet() {
        say_always(line);
    }
}

/// Like [`say`], but also with `--quiet`.
pub(crate) fn say_always(line: &str) {
    let mut out = stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Prints a line of the command's result.
pub(crate) fn line(line: &str) -> anyhow::Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// Prints the command's result. A closed pipe ends the command with 0.
pub(crate) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(crate::exit::closed_output()),
        Err(error) => anyhow::bail!("cannot write to standard output: {}", crate::exit::io(&error)),
    }
}

/// Formats rows with aligned columns.
pub(crate) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A path quoted for a shell, if necessary.
pub(crate) fn shell(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@,%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_a_shell_if_they_have_to_be() {
        for (path, want) in [
            ("/home/a-b/.local/share/sampan", "/home/a-b/.local/share/sampan"),
            ("/home/jörg/x", "/home/jörg/x"),
            ("/my data/x", "'/my data/x'"),
            ("/$HOME", "'/$HOME'"),
            ("/it's", r"'/it'\''s'"),
            ("~/x", "'~/x'"),
        ] {
            assert_eq!(shell(path.as_ref()), want);
        }
    }
}
