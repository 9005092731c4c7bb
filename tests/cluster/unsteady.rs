//! A way to the API that can be cut: watches end in mid-air and requests fail until it is mended.

use axum::body::Body;
use futures::{StreamExt, future::BoxFuture};
use http::{Request, Response};
use parking_lot::Mutex;
use server::Service;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};
use tokio_util::sync::CancellationToken;

/// The switch of all ways that were made with it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Switch(Arc<Inner>);

#[derive(Default)]
struct Inner {
    down: AtomicBool,
    /// Ends the answers that are under way.
    now: Mutex<CancellationToken>,
}

impl Switch {
    /// Ends all answers under way; requests go on.
    pub fn hiccup(&self) {
        std::mem::take(&mut *self.0.now.lock()).cancel();
    }

    /// Ends all answers under way and lets every request fail until [`Switch::mend`].
    pub fn cut(&self) {
        self.0.down.store(true, Ordering::SeqCst);
        self.hiccup();
    }

    /// Requests are served again.
    pub fn mend(&self) {
        self.0.down.store(false, Ordering::SeqCst);
    }

    /// A service behind this switch.
    pub fn over(&self, service: Service) -> Unsteady {
        Unsteady { service, switch: self.clone() }
    }
}

/// A service behind a [`Switch`].
#[derive(Clone)]
pub struct Unsteady {
    service: Service,
    switch: Switch,
}

impl tower::Service<Request<kube::client::Body>> for Unsteady {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let (service, switch) = (self.service.clone(), self.switch.clone());
        Box::pin(async move {
            if switch.0.down.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let cut = switch.0.now.lock().clone();
            let response = service.handle(request).await;
            let (parts, body) = response.into_parts();
            let body = body.into_data_stream().take_until(cut.cancelled_owned());
            Ok(Response::from_parts(parts, Body::from_stream(body)))
        })
    }
}
