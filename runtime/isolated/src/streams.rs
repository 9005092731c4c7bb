//! The streams of an exec or attach: each is a socket of its own.

use crate::{pipes, protocol::StreamsPresent};
use container::Streams;
use std::{future::Future, io, os::fd::OwnedFd, pin::Pin};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

/// Sizes of the terminal that wait.
const SIZES: usize = 8;

type Copy = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The node's ends.
pub(crate) struct Sent {
    pub(crate) present: StreamsPresent,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Copies what the client sends. It may never end.
    pub(crate) input: Copy,
    /// Copies what the client gets, until the child has closed its ends.
    pub(crate) output: Copy,
}

/// Makes the sockets for the streams of a client.
pub(crate) fn send(streams: Streams) -> io::Result<Sent> {
    let Streams { stdin, stdout, stderr, resize } = streams;
    let present = StreamsPresent {
        stdin: stdin.is_some(),
        stdout: stdout.is_some(),
        stderr: stderr.is_some(),
        resize: resize.is_some(),
    };
    let (mut descriptors, mut inputs, mut outputs) = (Vec::new(), Vec::<Copy>::new(), Vec::<Copy>::new());
    if let Some(mut stdin) = stdin {
        let (mut own, other) = pipes::pair()?;
        descriptors.push(other);
        inputs.push(Box::pin(async move {
            let _ = tokio::io::copy(&mut stdin, &mut own).await;
            let _ = own.shutdown().await;
        }));
    }
    for mut to in [stdout, stderr].into_iter().flatten() {
        let (mut own, other) = pipes::pair()?;
        descriptors.push(other);
        outputs.push(Box::pin(async move {
            let _ = tokio::io::copy(&mut own, &mut to).await;
            let _ = to.shutdown().await;
        }));
    }
    if let Some(mut sizes) = resize {
        let (mut own, other) = pipes::pair()?;
        descriptors.push(other);
        inputs.push(Box::pin(async move {
            while let Some((columns, rows)) = sizes.recv().await {
                let [c0, c1] = columns.to_le_bytes();
                let [r0, r1] = rows.to_le_bytes();
                if own.write_all(&[c0, c1, r0, r1]).await.is_err() {
                    return;
                }
            }
        }));
    }
    let (input, output) = (all(inputs), all(outputs));
    Ok(Sent { present, descriptors, input, output })
}

fn all(copies: Vec<Copy>) -> Copy {
    Box::pin(async move {
        let mut copies = copies.into_iter();
        let (first, second) = (copies.next(), copies.next());
        let run = async |copy: Option<Copy>| {
            if let Some(copy) = copy {
                copy.await;
            }
        };
        tokio::join!(run(first), run(second));
    })
}

/// The child's ends. `None` if the descriptors are not those that were announced.
pub(crate) fn receive(present: StreamsPresent, descriptors: Vec<OwnedFd>) -> Option<Streams> {
    let mut sockets = descriptors.into_iter().map(|descriptor| pipes::received(descriptor).ok());
    let mut next = |is_present: bool| if is_present { sockets.next()?.map(Some) } else { Some(None) };
    let (stdin, stdout, stderr) = (next(present.stdin)?, next(present.stdout)?, next(present.stderr)?);
    let resize = next(present.resize)?.map(|mut from| {
        let (sizes, received) = mpsc::channel(SIZES);
        tokio::spawn(async move {
            let mut size = [0; 4];
            while from.read_exact(&mut size).await.is_ok() {
                let [c0, c1, r0, r1] = size;
                if sizes.send((u16::from_le_bytes([c0, c1]), u16::from_le_bytes([r0, r1]))).await.is_err() {
                    return;
                }
            }
        });
        received
    });
    Some(Streams {
        stdin: stdin.map(|socket| Box::new(socket) as _),
        stdout: stdout.map(|socket| Box::new(socket) as _),
        stderr: stderr.map(|socket| Box::new(socket) as _),
        resize,
    })
}
