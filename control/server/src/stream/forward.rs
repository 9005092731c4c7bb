//! Port forwarding. A client's connection carries a stream per forwarded connection. Each goes to the node as a separate stream with the
//! raw bytes of the port, without multiplexing. The messages are upstream's.

use super::{
    DRAIN, PIPE, Streaming,
    spdy::{self, Headers, Opened},
    upgrade,
    websocket::{self, Form, Piece},
};
use crate::{
    body,
    call::Call,
    nodes::{Kubelet, Upgrade},
};
use api::Status;
use axum::{body::Body, extract::ws::WebSocket};
use bytes::BytesMut;
use futures::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use http::Response;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, copy_bidirectional, duplex, split},
    sync::mpsc,
    time::{sleep, timeout},
};

/// The protocol of the streams of a connection.
const PROTOCOL: &str = "portforward.k8s.io";
/// A SPDY connection inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Subprotocols with ports in the query, each with a data channel and an error channel.
const CHANNELS: [&str; 3] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];
/// The maximum number of ports in a query.
const MAX_PORTS: usize = 100;
/// How long the second stream of a pair may take, as upstream's.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the client may take to read an error.
const ERROR_WRITE_TIMEOUT: Duration = DRAIN;

/// The upgrade protocol of the node.
pub const UPGRADE: &str = "port";

/// The target of forwarded ports.
#[derive(Clone)]
struct Ports {
    kubelet: Kubelet,
    target: Arc<str>,
    /// The name of the sandbox in errors.
    id: Arc<str>,
}

/// Serves a request to forward ports of the target at `streaming`, which `id` names in errors.
///
/// # Errors
/// 400 if the request is no upgrade or lacks required ports. 403 for pages of other origins.
pub async fn forward(mut call: Call, streaming: Streaming, id: &str) -> Result<Response<Body>, Status> {
    upgrade::check(&call)?;
    let Streaming { kubelet, target, shutdown } = streaming;
    let ports = Ports { kubelet, target: target.into(), id: id.into() };
    let place = call.place.clone();
    if !websocket::is_wanted(call.headers()) {
        let protocol = match upgrade::negotiate(&call, &[PROTOCOL]) {
            Ok(protocol) => protocol,
            Err(refusal) => return Ok(*refusal),
        };
        let serve = move |bytes| upgrade::until(shutdown, place, connection(bytes, ports));
        return Ok(upgrade::spdy(&mut call, protocol, serve));
    }
    let served = [TUNNEL, CHANNELS[0], CHANNELS[1], CHANNELS[2]];
    let protocol = match upgrade::subprotocol(&call, &served) {
        Ok(protocol) => protocol,
        Err(refusal) => return Ok(*refusal),
    };
    if protocol == TUNNEL {
        let serve = move |socket| upgrade::until(shutdown, place, tunnelled(socket, ports));
        return Ok(websocket::accept(&mut call.parts, protocol, serve).await);
    }
    let numbers = numbers(&call)?;
    let form = Form { base64: protocol == CHANNELS[1], closes: false };
    let serve = move |socket| upgrade::until(shutdown, place, channels(socket, form, ports, numbers));
    Ok(websocket::accept(&mut call.parts, protocol, serve).await)
}

/// The ports of the query.
fn numbers(call: &Call) -> Result<Vec<u16>, Status> {
    let mut numbers = Vec::new();
    for text in call.query.all("ports") {
        for port in text.split(',') {
            numbers.push(port_number(port).map_err(Status::bad_request)?);
        }
    }
    match numbers.len() {
        0 => Err(Status::bad_request("query parameter \"ports\" is required")),
        1..=MAX_PORTS => Ok(numbers),
        _ => Err(Status::bad_request(format!("at most {MAX_PORTS} ports can be forwarded by one connection"))),
    }
}

fn port_number(text: &str) -> Result<u16, String> {
    let why = |why| format!("unable to parse {text:?} as a port: strconv.ParseUint: parsing {text:?}: {why}");
    match text.parse::<u16>() {
        Ok(0) => Err(format!("port {text:?} must be > 0")),
        Ok(port) => Ok(port),
        Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => Err(why("value out of range")),
        Err(_) => Err(why("invalid syntax")),
    }
}

