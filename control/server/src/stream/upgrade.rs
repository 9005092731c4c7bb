//! A request that becomes a stream: who may, which protocol, and what the stream keeps.

use super::{origin, websocket};
use crate::{call::Call, limits::UserPlace, nodes::Kubelet};
use api::Status;
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

const VERSION: &str = "x-stream-protocol-version";
const ACCEPTED: &str = "x-accepted-stream-protocol-versions";
const SPDY: &str = "SPDY/3.1";

/// What a stream into an object needs.
pub struct Streaming {
    /// The way to its node.
    pub kubelet: Kubelet,
    /// Where on the node, with the query where there is one.
    pub target: String,
    /// Ends it when the server ends.
    pub shutdown: CancellationToken,
}

/// Refuses what is no upgrade, and pages of other sites.
///
/// # Errors
/// 400, 403.
pub(super) fn check(call: &Call) -> Result<(), Status> {
    if call.headers().get(header::UPGRADE).is_none() || call.parts.extensions.get::<OnUpgrade>().is_none() {
        return Err(Status::bad_request("Upgrade request required"));
    }
    origin::check(call.headers())
}

/// The first of what the client offers that is served; an empty offer is the empty name, if that is served.
pub(super) fn choose(offered: &[String], served: &[&'static str]) -> Option<&'static str> {
    let empty = [String::new()];
    let offered = if offered.is_empty() { &empty[..] } else { offered };
    offered.iter().find_map(|name| served.iter().find(|known| *known == name).copied())
}

/// As Go prints a list.
fn listed<T: AsRef<str>>(names: &[T]) -> String {
    format!("[{}]", names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "))
}

fn refusal(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = crate::reply::text(code, format!("{text}\n"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// The SPDY protocol that both speak, or the answer to the client. The words are upstream's.
pub(super) fn negotiate(call: &Call, served: &[&'static str]) -> Result<&'static str, Box<Response<Body>>> {
    let asked = call.headers().get(header::UPGRADE).and_then(|name| name.to_str().ok()).unwrap_or_default();
    if !asked.eq_ignore_ascii_case(SPDY) {
        let text = format!("unable to upgrade: missing upgrade headers in request: {:?}", asked);
        return Err(Box::new(refusal(StatusCode::BAD_REQUEST, &text)));
    }
    let values = call.headers().get_all(VERSION).into_iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    let offered: Vec<String> =
        values.iter().flat_map(|value| value.split(',')).map(|name| name.trim().to_owned()).collect();
    let offered: Vec<String> = offered.into_iter().filter(|name| !name.is_empty()).collect();
    if offered.is_empty() {
        let text = match values.is_empty() {
            true => {
                let count = call.headers().keys_len();
                format!(
                    "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with {count} headers"
                )
            }
            false => format!(
                "unable to upgrade: header X-Stream-Protocol-Version contains {}, but no valid protocols",
                listed(&values)
            ),
        };
        return Err(Box::new(refusal(StatusCode::BAD_REQUEST, &text)));
    }
    choose(&offered, served).ok_or_else(|| {
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {}, server accepts {}",
            listed(&offered),
            listed(served)
        );
        let mut response = refusal(StatusCode::FORBIDDEN, &text);
        for name in served {
            response.headers_mut().append(ACCEPTED, HeaderValue::from_static(name));
        }
        Box::new(response)
    })
}

/// The subprotocol of a WebSocket, or the answer to the client.
pub(super) fn subprotocol(call: &Call, served: &[&'static str]) -> Result<&'static str, Box<Response<Body>>> {
    let offered = websocket::offered(call.headers());
    choose(&offered, served).ok_or_else(|| {
        let text = format!(
            "unable to negotiate protocol: client supports {}, server accepts {}",
            listed(&offered),
            listed(served)
        );
        Box::new(refusal(StatusCode::FORBIDDEN, &text))
    })
}

/// Answers that SPDY is spoken from now on; `serve` is given the bytes.
pub(super) fn spdy<F>(
    call: &mut Call,
    protocol: &'static str,
    serve: impl FnOnce(Bytes) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut response = Response::new(Body::empty());
    let Some(upgrade) = call.parts.extensions.remove::<OnUpgrade>() else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(VERSION, HeaderValue::from_static(protocol));
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(Box::new(TokioIo::new(upgraded))).await,
            Err(error) => tracing::debug!(%error, "no upgrade"),
        }
    });
    response
}

/// The bytes of an upgraded connection.
pub(super) type Bytes = Box<dyn Io>;

/// Bytes both ways.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What the user of a request holds of the limits.
pub(super) type Place = Option<Arc<UserPlace>>;

/// Does the work until its end or the server's, and keeps the user's place meanwhile.
pub(super) async fn until(shutdown: CancellationToken, place: Place, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
    drop(place);
}
