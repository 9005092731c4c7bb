//! One connection to an HTTP guest, by HTTP/1.1 or by HTTP/2 with prior knowledge, and the requests that are refused without a guest.
//!
//! # Cross-site requests
//! Every page in the user's browser can send requests to a port of the node, even if the port listens only on loopback. A request is refused
//! only if its headers show that it is cross-site, so that curl, Services, proxies, the user's own pages and tests that send any `Host`
//! work. `Sec-Fetch-Site` comes first, as in Go's `http.CrossOriginProtection`: pages can neither set nor remove this header, and browsers
//! send it to loopback addresses without TLS too.
//! - `cross-site`: only a link to the application is allowed, that is a navigation by GET or HEAD to a top-level document. A form that
//!   submits itself and a frame are refused, as all other requests are.
//! - `same-origin` and `none` (the user opened the address) are allowed.
//! - Other values and no value: a request with another method than GET or HEAD is refused if its `Origin` does not match its `Host`.
//!
//! Requests of pages of this machine (`Origin`, else `Referer`) are allowed, and requests with a proxy's header: a page that adds such a
//! header causes a preflight, which is refused. DNS rebinding, where a name of another site resolves to a loopback address, is not detected:
//! its requests look like requests to a name in /etc/hosts. Browsers ask the user before such a page may use a loopback address.

use crate::{
    clients,
    http::{Handler, Response, text_response},
};
use container::net::{Peer, Via};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header, uri::Authority};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// How long a connection may be idle, and how long a client may take to send the head of a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Most concurrent streams of an HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// Most streams that a client opened and reset before the server accepted them. The connection is closed at more.
const MAX_PENDING_RESETS: usize = 100;

/// Most bytes of a response that an HTTP/2 stream buffers while the client does not read.
const MAX_SEND_BUFFER: usize = 64 << 10;

/// How long a graceful shutdown may take after a stall or an eviction.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves a connection until it ends.
pub(crate) async fn serve<S>(handler: Arc<Handler>, stream: S, client: clients::Connection, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = Arc::new(client);
    let stream = MonitoredStream { stream, client: client.clone(), heard: false, blocked: false };
    // Notified of each HTTP/2 request: GOAWAY is sent only to a client that has sent a request.
    let streams = Arc::new(Notify::new());
    let (this, seen, notify) = (handler.clone(), client.clone(), streams.clone());
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (handler, request_of, peer) = (this.clone(), seen.clone(), peer.clone());
        let multiplexed = request.version() == Version::HTTP_2;
        if multiplexed {
            notify.notify_one();
        }
        async move {
            let refused = refuse(&request, &peer.via, &handler);
            let is_refused = refused.is_some();
            let mut response = match refused {
                Some(response) => response,
                None => {
                    let client = handler.client(Some(&request_of));
                    handler.clone().answer(request, client, peer, true).await
                }
            };
            let closes = is_refused || handler.is_retired() || response.status() == StatusCode::REQUEST_TIMEOUT;
            if !multiplexed && closes {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let builder = builder();
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = handler.should_close(&streams) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = client.cut().cancelled() => return,
                () = handler.is_cut() => {
                    // A client that takes nothing keeps the guest from seeing it, which runs in this task.
                    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, connection).await;
                    return;
                }
            }
        }
        () = client.cut().cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, connection).await;
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(container = %handler.id(), error, "connection ended");
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(IDLE_TIMEOUT);
    builder
}

/// The response to a request that is refused without a guest. `None`: the guest answers it.
fn refuse<B>(request: &Request<B>, via: &Via, handler: &Handler) -> Option<Response> {
    if request.method() == Method::CONNECT {
        return Some(text_response(StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported"));
    }
    if let Some(wrong) = host_error(request) {
        return Some(text_response(StatusCode::BAD_REQUEST, wrong));
    }
    if let Via::Loopback(opens) = via
        && is_cross_site(request)
    {
        let page = requesting_page(request.headers()).unwrap_or("a page of another site");
        let (method, path) = (request.method(), request.uri().path());
        handler.log_cross_site(&format!(
            "sampan: {method} {path} refused: {page} asked, and this port is for this machine; to allow other sites: {opens}"
        ));
        let text = "pages of other sites may not ask this port; the container's log says how to allow it";
        return Some(text_response(StatusCode::FORBIDDEN, text));
    }
    None
}

/// Checks that there is exactly one valid Host (RFC 9112, 3.2). HTTP/1.0 and HTTP/2 do not require one. The texts are those of Go's net/http.
fn host_error<B>(request: &Request<B>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let valid = |host: &HeaderValue| {
        host.is_empty() || host.to_str().is_ok_and(|host| !host.contains('@') && host.parse::<Authority>().is_ok())
    };
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 => Some("missing required Host header"),
        (Some(_), Some(_)) => Some("too many Host headers"),
        (Some(host), None) if !valid(host) => Some("malformed Host header"),
        _ => None,
    }
}

/// Whether a request is refused as cross-site. The module documentation has the rules.
fn is_cross_site<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|it| it == value);
    let proxied = ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name));
    if proxied || requesting_page(headers).is_some_and(is_loopback_page) {
        return false;
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        Some(b"cross-site") => !(reads && is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document")),
        Some(b"same-origin" | b"none") => false,
        _ => !reads && headers.get(header::ORIGIN).is_some_and(|origin| !is_same_origin(origin, request)),
    }
}

