//! Progress on standard error: a spinner on a terminal, and lines otherwise. Nothing with `--quiet`.

use crate::out;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    collections::HashMap,
    io::{IsTerminal, stderr},
    time::Duration,
};

/// The maximum number of objects on a terminal.
const MAX_SHOWN: usize = 8;

/// The progress of a command.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// The last state of each awaited object.
    last: HashMap<String, String>,
}

impl Progress {
    /// On a terminal or not.
    pub(crate) fn new() -> Self {
        let bar = (stderr().is_terminal() && !out::is_quiet()).then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}").expect("a valid template");
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, last: HashMap::new() }
    }

    /// Shows the awaited objects with what is missing. A terminal shows all of them, the number of ready objects and the elapsed time;
    /// otherwise each change is a line.
    pub(crate) fn waiting(&mut self, missing: &[(String, String)], ready: usize, seconds: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(render(missing, ready, seconds));
            return;
        }
        for (label, what) in missing {
            if self.last.get(label) != Some(what) {
                self.line(&format!("{label} {what}"));
                self.last.insert(label.clone(), what.clone());
            }
        }
    }

    /// Prints a permanent line.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if out::is_quiet() => {}
            None => eprintln!("{text}"),
        }
    }

    /// Ends the progress.
    pub(crate) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A line with counts, and a line per object.
fn render(missing: &[(String, String)], ready: usize, seconds: u64) -> String {
    let mut lines = vec![format!("{ready} of {} ready, {seconds} s", ready + missing.len())];
    lines.extend(missing.iter().take(MAX_SHOWN).map(|(label, what)| format!("    {label} {what}")));
    if missing.len() > MAX_SHOWN {
        lines.push(format!("    and {} more", missing.len() - MAX_SHOWN));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_shows_what_is_missing_and_since_when() {
        let missing = |n: usize| (0..n).map(|i| (format!("pod/p{i}"), "Pending".to_owned())).collect::<Vec<_>>();
        assert_eq!(render(&missing(2), 3, 7), "3 of 5 ready, 7 s\n    pod/p0 Pending\n    pod/p1 Pending");
        let many = render(&missing(MAX_SHOWN + 2), 0, 0);
        assert!(many.ends_with("    and 2 more") && many.lines().count() == MAX_SHOWN + 2, "{many}");
    }
}
