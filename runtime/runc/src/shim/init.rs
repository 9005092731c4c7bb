//! The first process of a process namespace that the containers of a pod share: it waits for processes whose parents have ended, and ends with the
//! shim. With it, the kernel ends all others.

use rustix::process::{WaitOptions, wait};
use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// Runs until standard input ends.
pub(crate) fn run() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut children = signal(SignalKind::child())?;
        let stdin = crate::stream::Stream::new(rustix::io::dup(io::stdin())?)?;
        let mut buffer = [0; 16];
        loop {
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
            tokio::select! {
                _ = children.recv() => {}
                read = stdin.read(&mut buffer) => if !matches!(read, Ok(1..)) { return Ok(()) },
            }
        }
    })
}
