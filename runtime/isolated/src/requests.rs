//! HTTP between node and child: one HTTP/2 connection for the requests of a handler, and one for the outgoing requests of a pod. Streams,
//! trailers, back-pressure and cancelling are the protocol's. What HTTP/2 has no place for (the form of the address, the peer, an error
//! instead of a response) is in headers of its own, which are taken out of what guests and others send.

use container::net::{self, Body, BoxError, Error, Peer, Request, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use std::{convert::Infallible, future::Future, sync::Arc};
use tokio::net::UnixStream;

const URI: HeaderName = HeaderName::from_static("sampan-uri");
const PEER: HeaderName = HeaderName::from_static("sampan-peer");
const ERROR: HeaderName = HeaderName::from_static("sampan-error");
const OWN: [HeaderName; 3] = [URI, PEER, ERROR];

/// Most bytes of a message that waits in one stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// Of all streams: one that nobody reads keeps none of the others back.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Most concurrent requests of a connection; more wait at the sender.
const MAX_STREAMS: u32 = 8192;
/// Most bytes of the headers of a message.
const MAX_HEADERS: u32 = 1 << 20;

/// Sends requests to the other side. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Requests(SendRequest<Body>);

impl Requests {
    /// Starts the connection in a task of the current runtime. It ends with the socket, or with the last clone and the last request.
    pub(crate) async fn start(socket: UnixStream) -> net::Result<Self> {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buf_size(STREAM_WINDOW as usize);
        let (sender, connection) =
            builder.handshake(TokioIo::new(socket)).await.map_err(|error| Error::Reset(error.to_string()))?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self(sender))
    }

    /// Sends a request. Dropping the future cancels it.
    pub(crate) async fn send(&self, request: Request, peer: Option<&Peer>) -> net::Result<Response> {
        if *request.method() == Method::CONNECT {
            return Err(Error::Unsupported("CONNECT".into()));
        }
        let (mut parts, body) = request.into_parts();
        remove_own(&mut parts.headers);
        // a length beside a transfer coding means nothing
        if parts.headers.contains_key(http::header::TRANSFER_ENCODING) {
            parts.headers.remove(http::header::CONTENT_LENGTH);
        }
        let uri = HeaderValue::try_from(parts.uri.to_string()).map_err(|error| Error::Protocol(error.to_string()))?;
        parts.headers.insert(URI, uri);
        if let Some(peer) = peer {
            parts.headers.insert(PEER, encode(peer)?);
        }
        parts.uri = Uri::from_static("http://pod/");
        parts.version = Version::HTTP_2;
        let response = self.0.clone().send_request(http::Request::from_parts(parts, body)).await;
        let response = response.map_err(|error| Error::Reset(format!("the process of the pod: {error}")))?;
        let (mut parts, body) = response.into_parts();
        if let Some(error) = parts.headers.get(ERROR) {
            return Err(decode(error).unwrap_or_else(|| Error::Protocol("an unknown error".into())));
        }
        remove_own(&mut parts.headers);
        parts.version = Version::HTTP_11;
        Ok(Response::from_parts(parts, received(body)))
    }
}

