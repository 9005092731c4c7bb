//! Runs the commands of exec probes and exec hooks in a container. They have no input, and the first 10 KiB of their output are kept.

use container::{ContainerId, Exec, Result, Runtime, Streams};
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::AsyncWrite;

/// Bytes of output to keep, as upstream's probes.
const MAX_OUTPUT: usize = 10 << 10;

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandResult {
    /// The exit code.
    pub code: i32,
    /// Standard output, followed by standard error.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

/// Accepts all output and keeps its beginning.
#[derive(Clone, Default)]
struct CappedOutput(Arc<Mutex<Vec<u8>>>);

impl CappedOutput {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock())
    }
}

impl AsyncWrite for CappedOutput {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut output = self.0.lock();
        let free = MAX_OUTPUT.saturating_sub(output.len()).min(bytes.len());
        output.extend_from_slice(&bytes[..free]);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs a command in a running container until it ends. Dropping the future stops the command.
///
/// # Errors
/// Those of [`Runtime::exec`].
pub async fn run(runtime: &dyn Runtime, container: &ContainerId, command: Vec<String>) -> Result<CommandResult> {
    let (output, errors) = (CappedOutput::default(), CappedOutput::default());
    let streams = Streams {
        stdout: Some(Box::new(output.clone())),
        stderr: Some(Box::new(errors.clone())),
        ..Streams::default()
    };
    let code = runtime.exec(container, Exec { command, tty: false }, streams).await?;
    let (mut output, errors) = (output.take(), errors.take());
    output.extend_from_slice(&errors[..errors.len().min(MAX_OUTPUT.saturating_sub(output.len()))]);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(CommandResult { code, output: text(output), errors: text(errors) })
}
