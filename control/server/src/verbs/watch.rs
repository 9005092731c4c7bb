//! WATCH: a stream of JSON lines. Events are copied from the entries' bytes, never re-encoded; what is ready goes out in one frame. A
//! reader that is too slow is cut by the store and lists anew.

use super::read::{self, readable, selects};
use crate::{
    Resource,
    call::Call,
    negotiate::{self, Offers},
    payload::{self, Item, View},
    request::Query,
    select::Filter,
    server::Server,
    table::{Include, Look},
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
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Shortest and longest life of a watch that names no timeout, seconds.
const LIFE: (u64, u64) = (1800, 3600);
/// A frame is sent when it is this long, bytes. It and the store's queue of references are all that a slow watch holds.
const FRAME: usize = 32 * 1024;

/// Where a watch begins.
struct Start {
    /// Objects to send as `ADDED` first.
    initial: VecDeque<Arc<Entry<Item>>>,
    /// Events after this revision follow.
    since: Revision,
    /// The end of the initial events is marked by a bookmark.
    marks_end: bool,
}

/// GET with `watch=true`.
pub(super) async fn watch(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = negotiate::output(call.headers(), &call.query, Offers::Tables, true)?;
    read::validate_options(&call.query, true)?;
    let filter = Filter::parse(&call.query, &resource, call.info.named.then_some(call.info.name.as_str()))?;
    let include = Include::parse(&call.query)?;
    let start = start(server, &call, &resource, &filter).await?;
    let life = life(server, &call)?;
    let (store, prefix) = (server.store(), prefix(&call, &resource, &filter));
    let events = match store.watch(&prefix, start.since) {
        Ok(events) => Ok(events),
        // A revision that has not happened: its events are those to come.
        Err(Error::Future { current }) => store.watch(&prefix, current).map_err(read::store_error),
        Err(Error::Compacted { oldest }) => Err(read::too_old(start.since, oldest)),
        Err(error) => return Err(read::store_error(error)),
    };
    let deadline = Instant::now() + life;
    let mut bookmarks = interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = Stream {
        server: server.clone(),
        resource,
        filter,
        look: Look { form: output.form, include, now: server.clock().now() },
        seen: start.since,
        since: start.since,
        initial: start.initial,
        marks_end: start.marks_end,
        bookmarks: call.query.flag("allowWatchBookmarks").then_some(bookmarks),
        deadline,
        end: Box::pin(end(server.shutdown().clone(), deadline)),
        events: events.map_err(Some),
        head: true,
        _counted: Counted::new(server),
    };
    // Boxed, because it is moved with each frame.
    let frames = futures::stream::unfold(Box::new(stream), |mut stream| async move {
        let frame = stream.frame().await?;
        Some((Ok::<_, Infallible>(frame), stream))
    });
    let mut response = Response::new(Body::from_stream(frames));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
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
        // Upstream's default for watches that begin with the objects that are there (`SetListOptionsDefaults`).
        sends = Some(true);
    }
    let store = server.store();
    match (revision, sends) {
        (Some(since), None | Some(false)) => return Ok(Start { initial: VecDeque::new(), since, marks_end: false }),
        (Some(revision), Some(true)) => read::not_older_than(server, revision).await?,
        (None, Some(false)) => {
            return Ok(Start { initial: VecDeque::new(), since: store.revision(), marks_end: false });
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
        marks_end: sends == Some(true) && asked.flag("allowWatchBookmarks"),
    })
}

/// The longest time a client may ask a watch to last: a day.
const LONGEST: u64 = 86_400;

/// How long the watch lasts; one that asks for a negative time is over when it begins, as upstream has it.
fn life(server: &Server, call: &Call) -> Result<Duration, Status> {
    Ok(match call.query.number("timeoutSeconds")?.unwrap_or(0) {
        0 => Duration::from_secs(LIFE.0 + server.ids().below(LIFE.1 - LIFE.0)),
        seconds => Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(LONGEST)),
    })
}

/// Waits until the server stops or the time is up.
async fn end(shutdown: CancellationToken, deadline: Instant) {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = sleep_until(deadline) => {}
    }
}

/// Counts the watches under way.
struct Counted(Server);

impl Counted {
    fn new(server: &Server) -> Self {
        server.metrics().watches.inc();
        Self(server.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics().watches.dec();
    }
}

struct Stream {
    server: Server,
    resource: Arc<Resource>,
    filter: Filter,
    look: Look,
    /// Every event up to this revision has been sent or did not match.
    seen: Revision,
    since: Revision,
    initial: VecDeque<Arc<Entry<Item>>>,
    marks_end: bool,
    bookmarks: Option<Interval>,
    deadline: Instant,
    /// Made once: an event must not cost a timer.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// `Err`: the watch cannot begin; the status is sent once.
    events: Result<Watch<Item>, Option<Status>>,
    /// The next table carries its columns.
    head: bool,
    _counted: Counted,
}

impl Stream {
    /// The next piece of the answer; `None` ends it.
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
            // Also when there are always events.
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
                () = bookmark => self.put_progress(&mut out).await,
            }
            self.put_ready(&mut out).await;
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
    }

    fn put_initial(&mut self, out: &mut BytesMut) {
        while out.len() < FRAME {
            let Some(entry) = self.initial.pop_front() else { break };
            self.put(out, "ADDED", &entry, None);
        }
        if self.initial.is_empty() && std::mem::take(&mut self.marks_end) {
            self.put_bookmark(out, true);
        }
    }

    /// Appends the events that are there by now.
    async fn put_ready(&mut self, out: &mut BytesMut) {
        while out.len() < FRAME {
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
        self.seen = event.revision;
        let shown = |e: &Entry<Item>| e.payload.is_whole() && selects(&self.filter, &self.resource, e);
        let before = event.before.as_ref().filter(|e| shown(e)).cloned();
        let after = event.after.as_ref().filter(|e| shown(e)).cloned();
        match (before, after) {
            (None, Some(after)) => self.put(out, "ADDED", &after, None),
            (Some(_), Some(after)) => self.put(out, "MODIFIED", &after, None),
            // The last state that matched, with the revision of the change that ended it.
            (Some(before), None) => self.put(out, "DELETED", &before, Some(event.revision)),
            (None, None) => {}
        }
    }

    fn put(&mut self, out: &mut BytesMut, kind: &str, entry: &Entry<Item>, revision: Option<Revision>) {
        let view = entry.payload.view(&self.resource);
        out.reserve(view.length() + 64);
        open(out, kind);
        self.look.now = self.server.clock().now();
        let head = std::mem::take(&mut self.head);
        self.look.single(out, &self.resource, view, head, revision);
        close(out);
    }

    /// A bookmark at the newest revision all of whose events have been sent.
    async fn put_progress(&mut self, out: &mut BytesMut) {
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
        self.seen = self.seen.max(revision);
        self.put_bookmark(out, false);
    }

    fn put_bookmark(&mut self, out: &mut BytesMut, initial: bool) {
        let mut object = Object::default();
        object.set(&["kind"], self.resource.kind.clone());
        object.set(&["apiVersion"], self.resource.gvr.api_version());
        object.set(&["metadata", "resourceVersion"], self.seen.to_string());
        if initial {
            object.set(&["metadata", "annotations", INITIAL_EVENTS_END], "true");
        }
        open(out, "BOOKMARK");
        self.look.now = self.server.clock().now();
        let head = std::mem::take(&mut self.head);
        self.look.single(out, &self.resource, &View::detached(&object), head, None);
        close(out);
    }
}

/// The events in the queue, and whether they are all that have happened: of a watch that was cut, what came after them is lost, and no
/// bookmark may go beyond.
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