/// Answers the requests of the other side until the connection ends.
pub(crate) async fn serve<F>(socket: UnixStream, answer: impl Fn(Request, Option<Peer>) -> F + Send + Sync + 'static)
where
    F: Future<Output = net::Result<Response>> + Send + 'static,
{
    let answer = Arc::new(answer);
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(respond(request, &*answer).await) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .auto_date_header(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(socket), service).await {
        tracing::debug!(%error, "a connection for requests has ended");
    }
}

async fn respond<F>(request: http::Request<Incoming>, answer: &impl Fn(Request, Option<Peer>) -> F) -> Response
where
    F: Future<Output = net::Result<Response>>,
{
    let (mut parts, body) = request.into_parts();
    let uri = parts.headers.get(URI).and_then(|uri| uri.to_str().ok()?.parse().ok());
    let peer = parts.headers.get(PEER).and_then(decode);
    remove_own(&mut parts.headers);
    let Some(uri) = uri else { return refuse(&Error::Protocol("a request without an address".into())) };
    parts.uri = uri;
    parts.version = Version::HTTP_11;
    match answer(Request::from_parts(parts, received(body)), peer).await {
        Ok(mut response) => {
            remove_own(response.headers_mut());
            response
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &Error) -> Response {
    let body = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    if let Ok(value) = encode(error) {
        response.headers_mut().insert(ERROR, value);
    }
    response
}

fn received(body: Incoming) -> Body {
    body.map_err(BoxError::from).boxed_unsync()
}

fn remove_own(headers: &mut HeaderMap) {
    for name in OWN {
        headers.remove(name);
    }
}

/// As JSON, whose escapes leave nothing that a header cannot have.
fn encode(value: &impl Serialize) -> net::Result<HeaderValue> {
    let text = serde_json::to_vec(value).map_err(|error| Error::Protocol(error.to_string()))?;
    HeaderValue::from_bytes(&text).map_err(|error| Error::Protocol(error.to_string()))
}

fn decode<T: DeserializeOwned>(value: &HeaderValue) -> Option<T> {
    serde_json::from_slice(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use container::net::Via;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    fn full(text: &'static str) -> Body {
        Full::from(text).map_err(|never: Infallible| match never {}).boxed_unsync()
    }

    #[tokio::test]
    async fn requests_go_through_as_they_are() {
        let (a, b) = UnixStream::pair().unwrap();
        tokio::spawn(serve(a, |request: Request, peer: Option<Peer>| async move {
            if request.uri().path() == "/refused" {
                return Err(Error::Denied("not \u{e9} here\n".into()));
            }
            let told = format!("{} {} {:?} {peer:?}", request.method(), request.uri(), request.headers());
            let sent = request.into_body().collect().await.map_err(|error| Error::Reset(error.to_string()))?;
            let mut trailers = sent.trailers().cloned().unwrap_or_default();
            trailers.insert("sum", HeaderValue::from_static("1"));
            let frames = [
                Ok::<_, BoxError>(Frame::data(Bytes::from(told))),
                Ok(Frame::data(sent.to_bytes())),
                Ok(Frame::trailers(trailers)),
            ];
            Ok(Response::new(StreamBody::new(futures_of(frames)).boxed_unsync()))
        }));
        let requests = Requests::start(b).await.unwrap();
        let peer = Peer { address: "10.0.0.1:7".parse().unwrap(), via: Via::Loopback("say \u{e9}".into()) };
        let request = http::Request::post("/path?q").header("host", "a:1").header("sampan-peer", "forged");
        let request = request.header("connection", "close").body(full("body")).unwrap();
        let response = requests.send(request, Some(&peer)).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap().get("sum").unwrap(), "1");
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        assert!(text.starts_with("POST /path?q {\"host\": \"a:1\""), "{text}");
        assert!(text.contains("Loopback(\"say \u{e9}\")") && text.ends_with("body"), "{text}");
        let refused = requests.send(http::Request::get("/refused").body(full("")).unwrap(), None).await;
        assert_eq!(refused.unwrap_err(), Error::Denied("not \u{e9} here\n".into()));
    }

    fn futures_of<T: Unpin>(items: impl IntoIterator<Item = T>) -> impl futures::Stream<Item = T> {
        futures::stream::iter(items.into_iter().collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn a_cancelled_request_is_dropped_on_the_other_side() {
        struct Tell(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.0.take().unwrap().send(());
            }
        }
        let (a, b) = UnixStream::pair().unwrap();
        let (dropped, drop_seen) = tokio::sync::oneshot::channel();
        let tell = parking_lot::Mutex::new(Some(Tell(Some(dropped))));
        let (begun, begin) = tokio::sync::oneshot::channel();
        let begun = parking_lot::Mutex::new(Some(begun));
        tokio::spawn(serve(a, move |_, _| {
            let (tell, begun) = (tell.lock().take(), begun.lock().take());
            async move {
                let _tell = tell;
                let _ = begun.map(|begun| begun.send(()));
                std::future::pending::<net::Result<Response>>().await
            }
        }));
        let requests = Requests::start(b).await.unwrap();
        let request = requests.send(http::Request::get("/").body(full("")).unwrap(), None);
        tokio::select! {
            _ = request => panic!("it is not answered"),
            _ = begin => {}
        }
        drop_seen.await.unwrap();
    }
}
