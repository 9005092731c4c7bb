//! WATCH: a stream of JSON lines, or of protobuf. JSON is copied from the bytes of the entries, without another encoding. All events that are
//! ready go into one frame. The store ends the watch of a client that reads too slowly; the client lists again.

use super::{
    protobuf,
    read::{self, readable, selects},
    watchtimer::{Due, WatchTimer},
};
use crate::{
    Resource,
    call::Call,
    fairness::Seat,
    negotiate::{self, Form, Media, Offers},
    payload::{self, Item, View},
    request::Query,
    select::Filter,
    server::Server,
    stream::events,
    table::{IncludeObject, Representation},
};
use api::{Object, Status};
use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use store::{Entry, Error, Event, Revision, Watch};

/// The annotation of the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// Shortest and longest default timeout of a watch, seconds.
const DEFAULT_TIMEOUT: (u64, u64) = (1800, 3600);
/// Bytes after which a frame is sent. A slow watch holds one frame, and the store's queue of references.
const FRAME_BYTES: usize = 32 * 1024;

/// How a watch starts.
struct Start {
    /// Objects to send as `ADDED` first.
    initial: VecDeque<Arc<Entry<Item>>>,
    /// The revision after which events follow.
    since: Revision,
    /// Whether a bookmark ends the initial events.
    end_bookmark: bool,
}

/// GET with `watch=true`.
pub(super) async fn watch(server: &Server, mut call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = negotiate::output(call.headers(), &call.query, Offers::Resource(&resource.names), true)?;
    read::validate_options(&call.query, true)?;
    let filter = Filter::parse(&call.query, &resource, call.info.named.then_some(call.info.name.as_str()))?;
    let include = IncludeObject::parse(&call.query)?;
    let start = start(server, &call, &resource, &filter).await?;
    let timeout = timeout(server, &call)?;
    let (store, prefix) = (server.store(), prefix(&call, &resource, &filter));
    let watched = match store.watch(&prefix, start.since) {
        Ok(events) => Ok(events),
        // a revision in the future: only new events follow
        Err(Error::Future { current }) => store.watch(&prefix, current).map_err(read::store_error),
        Err(Error::Compacted { oldest }) => Err(read::too_old(start.since, oldest)),
        Err(error) => return Err(read::store_error(error)),
    };
    let end = resource.defined.as_ref().unwrap_or(server.shutdown());
    let stream = WatchStream {
        server: server.clone(),
        timer: WatchTimer::new(end, timeout, call.query.flag("allowWatchBookmarks")),
        resource,
        filter,
        representation: Representation { form: output.form, include, now: server.clock().now() },
        media: output.media,
        sent: start.since,
        since: start.since,
        initial: start.initial,
        end_bookmark: start.end_bookmark,
        bookmark_due: false,
        events: watched.map_err(Some),
        with_columns: true,
        seat: call.seat.take(),
        _gauge: WatchGauge::new(server),
    };
    let body = Body::new(WatchBody { stream: Some(stream), work: None });
    if events::is_wanted(&call) {
        return events::serve(call, body, output.media).await;
    }
    let media = if output.media == Media::Protobuf { negotiate::PROTOBUF_STREAM } else { "application/json" };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    Ok(response)
}

/// The keys to watch: as few as the request allows.
fn prefix(call: &Call, resource: &Resource, filter: &Filter) -> String {
    let prefix = read::prefix(call, resource);
    match filter.name() {
        Some(name) if !resource.namespaced || prefix.len() > resource.prefix().len() => format!("{prefix}{name}"),
        _ => prefix,
    }
}

async fn start(server: &Server, call: &Call, resource: &Resource, filter: &Filter) -> Result<Start, Status> {
    let asked: &Query = &call.query;
    let revision = match asked.get("resourceVersion") {
        None | Some("0") => None,
        Some(text) => Some(read::parse_revision(text)?),
    };
    let mut sends = asked.given("sendInitialEvents").map(|_| asked.flag("sendInitialEvents"));
    if sends.is_none() && revision.is_none() && asked.get("resourceVersionMatch").is_none() {
        // upstream's default for watches without a resourceVersion (`SetListOptionsDefaults`)
        sends = Some(true);
    }
    let store = server.store();
    match (revision, sends) {
        (Some(since), None | Some(false)) => return Ok(Start { initial: VecDeque::new(), since, end_bookmark: false }),
        (Some(revision), Some(true)) => read::not_older_than(server, revision).await?,
        (None, Some(false)) => {
            return Ok(Start { initial: VecDeque::new(), since: store.revision(), end_bookmark: false });
        }
        (None, _) => {}
    }
    let snapshot = store.snapshot(None).map_err(read::store_error)?;
    let prefix = prefix(call, resource, filter);
    payload::convert(resource, snapshot.range(&prefix, None).map(|e| &e.payload)).await?;
    let chosen = |e: &&Arc<Entry<Item>>| selects(filter, resource, e) && readable(server, e);
    let initial = snapshot.range(&prefix, None).filter(chosen).cloned().collect();
    Ok(Start {
        initial,
        since: snapshot.revision(),
        end_bookmark: sends == Some(true) && asked.flag("allowWatchBookmarks"),
    })
}

