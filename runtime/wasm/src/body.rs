//! The bodies of requests and responses. Both report to [`clients`] whether the client stalls.

use crate::{clients, delivery::Delivery, guest::Shared};
use bytes::Bytes;
use container::{log::Source, net::BoxError};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};
use tokio::{
    runtime::Handle,
    sync::{
        oneshot::{self, error::RecvError},
        watch,
    },
    task::AbortHandle,
};
use wasmtime_wasi_http::{Error, WasiBody};

/// A request's body that records whether the guest waits for the client.
pub(crate) struct Sent<B> {
    body: B,
    client: Arc<clients::Request>,
}

impl<B> Drop for Sent<B> {
    fn drop(&mut self) {
        self.client.set_waiting_for_body(false);
    }
}

/// A request's body as the guest reads it. Reads fail after the request has ended.
pub(crate) struct RequestBody<B>(Arc<Mutex<Option<Sent<B>>>>);

/// Ends an [`RequestBody`] body.
pub(crate) struct RequestBodyEnd<B>(Weak<Mutex<Option<Sent<B>>>>);

impl<B> RequestBody<B> {
    pub(crate) fn new(body: B, client: Arc<clients::Request>) -> Self {
        Self(Arc::new(Mutex::new(Some(Sent { body, client }))))
    }

    pub(crate) fn over(&self) -> RequestBodyEnd<B> {
        RequestBodyEnd(Arc::downgrade(&self.0))
    }
}

impl<B> RequestBodyEnd<B> {
    pub(crate) fn end(self) {
        let body = self.0.upgrade().and_then(|body| body.lock().take());
        drop(body);
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = String;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        let mut sent = self.0.lock();
        let Some(sent) = &mut *sent else { return Poll::Ready(Some(Err("the request is over".into()))) };
        let frame = Pin::new(&mut sent.body).poll_frame(context);
        sent.client.set_waiting_for_body(frame.is_pending());
        frame.map(|frame| frame.map(|frame| frame.map_err(|error| error.to_string())))
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().as_ref().is_none_or(|sent| sent.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().as_ref().map_or_else(SizeHint::default, |sent| sent.body.size_hint())
    }
}

/// The task that runs one request. If dropped before it is done, the task is aborted: nobody waits for its response.
pub(crate) struct Task {
    /// `None`: the task has ended.
    handle: Option<AbortHandle>,
    /// The response is complete. The task may go on without its client.
    pub(crate) done: bool,
}

impl Task {
    /// Runs the task on the guests' threads, and waits for the head of the response.
    pub(crate) async fn begin<T>(
        run: impl Future<Output = ()> + Send + 'static,
        mut head: oneshot::Receiver<T>,
        delivery: &Arc<Delivery>,
        threads: &Handle,
    ) -> (Result<T, RecvError>, Self) {
        let task = Self { handle: Some(threads.spawn(run).abort_handle()), done: false };
        let result = poll_fn(|context| delivery.poll(context, |context| Pin::new(&mut head).poll(context))).await;
        (result, task)
    }

    /// Runs the task in the caller's task until the head of the response is ready, and the rest on the guests' threads. Most responses are complete
    /// by then.
    pub(crate) async fn run_inline<T>(
        run: impl Future<Output = ()> + Send + Unpin + 'static,
        mut head: oneshot::Receiver<T>,
        threads: &Handle,
    ) -> (Result<T, RecvError>, Self) {
        let mut run = Some(run);
        let result = poll_fn(|context| {
            if run.as_mut().is_some_and(|run| Pin::new(run).poll(context).is_ready()) {
                run = None;
            }
            // `run` has the sender of the head, so this task needs no other waker.
            Pin::new(&mut head).poll(context)
        });
        let result = result.await;
        let handle = run.map(|run| threads.spawn(run).abort_handle());
        (result, Self { handle, done: false })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take().filter(|_| !self.done) {
            handle.abort();
        }
    }
}

/// A response's body. After all of it is delivered, the guest may continue until it returns.
pub(crate) struct ResponseBody {
    pub(crate) body: WasiBody,
    /// Remaining bytes, if the guest set Content-Length: hyper does not poll for the end in that case.
    pub(crate) left: Option<u64>,
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) task: Task,
    pub(crate) client: Arc<clients::Request>,
    pub(crate) what: Arc<str>,
    pub(crate) shared: Arc<Shared>,
    /// The error with which an incomplete response ends.
    pub(crate) broken: Option<BoxError>,
}

impl ResponseBody {
    /// Logs why the response is incomplete, and returns the text as an error.
    fn incomplete(&self, why: &str) -> BoxError {
        let why = match self.left {
            Some(left) if left > 0 => format!("{why}, {left} bytes before its content-length"),
            _ => why.to_string(),
        };
        self.shared.log.lines(Source::Stderr, &format!("sampan: {}: {why}", self.what));
        why.into()
    }

    /// Polls for the next frame of the guest. After the request is over the body ends, even if the guest has not dropped it.
    fn poll_written(&mut self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let (delivery, body) = (&self.delivery, &mut self.body);
        let over = delivery.is_over().is_some();
        match delivery.poll(context, |context| Pin::new(body).poll_frame(context)) {
            Poll::Pending if over => Poll::Ready(None),
            // The request ended during the poll: poll again.
            Poll::Pending if delivery.is_over().is_some() => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            frame => frame,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = this.poll_written(context);
        this.client.set_waiting_for_reader(matches!(frame, Poll::Ready(Some(Ok(_)))));
        let frame = std::task::ready!(frame);
        match (&frame, &mut this.left) {
            // The body of an instance that was ended looks complete. The log already has the reason.
            (None, _) if this.delivery.is_over() == Some(false) => {
                this.broken = Some("the component was ended before its answer was complete".into());
            }
            (None, Some(left)) if *left > 0 => this.broken = Some(this.incomplete("the answer ended")),
            (Some(Err(_)), _) => this.broken = Some(this.incomplete("the component broke its answer off")),
            (None, _) => this.task.done = true,
            (Some(Ok(frame)), Some(left)) => {
                *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            _ => {}
        }
        if this.broken.is_some() {
            // hyper flushes buffered frames when the body is pending, but not when it fails.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.left == Some(0) || this.body.is_end_stream() {
            this.task.done = true;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The head of the guest's answer, or its error code.
pub(crate) type Head = Result<http::Response<WasiBody>, String>;

/// How far a response's body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transmission {
    /// It is being sent.
    Partly,
    /// All of it was taken.
    Wholly,
    /// It was dropped before its end.
    Cut,
}

/// The body of a response of WASI 0.3, whose guest is told when it was sent.
pub(crate) struct Sending {
    body: WasiBody,
    ended: bool,
    told: watch::Sender<Transmission>,
}

impl Sending {
    pub(crate) fn new(body: WasiBody, told: watch::Sender<Transmission>) -> Self {
        Self { body, ended: false, told }
    }
}

impl Drop for Sending {
    /// hyper drops a body of known length after its last byte, without a poll for its end.
    fn drop(&mut self) {
        let whole = self.ended || self.body.is_end_stream() || self.body.size_hint().exact() == Some(0);
        self.told.send_replace(if whole { Transmission::Wholly } else { Transmission::Cut });
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) {
            self.ended = true;
            self.told.send_replace(Transmission::Wholly);
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
