//! The node's ends of a client's streams.

use crate::{protocol::Present, stream::Stream};
use container::Streams;
use rustix::{
    pipe::{PipeFlags, pipe_with},
    termios::{Winsize, tcsetwinsize},
};
use std::{future::Future, io, os::fd::OwnedFd, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Bytes of a buffer.
const BUFFER: usize = 8 << 10;
/// How long output may pause after the end of a command, while a process of it goes on.
const DRAIN: Duration = Duration::from_secs(2);

type Copy = Pin<Box<dyn Future<Output = ()> + Send>>;
type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;
type Sizes = mpsc::Receiver<(u16, u16)>;

/// Pipes for the streams of a client.
pub(crate) struct Pipes {
    pub(crate) present: Present,
    /// The other ends, for the shim.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Copies what the client sends.
    pub(crate) input: Copy,
    /// Copies what the client gets, until the other ends are closed.
    pub(crate) output: Copy,
    pub(crate) resize: Option<Sizes>,
}

/// Makes pipes for the streams of a client. After `ended`, output that pauses has ended.
pub(crate) fn pipes(streams: Streams, ended: &CancellationToken) -> io::Result<Pipes> {
    let Streams { stdin, stdout, stderr, resize } = streams;
    let present = Present { stdin: stdin.is_some(), stdout: stdout.is_some(), stderr: stderr.is_some() };
    let mut descriptors = Vec::new();
    let input: Copy = match stdin {
        Some(stdin) => {
            let (theirs, own) = pipe_with(PipeFlags::CLOEXEC)?;
            descriptors.push(theirs);
            let own = Stream::new(own)?;
            Box::pin(async move { copy_in(stdin, &own).await })
        }
        None => Box::pin(async {}),
    };
    let mut outputs: Vec<Copy> = Vec::new();
    for to in [stdout, stderr].into_iter().flatten() {
        let (own, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        descriptors.push(theirs);
        let (own, ended) = (Arc::new(Stream::new(own)?), ended.clone());
        outputs.push(Box::pin(copy_out(own, to, ended)));
    }
    let output = Box::pin(async move {
        futures::future::join_all(outputs).await;
    });
    Ok(Pipes { present, descriptors, input, output, resize })
}

/// Connects a client to a terminal: returns the copies of its input and output, and of its sizes.
pub(crate) fn terminal(terminal: OwnedFd, streams: Streams, ended: &CancellationToken) -> io::Result<(Copy, Copy)> {
    let Streams { stdin, stdout, stderr, resize } = streams;
    let sizes = terminal.try_clone()?;
    let terminal = Arc::new(Stream::new(terminal)?);
    let own = terminal.clone();
    let input: Copy = Box::pin(async move {
        let input = async {
            if let Some(stdin) = stdin {
                copy_in(stdin, &own).await;
            }
        };
        tokio::join!(input, resizes(Some(sizes), resize));
    });
    let to = stdout.or(stderr).unwrap_or_else(|| Box::new(tokio::io::sink()));
    Ok((input, Box::pin(copy_out(terminal, to, ended.clone()))))
}

/// Sets the size of a terminal after each change.
pub(crate) async fn resizes(terminal: Option<OwnedFd>, sizes: Option<Sizes>) {
    let (Some(terminal), Some(mut sizes)) = (terminal, sizes) else { return };
    while let Some((columns, rows)) = sizes.recv().await {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = tcsetwinsize(&terminal, size);
    }
}

async fn copy_in(mut from: Reader, to: &Stream) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}

async fn copy_out(from: Arc<Stream>, mut to: Writer, ended: CancellationToken) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = ended.cancelled() => match timeout(DRAIN, from.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => break,
            },
        };
        let Ok(count @ 1..) = read else { break };
        let bytes = buffer.get(..count).unwrap_or_default();
        // flushed at once: the reader may be a person
        if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