/// Longest timeout of a watch, seconds: a day.
const MAX_TIMEOUT: u64 = 86_400;

/// The timeout of the watch. A negative one ends the watch at once, as upstream does.
fn timeout(server: &Server, call: &Call) -> Result<Duration, Status> {
    Ok(match call.query.number("timeoutSeconds")?.unwrap_or(0) {
        0 => Duration::from_secs(DEFAULT_TIMEOUT.0 + server.ids().below(DEFAULT_TIMEOUT.1 - DEFAULT_TIMEOUT.0)),
        seconds => Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(MAX_TIMEOUT)),
    })
}

/// Counts open watches in the metrics.
struct WatchGauge(Server);

impl WatchGauge {
    fn new(server: &Server) -> Self {
        server.metrics().watches.inc();
        Self(server.clone())
    }
}

impl Drop for WatchGauge {
    fn drop(&mut self) {
        self.0.metrics().watches.dec();
    }
}

/// The body of the response.
struct WatchBody {
    /// `None` while `work` runs, and at the end.
    stream: Option<WatchStream>,
    work: Option<BoxFuture<'static, (WatchStream, BytesMut)>>,
}

impl http_body::Body for WatchBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(work) = &mut self.work {
                let (stream, out) = ready!(work.as_mut().poll(cx));
                (self.stream, self.work) = (Some(stream), None);
                if !out.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(out.freeze()))));
                }
            }
            let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
            match ready!(stream.poll(cx)) {
                Step::Chunk(out) => return Poll::Ready(Some(Ok(Frame::data(out.freeze())))),
                Step::End => self.stream = None,
                Step::Async(work) => self.work = self.stream.take().map(|stream| Box::pin(stream.work(work)) as _),
            }
        }
    }
}

/// The next step of the stream.
enum Step {
    /// A non-empty part of the response.
    Chunk(BytesMut),
    Async(AsyncStep),
    End,
}

/// A step that waits for something other than events.
enum AsyncStep {
    /// Converts this event and those that are ready after it, because objects are stored in another version.
    Convert(Event<Item>),
    Bookmark,
}

struct WatchStream {
    server: Server,
    resource: Arc<Resource>,
    filter: Filter,
    representation: Representation,
    media: Media,
    /// Every event up to this revision has been sent or did not match.
    sent: Revision,
    since: Revision,
    initial: VecDeque<Arc<Entry<Item>>>,
    end_bookmark: bool,
    timer: WatchTimer,
    /// Whether a bookmark is due.
    bookmark_due: bool,
    /// `Err`: the watch cannot start or continue; the status is sent once.
    events: Result<Watch<Item>, Option<Status>>,
    /// Whether the next table has column definitions.
    with_columns: bool,
    /// Held until the initial events have been sent: a watch that only waits holds none.
    seat: Option<Seat>,
    _gauge: WatchGauge,
}

