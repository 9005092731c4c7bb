//! Lists and watch events as protobuf. Objects are stored as JSON, and are encoded one by one. One that cannot be encoded, since another program
//! wrote it or the disk changed it, is left out and logged, as one that cannot be read.

use super::list::{Chunks, Page};
use crate::{
    Resource, Server, limits,
    negotiate::{Form, PROTOBUF},
    reply,
    table::Representation,
};
use api::{GroupVersionKind, Status, protobuf::ListEncoder};
use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};

/// Bytes of items after which other tasks have their turn.
const CHUNK_BYTES: usize = 64 * 1024;

/// A list. Its length stands at its beginning, so that all items are encoded before the first is sent.
///
/// # Errors
/// 429 where there is no memory for it.
pub(super) async fn list(
    server: &Server,
    resource: &Resource,
    representation: Representation,
    page: Page,
) -> Result<Response<Body>, Status> {
    let gvk = match representation.form {
        Form::Partial(version) => GroupVersionKind::new("meta.k8s.io", version, "PartialObjectMetadataList"),
        _ => GroupVersionKind { kind: resource.list_kind.clone(), ..resource.gvk() },
    };
    let room = server
        .limits()
        .reserve_encoded_memory(page.entries.iter().map(|entry| entry.payload.view(resource).length()).sum())?;
    let mut encoder = ListEncoder::new(&gvk).map_err(Status::internal)?;
    let mut chunks = vec![Bytes::new()];
    let (mut json, mut out) = (BytesMut::new(), Vec::new());
    for entry in &page.entries {
        json.clear();
        representation.write_item(&mut json, resource, entry.payload.view(resource));
        let item = serde_json::from_slice::<Value>(&json).map_err(|e| e.to_string());
        if let Err(error) = item.and_then(|item| encoder.item(&mut out, &item)) {
            left_out(server, &error, &entry.key);
        }
        if out.len() >= CHUNK_BYTES {
            chunks.push(std::mem::take(&mut out).into());
            tokio::task::yield_now().await;
        }
    }
    chunks.push(out.into());
    chunks[0] =
        ListEncoder::head(&head(&gvk, &page), chunks.iter().map(Bytes::len).sum()).map_err(Status::internal)?.into();
    chunks.push(Bytes::from_static(ListEncoder::TAIL));
    let mut response = Response::new(Body::new(Chunks::new(chunks)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    Ok(limits::hold_memory_until_sent(response, room))
}

/// Type and metadata of a list.
fn head(gvk: &GroupVersionKind, page: &Page) -> Value {
    json!({"kind": gvk.kind, "apiVersion": gvk.api_version(), "metadata": {
        "resourceVersion": page.revision.to_string(), "continue": page.next, "remainingItemCount": page.remaining}})
}

fn left_out(server: &Server, error: &str, key: &str) {
    server.metrics().unreadable.inc();
    tracing::error!(error, key, "a stored object cannot be encoded and is left out: delete it and create it anew");
}

/// Appends one event of a watch: its length in four bytes, then the event, which holds the object in an envelope of its own. `object` writes
/// the JSON of the object.
///
/// # Errors
/// The object cannot be encoded; nothing is appended.
pub(super) fn put_event(out: &mut BytesMut, kind: &str, object: impl FnOnce(&mut BytesMut)) -> Result<(), String> {
    let mut json = BytesMut::new();
    object(&mut json);
    let event = api::protobuf::watch_event(kind, &reply::protobuf(&json)?);
    out.put_u32(u32::try_from(event.len()).map_err(|e| e.to_string())?);
    out.put_slice(&event);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_its_length_before_it() {
        let mut out = BytesMut::new();
        put_event(&mut out, "ADDED", |out| out.put_slice(br#"{"kind":"Namespace","apiVersion":"v1"}"#))
            .expect("a kind");
        let object = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x00\x1a\x00\x22\x00";
        let event = [&b"\x0a\x05ADDED\x12\x1d\x0a\x1b"[..], object].concat();
        assert_eq!(out, [&[0, 0, 0, 38][..], &event].concat());
        let length = out.len();
        for bad in [&br#"{"kind":"Backup","apiVersion":"a.b/v1"}"#[..], b"{", b""] {
            put_event(&mut out, "ADDED", |out| out.put_slice(bad)).expect_err("no form");
        }
        assert_eq!(out.len(), length);
    }
}
