//! A connection: frames on one side, byte streams on the other. Each stream is a pipe with a small buffer per direction, and the end of a
//! direction is FIN. A connection is one future: dropping it ends everything.

use super::{Codec, Error, Frame, Headers};
use crate::stream::{DRAIN, IDLE, PIPE};
use bytes::BytesMut;
use futures::{SinkExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::{
    codec::{FramedRead, FramedWrite},
    sync::CancellationToken,
};

/// The maximum number of streams of a connection. A forwarded connection has two.
const STREAMS: usize = 512;
/// The maximum number of frames that wait to be written. With more, writers wait.
const QUEUE: usize = 16;
/// Status codes of RST_STREAM.
const REFUSED: u32 = 3;
const CANCEL: u32 = 5;

/// A stream that the peer opened.
pub(crate) struct Opened {
    /// Odd and increasing.
    pub(crate) id: u32,
    /// The headers that opened it.
    pub(crate) headers: Headers,
    /// The bytes. Dropping them closes the stream.
    pub(crate) bytes: DuplexStream,
    /// Cancelled when the peer resets the stream.
    pub(crate) reset: CancellationToken,
}

/// Serves a connection. `handle` receives the streams that the peer opens and `check` accepts. Returns when the peer ends the connection,
/// or when `handle` is done and its output is sent.
///
/// # Errors
/// The peer violated the protocol, or the connection failed.
pub(crate) async fn serve<Io, Handle>(
    io: Io,
    check: fn(&Headers) -> Result<(), String>,
    handle: impl FnOnce(mpsc::Receiver<Opened>) -> Handle,
) -> Result<(), Error>
where
    Io: AsyncRead + AsyncWrite + Send,
    Handle: Future<Output = ()>,
{
    let (read, write) = split(io);
    let (frames, queue) = mpsc::channel(QUEUE);
    let (opened, streams) = mpsc::channel(1);
    let (pumps, pumping) = mpsc::channel(1);
    let active = Active::default();
    let reading = Reading {
        check,
        opened,
        pumps,
        frames: frames.clone(),
        streams: HashMap::new(),
        places: Arc::new(Semaphore::new(STREAMS)),
        last: 0,
    };
    let over = CancellationToken::new();
    let handled = async {
        handle(streams).await;
        over.cancel();
        std::future::pending().await
    };
    let written = async {
        let mut output = FramedWrite::new(write, Codec::default());
        tokio::join!(pump(pumping, frames, over.clone()), send(queue, &mut output, &active)).1?;
        Ok(output.get_mut().shutdown().await?)
    };
    // After the end of the output, the client has some time to read the rest.
    let limit = async {
        over.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = reading.run(FramedRead::new(read, Codec::default()), &active) => ended,
        ended = written => ended,
        () = limit => Ok(()),
        () = active.idle() => Err(Error::Idle),
        () = handled => Ok(()),
    }
}

/// The time of the last activity.
#[derive(Default)]
struct Active(Mutex<Option<Instant>>);

impl Active {
    fn now(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Resolves when the connection has been idle for too long.
    async fn idle(&self) {
        self.now();
        loop {
            let until = self.0.lock().unwrap_or_else(Instant::now) + IDLE;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// The direction of a stream from here to the peer.
struct Pump {
    id: u32,
    from: ReadHalf<DuplexStream>,
    /// The peer has reset it.
    reset: CancellationToken,
    _place: Arc<OwnedSemaphorePermit>,
}

impl Pump {
    async fn run(mut self, frames: mpsc::Sender<Frame>) {
        let (id, reset) = (self.id, self.reset.clone());
        let copy = async {
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(PIPE / 2);
                // A pipe does not fail.
                let fin = self.from.read_buf(&mut buffer).await.unwrap_or(0) == 0;
                let frame = Frame::Data { id, fin, bytes: buffer.split().freeze() };
                if frames.send(frame).await.is_err() || fin {
                    return;
                }
            }
        };
        tokio::select! {
            () = copy => {}
            () = reset.cancelled() => {}
        }
    }
}

/// Forwards written bytes to the streams, until the handler is done and everything is queued.
async fn pump(mut new: mpsc::Receiver<Pump>, frames: mpsc::Sender<Frame>, over: CancellationToken) {
    let mut running: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(pump) = new.recv() => running.push(Box::pin(pump.run(frames.clone()))),
            Some(()) = running.next() => {}
            () = over.cancelled() => break,
        }
    }
    // The handler has ended, which closed its streams. One that was opened just before may not have been seen yet.
    new.close();
    while let Some(pump) = new.recv().await {
        running.push(Box::pin(pump.run(frames.clone())));
    }
    while running.next().await.is_some() {}
    let _ = frames.send(Frame::GoAway { last: 0, status: 0 }).await;
}

/// Writes the queued frames, up to the GOAWAY frame.
async fn send<W: AsyncWrite + Unpin>(
    mut queue: mpsc::Receiver<Frame>,
    output: &mut FramedWrite<W, Codec>,
    active: &Active,
) -> Result<(), Error> {
    while let Some(frame) = queue.recv().await {
        let last = matches!(frame, Frame::GoAway { .. });
        output.feed(frame).await?;
        if last || queue.is_empty() {
            output.flush().await?;
            active.now();
        }
        if last {
            break;
        }
    }
    Ok(())
}

/// The direction of a stream from the peer to here.
struct Known {
    to: WriteHalf<DuplexStream>,
    reset: CancellationToken,
    _place: Arc<OwnedSemaphorePermit>,
}

/// Handles the frames from the peer.
struct Reading {
    check: fn(&Headers) -> Result<(), String>,
    opened: mpsc::Sender<Opened>,
    pumps: mpsc::Sender<Pump>,
    frames: mpsc::Sender<Frame>,
    streams: HashMap<u32, Known>,
    places: Arc<Semaphore>,
    last: u32,
}

impl Reading {
    async fn run<R: AsyncRead + Unpin>(
        mut self,
        mut input: FramedRead<R, Codec>,
        active: &Active,
    ) -> Result<(), Error> {
        while let Some(frame) = input.next().await {
            active.now();
            match frame? {
                Frame::SynStream { id, fin, headers } => self.open(id, fin, headers).await?,
                Frame::Data { id, fin, bytes } => self.take(id, fin, &bytes).await,
                Frame::RstStream { id, .. } => {
                    if let Some(known) = self.streams.remove(&id) {
                        known.reset.cancel();
                    }
                }
                // A server's own pings are even, and it sends none.
                Frame::Ping(id) if id % 2 == 1 => self.say(Frame::Ping(id)).await,
                Frame::Ping(_) | Frame::SynReply { .. } | Frame::GoAway { .. } | Frame::Other => {}
            }
        }
        Ok(())
    }

    /// Waits for space in the queue: while the peer does not read, nothing is read from it.
    async fn say(&self, frame: Frame) {
        let _ = self.frames.send(frame).await;
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), Error> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Error::Malformed("a stream has an id that is not a new one of the client"));
        }
        self.last = id;
        if let Err(why) = (self.check)(&headers) {
            tracing::debug!(why, "a stream is refused");
            self.say(Frame::RstStream { id, status: CANCEL }).await;
            return Ok(());
        }
        let Ok(place) = self.places.clone().try_acquire_owned().map(Arc::new) else {
            self.say(Frame::RstStream { id, status: REFUSED }).await;
            return Ok(());
        };
        self.say(Frame::SynReply { id, fin: false, headers: Headers::default() }).await;
        let (bytes, theirs) = duplex(PIPE);
        let (from, to) = split(theirs);
        let reset = CancellationToken::new();
        let known = Known { to, reset: reset.clone(), _place: place.clone() };
        let sent = self.pumps.send(Pump { id, from, reset: reset.clone(), _place: place }).await;
        if sent.is_err() || self.opened.send(Opened { id, headers, bytes, reset }).await.is_err() {
            // No further streams are accepted: the connection is about to end.
            return Ok(());
        }
        self.streams.insert(id, known);
        if fin {
            self.take(id, true, &[]).await;
        }
        Ok(())
    }

    /// Handles the data of a stream. Drops data of unknown streams, which was sent before a reset arrived.
    async fn take(&mut self, id: u32, fin: bool, bytes: &[u8]) {
        let Some(known) = self.streams.get_mut(&id) else { return };
        let written = known.to.write_all(bytes).await;
        if written.is_ok() && !fin {
            return;
        }
        let known = self.streams.remove(&id);
        if written.is_err() {
            self.say(Frame::RstStream { id, status: CANCEL }).await;
        } else if let Some(mut known) = known {
            let _ = known.to.shutdown().await;
        }
    }
}
