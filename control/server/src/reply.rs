//! Responses: JSON (pretty or not), YAML or protobuf, plain text, errors. Bodies have a known length, except streams.

use crate::{
    codec,
    negotiate::{Media, Output, PROTOBUF},
};
use api::Status;
use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;

/// Plain text.
pub fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Upstream's response for a path that nothing serves.
pub fn no_such_path() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// A response with JSON bytes, converted to the negotiated output.
pub fn json(status: StatusCode, output: Output, bytes: Bytes) -> Response<Body> {
    let (bytes, media) = match (output.media, output.pretty) {
        (Media::Json, false) => (bytes, "application/json"),
        (Media::Json, true) => (pretty(&bytes), "application/json"),
        (Media::Yaml, _) => (yaml(&bytes), "application/yaml"),
        (Media::Protobuf, _) => match protobuf(&bytes) {
            Ok(bytes) => (Bytes::from(bytes), PROTOBUF),
            Err(error) => {
                tracing::error!(error, "an answer cannot be encoded");
                return self::status(&Status::internal(error), Output::default());
            }
        },
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A response with a JSON value, converted to the negotiated output.
pub fn value(status: StatusCode, output: Output, value: &Value) -> Response<Body> {
    json(status, output, Bytes::from(serde_json::to_vec(value).expect("JSON values serialise")))
}

/// An error.
pub fn status(status: &Status, output: Output) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, output, Bytes::from(status.to_json()));
    let headers = response.headers_mut();
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    codec::add_warnings(headers, &status.warnings);
    response
}

fn pretty(bytes: &Bytes) -> Bytes {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return bytes.clone() };
    let mut out = serde_json::to_vec_pretty(&value).expect("JSON values serialise");
    out.push(b'\n');
    Bytes::from(out)
}

/// Protobuf from the bytes of a JSON object, envelope included.
pub(crate) fn protobuf(bytes: &[u8]) -> Result<Vec<u8>, String> {
    api::protobuf::encode(&serde_json::from_slice(bytes).map_err(|e| e.to_string())?)
}

fn yaml(bytes: &Bytes) -> Bytes {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return bytes.clone() };
    Bytes::from(api::yaml::to_string(&value))
}

/// `{"kind":…,"apiVersion":…,"metadata":{…},` of a list, up to the field with its items.
pub fn list_head(
    kind: &str,
    api_version: &str,
    revision: u64,
    next: Option<&str>,
    remaining: Option<usize>,
) -> BytesMut {
    let mut out = BytesMut::with_capacity(256);
    out.put_slice(
        format!(
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{{\"resourceVersion\":\"{revision}\""
        )
        .as_bytes(),
    );
    if let Some(next) = next {
        out.put_slice(format!(",\"continue\":\"{next}\"").as_bytes());
    }
    if let Some(remaining) = remaining {
        out.put_slice(format!(",\"remainingItemCount\":{remaining}").as_bytes());
    }
    out.put_slice(b"},");
    out
}
