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

/// The run of one request's guest. If dropped before it is done, the guest is ended: nobody waits for its response.
pub(crate) struct Run {
    state: RunState,
    /// The response is complete. The guest may go on without its client.
    pub(crate) done: bool,
}

type Guest = Pin<Box<dyn Future<Output = ()> + Send>>;

enum RunState {
    Ended,
    /// In a task of its own.
    Task(AbortHandle),
    /// In the task that sends the response. Most guests end before the response is sent, and need no other task: that would wake another thread.
    Inline(Guest, Handle),
}

impl Run {
    /// Runs the guest in a task on the guests' threads, and waits for the head of the response.
    pub(crate) async fn begin<T>(
        guest: impl Future<Output = ()> + Send + 'static,
        mut head: oneshot::Receiver<T>,
        delivery: &Arc<Delivery>,
        threads: &Handle,
    ) -> (Result<T, RecvError>, Self) {
        let run = Self { state: RunState::Task(threads.spawn(guest).abort_handle()), done: false };
        let result = poll_fn(|context| delivery.poll(context, |context| Pin::new(&mut head).poll(context))).await;
        (result, run)
    }

    /// Runs the guest in the caller's task until the head of the response is ready, and if it `stays`, while there is something to send. It does
    /// not on HTTP/2, whose streams are not polled while their client takes nothing.
    pub(crate) async fn begin_inline<T>(
        mut guest: Guest,
        stays: bool,
        mut head: oneshot::Receiver<T>,
        threads: &Handle,
    ) -> (Result<T, RecvError>, Self) {
        let mut ended = false;
        let result = poll_fn(|context| {
            ended = ended || guest.as_mut().poll(context).is_ready();
            // The guest has the sender of the head, so this task needs no other waker.
            Pin::new(&mut head).poll(context)
        });
        let result = result.await;
        let state = if ended { RunState::Ended } else { RunState::Inline(guest, threads.clone()) };
        let mut run = Self { state, done: false };
        if !stays {
            run.detach();
        }
        (result, run)
    }

    /// Continues the guest if it runs in the caller's task.
    fn advance(&mut self, context: &mut Context<'_>) {
        if let RunState::Inline(guest, _) = &mut self.state
            && guest.as_mut().poll(context).is_ready()
        {
            self.state = RunState::Ended;
        }
    }

    fn is_inline(&self) -> bool {
        matches!(self.state, RunState::Inline(..))
    }

    /// Gives the guest a task of its own.
    pub(crate) fn detach(&mut self) {
        self.state = match std::mem::replace(&mut self.state, RunState::Ended) {
            RunState::Inline(guest, threads) => RunState::Task(threads.spawn(guest).abort_handle()),
            state => state,
        };
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.done {
            self.detach();
        } else if let RunState::Task(task) = &self.state {
            task.abort();
        }
    }
}

/// Bytes of a response that are sent while its guest runs in the same task. hyper takes so many without waiting for the client, so that a client
/// that reads slowly does not keep the guest from running.
const INLINE_BYTES: usize = 16 << 10;

/// Most frames for the same reason.
const INLINE_FRAMES: usize = 4;

/// A response's body. After all of it is delivered, the guest may continue until it returns.
pub(crate) struct ResponseBody {
    pub(crate) body: WasiBody,
    /// Remaining bytes, if the guest set Content-Length: hyper does not poll for the end in that case.
    pub(crate) left: Option<u64>,
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) run: Run,
    /// Frames and bytes that were sent.
    pub(crate) sent: (usize, usize),
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

    /// As [`Self::poll_written`]. Continues a guest that runs in this task when there is nothing to send, or when everything is sent. That delays
    /// the last bytes by one tick at most, when the guest yields.
    fn poll_run(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut frame = self.poll_written(context);
        if !self.run.is_inline() {
            return frame;
        }
        if let Poll::Ready(Some(Ok(sent))) = &frame {
            let bytes = sent.data_ref().map_or(0, Bytes::len);
            self.sent = (self.sent.0 + 1, self.sent.1.saturating_add(bytes));
            if self.left == Some(bytes as u64) {
                self.run.advance(context);
            }
            if self.sent.0 > INLINE_FRAMES || self.sent.1 > INLINE_BYTES {
                self.run.detach();
            }
        } else if frame.is_pending() {
            self.run.advance(context);
            frame = self.poll_written(context);
            if frame.is_pending() {
                self.run.detach();
            }
        }
        frame
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
        let frame = this.poll_run(context);
        this.client.set_waiting_for_reader(matches!(frame, Poll::Ready(Some(Ok(_)))));
        let frame = std::task::ready!(frame);
        match (&frame, &mut this.left) {
            // The body of an instance that was ended looks complete. The log already has the reason.
            (None, _) if this.delivery.is_over() == Some(false) => {
                this.broken = Some("the component was ended before its answer was complete".into());
            }
            (None, Some(left)) if *left > 0 => this.broken = Some(this.incomplete("the answer ended")),
            (Some(Err(_)), _) => this.broken = Some(this.incomplete("the component broke its answer off")),
            (None, _) => this.run.done = true,
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
            this.run.done = true;
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
