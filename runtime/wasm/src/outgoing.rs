//! wasi:http going out: every request goes through [`Sockets::http`], which decides on names, egress, load balancing and TLS.

use crate::trace;
use container::{
    log::{Log, Source},
    net::{self, Sockets},
};
use http::HeaderMap;
use http_body_util::BodyExt;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// How long an answer may take to begin when the guest sets no time-out.
const FIRST_BYTE: Duration = Duration::from_secs(600);

/// One instance's way out.
pub(crate) struct Outgoing {
    pub(crate) sockets: Arc<dyn Sockets>,
    pub(crate) log: Log,
    /// Requests under way, of the whole container.
    pub(crate) permits: Arc<Semaphore>,
    /// The trace of the request that the guest answers, for requests that name none.
    pub(crate) trace: Option<HeaderMap>,
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Result<(http::Response<WasiBody>, Io), Error>;

impl WasiHttpHooks for Outgoing {
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        crate::host::CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        crate::host::CHUNK
    }

    fn send_request(
        &mut self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Io,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return Box::new(async { Err(Error::ConnectionLimitReached) });
        };
        if let Some(trace) = &self.trace
            && !request.headers().contains_key(trace::PARENT)
        {
            request.headers_mut().extend(trace.clone());
        }
        let (sockets, log) = (self.sockets.clone(), self.log.clone());
        let options = options.unwrap_or_default();
        let limit = match (options.connect_timeout, options.first_byte_timeout) {
            (Some(connect), Some(first)) => connect.saturating_add(first),
            (None, Some(first)) => first,
            _ => FIRST_BYTE,
        };
        Box::new(async move {
            let uri = request.uri().clone();
            let request = request.map(|body| body.map_err(net::BoxError::from).boxed_unsync());
            let response = match tokio::time::timeout(limit, sockets.http(request)).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    if matches!(error, net::Error::Denied(_) | net::Error::Unsupported(_)) {
                        // The guest only sees a code; whoever reads its log sees what to do.
                        log.lines(Source::Stderr, &format!("sampan: outgoing request to {uri} refused: {error}"));
                    }
                    tracing::debug!(%uri, %error, "an outgoing request failed");
                    return Err(refused(error));
                }
                Err(_) => return Err(Error::ConnectionReadTimeout),
            };
            let response = response.map(|body| {
                let body = body.map_err(|error| Error::InternalError(Some(error.to_string())));
                // The permit lives as long as the body: it is a connection in use.
                Held { body: body.boxed_unsync(), _permit: permit }.boxed_unsync()
            });
            Ok((response, Box::new(async { Ok(()) }) as Io))
        })
    }
}

fn refused(error: net::Error) -> Error {
    match error {
        net::Error::Refused(_) => Error::ConnectionRefused,
        net::Error::Denied(_) => Error::HttpRequestDenied,
        net::Error::NoSuchHost(_) => Error::DnsError { rcode: Some("NXDOMAIN".into()), info_code: None },
        net::Error::TimedOut(_) => Error::ConnectionTimeout,
        net::Error::Unreachable(_) | net::Error::NotAvailable(_) => Error::DestinationUnavailable,
        net::Error::Protocol(_) | net::Error::Unsupported(_) => Error::HttpProtocolError,
        net::Error::Reset(_) => Error::ConnectionTerminated,
        net::Error::Exhausted(_) | net::Error::AddressInUse(_) => Error::ConnectionLimitReached,
    }
}

struct Held {
    body: WasiBody,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = bytes::Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
