//! The way of a request through the server, as one function that reads from top to bottom: request id and span, panic guard, request
//! info and route, authentication, impersonation, authorization, the user's share, body, in-flight limit, verb, time limit, audit.

use crate::{
    audit::Event,
    authn::{self, Credentials},
    authz,
    body::{self, Whole},
    call::{Call, Kept},
    caller::Caller,
    codec::{self, BODY_LIMIT, HEAVY, REVIEW_LIMIT},
    documents, impersonation,
    limits::{self, Class, Share},
    metrics::RequestLabels,
    negotiate::{self, Output},
    pace::Unhurried,
    reply,
    request::{Query, RequestInfo},
    route::{Route, Target},
    server::Server,
    verbs,
};
use api::Status;
use axum::body::Body;
use futures::{FutureExt, future::Either};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use parking_lot::Mutex;
use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};
use tokio::runtime::{Handle, RuntimeFlavor};
use tracing::Instrument;

/// How long a request that is not long-running may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Answers one request.
pub(crate) async fn handle(server: &Server, caller: &Caller, request: Request<Body>) -> Response<Body> {
    let id = server.ids().uid();
    let query = Query::of(request.uri());
    let info = RequestInfo::of(request.method(), request.uri(), &query);
    let error_form = Output { pretty: negotiate::pretty(request.headers(), &query), ..Output::default() };
    let route = Route::find(&server.registry().load(), request.method(), &info);
    let span = tracing::debug_span!("request", id, verb = %info.verb, path = %info.path);
    let labels = labels(&route, &info);
    let deprecation = route.resource().and_then(|resource| resource.deprecation);

    let mut event = Event { id: id.clone(), verb: info.verb.clone(), path: info.path.clone(), ..Event::default() };
    let work = process(server, caller, request, (info, query, route), &mut event);
    let work = AssertUnwindSafe(work).catch_unwind().instrument(span.clone());
    let mut response = match work.await {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => reply::status(&status, error_form),
        Err(_) => {
            server.metrics().panics.inc();
            span.in_scope(|| tracing::error!("a request panicked; its answer is 500"));
            reply::status(&Status::internal("the request panicked, see the log of the server"), error_form)
        }
    };

    if let Some(deprecation) = deprecation {
        codec::add_warnings(response.headers_mut(), &[deprecation.to_owned()]);
    }
    let (verb, resource) = labels;
    let labels = RequestLabels { verb, resource, code: response.status().as_u16() };
    server.metrics().requests.get_or_create(&labels).inc();
    if let Some(audit) = server.audit() {
        event.code = response.status().as_u16();
        audit.answered(event);
    }
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("audit-id", id);
    }
    response
}

/// Verb and resource for the metrics: only what the server knows, so that nobody can make up ever new ones.
fn labels(route: &Route, info: &RequestInfo) -> (String, String) {
    match route.resource() {
        Some(_) => (info.verb.clone(), info.resource.clone()),
        None => ("other".to_owned(), String::new()),
    }
}

