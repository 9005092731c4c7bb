//! WebSocket (RFC 6455) with Kubernetes' subprotocols: several byte channels in one connection, or the bytes of a SPDY connection. The
//! library answers pings. Messages that are too long or violate the subprotocol end the connection.

use super::{DRAIN, IDLE, PIPE};
use axum::{
    extract::{
        FromRequestParts, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    response::IntoResponse,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, header, request::Parts};
use std::pin::pin;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, split},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

/// The maximum size of a received message in bytes. kubectl's have 32 KiB.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// The channel with which a v5 client closes another channel.
const CLOSE: u8 = 255;

/// Bytes of a channel.
pub(super) type Piece = (u8, Bytes);

/// The encoding of channels and bytes in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    /// Text messages with base64.
    pub(super) base64: bool,
    /// The client can close a channel.
    pub(super) closes: bool,
}

impl Form {
    /// Decodes a message. `None` for one without content. An empty piece closes its channel.
    pub(super) fn read(self, message: Message) -> Result<Option<Piece>, &'static str> {
        let (channel, bytes) = match (message, self.base64) {
            (Message::Binary(bytes), false) => {
                let Some(channel) = bytes.first().copied() else { return Ok(None) };
                (channel, bytes.slice(1..))
            }
            (Message::Text(text), true) => {
                let Some(digit) = text.as_bytes().first() else { return Ok(None) };
                let bytes = STANDARD.decode(&text.as_bytes()[1..]).map_err(|_| "a message is no base64")?;
                (digit.checked_sub(b'0').filter(|n| *n < 10).ok_or("a message has no channel")?, bytes.into())
            }
            (Message::Binary(_), true) => return Err("a message is not text"),
            (Message::Text(_), false) => return Err("a message is text"),
            _ => return Ok(None),
        };
        match bytes.first() {
            Some(ended) if self.closes && channel == CLOSE => Ok(Some((*ended, Bytes::new()))),
            Some(_) if channel != CLOSE => Ok(Some((channel, bytes))),
            _ => Ok(None),
        }
    }

    pub(super) fn write(self, (channel, bytes): Piece) -> Message {
        if self.base64 {
            return Message::text(format!("{}{}", char::from(b'0' + channel % 10), STANDARD.encode(&bytes)));
        }
        let mut message = BytesMut::with_capacity(1 + bytes.len());
        message.extend_from_slice(&[channel]);
        message.extend_from_slice(&bytes);
        Message::Binary(message.freeze())
    }
}

