//! HTTP requests: to a local handler as a function call, else over a new connection.
//!
//! Not a proxy: redirects are not followed, nothing is cached, and connections are not reused. The caller limits the time by dropping the
//! future.

use crate::{
    network::{Inner, Route, Source},
    pod::{Bound, Pod},
};
use container::net::{BoxError, Error, Peer, Request, Response, Result, Stream, Via};
use http::{HeaderName, HeaderValue, Uri, header, uri::Scheme};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_rustls::TlsConnector;

/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Bound of a response's head, in bytes and in headers.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 256;
/// Headers that are about one connection only. `trailer` is not: hyper sends the trailers that it names.
const HOP_BY_HOP: &[HeaderName] = &[
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Sends a guest's request: resolves the host, checks the egress rules, picks an endpoint, adds TLS.
pub(crate) async fn outgoing(
    inner: &Arc<Inner>,
    pod: &Arc<Pod>,
    request: Request,
    permit: OwnedSemaphorePermit,
) -> Result<Response> {
    let uri = request.uri().clone();
    let tls = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => false,
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        _ => return Err(Error::Unsupported(format!("the scheme of {uri}: only http and https"))),
    };
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| Error::NoSuchHost(uri.to_string()))?;
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let addresses = inner.resolve(host, pod).await?;
    let mut first_error = None;
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        match prepare(inner, pod, SocketAddr::new(address, port), tls.then_some(host)).await {
            Ok(Ready::Handler(route, peer)) => {
                let response = send(inner, &route, peer, request).await?;
                return Ok(held(response, permit));
            }
            Ok(Ready::Stream(stream)) => {
                let response = over_stream(stream, request).await?;
                return Ok(held(response, permit));
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| Error::NoSuchHost(host.to_owned())))
}

/// A target to which a request can be sent.
enum Ready {
    Handler(Route, Peer),
    Stream(Stream),
}

async fn prepare(inner: &Arc<Inner>, pod: &Arc<Pod>, to: SocketAddr, tls: Option<&str>) -> Result<Ready> {
    let route = inner.route_awake(Source::Pod(pod), to).await?;
    let peer = Peer { address: pod.source(to.ip()), via: Via::Pod };
    let Some(host) = tls else {
        if let Route::Pod { pod, port, by_loopback } = &route
            && matches!(pod.tcp(*port, *by_loopback)?, Bound::Http(_))
        {
            return Ok(Ready::Handler(route, peer));
        }
        return Ok(Ready::Stream(inner.open(&route, peer).await?));
    };
    let inside = matches!(route, Route::Pod { .. } | Route::Host { inside: true, .. });
    let connector = TlsConnector::from(inner.tls.config(inside).await?);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::from(address),
        Err(_) => ServerName::try_from(host.trim_end_matches('.').to_owned())
            .map_err(|e| Error::NoSuchHost(format!("{host}: {e}")))?,
    };
    let stream = inner.open(&route, peer).await?;
    let shake = timeout(inner.config.limits.connect_timeout, connector.connect(name, stream)).await;
    let stream = shake.map_err(|_| Error::TimedOut(format!("TLS with {host}")))?;
    let stream = stream.map_err(|e| Error::Protocol(format!("TLS with {host}: {e}")))?;
    Ok(Ready::Stream(Box::new(stream)))
}

/// Ties the socket permit of a pod to the body of the response.
fn held(response: Response, permit: OwnedSemaphorePermit) -> Response {
    response.map(|body| {
        let hold = move |frame| {
            let _ = &permit;
            frame
        };
        body.map_frame(hold).boxed_unsync()
    })
}

/// Sends a request without TLS: to a handler as a call, else as HTTP/1.1 on a stream.
pub(crate) async fn send(inner: &Inner, route: &Route, peer: Peer, request: Request) -> Result<Response> {
    if let Route::Pod { pod, port, by_loopback } = route
        && let Bound::Http(handler) = pod.tcp(*port, *by_loopback)?
    {
        return handler.call(origin_form(request)?, peer).await;
    }
    over_stream(inner.open(route, peer).await?, request).await
}

/// The request in origin form: path only, authority in `Host`, no hop-by-hop headers.
fn origin_form(request: Request) -> Result<Request> {
    let (mut parts, body) = request.into_parts();
    for name in HOP_BY_HOP {
        parts.headers.remove(name);
    }
    if let Some(authority) = parts.uri.authority() {
        // Without user information, which is private to the client.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::from_str(host).map_err(|e| Error::Protocol(format!("host: {e}")))?;
        parts.headers.entry(header::HOST).or_insert(host);
    }
    parts.uri = match parts.uri.path_and_query() {
        // also the empty path, which a URI of that path alone would not show
        Some(path) if path.as_str() == "/" => Uri::from_static("/"),
        Some(path) if path.as_str().starts_with(['/', '*']) => Uri::from(path.clone()),
        Some(query) => format!("/{}", query.as_str()).parse().map_err(|e| Error::Protocol(format!("path: {e}")))?,
        None => Uri::from_static("/"),
    };
    parts.version = http::Version::HTTP_11;
    Ok(Request::from_parts(parts, body))
}

async fn over_stream(stream: Stream, request: Request) -> Result<Response> {
    let request = origin_form(request)?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let exchange = async {
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        // The connection ends when the body of the response has ended or is dropped.
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let response = exchange.await.map_err(|e| match e.is_parse() || e.is_user() {
        true => Error::Protocol(e.to_string()),
        false => Error::Reset(e.to_string()),
    })?;
    Ok(response.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::HeaderMap;
    use http_body_util::{Empty, channel::Channel};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_request_has_a_path_and_its_parameters_as_they_are() {
        for (uri, sent) in [
            ("http://a.test/multi?b=2&a=1", "/multi?b=2&a=1"),
            ("http://a.test/pct%2Fsegment?q=a%20b", "/pct%2Fsegment?q=a%20b"),
            ("http://a.test", "/"),
            ("http://a.test?x=1", "/?x=1"),
            ("*", "*"),
        ] {
            let body = Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
            let mut request = Request::new(body);
            *request.uri_mut() = uri.parse().expect("a URI");
            let request = origin_form(request).expect("a request");
            assert_eq!(request.uri().to_string(), sent, "{uri}");
        }
    }

    #[tokio::test]
    async fn trailers_of_a_request_are_sent() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("abc123"));
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(2);
        sender.send_data(Bytes::from_static(b"ping")).await.expect("room");
        sender.send_trailers(trailers).await.expect("room");
        drop(sender);
        let request = http::Request::post("http://a.test/").header("trailer", "x-checksum").body(body.boxed_unsync());
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let serve = async {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") || !String::from_utf8_lossy(&asked).contains("\r\n0\r\n") {
                asked.push(far.read_u8().await.expect("a byte"));
            }
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("written");
            String::from_utf8(asked).expect("text")
        };
        let (response, asked) = tokio::join!(over_stream(Box::new(near), request.expect("a request")), serve);
        assert_eq!(response.expect("a response").status(), 200);
        assert!(
            asked.contains("transfer-encoding: chunked\r\n") && asked.contains("trailer: x-checksum\r\n"),
            "{asked}"
        );
        assert!(asked.ends_with("\r\n0\r\nx-checksum: abc123\r\n\r\n"), "{asked}");
    }
}