/// Checks the headers of a stream.
fn check(headers: &Headers) -> Result<(), String> {
    match headers.get("port") {
        "" => return Err("\"port\" header is required".into()),
        port => port_number(port)?,
    };
    match headers.get("streamtype") {
        "error" | "data" => Ok(()),
        "" => Err("\"streamType\" header is required".into()),
        other => Err(format!("invalid stream type {other:?}")),
    }
}

async fn tunnelled(socket: WebSocket, ports: Ports) {
    let (ours, theirs) = duplex(PIPE);
    let session = async {
        connection(Box::new(ours), ports).await;
        // The remaining output may take a while, but not forever.
        sleep(DRAIN).await;
    };
    tokio::select! {
        () = websocket::tunnel(socket, theirs) => {}
        () = session => {}
    }
}

async fn connection(bytes: upgrade::Bytes, ports: Ports) {
    if let Err(error) = spdy::serve(bytes, check, |streams| pairs(streams, ports)).await {
        tracing::debug!(%error, "a connection that forwards ports ended");
    }
}

/// The streams of a forwarded connection that are open.
#[derive(Default)]
struct Pair {
    data: Option<Opened>,
    error: Option<Opened>,
}

/// The id that a pair of streams shares. Old clients send none: their streams follow each other.
fn request_id(opened: &Opened) -> String {
    match (opened.headers.get("requestid"), opened.headers.get("streamtype")) {
        ("", "data") => opened.id.saturating_sub(2).to_string(),
        ("", _) => opened.id.to_string(),
        (id, _) => id.to_owned(),
    }
}

/// Forwards each pair of streams, until the connection ends.
async fn pairs(mut streams: mpsc::Receiver<Opened>, ports: Ports) {
    let mut waiting: HashMap<String, (Pair, u32)> = HashMap::new();
    // Forwarded pairs, and time-outs of incomplete ones. A time-out returns the id.
    let mut running: FuturesUnordered<BoxFuture<'static, Option<(String, u32)>>> = FuturesUnordered::new();
    loop {
        let opened = tokio::select! {
            opened = streams.recv() => opened,
            Some(late) = running.next() => {
                if let Some((id, first)) = late
                    && let Entry::Occupied(entry) = waiting.entry(id)
                    && entry.get().1 == first
                {
                    let (id, (pair, _)) = entry.remove_entry();
                    let text = format!("(request={id}) timed out waiting for streams");
                    running.push(Box::pin(async move { send_error(pair.error, &text).await; None }));
                }
                continue;
            }
        };
        let Some(opened) = opened else { return };
        let id = request_id(&opened);
        let first = opened.id;
        let (pair, _) = waiting.entry(id.clone()).or_insert_with(|| {
            let id = id.clone();
            running.push(Box::pin(async move {
                sleep(STREAM_TIMEOUT).await;
                Some((id, first))
            }));
            (Pair::default(), first)
        });
        let kind = if opened.headers.get("streamtype") == "data" { &mut pair.data } else { &mut pair.error };
        if kind.is_some() {
            tracing::debug!(id, "a stream of a forwarded connection is there twice");
            continue;
        }
        *kind = Some(opened);
        if pair.data.is_some() && pair.error.is_some() {
            let Some((Pair { data: Some(data), error }, _)) = waiting.remove(&id) else { continue };
            let ports = ports.clone();
            running.push(Box::pin(async move {
                pair_of(data, error, ports).await;
                None
            }));
        }
    }
}

async fn pair_of(data: Opened, error: Option<Opened>, ports: Ports) {
    let Ok(port) = port_number(data.headers.get("port")) else { return };
    let (mut bytes, reset) = (data.bytes, data.reset);
    let outcome = tokio::select! {
        outcome = ports.reach(port, &mut bytes) => outcome,
        () = reset.cancelled() => return,
    };
    if let Err(text) = outcome {
        send_error(error, &text).await;
    }
}

/// Writes a message to the error stream.
async fn send_error(error: Option<Opened>, text: &str) {
    let Some(mut error) = error else { return };
    let written = async {
        error.bytes.write_all(text.as_bytes()).await?;
        error.bytes.shutdown().await
    };
    let _ = timeout(ERROR_WRITE_TIMEOUT, written).await;
}