/// Whether an origin matches the host of the request. `null`, the origin of sandboxed frames and of files, matches none.
fn is_same_origin<B>(origin: &HeaderValue, request: &Request<B>) -> bool {
    let Some(origin) = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok()) else { return false };
    let usual = match origin.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return false,
    };
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let (Some(origin), Some(host)) = (origin.authority(), named.as_ref().or(request.uri().authority())) else {
        return false;
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
    origin.host().eq_ignore_ascii_case(host.host()) && port(origin) == port(host)
}

/// The page that sent the request, from `Origin` or `Referer`.
fn requesting_page(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ORIGIN).or_else(|| headers.get(header::REFERER))?.to_str().ok()
}

/// Whether the address of a page has a loopback host.
fn is_loopback_page(page: &str) -> bool {
    let Ok(uri) = page.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let name = host.trim_end_matches('.');
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// A stream that records the activity of its client.
struct MonitoredStream<S> {
    stream: S,
    client: Arc<clients::Connection>,
    /// The first byte has been read.
    heard: bool,
    /// The last write was pending.
    blocked: bool,
}

impl<S> MonitoredStream<S> {
    fn record_write<T>(&mut self, result: Poll<T>) -> Poll<T> {
        if result.is_pending() != self.blocked {
            self.blocked = result.is_pending();
            self.client.set_write_blocked(self.blocked);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MonitoredStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if !self.heard && !buffer.filled().is_empty() {
            self.heard = true;
            self.client.record_first_byte();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MonitoredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.record_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.record_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(version).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn there_is_one_valid_host() {
        let (http1, http10, http2) = (Version::HTTP_11, Version::HTTP_10, Version::HTTP_2);
        for (version, hosts, wrong) in [
            (http1, &["hello"][..], None),
            (http1, &["hello:80"], None),
            (http1, &["[::1]:80"], None),
            (http1, &["127.0.0.1:30080"], None),
            (http1, &["a_b.example"], None),
            (http1, &[""], None),
            (http1, &[], Some("missing required Host header")),
            (http1, &["a", "a"], Some("too many Host headers")),
            (http10, &["a", "b"], Some("too many Host headers")),
            (http1, &["a b"], Some("malformed Host header")),
            (http1, &["a/b"], Some("malformed Host header")),
            (http1, &["user@a"], Some("malformed Host header")),
            (http1, &["http://a"], Some("malformed Host header")),
            (http10, &["a,b c"], Some("malformed Host header")),
            (http10, &[], None),
            (http2, &[], None),
        ] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert_eq!(host_error(&request(version, &headers)), wrong, "{version:?} {hosts:?}");
        }
    }

    fn refused(method: Method, headers: &[(&str, &str)]) -> bool {
        let mut request = request(Version::HTTP_11, headers);
        *request.method_mut() = method;
        is_cross_site(&request)
    }

    const SITE: &str = "sec-fetch-site";
    const MODE: &str = "sec-fetch-mode";
    const DEST: &str = "sec-fetch-dest";
    const CROSS: (&str, &str) = (SITE, "cross-site");
    const CORS: (&str, &str) = (MODE, "cors");
    const EVIL: (&str, &str) = ("origin", "https://evil.example");

    #[test]
    fn only_what_a_browser_calls_cross_site_is_refused() {
        for (headers, wanted) in [
            // Requests that a page of another site can make a browser send.
            (&[CROSS, CORS, EVIL][..], true),
            (&[CROSS, (MODE, "no-cors")], true),
            (&[CROSS, (MODE, "no-cors"), ("referer", "https://evil.example/page")], true),
            (&[CROSS, CORS, ("origin", "null")], true),
            (&[CROSS, CORS, ("origin", "https://localhost.evil.example")], true),
            (&[CROSS, CORS, ("origin", "https://127.0.0.1.evil.example")], true),
            (&[CROSS, CORS, ("origin", "https://evil.example"), ("referer", "http://localhost/")], true),
            (&[CROSS, (MODE, "websocket"), (DEST, "websocket"), EVIL], true),
            // The user's own pages, proxies, tools.
            (&[(SITE, "same-origin"), CORS, ("origin", "http://127.0.0.1:30080")], false),
            (&[(SITE, "same-site"), CORS, ("origin", "http://localhost:3000")], false),
            (&[CROSS, CORS, ("origin", "http://localhost:3000")], false),
            (&[CROSS, CORS, ("origin", "http://app.localhost")], false),
            (&[CROSS, CORS, ("origin", "http://[::1]:3000")], false),
            (&[CROSS, (MODE, "no-cors"), ("referer", "http://127.0.0.1:3000/")], false),
            (&[(SITE, "none"), (MODE, "navigate"), (DEST, "document")], false),
            (&[CROSS, CORS, EVIL, ("x-forwarded-for", "203.0.113.7")], false),
            (&[CROSS, CORS, EVIL, ("forwarded", "for=203.0.113.7")], false),
            (&[EVIL], false),
            (&[("host", "shop.example")], false),
            (&[], false),
        ] {
            assert_eq!(refused(Method::GET, headers), wanted, "{headers:?}");
        }
    }

    /// A link is allowed. A form that submits itself, and a frame (clickjacking), are refused.
    #[test]
    fn another_site_may_only_link_to_a_document() {
        let navigate = |dest| [CROSS, (MODE, "navigate"), (DEST, dest), ("referer", "https://evil.example/")];
        for (method, reads) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::POST, false),
            (Method::PUT, false),
            (Method::DELETE, false),
        ] {
            assert_eq!(refused(method.clone(), &navigate("document")), !reads, "{method}");
            for frame in ["iframe", "frame", "embed", "object", ""] {
                assert!(refused(method.clone(), &navigate(frame)), "{method} {frame}");
            }
            assert!(refused(method.clone(), &[CROSS, (MODE, "navigate")]), "{method}");
            assert!(refused(method.clone(), &[CROSS, (MODE, "no-cors"), (DEST, "document")]), "{method}");
            assert!(!refused(method.clone(), &[(SITE, "none"), (MODE, "navigate"), (DEST, "document")]), "{method}");
        }
    }

    /// This includes browsers that do not send `Sec-Fetch-Site`.
    #[test]
    fn what_changes_something_is_asked_by_its_own_origin() {
        let host = |name| ("host", name);
        let here = host("127.0.0.1:30080");
        let shop = host("shop.example:30080");
        for (headers, wanted) in [
            (&[here, ("origin", "http://evil.example")][..], true),
            (&[here, ("origin", "null")], true),
            (&[here, ("origin", "")], true),
            (&[here, ("origin", "file://")], true),
            (&[here, ("origin", "http://evil.example"), ("referer", "http://127.0.0.1:30080/")], true),
            (&[here, ("origin", "http://127.0.0.1:30080@evil.example")], true),
            (&[shop, ("origin", "http://shop.example")], true),
            (&[shop, ("origin", "http://shop.example:30081")], true),
            (&[shop, ("origin", "http://www.shop.example:30080")], true),
            (&[shop, ("origin", "http://www.shop.example:30080"), (SITE, "same-site")], true),
            (&[("origin", "http://shop.example:30080")], true),
            // Pages of the application, pages of this machine, and clients that are not browsers.
            (&[here, ("origin", "http://127.0.0.1:30080")], false),
            (&[here, ("origin", "http://localhost:3000")], false),
            (&[shop, ("origin", "http://shop.example:30080")], false),
            (&[shop, ("origin", "http://SHOP.example:30080")], false),
            (&[host("shop.example"), ("origin", "http://shop.example")], false),
            (&[host("shop.example:80"), ("origin", "http://shop.example")], false),
            (&[host("shop.example"), ("origin", "https://shop.example")], false),
            (&[host("shop.example:443"), ("origin", "https://shop.example")], false),
            // A proxy that changes the Host and adds no header of its own.
            (&[here, ("origin", "https://shop.example"), (SITE, "same-origin")], false),
            (&[here, ("origin", "https://shop.example"), ("x-forwarded-for", "203.0.113.7")], false),
            (&[here], false),
        ] {
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
                assert_eq!(refused(method.clone(), headers), wanted, "{method} {headers:?}");
            }
            assert!(!refused(Method::GET, headers), "{headers:?}");
        }
        let mut http2 = request(Version::HTTP_2, &[("origin", "http://shop.example:30080")]);
        *http2.method_mut() = Method::POST;
        *http2.uri_mut() = "http://shop.example:30080/".parse().unwrap();
        assert!(!is_cross_site(&http2), "its authority is its host");
    }
}
