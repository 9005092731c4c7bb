//! Calls of `wasi:http/handler` of WASI 0.3, whose function is asynchronous: it returns the head of the response, and the guest goes on with
//! the body.

use crate::{body::Sending, guest::Guest, instances::Head};
use http_body_util::BodyExt;
use std::future::poll_fn;
use tokio::sync::watch;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::{
    Error, WasiBody, WasiHttpView,
    p3::{
        Request,
        bindings::{Service, http::types::ErrorCode},
    },
};

/// How far a response's body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is being sent.
    Partly,
    /// All of it was taken.
    Wholly,
    /// It was dropped before its end.
    Cut,
}

/// Calls the handler. `tell` gets the head of the response or the guest's error. Returns when the body of the response was taken or dropped;
/// the guest may go on then.
pub(crate) async fn answer(
    accessor: &Accessor<Guest>,
    service: &Service,
    request: http::Request<WasiBody>,
    tell: impl FnOnce(Head),
) -> wasmtime::Result<()> {
    let (response, sent) = match call(accessor, service, request).await? {
        Ok(answer) => answer,
        Err(code) => {
            tell(Err(format!("{code:?}")));
            return Ok(());
        }
    };
    tell(Ok(response));
    sent_end(sent).await;
    Ok(())
}

type Called = Result<(http::Response<WasiBody>, watch::Receiver<Sent>), ErrorCode>;

async fn call(
    accessor: &Accessor<Guest>,
    service: &Service,
    request: http::Request<WasiBody>,
) -> wasmtime::Result<Called> {
    // The guest is told how its request was read by the body itself, not by the second result.
    let request = accessor.with(|mut store| Request::from_http(store.get().http().hooks, request).0);
    let response = match service.handle(accessor, request).await? {
        Ok(response) => response,
        Err(code) => return Ok(Err(code)),
    };
    let (sender, sent) = watch::channel(Sent::Partly);
    let told = sent.clone();
    // What the guest is told of its response.
    let transmitted = async move {
        match sent_end(told).await {
            Sent::Wholly => Ok(()),
            _ => Err(Error::ConnectionTerminated),
        }
    };
    let response = accessor.with(|mut store| response.into_http(&mut store, transmitted))?;
    Ok(Ok((response.map(|body| Sending::new(body, sender).boxed_unsync()), sent)))
}

/// Waits until a body is sent or dropped.
async fn sent_end(mut sent: watch::Receiver<Sent>) -> Sent {
    sent.wait_for(|sent| *sent != Sent::Partly).await.map_or(Sent::Cut, |sent| *sent)
}

/// Waits until the guest has finished what it began.
pub(crate) async fn finished(accessor: &Accessor<Guest>) {
    poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
}
