//! gRPC answers that are a status without messages.
//!
//! Such an answer ("Trailers-Only") is one header block that ends its HTTP/2 stream. Clients take an empty DATA frame after it for a broken
//! stream. hyper ends the stream with the head only if it knows then that the body is empty, but a component says so later. See
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses>.

use crate::body::ResponseBody;
use bytes::Bytes;
use container::net::BoxError;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

/// The header with the status of a call, which is a trailer if there are messages.
const STATUS: &str = "grpc-status";

/// The body of a response as it is sent. That of a status without messages is waited for, so that it ends with its head.
pub(crate) async fn body(
    version: Version,
    headers: &HeaderMap,
    mut body: ResponseBody,
) -> UnsyncBoxBody<Bytes, BoxError> {
    if version != Version::HTTP_2 || !headers.contains_key(STATUS) {
        return body.boxed_unsync();
    }
    match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
        first => Begun { first, rest: body }.boxed_unsync(),
    }
}

/// A body whose first frame was waited for.
struct Begun {
    first: Option<Result<Frame<Bytes>, BoxError>>,
    rest: ResponseBody,
}

impl Body for Begun {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.first.take() {
            None => Pin::new(&mut self.rest).poll_frame(context),
            first => Poll::Ready(first),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.first {
            None => self.rest.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}
