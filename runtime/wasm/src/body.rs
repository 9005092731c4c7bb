//! The bodies of a request and of its answer, watched on their way.

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
    sync::oneshot::{self, error::RecvError},
    task::AbortHandle,
};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// A request's body that notes whether its client sends it.
pub(crate) struct Sent<B> {
    body: B,
    client: Arc<clients::Request>,
}

impl<B> Drop for Sent<B> {
    fn drop(&mut self) {
        self.client.unsent(false);
    }
}

/// A request's body as the guest has it: there until the request is over.
pub(crate) struct Incoming<B>(Arc<Mutex<Option<Sent<B>>>>);

/// Ends it.
pub(crate) struct Over<B>(Weak<Mutex<Option<Sent<B>>>>);

impl<B> Incoming<B> {
    pub(crate) fn new(body: B, client: Arc<clients::Request>) -> Self {
        Self(Arc::new(Mutex::new(Some(Sent { body, client }))))
    }

    pub(crate) fn over(&self) -> Over<B> {
        Over(Arc::downgrade(&self.0))
    }
}

impl<B> Over<B> {
    pub(crate) fn end(self) {
        let body = self.0.upgrade().and_then(|body| body.lock().take());
        drop(body);
    }
}

impl<B> Body for Incoming<B>
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
        sent.client.unsent(frame.is_pending());
        frame.map(|frame| frame.map(|frame| frame.map_err(|error| error.to_string())))
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().as_ref().is_none_or(|sent| sent.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().as_ref().map_or_else(SizeHint::default, |sent| sent.body.size_hint())
    }
}

/// What runs one request. Dropped before it is done, it is ended: nobody waits for it any more.
pub(crate) struct Task {
    /// `None`: it has ended.
    handle: Option<AbortHandle>,
    pub(crate) done: bool,
}

impl Task {
    /// Runs it on the guests' threads, and waits for the answer's head.
    pub(crate) async fn begin<T>(
        run: impl Future<Output = ()> + Send + 'static,
        mut head: oneshot::Receiver<T>,
        delivery: &Arc<Delivery>,
        threads: &Handle,
    ) -> (Result<T, RecvError>, Self) {
        let task = Self { handle: Some(threads.spawn(run).abort_handle()), done: false };
        let told = poll_fn(|context| delivery.poll(context, |context| Pin::new(&mut head).poll(context))).await;
        (told, task)
    }

    /// Runs it here until the answer's head is there, which most answers are whole by, and what is left on the guests' threads.
    pub(crate) async fn begin_here<T>(
        run: impl Future<Output = ()> + Send + Unpin + 'static,
        mut head: oneshot::Receiver<T>,
        threads: &Handle,
    ) -> (Result<T, RecvError>, Self) {
        let mut run = Some(run);
        let told = poll_fn(|context| {
            if run.as_mut().is_some_and(|run| Pin::new(run).poll(context).is_ready()) {
                run = None;
            }
            // Its sender is in what runs: nobody else has to be woken.
            Pin::new(&mut head).poll(context)
        });
        let told = told.await;
        let handle = run.map(|run| threads.spawn(run).abort_handle());
        (told, Self { handle, done: false })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take().filter(|_| !self.done) {
            handle.abort();
        }
    }
}

/// An answer's body. Once all of it is delivered, the guest may finish what it has left to do.
pub(crate) struct Guarded {
    pub(crate) body: HyperOutgoingBody,
    /// Bytes to come, if the guest declared them: hyper does not ask for the end then.
    pub(crate) left: Option<u64>,
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) task: Task,
    pub(crate) client: Arc<clients::Request>,
    pub(crate) what: Arc<str>,
    pub(crate) shared: Arc<Shared>,
    /// Why the answer ends before it is complete.
    pub(crate) broken: Option<BoxError>,
}

impl Guarded {
    /// Why the answer broke off, told in the log.
    fn told(&self, why: &str) -> BoxError {
        let why = match self.left {
            Some(left) if left > 0 => format!("{why}, {left} bytes before its content-length"),
            _ => why.to_string(),
        };
        self.shared.log.lines(Source::Stderr, &format!("sampan: {}: {why}", self.what));
        why.into()
    }

    /// What the guest wrote. Once the request is over nothing more comes, even if the guest kept the body.
    fn written(&mut self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, wasmtime_wasi_http::Error>>> {
        let (delivery, body) = (&self.delivery, &mut self.body);
        let over = delivery.is_over().is_some();
        match delivery.poll(context, |context| Pin::new(body).poll_frame(context)) {
            Poll::Pending if over => Poll::Ready(None),
            // It ended meanwhile.
            Poll::Pending if delivery.is_over().is_some() => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            frame => frame,
        }
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = this.written(context);
        this.client.untaken(matches!(frame, Poll::Ready(Some(Ok(_)))));
        let frame = std::task::ready!(frame);
        match (&frame, &mut this.left) {
            // The body of an instance that was ended looks complete. Its log has said why.
            (None, _) if this.delivery.is_over() == Some(false) => {
                this.broken = Some("the component was ended before its answer was complete".into());
            }
            (None, Some(left)) if *left > 0 => this.broken = Some(this.told("the answer ended")),
            (Some(Err(_)), _) => this.broken = Some(this.told("the component broke its answer off")),
            (None, _) => this.task.done = true,
            (Some(Ok(frame)), Some(left)) => {
                *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            _ => {}
        }
        if this.broken.is_some() {
            // hyper sends what there is before it waits, not before it fails.
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
