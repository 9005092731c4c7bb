//! Commands and attachments (`remotecommand.k8s.io`): what a client speaks, SPDY or WebSocket in one of five versions, becomes the frames that
//! a node speaks (`container::frame`), and back. The node says how it ended, as a Status; versions before the fourth get its text only.

use super::{
    DRAIN, PIPE, Streaming,
    spdy::{self, Headers, Opened},
    upgrade,
    websocket::{self, Form, Piece},
};
use crate::{
    body,
    call::Call,
    nodes::{Stream, Upgrade},
    reply,
};
use api::Status;
use axum::{body::Body, extract::ws::WebSocket};
use bytes::{Bytes, BytesMut};
use container::frame;
use futures::future::join_all;
use http::{Response, StatusCode};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, split},
    sync::mpsc,
    time::{sleep, timeout},
};

/// Versions over SPDY, as the kubelet has them.
const VERSIONS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// Versions over WebSocket.
const SUBPROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
/// How long the streams that were asked for may take to come, as upstream has it.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// Pieces that wait each way.
const QUEUE: usize = 4;

/// Which streams there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Wanted {
    /// The lowest channel that can be written.
    fn first(self) -> u8 {
        match self {
            Self { stdout: true, .. } => frame::STDOUT,
            Self { stderr: true, .. } => frame::STDERR,
            _ => frame::STATUS,
        }
    }
}

/// Serves a call that runs or joins a program with these streams.
///
/// # Errors
/// 400 for what is no upgrade, 403 for pages of other sites, 500 where the node cannot be reached.
pub async fn remote(mut call: Call, streaming: Streaming, wanted: Wanted) -> Result<Response<Body>, Status> {
    upgrade::check(&call)?;
    let Streaming { kubelet, target, shutdown } = streaming;
    let websocket = websocket::is_wanted(call.headers());
    let protocol = match websocket {
        true => upgrade::subprotocol(&call, &SUBPROTOCOLS),
        false => upgrade::negotiate(&call, &VERSIONS),
    };
    let protocol = match protocol {
        Ok(protocol) => protocol,
        Err(refusal) => return Ok(*refusal),
    };
    let node = match kubelet.upgrade(frame::PROTOCOL, &target).await {
        Ok(Upgrade::Done(stream)) => stream,
        Ok(Upgrade::Refused(answer)) => return refused(answer).await,
        Err(error) => return Err(Status::internal(format!("error dialing backend: {error}"))),
    };
    let place = call.place.clone();
    let statuses = protocol.starts_with("v4") || protocol.starts_with("v5");
    if !websocket {
        let resizes = wanted.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
        let serve = move |bytes| {
            let (ends, edge) = ends(node, statuses);
            let work = async move {
                let edge = spdy::serve(bytes, known, |streams| streams_of(streams, wanted, resizes, edge));
                let (_, outcome) = tokio::join!(ends, edge);
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a client's connection ended");
                }
            };
            upgrade::until(shutdown, place, work)
        };
        return Ok(upgrade::spdy(&mut call, protocol, serve));
    }
    let form = Form { base64: protocol.contains("base64"), closes: protocol.starts_with("v5") };
    let serve = move |socket| {
        let (ends, edge) = ends(node, statuses);
        let work = async move {
            tokio::join!(ends, messages(socket, form, wanted, edge));
        };
        upgrade::until(shutdown, place, work)
    };
    Ok(websocket::accept(&mut call.parts, protocol, serve).await)
}

/// A node's refusal, with its own words.
async fn refused(answer: Response<Body>) -> Result<Response<Body>, Status> {
    let code = match answer.status() {
        code if code.is_client_error() || code.is_server_error() => code,
        _ => StatusCode::BAD_GATEWAY,
    };
    Ok(reply::text(code, body::text(answer.into_body()).await?))
}

/// What an edge is given: where the client's pieces go, and where those for it come from. The last one is the status.
struct Edge {
    input: mpsc::Sender<Piece>,
    output: mpsc::Receiver<Piece>,
}

/// Joins a node's stream with an edge. The future ends when the node has said how it ended, or when the edge has gone: then the node's
/// stream ends, and what runs there with it.
fn ends(node: Stream, statuses: bool) -> (impl Future<Output = ()> + Send, Edge) {
    let (input, pieces) = mpsc::channel(QUEUE);
    let (to, output) = mpsc::channel(QUEUE);
    (relay(node, pieces, to, statuses), Edge { input, output })
}

