//! One connection to an HTTP guest: HTTP/1.1 or, by prior knowledge, HTTP/2; and the requests that no guest is shown.
//!
//! # Requests of other web sites
//! A port of the node that listens on loopback only is reached by every page that the user's browser shows. Such a request is refused
//! where its headers prove what it is, and nowhere else, so that curl, Services, proxies, the user's own pages and tests that send any
//! `Host` work: the browser itself says that another site asks (`Sec-Fetch-Site: cross-site`, which pages can neither set nor remove,
//! and which browsers send to loopback addresses without TLS too), it is no navigation (a link to the application may be followed), the page
//! that asks is none of this machine (`Origin`, else `Referer`), and no proxy has passed it on (a page that adds such a header to a
//! request must ask for leave by a preflight, which is refused). What is left is rebinding: a name of another site that turns into a
//! loopback address. Its requests look like those of a name in /etc/hosts; browsers ask the user before they let such a page in.

use crate::{
    clients,
    http::{Handler, Response, plain},
};
use container::net::Via;
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

/// How long a connection may be idle, or take to send a request's head.
const IDLE: Duration = Duration::from_secs(75);

/// Concurrent streams per HTTP/2 connection.
const STREAMS: u32 = 128;

/// Streams that a client opened and reset before they were looked at; with more the connection is closed.
const RESETS: usize = 100;

/// Bytes of an answer that an HTTP/2 stream holds for a client that does not read.
const UNREAD: usize = 64 << 10;

/// How long a connection that is let go may take to say so.
const PARTING: Duration = Duration::from_secs(1);

/// Serves a connection until its end.
pub(crate) async fn serve<S>(handler: Arc<Handler>, stream: S, client: clients::Connection, via: Via)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = Arc::new(client);
    let stream = Watched { stream, client: client.clone(), heard: false, blocked: false };
    // Told of each request on HTTP/2: only a client that has sent one can be sent away by a frame.
    let streams = Arc::new(Notify::new());
    let (this, seen, told) = (handler.clone(), client.clone(), streams.clone());
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (handler, request_of) = (this.clone(), seen.clone());
        let multiplexed = request.version() == Version::HTTP_2;
        if multiplexed {
            told.notify_one();
        }
        async move {
            let refused = refusal(&request, via, &handler);
            let ends = refused.is_some();
            let mut response = match refused {
                Some(response) => response,
                None => {
                    let client = handler.client(Some(&request_of));
                    handler.clone().answer(request, client, via).await
                }
            };
            let leaves = ends || handler.is_retired() || response.status() == StatusCode::REQUEST_TIMEOUT;
            if !multiplexed && leaves {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .max_send_buf_size(UNREAD)
        .keep_alive_interval(IDLE);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = handler.leaving(&streams) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = client.cut().cancelled() => return,
            }
        }
        () = client.cut().cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(PARTING, connection).await;
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(container = %handler.id(), error, "connection ended");
    }
}

/// What to say to a request that no guest is shown.
fn refusal<B>(request: &Request<B>, via: Via, handler: &Handler) -> Option<Response> {
    if request.method() == Method::CONNECT {
        return Some(plain(StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported"));
    }
    if let Some(wrong) = wrong_host(request) {
        return Some(plain(StatusCode::BAD_REQUEST, wrong));
    }
    if via == Via::Loopback && of_another_site(request.headers()) {
        let page = asking(request.headers()).unwrap_or("a page of another site");
        let (method, path) = (request.method(), request.uri().path());
        handler.tell_of_other_sites(&format!(
            "sampan: {method} {path} refused: {page} asked, and this port is for this machine; to allow other sites: kubectl annotate \
             service NAME sampan.dev/cross-site-requests=allow"
        ));
        let text = "pages of other sites may not ask this port; the container's log says how to allow it";
        return Some(plain(StatusCode::FORBIDDEN, text));
    }
    None
}

/// RFC 9112, 3.2: exactly one valid Host. HTTP/1.0 and HTTP/2 need none. The words are Go's.
fn wrong_host<B>(request: &Request<B>) -> Option<&'static str> {
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

/// Whether a browser asks for a page of another site, and nothing speaks for it: see the module's text.
fn of_another_site(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|it| it == value);
    let proxied = ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name));
    is("sec-fetch-site", "cross-site")
        && !is("sec-fetch-mode", "navigate")
        && !proxied
        && !asking(headers).is_some_and(of_this_machine)
}

/// The page that asks, as far as the browser tells.
fn asking(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ORIGIN).or_else(|| headers.get(header::REFERER))?.to_str().ok()
}

fn of_this_machine(page: &str) -> bool {
    let Ok(uri) = page.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let name = host.trim_end_matches('.');
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// A stream that notes whether its client does something.
struct Watched<S> {
    stream: S,
    client: Arc<clients::Connection>,
    heard: bool,
    blocked: bool,
}

impl<S> Watched<S> {
    fn note<T>(&mut self, result: Poll<T>) -> Poll<T> {
        if result.is_pending() != self.blocked {
            self.blocked = result.is_pending();
            self.client.blocked(self.blocked);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if !self.heard && !buffer.filled().is_empty() {
            self.heard = true;
            self.client.heard();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.note(result)
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
            assert_eq!(wrong_host(&request(version, &headers)), wrong, "{version:?} {hosts:?}");
        }
    }

    #[test]
    fn only_what_a_browser_calls_cross_site_is_refused() {
        let site = |value| ("sec-fetch-site", value);
        let (cross, cors) = (site("cross-site"), ("sec-fetch-mode", "cors"));
        let evil = ("origin", "https://evil.example");
        for (headers, refused) in [
            // What a page of another site can make a browser send.
            (&[cross, cors, evil][..], true),
            (&[cross, ("sec-fetch-mode", "no-cors")], true),
            (&[cross, ("sec-fetch-mode", "no-cors"), ("referer", "https://evil.example/page")], true),
            (&[cross, cors, ("origin", "null")], true),
            (&[cross, cors, ("origin", "https://localhost.evil.example")], true),
            (&[cross, cors, ("origin", "https://127.0.0.1.evil.example")], true),
            (&[cross, cors, ("origin", "https://evil.example"), ("referer", "http://localhost/")], true),
            // The user's own pages, links, proxies, tools.
            (&[site("same-origin"), cors, ("origin", "http://127.0.0.1:30080")], false),
            (&[site("same-site"), cors, ("origin", "http://localhost:3000")], false),
            (&[cross, cors, ("origin", "http://localhost:3000")], false),
            (&[cross, cors, ("origin", "http://app.localhost")], false),
            (&[cross, cors, ("origin", "http://[::1]:3000")], false),
            (&[cross, ("sec-fetch-mode", "no-cors"), ("referer", "http://127.0.0.1:3000/")], false),
            (&[cross, ("sec-fetch-mode", "navigate"), ("referer", "https://github.com/")], false),
            (&[site("none"), ("sec-fetch-mode", "navigate")], false),
            (&[cross, cors, evil, ("x-forwarded-for", "203.0.113.7")], false),
            (&[cross, cors, evil, ("forwarded", "for=203.0.113.7")], false),
            (&[evil], false),
            (&[("host", "shop.example")], false),
            (&[], false),
        ] {
            assert_eq!(of_another_site(request(Version::HTTP_11, headers).headers()), refused, "{headers:?}");
        }
    }
}