async fn process(
    server: &Server,
    caller: &Caller,
    request: Request<Body>,
    (info, query, route): (RequestInfo, Query, Route),
    event: &mut Event,
) -> Result<Response<Body>, Status> {
    let credentials = Credentials { headers: request.headers(), now: server.clock().now(), objects: server };
    let user = authn::authenticate(server.authenticators(), caller, &credentials).await?;
    event.user = Some(user.clone());
    let (mut parts, body) = request.into_parts();
    let asked = user.clone();
    let user = impersonation::impersonate(server.authorizer(), user, &mut parts.headers).await?;
    event.impersonated = Some(user.clone()).filter(|user| !Arc::ptr_eq(user, &asked));
    authz::require(server.authorizer(), &user, &info).await?;
    // Only authorized requests count against the limits.
    let class = class(&route, &info, &query);
    let share = server.limits().share(caller, &user, class)?;
    let target = match route {
        Route::Refused(refusal) => return refusal.answer(),
        Route::Document => None,
        Route::Resource(target) => Some(target),
    };
    let (whole, stream) = match body_limit(&parts.method, target.as_ref(), class, share.as_ref()) {
        Some(limit) => (body::read(body, limit, server.limits().bodies(share.as_ref())).await?, Body::empty()),
        None => (Whole::default(), body),
    };
    // Taken after the body, so that slow uploads hold no slot.
    let slot = server.limits().enter(caller, share.as_ref(), class)?;
    let kept = Kept::default();
    let call = Call { user, info, query, parts, body: whole.bytes, stream: Mutex::new(stream), kept: kept.clone() };
    let work = serve(server, call, target, share.as_ref());
    let response = if class == Class::LongRunning {
        work.await
    } else {
        match tokio::time::timeout(TIME_LIMIT, work).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::timeout("request did not complete within the allotted timeout", 0)),
        }
    };
    drop(whole.room);
    let response = response?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        kept.hold((slot, share));
        return Ok(response);
    }
    // Who may read as slowly as they like must not keep others out meanwhile.
    let slot = slot.filter(|_| response.extensions().get::<Unhurried>().is_none());
    Ok(limits::hold(limits::hold(response, slot), share))
}

/// What a request counts as.
fn class(route: &Route, info: &RequestInfo, query: &Query) -> Class {
    if route.is_long_running(query) {
        Class::LongRunning
    } else if documents::is_health(&info.path) {
        Class::Health
    } else if !info.is_resource || matches!(info.verb.as_str(), "get" | "list") {
        Class::Reading
    } else {
        Class::Mutating
    }
}

fn is_write(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE)
}

/// The longest body that is read; `None` where nothing looks at it, or the verb reads it as it comes. A review says a few words about one
/// request, and whoever may ask for nothing else must not make the server parse megabytes for it.
fn body_limit(method: &Method, target: Option<&Target>, class: Class, share: Option<&Share>) -> Option<usize> {
    let target = target.filter(|_| is_write(method) && class != Class::LongRunning)?;
    Some(if share.is_some() && target.resource.action.is_some() { REVIEW_LIMIT } else { BODY_LIMIT })
}

/// Answers a call whose place is taken.
async fn serve(
    server: &Server,
    call: Call,
    target: Option<Target>,
    share: Option<&Share>,
) -> Result<Response<Body>, Status> {
    let heavy = server.limits().heavy(share, codec::weight(call.headers(), &call.body));
    let threads = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    let beside = matches!(threads, Ok(RuntimeFlavor::MultiThread)) && weight(server, &call, target.as_ref()) >= HEAVY;
    let work = async move {
        let _turn = heavy.await;
        match target {
            Some(target) => verbs::serve(server, call, target).await,
            None => documents::serve(server, call).await,
        }
    };
    let work = if beside { Either::Left(polled(Box::pin(work))) } else { Either::Right(work) };
    work.await
}

/// How many bytes a write has to work on: its body, or the object that it changes.
fn weight(server: &Server, call: &Call, target: Option<&Target>) -> usize {
    let Some(target) = target.filter(|_| is_write(call.method())) else { return 0 };
    let named = !call.info.name.is_empty() && target.resource.action.is_none();
    let key = || target.resource.key(&call.info.namespace, &call.info.name);
    let stored = named.then(|| server.store().get(&key())).flatten();
    codec::weight(call.headers(), &call.body).max(stored.map_or(0, |entry| entry.payload.length()))
}

/// Does heavy work beside the threads that serve: to parse, check, validate and write megabytes takes a tenth of a second,
/// and what else is to be done on that thread goes on on another.
async fn polled<T>(mut work: Pin<Box<impl Future<Output = T>>>) -> T {
    std::future::poll_fn(|cx| tokio::task::block_in_place(|| work.as_mut().poll(cx))).await
}
