//! The watch stream: newline-separated `{"type": …, "object": …}`, decoded directly into the cached type.

use crate::{Cached, Error, Key, Result, Undecodable, cached, error::parse_status};
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest event, bytes: several times the largest object that the server accepts.
const MAX_EVENT: usize = 16 << 20;

/// One event of a watch.
#[derive(Clone, Debug)]
pub enum WatchEvent<K> {
    /// The object is new, or selected from now on.
    Added(K),
    /// The object changed.
    Modified(K),
    /// The object is deleted or no longer selected: its last state, at the revision of that change.
    Deleted(K),
    /// All events up to this revision have been sent.
    Bookmark(String),
    /// The object is new or changed, and cannot be decoded.
    Undecodable(Undecodable),
    /// The object is deleted, and its last state cannot be decoded.
    DeletedUndecodable(Undecodable),
}

/// The lines of the body of a watch.
pub(crate) struct Lines {
    body: Body,
    buffer: BytesMut,
    searched: usize,
}

impl Lines {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next non-empty line; `None` once the server has closed the watch.
    pub(crate) async fn next(&mut self) -> Result<Option<BytesMut>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_EVENT {
                return Err(Error::Decode(format!("a watch event is larger than {MAX_EVENT} bytes")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Error::Transport(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    resource_version: String,
}

/// Decodes a line. An object that cannot be decoded is an event of its own; an error is that of the whole watch.
pub(crate) fn decode<K: Cached>(line: &[u8]) -> Result<WatchEvent<K>> {
    // A line that cannot be decoded does not affect the lines after it.
    let unknown = |error: String| Undecodable { key: Key::default(), uid: String::new(), revision: None, error };
    let line = match std::str::from_utf8(line) {
        Ok(line) => line,
        Err(error) => return Ok(WatchEvent::Undecodable(unknown(error.to_string()))),
    };
    if let Some(event) = decode_in_one_pass(line) {
        return Ok(event);
    }
    let wire: Wire<'_> = match serde_json::from_str(line) {
        Ok(wire) => wire,
        Err(error) => return Ok(WatchEvent::Undecodable(unknown(error.to_string()))),
    };
    let object = || cached::item(wire.object.get());
    match wire.kind {
        "ADDED" => Ok(object().map_or_else(WatchEvent::Undecodable, WatchEvent::Added)),
        "MODIFIED" => Ok(object().map_or_else(WatchEvent::Undecodable, WatchEvent::Modified)),
        "DELETED" => Ok(object().map_or_else(WatchEvent::DeletedUndecodable, WatchEvent::Deleted)),
        "BOOKMARK" => {
            let bookmark: Bookmark =
                serde_json::from_str(wire.object.get()).map_err(|e| Error::Decode(e.to_string()))?;
            Ok(WatchEvent::Bookmark(bookmark.metadata.resource_version))
        }
        "ERROR" => Err(Error::Api(Box::new(parse_status(500, wire.object.get().as_bytes())))),
        other => Ok(WatchEvent::Undecodable(unknown(format!("unknown watch event type {other:?}")))),
    }
}

/// Decodes an event in the form and key order that API servers write, in one pass. `None` for any other form, and for objects that the types do
/// not accept as they are.
fn decode_in_one_pass<K: Cached>(line: &str) -> Option<WatchEvent<K>> {
    let (kind, rest) = line.strip_prefix("{\"type\":\"")?.split_once('"')?;
    let made = match kind {
        "ADDED" => WatchEvent::Added,
        "MODIFIED" => WatchEvent::Modified,
        "DELETED" => WatchEvent::Deleted,
        _ => return None,
    };
    let object = rest.strip_prefix(",\"object\":")?.strip_suffix('}')?;
    K::read(object).ok().map(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    /// The events of a body, up to the end or an error.
    async fn events(text: &str) -> Result<Vec<WatchEvent<ConfigMap>>> {
        let mut lines = Lines::new(Body::from(text.as_bytes().to_vec()));
        let mut events = Vec::new();
        while let Some(line) = lines.next().await? {
            events.push(decode(&line)?);
        }
        Ok(events)
    }

    #[tokio::test]
    async fn events_are_read_in_order() {
        let text = concat!(
            r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#,
            "\n",
            r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","metadata":{"resourceVersion":"7"}}}"#,
            "\n"
        );
        let all = events(text).await.expect("events");
        assert!(matches!(&all[0], WatchEvent::Added(c) if c.metadata.name.as_deref() == Some("a")));
        assert!(matches!(&all[1], WatchEvent::Bookmark(rv) if rv == "7"));
    }

    #[test]
    fn events_of_any_form_are_read() {
        for line in [
            r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":"a"}},"more":{}}"#,
            r#"{"object":{"metadata":{"name":"a"}},"type":"ADDED"}"#,
            r#" { "type" : "ADDED" , "object" : {"metadata":{"name":"a"}} } "#,
        ] {
            let event = decode::<ConfigMap>(line.as_bytes()).expect(line);
            assert!(matches!(&event, WatchEvent::Added(c) if c.metadata.name.as_deref() == Some("a")), "{line}");
        }
        for line in [&b"{\"type\":\"ADDED\",\"object\":\xff}"[..], b"{\"type\":\"ADDED\",\"object\":[]}", b"[]", b"}"] {
            let event = decode::<ConfigMap>(line).expect("no end of the watch");
            assert!(matches!(event, WatchEvent::Undecodable(_)), "{event:?}");
        }
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_read_does_not_end_the_watch() {
        let bad =
            r#"{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","creationTimestamp":"never"}}"#;
        let text = format!(
            "{{\"type\":\"MODIFIED\",\"object\":{bad}}}\n{{\"type\":\"DELETED\",\"object\":{bad}}}\n{}\n",
            r#"{"type":"ADDED","object":{"metadata":{"name":"b"}}}"#
        );
        let all = events(&text).await.expect("events");
        assert!(
            matches!(&all[0], WatchEvent::Undecodable(bad) if bad.key.to_string() == "n/a" && bad.revision == Some(7))
        );
        assert!(matches!(&all[1], WatchEvent::DeletedUndecodable(bad) if bad.uid == "u"));
        assert!(matches!(&all[2], WatchEvent::Added(c) if c.metadata.name.as_deref() == Some("b")));
    }

    #[tokio::test]
    async fn an_error_event_ends_the_watch_with_its_status() {
        let text = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"reason\":\"Expired\",\"message\":\"too old\",\"code\":410}}\n{}\n";
        let error = events(text).await.expect_err("an error");
        assert!(error.is_expired());
    }
}
