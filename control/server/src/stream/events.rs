//! A watch over WebSocket: each event is a text message. Follows upstream's `WatchServer.HandleWS`; browsers watch so.

use super::{DRAIN, upgrade, websocket};
use crate::call::Call;
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

/// Answers with a WebSocket that sends the lines of `body`. It ends with them, or when the client leaves or says anything.
///
/// # Errors
/// 400 for what is no upgrade, 403 for a page of another site.
pub(crate) async fn serve(mut call: Call, body: Body) -> Result<Response<Body>, Status> {
    upgrade::check(&call)?;
    // As Go's library: one protocol is taken as it is, of several none can be chosen.
    let offered = websocket::offered(call.headers());
    let protocol = if let [one] = offered.as_slice() { one.clone() } else { String::new() };
    let place = call.place.clone();
    let send = move |socket| async move {
        // The watch keeps its user's place among long-running requests.
        let _place = place;
        pump(socket, body.into_data_stream()).await;
    };
    Ok(websocket::accept(&mut call.parts, &protocol, send).await)
}

async fn pump(socket: WebSocket, mut events: BodyDataStream) {
    let (mut to, mut from) = socket.split();
    let mut lines = Lines::default();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(bytes)) => lines.add(&bytes),
                Some(Err(_)) | None => break,
            },
            // Pings are answered by the library; whatever else the client says ends the watch.
            said = from.next() => match said {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => break,
            },
        }
        while let Some(line) = lines.next() {
            let Ok(text) = String::from_utf8(line.into()) else { return };
            // A client that does not read is cut, as any slow watcher.
            if !matches!(timeout(DRAIN, to.send(Message::text(text))).await, Ok(Ok(()))) {
                return;
            }
        }
    }
    let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    let _sent = timeout(DRAIN, to.send(Message::Close(Some(close)))).await;
}

/// Whole lines of what comes in pieces.
#[derive(Default)]
struct Lines(BytesMut);

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Bytes> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line = self.0.split_to(end).freeze();
        self.0.advance(1);
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_whatever_the_pieces() {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for piece in ["a", "b\nc\n", "", "\nd"] {
            lines.add(piece.as_bytes());
            while let Some(line) = lines.next() {
                all.push(line);
            }
        }
        assert_eq!(all, ["ab", "c", ""]);
    }
}
