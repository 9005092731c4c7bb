//! Outgoing wasi:http requests. [`Sockets::http`] sends them: it resolves names and applies egress policies, load balancing and TLS.

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

/// Applies if the guest sets no timeout for the start of the response.
const DEFAULT_FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);

/// Sends the outgoing requests of one instance.
pub(crate) struct Outgoing {
    pub(crate) sockets: Arc<dyn Sockets>,
    pub(crate) log: Log,
    /// One permit per request in flight, shared by all instances of the container.
    pub(crate) permits: Arc<Semaphore>,
    /// The trace headers of the incoming request. They are added to outgoing requests without a trace.
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

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        crate::host::CHUNK_3
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
            && !request.headers().contains_key(trace::TRACEPARENT)
        {
            request.headers_mut().extend(trace.clone());
        }
        let (sockets, log) = (self.sockets.clone(), self.log.clone());
        let options = options.unwrap_or_default();
        let timeout = match (options.connect_timeout, options.first_byte_timeout) {
            (Some(connect), Some(first)) => connect.saturating_add(first),
            (None, Some(first)) => first,
            _ => DEFAULT_FIRST_BYTE_TIMEOUT,
        };
        Box::new(async move {
            let uri = request.uri().clone();
            let request = request.map(|body| body.map_err(net::BoxError::from).boxed_unsync());
            let response = match tokio::time::timeout(timeout, sockets.http(request)).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    if matches!(error, net::Error::Denied(_) | net::Error::Unsupported(_)) {
                        // The guest only gets an error code. The container's log explains the refusal to its operator.
                        log.lines(Source::Stderr, &format!("sampan: outgoing request to {uri} refused: {error}"));
                    }
                    tracing::debug!(%uri, %error, "an outgoing request failed");
                    return Err(error_code(error));
                }
                Err(_) => return Err(Error::ConnectionReadTimeout),
            };
            let response = response.map(|body| {
                let body = body.map_err(|error| Error::InternalError(Some(error.to_string())));
                // The connection is in use, and holds its permit, until the body is dropped.
                PermitBody { body: body.boxed_unsync(), _permit: permit }.boxed_unsync()
            });
            Ok((response, Box::new(async { Ok(()) }) as Io))
        })
    }
}

fn error_code(error: net::Error) -> Error {
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

/// A response body with the permit of its request.
struct PermitBody {
    body: WasiBody,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl http_body::Body for PermitBody {
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