async fn relay(node: Stream, mut input: mpsc::Receiver<Piece>, output: mpsc::Sender<Piece>, statuses: bool) {
    let (mut from, mut to) = split(node);
    let up = async {
        while let Some((channel, bytes)) = input.recv().await {
            let known = matches!(channel, frame::STDIN | frame::RESIZE);
            if known && frame::write(&mut to, channel, &bytes).await.is_err() {
                // What it said last is still to be read.
                std::future::pending::<()>().await;
            }
        }
    };
    let down = async {
        loop {
            let (channel, bytes) = match frame::read(&mut from).await {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(_) => (frame::STATUS, lost()),
            };
            let piece = match channel {
                frame::STDOUT | frame::STDERR => (channel, bytes.into()),
                frame::STATUS => (channel, if statuses { bytes.into() } else { text(&bytes) }),
                _ => continue,
            };
            if output.send(piece).await.is_err() || channel == frame::STATUS {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// How it ended when the node does not say so.
fn lost() -> Vec<u8> {
    Status::internal("the stream from the node has ended").to_json()
}

/// Versions before the fourth are told the text of a failure only.
fn text(status: &[u8]) -> Bytes {
    let status: serde_json::Value = serde_json::from_slice(status).unwrap_or_default();
    if status["status"] == "Success" {
        return Bytes::new();
    }
    status["message"].as_str().unwrap_or_default().to_owned().into()
}

/// The edge of a WebSocket.
async fn messages(socket: WebSocket, form: Form, wanted: Wanted, edge: Edge) {
    let Edge { input, mut output } = edge;
    let (to, queue) = mpsc::channel(QUEUE);
    let pass = async move {
        // An empty message says that the connection is there.
        to.send((wanted.first(), Bytes::new())).await.ok()?;
        while let Some((channel, bytes)) = output.recv().await {
            if !bytes.is_empty() {
                to.send((channel, bytes)).await.ok()?;
            }
        }
        Some(())
    };
    let ((), _) = tokio::join!(websocket::channels(socket, form, input, queue), pass);
}

/// Whether the headers of a stream are those of a command.
fn known(headers: &Headers) -> Result<(), String> {
    match headers.get("streamtype") {
        "error" | "stdin" | "stdout" | "stderr" | "resize" => Ok(()),
        other => Err(format!("unexpected stream type: {other:?}")),
    }
}

/// The streams that a client has opened.
#[derive(Default)]
struct Streams {
    error: Option<Opened>,
    stdin: Option<Opened>,
    stdout: Option<Opened>,
    stderr: Option<Opened>,
    resize: Option<Opened>,
}

impl Streams {
    /// Waits for those that were asked for; `None` when they do not come.
    async fn wait(streams: &mut mpsc::Receiver<Opened>, wanted: Wanted, resizes: bool) -> Option<Self> {
        let mut left = [true, wanted.stdin, wanted.stdout, wanted.stderr, resizes].into_iter().filter(|is| *is).count();
        let mut found = Self::default();
        while left > 0 {
            let opened = streams.recv().await?;
            let place = match opened.headers.get("streamtype") {
                "error" => &mut found.error,
                "stdin" => &mut found.stdin,
                "stdout" => &mut found.stdout,
                "stderr" => &mut found.stderr,
                _ => &mut found.resize,
            };
            if place.replace(opened).is_none() {
                left -= 1;
            }
        }
        Some(found)
    }
}

type Halves = (Option<ReadHalf<DuplexStream>>, Option<WriteHalf<DuplexStream>>);

fn halves(opened: Option<Opened>) -> Halves {
    opened.map_or((None, None), |opened| {
        let (read, write) = split(opened.bytes);
        (Some(read), Some(write))
    })
}

/// The edge of SPDY: a stream for each channel.
async fn streams_of(mut streams: mpsc::Receiver<Opened>, wanted: Wanted, resizes: bool, edge: Edge) {
    let waited = tokio::select! {
        waited = Streams::wait(&mut streams, wanted, resizes) => waited,
        () = sleep(STREAM_TIMEOUT) => None,
    };
    let Some(found) = waited else { return tracing::debug!("a client did not open its streams") };
    let Edge { input, mut output } = edge;
    // The other halves are kept: a stream whose end was dropped would be reset.
    let (stdin, _stdin) = halves(found.stdin);
    let (resize, _resize) = halves(found.resize);
    let ((_error, mut error), (_stdout, mut stdout), (_stderr, mut stderr)) =
        (halves(found.error), halves(found.stdout), halves(found.stderr));
    let up = async {
        let pumps = [(frame::STDIN, stdin), (frame::RESIZE, resize)].map(|(channel, from)| pump(channel, from, &input));
        join_all(pumps).await;
        std::future::pending::<()>().await;
    };
    let down = async {
        while let Some((channel, bytes)) = output.recv().await {
            let stream = match channel {
                frame::STDOUT => &mut stdout,
                frame::STDERR => &mut stderr,
                _ => &mut error,
            };
            let Some(to) = stream else { continue };
            // Who closed it wants no more of it; the others go on.
            if to.write_all(&bytes).await.is_err() || bytes.is_empty() || channel == frame::STATUS {
                let _ = to.shutdown().await;
                *stream = None;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
    let _ = timeout(DRAIN, async {
        for to in [&mut stdout, &mut stderr, &mut error].into_iter().flatten() {
            let _ = to.shutdown().await;
        }
    })
    .await;
}

/// What a client writes into a stream, until it ends.
async fn pump(channel: u8, from: Option<ReadHalf<DuplexStream>>, input: &mpsc::Sender<Piece>) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIPE / 2);
        let ended = from.read_buf(&mut buffer).await.unwrap_or(0) == 0;
        // The end of its input is an empty piece; a terminal's sizes have none.
        if ended && channel != frame::STDIN {
            return;
        }
        if input.send((channel, buffer.split().freeze())).await.is_err() || ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{SinkExt, StreamExt};
    use spdy::{Codec, Frame};
    use std::collections::BTreeMap;
    use tokio::{io::duplex, task::JoinHandle};
    use tokio_util::codec::Framed;

    type Client = Framed<DuplexStream, Codec>;

    /// A client's connection, the node's end of what it reaches, and the work between them.
    fn joined(wanted: Wanted, resizes: bool, statuses: bool) -> (Client, DuplexStream, JoinHandle<()>) {
        let ((client, theirs), (node, agent)) = (duplex(1 << 20), duplex(1 << 20));
        let (ends, edge) = ends(Box::new(node), statuses);
        let work = tokio::spawn(async move {
            let edge = spdy::serve(theirs, known, |streams| streams_of(streams, wanted, resizes, edge));
            tokio::join!(ends, edge).1.expect("a good end");
        });
        (Framed::new(client, Codec::default()), agent, work)
    }

    async fn open(client: &mut Client, id: u32, kind: &str) {
        let headers = Headers::from([("streamtype", kind)]);
        client.send(Frame::SynStream { id, fin: false, headers }).await.expect("sent");
        let reply = client.next().await.expect("a frame").expect("a frame");
        assert!(matches!(reply, Frame::SynReply { id: of, .. } if of == id), "{reply:?}");
    }

    /// What comes on each stream until the end, with a bar where it ends.
    async fn all(mut client: Client) -> BTreeMap<u32, String> {
        let mut texts: BTreeMap<u32, String> = BTreeMap::new();
        while let Some(frame) = client.next().await {
            if let Frame::Data { id, fin, bytes } = frame.expect("a frame") {
                let text = texts.entry(id).or_default();
                text.push_str(&String::from_utf8_lossy(&bytes));
                text.push_str(if fin { "|" } else { "" });
            }
        }
        texts
    }

    #[tokio::test(start_paused = true)]
    async fn spdy_has_a_stream_for_each_channel() {
        let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        let (mut client, mut agent, work) = joined(wanted, false, true);
        for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
            open(&mut client, id, kind).await;
        }
        client.send(Frame::Data { id: 3, fin: true, bytes: "hello".into() }).await.expect("sent");
        assert_eq!(frame::read(&mut agent).await.expect("a frame"), Some((frame::STDIN, b"hello".to_vec())));
        assert_eq!(frame::read(&mut agent).await.expect("a frame"), Some((frame::STDIN, Vec::new())));
        for (channel, bytes) in [
            (frame::STDOUT, "out"),
            (frame::KEEPALIVE, ""),
            (frame::STDERR, "err"),
            (frame::STDOUT, ""),
            (frame::STATUS, "{}"),
        ] {
            frame::write(&mut agent, channel, bytes.as_bytes()).await.expect("written");
        }
        let wanted = [(1, "{}|"), (3, "|"), (5, "out|"), (7, "err|")].map(|(id, text)| (id, text.to_owned()));
        assert_eq!(all(client).await, wanted.into());
        work.await.expect("no panic");
        assert_eq!(frame::read(&mut agent).await.expect("an end"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_is_resized_and_old_versions_are_told_a_text() {
        let wanted = Wanted { stdout: true, tty: true, ..Wanted::default() };
        let (mut client, mut agent, work) = joined(wanted, true, false);
        for (id, kind) in [(1, "error"), (3, "stdout"), (5, "resize")] {
            open(&mut client, id, kind).await;
        }
        let size = r#"{"Width":80,"Height":24}"#;
        client.send(Frame::Data { id: 5, fin: false, bytes: size.into() }).await.expect("sent");
        assert_eq!(frame::read(&mut agent).await.expect("a frame"), Some((frame::RESIZE, size.into())));
        let status = br#"{"status":"Failure","message":"it failed"}"#;
        frame::write(&mut agent, frame::STATUS, status).await.expect("written");
        let texts = all(client).await;
        assert_eq!((texts[&1].as_str(), texts[&3].as_str()), ("it failed|", "|"));
        work.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_first_ends_the_other() {
        let wanted = Wanted { stdout: true, ..Wanted::default() };
        let (mut client, mut agent, work) = joined(wanted, false, true);
        open(&mut client, 1, "error").await;
        open(&mut client, 3, "stdout").await;
        drop(client);
        assert_eq!(frame::read(&mut agent).await.expect("an end"), None);
        work.await.expect("no panic");

        let (mut client, agent, work) = joined(wanted, false, true);
        open(&mut client, 1, "error").await;
        open(&mut client, 3, "stdout").await;
        drop(agent);
        assert!(all(client).await[&1].contains("the stream from the node has ended"));
        work.await.expect("no panic");

        // A client that does not open what it asked for is not waited for.
        let (mut client, mut agent, work) = joined(wanted, false, true);
        open(&mut client, 1, "error").await;
        assert_eq!(all(client).await, [(1, "|".to_owned())].into());
        assert_eq!(frame::read(&mut agent).await.expect("an end"), None);
        work.await.expect("no panic");
    }
}
