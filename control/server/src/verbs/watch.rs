//! WATCH: a stream of JSON lines. Events are copied from the bytes of the entries, never encoded again; all events that are ready go into
//! one frame. The store cuts a client that reads too slowly, which lists again.

use super::read::{self, readable, selects};
use crate::{
    Resource,
    call::Call,
    negotiate::{self, Offers},
    payload::{self, Item, View},
    request::Query,
    select::Filter,
    server::Server,
    table::{IncludeObject, Representation},
};
use api::{Object, Status};
use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use std::{collections::VecDeque, convert::Infallible, pin::Pin, sync::Arc, time::Duration};
use store::{Entry, Error, Event, Revision, Watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

/// The annotation of the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// How often a bookmark is sent to a client that allows them.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Shortest and longest timeout of a watch that gives none, seconds.
const DEFAULT_TIMEOUT: (u64, u64) = (1800, 3600);
/// A frame is sent when it is this long, bytes. A slow watch holds one frame and the store's queue of references.
const FRAME_BYTES: usize = 32 * 1024;

/// Where a watch begins.
struct Start {
    /// Objects to send as `ADDED` first.
    initial: VecDeque<Arc<Entry<Item>>>,
    /// Events after this revision follow.
    since: Revision,
    /// A bookmark follows the initial events.
    end_bookmark: bool,
}

/// GET with `watch=true`.
pub(super) async fn watch(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = negotiate::output(call.headers(), &call.query, Offers::Tables, true)?;
    read::validate_options(&call.query, true)?;
    let filter = Filter::parse(&call.query, &resource, call.info.named.then_some(call.info.name.as_str()))?;
    let include = IncludeObject::parse(&call.query)?;
    let start = start(server, &call, &resource, &filter).await?;
    let timeout = timeout(server, &call)?;
    let (store, prefix) = (server.store(), prefix(&call, &resource, &filter));
    let events = match store.watch(&prefix, start.since) {
        Ok(events) => Ok(events),
        // A revision in the future: the watch begins with the next event.
        Err(Error::Future { current }) => store.watch(&prefix, current).map_err(read::store_error),
        Err(Error::Compacted { oldest }) => Err(read::too_old(start.since, oldest)),
        Err(error) => return Err(read::store_error(error)),
    };
    let deadline = Instant::now() + timeout;
    let mut bookmarks = interval_at(Instant::now() + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = Stream {
        server: server.clone(),
        resource,
        filter,
        representation: Representation { form: output.form, include, now: server.clock().now() },
        sent: start.since,
        since: start.since,
        initial: start.initial,
        end_bookmark: start.end_bookmark,
        bookmarks: call.query.flag("allowWatchBookmarks").then_some(bookmarks),
        deadline,
        end: Box::pin(ended(server.shutdown().clone(), deadline)),
        events: events.map_err(Some),
        with_columns: true,
        _gauge: WatchGauge::new(server),
    };
    // Boxed, because the stream is moved with each frame.
    let frames = futures::stream::unfold(Box::new(stream), |mut stream| async move {
        let frame = stream.frame().await?;
        Some((Ok::<_, Infallible>(frame), stream))
    });
    let mut response = Response::new(Body::from_stream(frames));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The prefix of the keys to watch, as narrow as the request allows.
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
    let mut send_initial = asked.given("sendInitialEvents").map(|_| asked.flag("sendInitialEvents"));
    if send_initial.is_none() && revision.is_none() && asked.get("resourceVersionMatch").is_none() {
        // Upstream's default for watches without a resourceVersion (`SetListOptionsDefaults`).
        send_initial = Some(true);
    }
    let store = server.store();
    match (revision, send_initial) {
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
    let chosen = |e: &&Arc<Entry<Item>>| (filter.is_empty() || selects(filter, resource, e)) && readable(server, e);
    let initial = snapshot.range(&prefix, None).filter(chosen).cloned().collect();
    Ok(Start {
        initial,
        since: snapshot.revision(),
        end_bookmark: send_initial == Some(true) && asked.flag("allowWatchBookmarks"),
    })
}

/// The longest timeout that a client may ask for, seconds.
const MAX_TIMEOUT: u64 = 86_400;

/// The timeout of the watch. A watch with a negative one ends at once, as upstream.
fn timeout(server: &Server, call: &Call) -> Result<Duration, Status> {
    Ok(match call.query.number("timeoutSeconds")?.unwrap_or(0) {
        0 => Duration::from_secs(DEFAULT_TIMEOUT.0 + server.ids().below(DEFAULT_TIMEOUT.1 - DEFAULT_TIMEOUT.0)),
        seconds => Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(MAX_TIMEOUT)),
    })
}

/// Waits until the server stops or the watch times out.
async fn ended(shutdown: CancellationToken, deadline: Instant) {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = sleep_until(deadline) => {}
    }
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

struct Stream {
    server: Server,
    resource: Arc<Resource>,
    filter: Filter,
    representation: Representation,
    /// Every event up to this revision has been sent or did not match.
    sent: Revision,
    since: Revision,
    initial: VecDeque<Arc<Entry<Item>>>,
    end_bookmark: bool,
    bookmarks: Option<Interval>,
    deadline: Instant,
    /// Created once, because a timer for each event would cost too much.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// `Err`: the watch has failed; its status is sent once.
    events: Result<Watch<Item>, Option<Status>>,
    /// The next table has column definitions.
    with_columns: bool,
    _gauge: WatchGauge,
}

impl Stream {
    /// The next frame of the response; `None` ends it.
    async fn frame(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        if let Err(status) = &mut self.events {
            return status.take().map(|status| {
                open(&mut out, "ERROR");
                out.put_slice(&status.to_json());
                close(&mut out);
                out.freeze()
            });
        }
        self.put_initial(&mut out);
        if !out.is_empty() {
            return Some(out.freeze());
        }
        loop {
            // Checked here too, because `select!` never reaches the timer while there are always events.
            if Instant::now() >= self.deadline || self.server.shutdown().is_cancelled() {
                return None;
            }
            let Ok(events) = &mut self.events else { return None };
            let bookmark = async {
                match &mut self.bookmarks {
                    Some(interval) => drop(interval.tick().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(event) => self.put_event(&mut out, &event).await,
                    None => return None,
                },
                () = &mut self.end => return None,
                () = bookmark => self.put_progress_bookmark(&mut out).await,
            }
            self.put_ready(&mut out).await;
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
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

    /// Appends the events that are ready.
    async fn put_ready(&mut self, out: &mut BytesMut) {
        while out.len() < FRAME_BYTES {
            let Ok(events) = &mut self.events else { return };
            let Some(event) = events.try_next() else { return };
            self.put_event(out, &event).await;
        }
    }

    async fn put_event(&mut self, out: &mut BytesMut, event: &Event<Item>) {
        if event.revision <= self.since {
            return;
        }
        let both = event.before.iter().chain(&event.after);
        if let Err(status) = payload::convert(&self.resource, both.map(|e| &e.payload)).await {
            self.events = Err(Some(status));
            return;
        }
        self.sent = event.revision;
        let shown = |e: &Entry<Item>| e.payload.is_intact() && selects(&self.filter, &self.resource, e);
        let before = event.before.as_ref().filter(|e| shown(e)).cloned();
        let after = event.after.as_ref().filter(|e| shown(e)).cloned();
        match (before, after) {
            (None, Some(after)) => self.put(out, "ADDED", &after, None),
            (Some(_), Some(after)) => self.put(out, "MODIFIED", &after, None),
            // The last state that matched, with the revision of the change after which the object no longer matches.
            (Some(before), None) => self.put(out, "DELETED", &before, Some(event.revision)),
            (None, None) => {}
        }
    }

    fn put(&mut self, out: &mut BytesMut, kind: &str, entry: &Entry<Item>, revision: Option<Revision>) {
        let view = entry.payload.view(&self.resource);
        out.reserve(view.length() + 64);
        open(out, kind);
        self.representation.now = self.server.clock().now();
        let with_columns = std::mem::take(&mut self.with_columns);
        self.representation.write_object(out, &self.resource, view, with_columns, revision);
        close(out);
    }

    /// A bookmark at the newest revision; all events up to it have been sent.
    async fn put_progress_bookmark(&mut self, out: &mut BytesMut) {
        let store = self.server.store().clone();
        let revision = store.revision();
        if store.wait_until_delivered(revision).await.is_err() {
            return;
        }
        let Ok(events) = &mut self.events else { return };
        let (ready, all) = take_ready(events);
        for event in ready {
            self.put_event(out, &event).await;
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
        open(out, "BOOKMARK");
        self.representation.now = self.server.clock().now();
        let with_columns = std::mem::take(&mut self.with_columns);
        self.representation.write_object(out, &self.resource, &View::detached(&object), with_columns, None);
        close(out);
    }
}

/// The events in the queue, and whether they are complete: a watch that was cut has lost the events after them, and no bookmark may be
/// later than those.
fn take_ready<T>(events: &mut Watch<T>) -> (Vec<Event<T>>, bool) {
    let ready = std::iter::from_fn(|| events.try_next()).collect();
    (ready, !events.lagged())
}

fn open(out: &mut BytesMut, kind: &str) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
}

fn close(out: &mut BytesMut) {
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
        for (more, sent, all) in [(3, 3, true), (6, 4, false)] {
            for _ in 0..more {
                let key = format!("/a/{}", store.revision());
                store.put(&key, Expect::Absent, Bytes::from_static(b"{}"), None).await.expect("stored");
            }
            store.wait_until_delivered(store.revision()).await.expect("told");
            let (ready, complete) = take_ready(&mut events);
            assert_eq!((ready.len(), complete), (sent, all));
        }
    }
}
