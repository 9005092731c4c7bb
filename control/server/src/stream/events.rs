//! A watch over WebSocket: each event is a message, of text, or binary where it is protobuf. Follows upstream's `WatchServer.HandleWS`; browsers
//! watch so.

use super::{DRAIN, upgrade, websocket};
use crate::{call::Call, negotiate::Media};
use api::Status;
use axum::{
    body::{Body, BodyDataStream},
    extract::ws::{CloseFrame, Message, WebSocket, close_code},
};
use bytes::{Buf, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::Response;
use tokio::time::timeout;

/// Whether a request asks for one.
pub(crate) fn is_wanted(call: &Call) -> bool {
    websocket::is_wanted(call.headers())
}

/// Answers with a WebSocket that sends the events of `body`. It ends with them, or when the client leaves or says anything.
///
/// # Errors
/// 400 for what is no upgrade, 403 for a page of another site.
pub(crate) async fn serve(mut call: Call, body: Body, media: Media) -> Result<Response<Body>, Status> {
    upgrade::check(&call)?;
    // As Go's library: one protocol is taken as it is, of several none can be chosen.
    let offered = websocket::offered(call.headers());
    let protocol = if let [one] = offered.as_slice() { one.clone() } else { String::new() };
    let place = call.place.clone();
    let send = move |socket| async move {
        // The watch keeps its user's place among long-running requests.
        let _place = place;
        let events = Events { buffer: BytesMut::new(), binary: media == Media::Protobuf };
        pump(socket, body.into_data_stream(), events).await;
    };
    Ok(websocket::accept(&mut call.parts, &protocol, send).await)
}

async fn pump(socket: WebSocket, mut body: BodyDataStream, mut events: Events) {
    let (mut to, mut from) = socket.split();
    loop {
        tokio::select! {
            piece = body.next() => match piece {
                Some(Ok(bytes)) => events.add(&bytes),
                Some(Err(_)) | None => break,
            },
            // Pings are answered by the library; whatever else the client says ends the watch.
            said = from.next() => match said {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => break,
            },
        }
        while let Some(event) = events.next() {
            let message = if events.binary {
                Message::Binary(event)
            } else {
                let Ok(text) = String::from_utf8(event.into()) else { return };
                Message::text(text)
            };
            // A client that does not read is cut, as any slow watcher.
            if !matches!(timeout(DRAIN, to.send(message)).await, Ok(Ok(()))) {
                return;
            }
        }
    }
    let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    let _sent = timeout(DRAIN, to.send(Message::Close(Some(close)))).await;
}

/// Whole events of what comes in pieces: lines, or protobuf with its length before it. A message has neither the end of line nor the length.
struct Events {
    buffer: BytesMut,
    binary: bool,
}

impl Events {
    fn add(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.binary {
            let length = u32::from_be_bytes(*self.buffer.first_chunk()?);
            let end = usize::try_from(length).ok()?.checked_add(4).filter(|end| *end <= self.buffer.len())?;
            return Some(self.buffer.split_to(end).freeze().slice(4..));
        }
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let line = self.buffer.split_to(end).freeze();
        self.buffer.advance(1);
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_whatever_the_pieces() {
        for (binary, pieces, wanted) in [
            (false, ["a", "b\nc\n", "", "\nd"], ["ab", "c", ""]),
            (true, ["\0\0", "\0\x02ab\0\0\0\x01", "c\0\0\0\0\0\0\0", "\x02d"], ["ab", "c", ""]),
        ] {
            let mut events = Events { buffer: BytesMut::new(), binary };
            let mut all = Vec::new();
            for piece in pieces {
                events.add(piece.as_bytes());
                while let Some(event) = events.next() {
                    all.push(event);
                }
            }
            assert_eq!(all, wanted);
        }
    }
}
