//! Compressed answers: objects and lists above 128 KiB, for clients that accept gzip, as upstream's `responsewriters`. Never watches, whose
//! events must not wait for more of them.

use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body as _, Frame};
use std::{
    io::Write,
    pin::Pin,
    task::{Context, Poll, ready},
};

/// Bytes up to which compressing costs more than it saves.
const THRESHOLD: u64 = 128 * 1024;

/// The response for a client that [`accepts`] it: compressed, if it is large enough.
pub(crate) fn compressed(mut response: Response<Body>) -> Response<Body> {
    let size = response.body().size_hint();
    if size.upper().is_none_or(|most| most <= THRESHOLD) {
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response.map(|body| Body::new(Gzip { body, encoder: Some(encoder()) }))
}

/// Whether a client accepts gzip. A quality is not looked at, as upstream.
pub(crate) fn accepts(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut tokens = values.flat_map(|value| value.split(',')).filter_map(|token| token.split(';').next());
    tokens.any(|token| token.trim() == "gzip")
}

/// With the level of least work, as upstream: others are at most half as long again, and take several times as long.
fn encoder() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::fast())
}

/// A body that is compressed while it is sent, chunk by chunk.
struct Gzip {
    body: Body,
    /// None once the end is written.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl http_body::Body for Gzip {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            if self.encoder.is_none() {
                return Poll::Ready(None);
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            let Some(encoder) = &mut self.encoder else { return Poll::Ready(None) };
            let made = match frame {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                // Bodies of objects have no trailers.
                Some(Ok(frame)) => match frame.data_ref().map(|data| encoder.write_all(data)) {
                    Some(Err(error)) => return Poll::Ready(Some(Err(axum::Error::new(error)))),
                    _ => std::mem::take(encoder.get_mut()),
                },
                None => match self.encoder.take().map(GzEncoder::finish) {
                    Some(Ok(end)) => end,
                    Some(Err(error)) => return Poll::Ready(Some(Err(axum::Error::new(error)))),
                    None => return Poll::Ready(None),
                },
            };
            if !made.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(made.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use http_body_util::BodyExt;
    use std::io::Read;

    #[tokio::test]
    async fn what_is_large_is_compressed() {
        let text = "a text of some words, ".repeat(20_000);
        let response = compressed(Response::new(Body::from(text.clone())));
        assert_eq!(response.headers()["content-encoding"], "gzip");
        assert_eq!(response.headers()["vary"], "Accept-Encoding");
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        assert!(bytes.len() < text.len() / 20, "{} bytes", bytes.len());
        let mut found = String::new();
        GzDecoder::new(bytes.as_ref()).read_to_string(&mut found).expect("gzip");
        assert!(found == text);
    }

    #[test]
    fn what_is_small_or_has_no_end_is_not_compressed() {
        let stream = Body::from_stream(futures::stream::empty::<Result<Bytes, std::io::Error>>());
        for body in [Body::from(vec![b'a'; 128 * 1024]), stream] {
            assert!(compressed(Response::new(body)).headers().is_empty());
        }
    }

    #[test]
    fn who_names_gzip_accepts_it() {
        let asking = |encodings| HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(encodings))]);
        for (encodings, wanted) in
            [("gzip", true), ("deflate, gzip;q=0.5", true), ("br,gzip", true), ("identity", false), ("", false)]
        {
            assert_eq!(accepts(&asking(encodings)), wanted, "{encodings}");
        }
        assert!(!accepts(&HeaderMap::new()));
    }
}
