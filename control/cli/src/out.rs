//! Standard output. Whoever reads it may stop to (`sampan get pods | head -1`): a command that only prints then ends without a
//! word, as kubectl does; one that does something does it to the end.

use std::io::{ErrorKind, Write, stdout};

/// A line about what was done. A closed pipe is the reader's choice; the work goes on.
pub(crate) fn say(line: &str) {
    let mut out = stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A line that the command is for.
pub(crate) fn line(line: &str) -> anyhow::Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// What the command is for, as it is. A closed pipe ends the command, with 0.
pub(crate) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(crate::exit::unread()),
        Err(error) => anyhow::bail!("cannot write to standard output: {}", crate::exit::io(&error)),
    }
}
