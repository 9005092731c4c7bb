//! Rules go to the program `nft`, which applies a file as one transaction.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};
use tokio::time::Instant;

/// Most bytes of what nft says that are kept.
const MAX_TEXT: usize = 4 << 10;

/// How long a transaction may take. One of 10,000 Services takes a second.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A transaction under way.
pub(super) struct Applying {
    pub(super) call: u64,
    child: Child,
    stderr: ChildStderr,
    text: Vec<u8>,
    until: Instant,
}

/// How a transaction ended.
pub(super) type Outcome = Result<(), String>;

impl Applying {
    /// Starts a transaction of the rules in a file.
    pub(super) fn start(call: u64, rules: OwnedFd) -> io::Result<Self> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(File::from(rules)).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { call, child, stderr, text: Vec::new(), until: Instant::now() + TIMEOUT })
    }

    /// Readable when there is something for [`Applying::go_on`].
    pub(super) fn readiness(&self) -> BorrowedFd<'_> {
        self.stderr.as_fd()
    }

    /// Reads what nft says; tells how it ended.
    pub(super) fn go_on(&mut self) -> Option<Outcome> {
        let mut buffer = [0; 1024];
        match self.stderr.read(&mut buffer) {
            Ok(count @ 1..) => {
                let room = MAX_TEXT.saturating_sub(self.text.len()).min(count);
                self.text.extend(buffer.get(..room).unwrap_or_default());
                None
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            _ => Some(self.end()),
        }
    }

    /// Ends a transaction that takes too long.
    pub(super) fn stop_if_late(&mut self) -> Option<Outcome> {
        if Instant::now() < self.until {
            return None;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        Some(Err(format!("nft did not end within {TIMEOUT:?}")))
    }

    fn end(&mut self) -> Outcome {
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("nft: {status}: {}", String::from_utf8_lossy(&self.text).trim())),
            Err(error) => Err(format!("nft: {error}")),
        }
    }
}