/// Whether a request asks for a WebSocket.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// The subprotocols that the client offers, in order.
pub(super) fn offered(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Upgrades the request. `serve` receives the connection.
pub(super) async fn accept<F>(
    parts: &mut Parts,
    protocol: &str,
    serve: impl FnOnce(WebSocket) -> F + Send + 'static,
) -> Response<axum::body::Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    match WebSocketUpgrade::from_request_parts(parts, &()).await {
        Ok(mut upgrade) => {
            if !protocol.is_empty()
                && let Ok(protocol) = HeaderValue::from_str(protocol)
            {
                upgrade.set_selected_protocol(protocol);
            }
            let upgrade = upgrade.max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES);
            upgrade.on_failed_upgrade(|error| tracing::debug!(%error, "no upgrade")).on_upgrade(serve)
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// Transfers pieces between the connection and the channels, until `output` ends and is sent, the client disconnects, or the connection is
/// idle for too long.
pub(super) async fn channels(
    socket: WebSocket,
    form: Form,
    input: mpsc::Sender<Piece>,
    mut output: mpsc::Receiver<Piece>,
) {
    let (mut sink, mut stream) = socket.split();
    let (mut spoken, mut end) = (Instant::now(), close_code::NORMAL);
    let mut reading: Option<Piece> = None;
    loop {
        // A channel that is not read blocks the client's other channels, including its close message. Output continues.
        let step = tokio::select! {
            permit = input.reserve(), if reading.is_some() => match (permit, reading.take()) {
                (Ok(permit), Some(piece)) => { permit.send(piece); Ok(None) }
                _ => Ok(None),
            },
            message = stream.next(), if reading.is_none() => match message {
                Some(Ok(message)) => form.read(message),
                _ => return,
            },
            piece = output.recv() => {
                let Some(piece) = piece else { break };
                if !matches!(timeout(IDLE, sink.send(form.write(piece))).await, Ok(Ok(()))) {
                    return;
                }
                Ok(None)
            }
            () = sleep_until(spoken + IDLE) => break,
        };
        spoken = Instant::now();
        match step {
            Ok(Some(piece)) => reading = Some(piece),
            Ok(None) => {}
            Err(why) => {
                tracing::debug!(why, "a client breaks the protocol");
                end = close_code::PROTOCOL;
                break;
            }
        }
    }
    drop(input);
    let farewell = Message::Close(Some(CloseFrame { code: end, reason: "".into() }));
    // The client's close message ends the connection.
    let leave = async {
        sink.send(farewell).await.ok()?;
        while stream.next().await?.is_ok() {}
        Some(())
    };
    let _ = timeout(DRAIN, leave).await;
}

/// Transfers the bytes of a tunnel, one binary message per piece, until either end closes.
pub(super) async fn tunnel(socket: WebSocket, bytes: DuplexStream) {
    let (mut sink, mut stream) = socket.split();
    let (mut from, mut to) = split(bytes);
    let inbound = async {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) => {
                    if to.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Message::Text(_) | Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => {}
            }
        }
    };
    let outbound = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIPE);
            if from.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                break;
            }
            if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                return;
            }
        }
        let farewell = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
        let _ = sink.send(farewell).await;
    };
    let mut outbound = pin!(outbound);
    tokio::select! {
        () = outbound.as_mut() => return,
        () = inbound => {}
    }
    // The client has closed its direction: the session is informed and has some time for its remaining output.
    drop(to);
    let _ = timeout(DRAIN, outbound).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_channels_and_bytes() {
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        let piece = |channel, bytes: &'static [u8]| Ok(Some((channel, Bytes::from_static(bytes))));
        let (v4, v5) = (Form::default(), Form { closes: true, ..Form::default() });
        let text = Form { base64: true, ..Form::default() };
        for (form, message, wanted) in [
            (v4, binary(b"\0hello"), piece(0, b"hello")),
            (v4, binary(b"\0"), Ok(None)),
            (v4, binary(b""), Ok(None)),
            (v4, binary(b"\xff\0"), Ok(None)),
            (v5, binary(b"\xff\0"), piece(0, b"")),
            (v5, binary(b"\xff"), Ok(None)),
            (v5, binary(b"\x04{}"), piece(4, b"{}")),
            (v4, Message::text("0aGVsbG8="), Err("a message is text")),
            (v4, Message::Ping(Bytes::new()), Ok(None)),
            (text, Message::text("0aGVsbG8="), piece(0, b"hello")),
            (text, Message::text("0"), Ok(None)),
            (text, Message::text(""), Ok(None)),
            (text, Message::text("xaGVsbG8="), Err("a message has no channel")),
            (text, Message::text("0*"), Err("a message is no base64")),
            (text, Message::text("0ü"), Err("a message is no base64")),
            (text, binary(b"\0hello"), Err("a message is not text")),
        ] {
            assert_eq!(form.read(message), wanted);
        }
        assert_eq!(v5.write((1, Bytes::from_static(b"hi"))), binary(b"\x01hi"));
        assert_eq!(v5.write((1, Bytes::new())), binary(b"\x01"));
        assert_eq!(text.write((2, Bytes::from_static(b"hi"))), Message::text("2aGk="));
    }

    #[test]
    fn a_websocket_is_asked_for_in_two_headers() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value))).collect()
        };
        let wanted = |pairs: &[(&'static str, &'static str)]| is_wanted(&headers(pairs));
        assert!(wanted(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]));
        assert!(!wanted(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]));
        assert!(!wanted(&[("upgrade", "websocket")]));
        let names = headers(&[("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io,")]);
        assert_eq!(offered(&names), ["v5.channel.k8s.io", "v4.channel.k8s.io"]);
    }
}
