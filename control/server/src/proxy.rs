//! Forwards requests of the `proxy` subresources to HTTP servers inside the cluster. Headers, redirects and upgrades follow upstream
//! (`UpgradeAwareHandler` of apimachinery and Go's `ReverseProxy`). Links in HTML pages are not rewritten.

use crate::{
    call::Call,
    dialer::{self, Dialer, Stream},
    limits::UserPlace,
    stall::AllowSlowReader,
};
use api::Status;
use axum::body::{Body, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{self, AsHeaderName},
};
use http_body::{Frame, SizeHint};
use hyper::{client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use std::{
    fmt::Display,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Most bytes and most headers of a response head.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 256;
/// Headers that apply to one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The server that a request is forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// Forwards a call to a backend, and returns its response. `shutdown` ends both.
///
/// # Errors
/// 503 when the backend cannot be reached or does not answer in HTTP.
pub(crate) async fn forward(
    dialer: &dyn Dialer,
    backend: &Backend,
    call: Call,
    shutdown: CancellationToken,
) -> Result<Response<Body>, Status> {
    let path = target(&call);
    if let Some(redirect) = root_redirect(&call, &path) {
        return Ok(redirect);
    }
    let unreachable = |e: &dyn Display| Status::unavailable(format!("error trying to reach service: {e}"));
    let stream = dialer.connect(backend.address).await.map_err(|e| unreachable(&e))?;
    let stream = match backend.tls {
        true => dialer::encrypt(stream, backend.address).await.map_err(|e| unreachable(&e))?,
        false => stream,
    };
    let prefix = prefix(&call, &path);
    let (host, headers) = (backend.address.to_string(), HeaderMap::new());
    let passage = Passage { host: &host, path: &path, prefix: &prefix, headers };
    pass(stream, call, passage, shutdown).await
}

/// How a call passes over a stream.
pub(crate) struct Passage<'a> {
    /// Host and port of the backend.
    pub(crate) host: &'a str,
    /// The encoded path there.
    pub(crate) path: &'a str,
    /// The encoded path of the client before it.
    pub(crate) prefix: &'a str,
    /// Headers for the backend, which no header of the client can take away.
    pub(crate) headers: HeaderMap,
}

/// Passes a call over a stream to a backend.
///
/// # Errors
/// As [`forward`].
pub(crate) async fn pass(
    stream: Stream,
    call: Call,
    mut passage: Passage<'_>,
    shutdown: CancellationToken,
) -> Result<Response<Body>, Status> {
    let unreachable = |e: &dyn Display| Status::unavailable(format!("error trying to reach service: {e}"));
    let (host, upgrade, place) = (host_of(&call), upgrade_of(call.headers()), call.place.clone());
    let (request, client) = request(call, &mut passage)?;
    let mut response = exchange(stream, request).await.map_err(|e| unreachable(&e))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return match (upgrade, client) {
            (Some(_), Some(client)) => Ok(switch(response, client, place, shutdown)),
            _ => Err(Status::internal("the backend switched protocols without being asked")),
        };
    }
    strip(response.headers_mut());
    relocate(response.headers_mut(), &passage, host.as_deref());
    let mut response = response.map(|body| Body::new(UntilShutdown::new(body, shutdown)));
    response.extensions_mut().insert(AllowSlowReader);
    Ok(response)
}

/// Sends one request over a stream. The connection ends with the response body, or becomes the upgraded stream.
pub(crate) async fn exchange(stream: Stream, request: Request<Body>) -> hyper::Result<Response<hyper::body::Incoming>> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await
}

/// The path for the backend: the rest after the subresource, encoded again, with its trailing slash.
fn target(call: &Call) -> String {
    let mut path = String::with_capacity(call.info.rest.len() + 2);
    for part in call.info.rest.split('/').filter(|_| !call.info.rest.is_empty()) {
        path.push('/');
        encode(part, &mut path);
    }
    if call.info.path.ends_with('/') && !path.ends_with('/') {
        path.push('/');
    }
    path
}

