//! The way of a request through the server, as one function that reads from top to bottom: request id and span, panic guard, request
//! info, authentication, impersonation, authorization, the user's share, body, in-flight limit, verb, time limit.

use crate::{
    User, authn, authz,
    body::{self, Whole},
    codec::{self, BODY_LIMIT, HEAVY, REVIEW_LIMIT},
    documents, impersonation, limits,
    metrics::RequestLabels,
    negotiate::{self, Output},
    pace::Unhurried,
    reply,
    request::{Query, RequestInfo},
    server::{Caller, Server},
    verbs,
};
use api::Status;
use axum::body::Body;
use bytes::Bytes;
use futures::{FutureExt, future::Either};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};
use tokio::runtime::{Handle, RuntimeFlavor};
use tracing::Instrument;

/// How long a request that is not long-running may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// What the chain found out about a request, for the verbs.
pub(crate) struct Call {
    pub(crate) server: Server,
    pub(crate) user: Arc<User>,
    pub(crate) info: RequestInfo,
    pub(crate) query: Query,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    /// Empty for requests that have none.
    pub(crate) body: Bytes,
}

/// Answers one request.
pub(crate) async fn handle(server: &Server, caller: &Caller, request: Request<Body>) -> Response<Body> {
    let id = server.0.ids.uid();
    let query = Query::of(request.uri());
    let info = RequestInfo::of(request.method(), request.uri(), &query);
    let error_form = Output { pretty: negotiate::pretty(request.headers(), &query), ..Output::default() };
    let span = tracing::debug_span!("request", id, verb = %info.verb, path = %info.path);
    let (labels, deprecation) = labels(server, &info);

    let work = AssertUnwindSafe(process(server, caller, request, info, query)).catch_unwind().instrument(span.clone());
    let mut response = match work.await {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => reply::status(&status, error_form),
        Err(_) => {
            server.0.metrics.panics.inc();
            span.in_scope(|| tracing::error!("a request panicked; its answer is 500"));
            reply::status(&Status::internal("the request panicked, see the log of the server"), error_form)
        }
    };

    if let Some(deprecation) = deprecation {
        codec::add_warnings(response.headers_mut(), &[deprecation.to_owned()]);
    }
    let (verb, resource) = labels;
    server.0.metrics.requests.get_or_create(&RequestLabels { verb, resource, code: response.status().as_u16() }).inc();
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("audit-id", id);
    }
    response
}

/// Verb and resource for the metrics: only what the server knows, so that nobody can make up ever new ones. And what every answer about
/// the resource warns of.
fn labels(server: &Server, info: &RequestInfo) -> ((String, String), Option<&'static str>) {
    let registry = server.0.registry.load();
    let resource = registry.get(&info.group, &info.version, &info.resource).filter(|_| info.is_resource);
    match resource {
        Some(resource) => ((info.verb.clone(), info.resource.clone()), resource.deprecation),
        None => (("other".to_owned(), String::new()), None),
    }
}

async fn process(
    server: &Server,
    caller: &Caller,
    request: Request<Body>,
    info: RequestInfo,
    query: Query,
) -> Result<Response<Body>, Status> {
    let user = authn::authenticate(server, caller, request.headers())?;
    let (mut parts, body) = request.into_parts();
    let user = impersonation::impersonate(user, &mut parts.headers)?;
    authz::authorize(&user, &info)?;
    // After authorization: who may do nothing takes no room.
    let share = server.0.limits.share(caller, &user, &info, &query)?;
    let body = match body_limit(server, &parts.method, &info, &query, share.is_some()) {
        Some(limit) => body::read(body, limit, server.0.limits.bodies(share.as_ref())).await?,
        None => Whole::default(),
    };
    // After the body: who sends it slowly takes none either.
    let room = server.0.limits.enter(caller, share.as_ref(), &info, &query)?;
    let heavy = server.0.limits.heavy(share.as_ref(), body.bytes.len());

    let long_running = info.is_long_running(&query);
    let call = Call {
        server: server.clone(),
        user,
        info,
        query,
        method: parts.method,
        headers: parts.headers,
        body: body.bytes,
    };
    let threads = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    let beside = matches!(threads, Ok(RuntimeFlavor::MultiThread)) && weight(&call) >= HEAVY;
    let work = async move {
        let _turn = heavy.await;
        if call.info.is_resource { verbs::serve(call).await } else { documents::serve(call).await }
    };
    let work = if beside { Either::Left(polled(Box::pin(work))) } else { Either::Right(work) };
    let response = if long_running {
        work.await
    } else {
        match tokio::time::timeout(TIME_LIMIT, work).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::timeout("request did not complete within the allotted timeout", 0)),
        }
    };
    drop(body.room);
    let response = response?;
    // Who may read as slowly as they like must not keep others out meanwhile.
    let room = room.filter(|_| response.extensions().get::<Unhurried>().is_none());
    Ok(limits::hold(limits::hold(response, room), share))
}

/// How many bytes a write has to work on: its body, or the object that it changes.
fn weight(call: &Call) -> usize {
    if !matches!(call.method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return 0;
    }
    let registry = call.server.0.registry.load();
    let stored = registry.get(&call.info.group, &call.info.version, &call.info.resource).and_then(|resource| {
        let entry = call.server.0.store.get(&call.key(resource)).filter(|_| !call.info.name.is_empty())?;
        Some(entry.payload.view(resource).length())
    });
    call.body.len().max(stored.unwrap_or(0))
}

/// Does heavy work beside the threads that serve: to parse, check, validate and write megabytes takes a tenth of a second,
/// and what else is to be done on that thread goes on on another.
async fn polled<T>(mut work: Pin<Box<impl Future<Output = T>>>) -> T {
    std::future::poll_fn(|cx| tokio::task::block_in_place(|| work.as_mut().poll(cx))).await
}

/// The longest body that is read; `None` where nothing will look at it. A review says a few words about one request, and whoever may ask
/// for nothing else must not make the server parse megabytes for it.
fn body_limit(server: &Server, method: &Method, info: &RequestInfo, query: &Query, restricted: bool) -> Option<usize> {
    if !matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) || info.is_long_running(query) {
        return None;
    }
    let registry = server.0.registry.load();
    let resource = registry.get(&info.group, &info.version, &info.resource)?;
    Some(if restricted && resource.review.is_some() { REVIEW_LIMIT } else { BODY_LIMIT })
}