impl Ports {
    /// Connects the bytes with those of a port until both directions have ended. The error is the message for the client.
    async fn reach(&self, port: u16, bytes: &mut DuplexStream) -> Result<(), String> {
        let why = |text: &str| Err(format!("error forwarding port {port} to pod {}, uid : {text}", self.id));
        match self.kubelet.upgrade(UPGRADE, &format!("{}?port={port}", self.target)).await {
            Ok(Upgrade::Done(mut stream)) => {
                // A failed connection ends the stream like a closed one.
                let _ = copy_bidirectional(bytes, &mut stream).await;
                Ok(())
            }
            Ok(Upgrade::Refused(answer)) => {
                let text = body::text(answer.into_body()).await.unwrap_or_else(|status| status.message);
                why(text.trim_end())
            }
            Err(error) => why(&error.to_string()),
        }
    }
}

/// The older protocol: the ports are in the query, each has two channels, and each channel starts with its port.
async fn channels(socket: WebSocket, form: Form, ports: Ports, numbers: Vec<u16>) {
    let (input, mut pieces) = mpsc::channel::<Piece>(4);
    let (output, queue) = mpsc::channel(4);
    let mut to = Vec::new();
    let mut running = Vec::new();
    for (at, port) in (0_u8..).zip(numbers) {
        let (theirs, ours) = duplex(PIPE);
        let (from, writer) = split(theirs);
        to.push(Some(writer));
        running.push(channel_pair((at * 2, port), from, ours, ports.clone(), output.clone()));
    }
    drop(output);
    let inbound = async {
        while let Some((channel, bytes)) = pieces.recv().await {
            let Some(port) = to.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0) else { continue };
            if let Some(writer) = port
                && writer.write_all(&bytes).await.is_err()
            {
                *port = None;
            }
        }
    };
    let moving = async {
        tokio::join!(join_all(running), inbound);
        std::future::pending::<()>().await;
    };
    // The connection ends when the client disconnects, or when all output is sent.
    tokio::select! {
        () = websocket::channels(socket, form, input, queue) => {}
        () = moving => {}
    }
}

/// Forwards a port to its data channel and errors to its error channel, until the port or the client ends.
async fn channel_pair(
    (data, port): (u8, u16),
    mut from: ReadHalf<DuplexStream>,
    mut ours: DuplexStream,
    ports: Ports,
    output: mpsc::Sender<Piece>,
) -> Option<()> {
    let error = data + 1;
    for channel in [data, error] {
        output.send((channel, port.to_le_bytes().to_vec().into())).await.ok()?;
    }
    let pump = async {
        let mut buffer = BytesMut::new();
        while from.read_buf(&mut buffer).await.unwrap_or(0) > 0 {
            if output.send((data, buffer.split().freeze())).await.is_err() {
                return;
            }
            buffer.reserve(PIPE);
        }
    };
    let reach = async {
        let reached = ports.reach(port, &mut ours).await;
        drop(ours);
        reached
    };
    tokio::pin!(pump, reach);
    // Channels cannot be half-closed: a client does not report that it has sent everything, so the end of the port is the end.
    let reached = tokio::select! {
        biased;
        reached = &mut reach => {
            pump.await;
            reached
        }
        () = &mut pump => Ok(()),
    };
    if let Err(text) = reached {
        output.send((error, text.into())).await.ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_go_reads_them() {
        for (text, wanted) in [
            ("80", Ok(80)),
            ("65535", Ok(65535)),
            ("0", Err("port \"0\" must be > 0")),
            ("", Err("unable to parse \"\" as a port: strconv.ParseUint: parsing \"\": invalid syntax")),
            ("x", Err("unable to parse \"x\" as a port: strconv.ParseUint: parsing \"x\": invalid syntax")),
            (
                "65536",
                Err("unable to parse \"65536\" as a port: strconv.ParseUint: parsing \"65536\": value out of range"),
            ),
        ] {
            assert_eq!(port_number(text), wanted.map_err(str::to_owned));
        }
        for (headers, why) in [
            (Headers::from([("port", "80"), ("streamtype", "data")]), ""),
            (Headers::from([("streamtype", "data")]), "\"port\" header is required"),
            (Headers::from([("port", "80")]), "\"streamType\" header is required"),
            (Headers::from([("port", "80"), ("streamtype", "stdin")]), "invalid stream type \"stdin\""),
        ] {
            assert_eq!(check(&headers).err().unwrap_or_default(), why);
        }
    }
}