impl WatchStream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let mut out = BytesMut::new();
        if let Err(status) = &mut self.events {
            let Some(status) = status.take() else { return Poll::Ready(Step::End) };
            put_event(&mut out, self.media, "ERROR", |out| out.put_slice(&status.to_json()));
            return Poll::Ready(Step::Chunk(out));
        }
        self.put_initial(&mut out);
        if !out.is_empty() {
            return Poll::Ready(Step::Chunk(out));
        }
        self.seat = None;
        // polled first, so that a continuous stream of events does not delay it
        match self.timer.poll(cx) {
            Poll::Ready(Due::End) => return Poll::Ready(Step::End),
            Poll::Ready(Due::Bookmark) => self.bookmark_due = true,
            Poll::Pending => {}
        }
        while out.len() < FRAME_BYTES
            && let Ok(events) = &mut self.events
            && let Poll::Ready(event) = events.poll_next(cx)
        {
            match event {
                Some(event) if self.resource.convertor.is_some() => {
                    return Poll::Ready(Step::Async(AsyncStep::Convert(event)));
                }
                Some(event) => self.put_event(&mut out, &event),
                None if out.is_empty() => return Poll::Ready(Step::End),
                None => break,
            }
        }
        if !out.is_empty() {
            return Poll::Ready(Step::Chunk(out));
        }
        if std::mem::take(&mut self.bookmark_due) {
            return Poll::Ready(Step::Async(AsyncStep::Bookmark));
        }
        Poll::Pending
    }

    /// Performs an asynchronous step. Returns the output.
    async fn work(mut self, work: AsyncStep) -> (Self, BytesMut) {
        let mut out = BytesMut::new();
        match work {
            AsyncStep::Bookmark => self.put_progress_bookmark(&mut out).await,
            AsyncStep::Convert(event) => {
                self.put_converted(&mut out, &event).await;
                while out.len() < FRAME_BYTES
                    && let Ok(events) = &mut self.events
                    && let Some(event) = events.try_next()
                {
                    self.put_converted(&mut out, &event).await;
                }
            }
        }
        (self, out)
    }

    fn put_initial(&mut self, out: &mut BytesMut) {
        while out.len() < FRAME_BYTES {
            let Some(entry) = self.initial.pop_front() else { break };
            self.put(out, "ADDED", &entry, None);
        }
        if self.initial.is_empty() && std::mem::take(&mut self.end_bookmark) {
            self.put_bookmark(out, true);
        }
    }

    /// Appends an event after its objects have been converted.
    async fn put_converted(&mut self, out: &mut BytesMut, event: &Event<Item>) {
        let both = event.before.iter().chain(&event.after);
        match payload::convert(&self.resource, both.map(|e| &e.payload)).await {
            Ok(()) => self.put_event(out, event),
            Err(status) => self.events = Err(Some(status)),
        }
    }

    fn put_event(&mut self, out: &mut BytesMut, event: &Event<Item>) {
        if event.revision <= self.since {
            return;
        }
        self.sent = event.revision;
        let shown = |e: &&Arc<Entry<Item>>| e.payload.is_intact() && selects(&self.filter, &self.resource, e);
        let before = event.before.as_ref().filter(shown);
        let after = event.after.as_ref().filter(shown);
        match (before, after) {
            (None, Some(after)) => self.put(out, "ADDED", after, None),
            (Some(_), Some(after)) => self.put(out, "MODIFIED", after, None),
            // the last matching state, with the revision of the change by which the object stopped matching
            (Some(before), None) => self.put(out, "DELETED", before, Some(event.revision)),
            (None, None) => {}
        }
    }

    fn put(&mut self, out: &mut BytesMut, kind: &str, entry: &Entry<Item>, revision: Option<Revision>) {
        let view = entry.payload.view(&self.resource);
        out.reserve(view.length() + 64);
        if self.representation.form != Form::Object {
            self.representation.now = self.server.clock().now();
        }
        let with_columns = std::mem::take(&mut self.with_columns);
        put_event(out, self.media, kind, |out| {
            self.representation.write_object(out, &self.resource, view, with_columns, revision);
        });
    }

    /// Writes a bookmark at the newest revision up to which all events have been sent.
    async fn put_progress_bookmark(&mut self, out: &mut BytesMut) {
        let store = self.server.store().clone();
        let revision = store.revision();
        if store.wait_until_delivered(revision).await.is_err() {
            return;
        }
        let Ok(events) = &mut self.events else { return };
        let (ready, all) = take_ready(events);
        for event in ready {
            self.put_converted(out, &event).await;
        }
        if !all {
            return;
        }
        self.sent = self.sent.max(revision);
        self.put_bookmark(out, false);
    }

    fn put_bookmark(&mut self, out: &mut BytesMut, initial: bool) {
        let mut object = Object::default();
        object.set(&["kind"], self.resource.kind.clone());
        object.set(&["apiVersion"], self.resource.gvr.api_version());
        object.set(&["metadata", "resourceVersion"], self.sent.to_string());
        if initial {
            object.set(&["metadata", "annotations", INITIAL_EVENTS_END], "true");
        }
        self.representation.now = self.server.clock().now();
        let with_columns = std::mem::take(&mut self.with_columns);
        put_event(out, self.media, "BOOKMARK", |out| {
            self.representation.write_object(out, &self.resource, &View::detached(&object), with_columns, None);
        });
    }
}

/// The queued events, and whether they are complete: after a lag, later events are lost, and a bookmark must not claim them.
fn take_ready<T>(events: &mut Watch<T>) -> (Vec<Event<T>>, bool) {
    let ready = std::iter::from_fn(|| events.try_next()).collect();
    (ready, !events.lagged())
}

/// Appends one event; `object` writes the JSON of its object.
fn put_event(out: &mut BytesMut, media: Media, kind: &str, object: impl FnOnce(&mut BytesMut)) {
    if media == Media::Protobuf {
        if let Err(error) = protobuf::put_event(out, kind, object) {
            tracing::error!(error, kind, "an event of a watch cannot be encoded and is left out");
        }
        return;
    }
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    object(out);
    out.put_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{Expect, Memory, Options, Store};

    #[tokio::test]
    async fn a_watch_that_was_cut_is_not_taken_for_one_that_has_seen_all() {
        let mut options = Options::new(store::Clock::new(|| std::time::SystemTime::UNIX_EPOCH));
        options.watch_queue = 4;
        let store: Store<Item> = Store::open(Memory::default(), options).await.expect("a store");
        let mut events = store.watch("/a/", store.revision()).expect("a watch");
        for (more, seen, all) in [(3, 3, true), (6, 4, false)] {
            for _ in 0..more {
                let key = format!("/a/{}", store.revision());
                store.put(&key, Expect::Absent, Bytes::from_static(b"{}"), None).await.expect("stored");
            }
            store.wait_until_delivered(store.revision()).await.expect("told");
            let (ready, complete) = take_ready(&mut events);
            assert_eq!((ready.len(), complete), (seen, all));
        }
    }
}
