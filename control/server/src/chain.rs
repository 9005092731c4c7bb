//! The way of a request through the server, as one function that reads from top to bottom: request id and span, panic guard, request
//! info and route, authentication, impersonation, flow, authorization, the user's limits, body, the wait for a seat, verb, timeout, audit.

use crate::{
    aggregation::forward,
    audit::Event,
    authn::{self, Credentials},
    authz,
    body::{self, Collected},
    call::Call,
    caller::Caller,
    codec::{self, BODY_LIMIT, EXPENSIVE_BODY, REVIEW_LIMIT},
    deadline::Deadline,
    documents,
    fairness::{self, Flow},
    impersonation,
    limits::{self, Place},
    metrics::RequestLabels,
    negotiate,
    notes::Notes,
    reply,
    request::{Query, RequestInfo},
    route::{Route, Target},
    server::Server,
    stall::AllowSlowReader,
    verbs,
};
use api::Status;
use axum::body::Body;
use futures::{FutureExt, future::Either};
use http::{HeaderValue, Method, Request, Response, header};
use parking_lot::Mutex;
use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};
use tokio::runtime::{Handle, RuntimeFlavor};
use tracing::Instrument;

/// How long a request that is not long-running may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers one request.
pub(crate) async fn handle(server: &Server, caller: &Caller, request: Request<Body>) -> Response<Body> {
    let id = server.ids().uid();
    let query = Query::of(request.uri());
    let info = RequestInfo::of(request.method(), request.uri(), &query);
    let (accepted, pretty) =
        (request.headers().get(header::ACCEPT).cloned(), negotiate::pretty(request.headers(), &query));
    let refusal = |status: &Status| reply::status(status, negotiate::error_output(accepted.as_ref(), pretty));
    let route = route(server, request.method(), &info);
    let span = tracing::debug_span!("request", id, verb = %info.verb, path = %info.path);
    let labels = labels(&route, &info);
    let deprecation = route.resource().and_then(|resource| resource.deprecation.clone());

    let mut event = Event { id: id.clone(), verb: info.verb.clone(), path: info.path.clone(), ..Event::default() };
    let notes = Arc::new(Notes::default());
    let mut flow = None;
    let work = process(server, caller, request, (info, query, route), (&mut event, &notes, &mut flow));
    let work = AssertUnwindSafe(work).catch_unwind().instrument(span.clone());
    let mut response = match work.await {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => refusal(&status),
        Err(_) => {
            server.metrics().panics.inc();
            span.in_scope(|| tracing::error!("a request panicked; its answer is 500"));
            refusal(&Status::internal("the request panicked, see the log of the server"))
        }
    };

    // Of a deletion, and of what was refused: a write has taken its own.
    let left = notes.take_warnings();
    if !left.is_empty() {
        codec::add_warnings(response.headers_mut(), &left);
    }
    if let Some(deprecation) = deprecation {
        // It was known before the request was read.
        let headers = response.headers_mut();
        let others: Vec<HeaderValue> = headers.get_all(header::WARNING).iter().cloned().collect();
        headers.remove(header::WARNING);
        codec::add_warnings(headers, &[deprecation.into_owned()]);
        for other in others {
            headers.append(header::WARNING, other);
        }
    }
    let (verb, resource) = labels;
    let labels = RequestLabels { verb, resource, code: response.status().as_u16() };
    server.metrics().requests.get_or_create(&labels).inc();
    if let Some(audit) = server.audit() {
        event.code = response.status().as_u16();
        event.annotations = notes.take_annotations();
        audit.answered(event);
    }
    let headers = response.headers_mut();
    if let Some(flow) = flow {
        flow.put_headers(headers);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("audit-id", id);
    }
    response
}

/// What serves a request: this server, or else another one that is registered for its group version.
fn route(server: &Server, method: &Method, info: &RequestInfo) -> Route {
    let registry = server.registry();
    let route = Route::find(&registry, method, info);
    if route.resource().is_some() {
        return route;
    }
    match forward::elsewhere(server, &registry, info) {
        Some(to) => Route::Elsewhere { to, long: forward::is_long_running(info) },
        None => route,
    }
}

