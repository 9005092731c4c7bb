//! Calls of `wasi:http/handler` of WASI 0.3, whose function is asynchronous: it returns the head of the response, and the guest goes on with
//! the body.

use crate::{
    body::{Head, Sending, Transmission},
    guest::Guest,
};
use http::HeaderMap;
use http_body_util::BodyExt;
use std::future::poll_fn;
use tokio::sync::watch;
use wasmtime::{
    AsContextMut,
    component::{Accessor, HasData, Linker, Resource},
};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi_http::{
    Error, WasiBody, WasiHttp, WasiHttpCtxView, WasiHttpView,
    p3::{
        Request, Response,
        bindings::{
            Service,
            http::{client, types::ErrorCode},
        },
    },
};

type HttpResult<T> = Result<T, TrappableError<ErrorCode>>;

/// One call of the handler.
pub(crate) struct Answering<'a> {
    pub(crate) service: &'a Service,
    /// Trace headers for the outgoing requests of the guest, if its instance may answer other requests at the same time.
    pub(crate) trace: Option<HeaderMap>,
}

type Called = Result<(http::Response<WasiBody>, watch::Receiver<Transmission>), ErrorCode>;

impl Answering<'_> {
    /// Calls the handler. `tell` gets the head of the response or the guest's error. Returns when the body of the response was taken or dropped;
    /// the guest may go on then.
    pub(crate) async fn answer(
        mut self,
        accessor: &Accessor<Guest>,
        request: http::Request<WasiBody>,
        tell: impl FnOnce(Head),
    ) -> wasmtime::Result<()> {
        let trace = self.trace.take();
        let function = self.service.wasi_http_handler().func_handle();
        let (call, traced) = accessor.with(|mut store| {
            // The guest is told how its request was read by the body itself, not by the second result.
            let request = Request::from_http(store.get().http().hooks, request).0;
            let request = store.get().http().table.push(request)?;
            let call = function.start_call_concurrent(store.as_context_mut(), (request,))?;
            let traced = trace.map(|trace| store.get().traces().begin(call.task(), trace));
            wasmtime::error::Ok((call, traced))
        })?;
        let task = call.task();
        let (answer,) = function.finish_call_concurrent(accessor, call).await?;
        match response(accessor, answer)? {
            Err(code) => tell(Err(format!("{code:?}"))),
            Ok((response, sent)) => {
                tell(Ok(response));
                sent_end(sent).await;
            }
        }
        if let Some(traced) = traced {
            accessor.with(|mut store| store.get().traces().end(task, traced));
        }
        Ok(())
    }
}

fn response(accessor: &Accessor<Guest>, answer: Result<Resource<Response>, ErrorCode>) -> wasmtime::Result<Called> {
    let response = match answer {
        Ok(response) => response,
        Err(code) => return Ok(Err(code)),
    };
    let (sender, sent) = watch::channel(Transmission::Partly);
    let told = sent.clone();
    // What the guest is told of its response.
    let transmitted = async move {
        match sent_end(told).await {
            Transmission::Wholly => Ok(()),
            _ => Err(Error::ConnectionTerminated),
        }
    };
    let response = accessor.with(|mut store| {
        let response = store.get().http().table.delete(response)?;
        response.into_http(&mut store, transmitted)
    })?;
    Ok(Ok((response.map(|body| Sending::new(body, sender).boxed_unsync()), sent)))
}

/// Waits until a body is sent or dropped.
async fn sent_end(mut sent: watch::Receiver<Transmission>) -> Transmission {
    sent.wait_for(|sent| *sent != Transmission::Partly).await.map_or(Transmission::Cut, |sent| *sent)
}

/// Waits until the guest has finished what it began.
pub(crate) async fn finished(accessor: &Accessor<Guest>) {
    poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
}

/// The requests of `wasi:http/client`: those of wasmtime-wasi-http, with the trace of the request that the guest works on.
struct Client;

impl HasData for Client {
    type Data<'a> = WasiHttpCtxView<'a>;
}

impl client::HostWithStore<Guest> for Client {
    async fn send(accessor: &Accessor<Guest, Self>, request: Resource<Request>) -> HttpResult<Resource<Response>> {
        accessor.with(|mut store| {
            let mut store = store.as_context_mut();
            let root = store.async_call_stack().ok().and_then(Iterator::last);
            let guest = store.data_mut();
            let trace = root.and_then(|root| guest.traces().get(root));
            if trace.is_some() {
                guest.set_trace(trace);
            }
        });
        // Its first poll takes the trace.
        <WasiHttp as client::HostWithStore<Guest>>::send(&accessor.with_getter::<WasiHttp>(Guest::http), request).await
    }
}

/// Replaces the client of a linker that has wasi:http.
pub(crate) fn components(mut linker: Linker<Guest>) -> wasmtime::Result<Linker<Guest>> {
    linker.allow_shadowing(true);
    client::add_to_linker::<Guest, Client>(&mut linker, Guest::http)?;
    linker.allow_shadowing(false);
    Ok(linker)
}