/// Encodes a path segment as Go's `URL.EscapedPath` does.
fn encode(part: &str, out: &mut String) {
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(byte.into()),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b'=' | b':' | b'@' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// The client's whole path, decoded and encoded again: the one that was authorized.
pub(crate) fn whole(call: &Call) -> String {
    let mut whole = String::new();
    for part in call.info.path.trim_start_matches('/').split('/') {
        whole.push('/');
        encode(part, &mut whole);
    }
    whole
}

/// The part of the client's path before the backend's path. Redirects of the backend get it, so that they lead through the proxy.
fn prefix(call: &Call, path: &str) -> String {
    let whole = whole(call);
    whole.strip_suffix(path).unwrap_or(&whole).to_owned()
}

/// Redirects `…/proxy` to `…/proxy/`, so that relative links of the page work.
fn root_redirect(call: &Call, path: &str) -> Option<Response<Body>> {
    if !path.is_empty() || !call.info.verb.eq("get") {
        return None;
    }
    let query = call.parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::from_str(&format!("{}/{query}", call.parts.uri.path())).ok()?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Some(response)
}

fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The host of the client's request: its header, or the authority in HTTP/2.
fn host_of(call: &Call) -> Option<String> {
    let named = text(call.headers(), header::HOST).map(str::to_owned);
    named.or_else(|| call.parts.uri.authority().map(|authority| authority.as_str().to_owned()))
}

/// The protocol that a request asks to switch to.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = text(headers, header::CONNECTION)?.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
}

/// The request for the backend, and the client's connection if it requests an upgrade.
fn request(mut call: Call, passage: &mut Passage<'_>) -> Result<(Request<Body>, Option<OnUpgrade>), Status> {
    let Passage { host: address, path, prefix, .. } = *passage;
    let host = host_of(&call);
    let upgrade = upgrade_of(&call.parts.headers);
    let client = call.parts.extensions.remove::<OnUpgrade>();
    let query = call.parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let slash = if path.is_empty() { "/" } else { "" };
    let uri: Uri = format!("{slash}{path}{query}")
        .parse()
        .map_err(|e| Status::bad_request(format!("the path cannot be passed on: {e}")))?;
    let mut headers = std::mem::take(&mut call.parts.headers);
    strip(&mut headers);
    // credentials for this server must not reach the backend
    headers.remove(header::AUTHORIZATION);
    let mut add = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    add(HeaderName::from_static("x-forwarded-uri"), &format!("{prefix}{path}"));
    add(header::HOST, host.as_deref().unwrap_or(address));
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    headers.extend(std::mem::take(&mut passage.headers));
    let body = std::mem::take(&mut *call.stream.lock());
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Ok((request, client))
}

/// Removes hop-by-hop headers, including those that `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|word| word.trim().to_ascii_lowercase()))
        .collect();
    for name in named.iter().filter(|name| !name.is_empty()) {
        headers.remove(name.as_str());
    }
    // gRPC requires this header
    let trailers = text(headers, header::TE).is_some_and(|te| te.split(',').any(|word| word.trim() == "trailers"));
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Rewrites a redirect of the backend to itself, so that it leads through the proxy.
fn relocate(headers: &mut HeaderMap, passage: &Passage<'_>, host: Option<&str>) {
    let Passage { host: itself, prefix, .. } = *passage;
    let Some(location) = text(headers, header::LOCATION).and_then(|location| location.parse::<Uri>().ok()) else {
        return;
    };
    let elsewhere = location.authority().is_some_and(|to| to.as_str() != itself && Some(to.as_str()) != host);
    let path = location.path_and_query().map_or("/", |path| path.as_str());
    if elsewhere || !path.starts_with('/') || path.starts_with(prefix) {
        return;
    }
    if let Ok(value) = HeaderValue::from_str(&format!("{prefix}{path}")) {
        headers.insert(header::LOCATION, value);
    }
}

/// Answers 101, and copies between both connections until either ends or the server shuts down.
fn switch(
    mut response: Response<hyper::body::Incoming>,
    client: OnUpgrade,
    place: Option<Arc<UserPlace>>,
    shutdown: CancellationToken,
) -> Response<Body> {
    let backend = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let _place = place;
        let joined = async {
            let (client, backend) = tokio::try_join!(client, backend).map_err(std::io::Error::other)?;
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            tokio::io::copy_bidirectional(&mut client, &mut backend).await
        };
        let ended = shutdown.run_until_cancelled(joined).await;
        tracing::debug!(?ended, "a proxied upgrade ended");
    });
    response.map(|_| Body::empty())
}

/// A body that ends with an error when the server shuts down.
struct UntilShutdown<B> {
    body: B,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<B> UntilShutdown<B> {
    fn new(body: B, shutdown: CancellationToken) -> Self {
        Self { body, shutdown: Box::pin(shutdown.cancelled_owned()) }
    }
}

impl<B> http_body::Body for UntilShutdown<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.shutdown.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err("the server ends".into())));
        }
        pin!(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