/// Verb and resource for the metrics: only those that the server knows, so that no client can create new series.
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
    (event, notes, flow): (&mut Event, &Arc<Notes>, &mut Option<Flow>),
) -> Result<Response<Body>, Status> {
    let credentials = Credentials { headers: request.headers(), now: server.clock().now(), objects: server };
    let user = authn::authenticate(server.authenticators(), caller, &credentials).await?;
    event.user = Some(user.clone());
    let (mut parts, body) = request.into_parts();
    let asked = user.clone();
    let user = impersonation::impersonate(server.authorizer(), server, user, &mut parts.headers).await?;
    event.impersonated = Some(user.clone()).filter(|user| !Arc::ptr_eq(user, &asked));
    let long = route.is_long_running(&query);
    // What is long-running holds no seat, but a watch has to begin. Known before authorization, as upstream: an answer 403 says it too.
    if !long || info.verb == "watch" {
        *flow = server.fairness().classify(server, &user, &info);
    }
    authz::require(server.authorizer(), server, &user, &info).await?;
    // Only authorized requests count against the limits and wait for a seat.
    let trusted = server.limits().is_trusted(caller, &user);
    let limited = |place| (!trusted).then(|| server.limits().take_place(&user, place)).transpose();
    let place = if long { limited(Place::LongRunning)?.map(Arc::new) } else { None };
    if let Route::Refused(refusal) = route {
        return refusal.answer();
    }
    if let (Route::Elsewhere { .. }, Ok(id)) = (&route, HeaderValue::from_str(&event.id)) {
        parts.headers.insert(forward::AUDIT_ID, id);
    }
    let mut upload = None;
    let (collected, stream) = match body_limit(&parts.method, route.target(), long, trusted) {
        Some(limit) => {
            upload = limited(Place::Body)?;
            let memory = (!trusted).then(|| server.limits().body_memory());
            (body::read(body, limit, memory).await?, Body::empty())
        }
        None => (Collected::default(), body),
    };
    // The place of a small body is free for the next one while it waits.
    let upload = upload.filter(|_| collected.bytes.len() >= EXPENSIVE_BODY);
    // Taken after the body, so that slow uploads hold no seat.
    let seat = match flow {
        Some(flow) => {
            let seats = fairness::seats(server.store(), route.target(), (&info, &query), flow.widest());
            Some(flow.enter(seats, matches!(caller, Caller::Process(_))).await?)
        }
        None => None,
    };
    let (begun, seat) = if long { (seat, None) } else { (None, seat) };
    let (stream, notes) = (Mutex::new(stream), notes.clone());
    let body = collected.bytes;
    let deadline = if long { Deadline::default() } else { Deadline::after(REQUEST_TIMEOUT) };
    let deadline = deadline.or_gone(parts.extensions.get());
    let call = Call { user, info, query, parts, body, stream, notes, deadline, place: place.clone(), seat: begun };
    let work = serve(server, call, route, trusted);
    let response = if long {
        work.await
    } else {
        match tokio::time::timeout(REQUEST_TIMEOUT, work).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::timeout("request did not complete within the allotted timeout", 0)),
        }
    };
    drop((collected.memory, upload));
    let response = response?;
    // A client that may read slowly must not hold a seat for as long.
    let seat = seat.filter(|_| response.extensions().get::<AllowSlowReader>().is_none());
    Ok(limits::hold_until_sent(limits::hold_until_sent(response, seat), place))
}

fn is_write(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE)
}

/// The longest body that is read; `None` where no verb needs it, or the verb reads the stream itself. A review is small, and every user may
/// send one: such a user must not make the server parse megabytes.
fn body_limit(method: &Method, target: Option<&Target>, long: bool, trusted: bool) -> Option<usize> {
    let target = target.filter(|_| is_write(method) && !long)?;
    Some(if !trusted && target.resource.action.is_some() { REVIEW_LIMIT } else { BODY_LIMIT })
}

/// Serves a call that has its seat.
async fn serve(server: &Server, call: Call, route: Route, trusted: bool) -> Result<Response<Body>, Status> {
    let heavy = server.limits().wait_to_decode(trusted, codec::decode_cost(call.headers(), &call.body));
    let threads = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    let beside =
        matches!(threads, Ok(RuntimeFlavor::MultiThread)) && work_size(server, &call, route.target()) >= EXPENSIVE_BODY;
    let work = async move {
        let _turn = heavy.await;
        match route {
            Route::Resource(target) => verbs::serve(server, call, target).await,
            Route::Document => documents::serve(server, call).await,
            Route::Elsewhere { to, .. } => forward::forward(server, call, &to).await,
            Route::Refused(refusal) => refusal.answer(),
        }
    };
    let work = if beside { Either::Left(in_blocking_section(Box::pin(work))) } else { Either::Right(work) };
    work.await
}

/// How many bytes a write processes: its body, or the object that it changes.
fn work_size(server: &Server, call: &Call, target: Option<&Target>) -> usize {
    let Some(target) = target.filter(|_| is_write(call.method())) else { return 0 };
    let named = !call.info.name.is_empty() && target.resource.action.is_none();
    let key = || target.resource.key(&call.info.namespace, &call.info.name);
    let stored = named.then(|| server.store().get(&key())).flatten();
    codec::decode_cost(call.headers(), &call.body).max(stored.map_or(0, |entry| entry.payload.length()))
}

/// Polls expensive work in a blocking section: to parse, validate and write megabytes takes a tenth of a second, and meanwhile another
/// thread takes over the other tasks of this one.
async fn in_blocking_section<T>(mut work: Pin<Box<impl Future<Output = T>>>) -> T {
    std::future::poll_fn(|cx| tokio::task::block_in_place(|| work.as_mut().poll(cx))).await
}
