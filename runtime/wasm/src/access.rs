//! The access log: one line in the container's log per request.

use bytes::Bytes;
use container::{
    log::{Log, Source},
    net::BoxError,
};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use std::{
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::time::Instant;

/// The status of a request whose client disconnected, as nginx logs it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The entry of one request, written on drop: peer, request line, status, bytes of the response body, duration until the body was sent,
/// and trace.
pub(crate) struct AccessLogEntry {
    log: Log,
    peer: IpAddr,
    request: String,
    trace: Option<String>,
    begin: Instant,
    status: u16,
    bytes: u64,
}

impl AccessLogEntry {
    pub(crate) fn new<B>(log: &Log, peer: IpAddr, request: &http::Request<B>, trace: Option<&HeaderMap>) -> Self {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let parent = trace.and_then(|trace| trace.get(crate::trace::TRACEPARENT));
        Self {
            log: log.clone(),
            peer: peer.to_canonical(),
            request: format!("{} {path} {:?}", request.method(), request.version()),
            trace: parent.and_then(|parent| parent.to_str().ok()).map(str::to_owned),
            begin: Instant::now(),
            status: CLIENT_CLOSED_REQUEST,
            bytes: 0,
        }
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }
}

impl Drop for AccessLogEntry {
    fn drop(&mut self) {
        let Self { peer, request, status, bytes, .. } = self;
        let millis = self.begin.elapsed().as_secs_f64() * 1e3;
        let trace = self.trace.as_ref().map_or_else(String::new, |trace| format!(" {trace}"));
        let text = format!("sampan: {peer} {request:?} {status} {bytes} {millis:.3}ms{trace}");
        self.log.lines(Source::Stderr, &text);
    }
}

/// A response body whose bytes are counted for the entry.
pub(crate) struct CountedBody {
    pub(crate) body: UnsyncBoxBody<Bytes, BoxError>,
    pub(crate) access: AccessLogEntry,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.access.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
