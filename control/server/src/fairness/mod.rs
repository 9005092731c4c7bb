//! API priority and fairness: which requests are served at once, which wait and which are refused, so that no client starves another. What is
//! configured comes from objects; follows KEP-1040 and upstream's `priority-and-fairness.go`.
//!
//! A request belongs to a flow schema (`matching`) and so to a priority level, which has seats (`shares`, `demand`). One without a free seat waits in
//! a queue of its flow (`dealer`) and is served in fair order (`queueset`). A list takes as many seats as it is wide (`width`). All of these are pure;
//! `level` and this module have the lock, the clock and the wait. As state that is derived from objects, the table of what is in force is made anew by
//! the first request after a change, and the seats are shared anew by the first request after ten seconds: there is no task.
//!
//! Unlike upstream, a write keeps no seat after its answer: there watches are told by whoever serves them, here by a task of the store, which no
//! write waits for. And a request of this process waits in a full queue too: its callers bound themselves, and would only come again.

mod config;
mod counts;
mod dealer;
mod demand;
mod dump;
mod level;
mod matching;
mod queueset;
mod shares;
mod table;
mod width;

pub use config::{
    Configuration, Distinguisher, DocumentRule, FlowSchema, PriorityLevel, Queuing, ResourceRule, Response, Rule,
    Subject,
};
pub(crate) use {dump::PATH as DUMP, level::Seat, width::seats};

use crate::{Objects, User, body::too_many_requests, metrics::FlowMetrics, request::RequestInfo};
use api::{Object, Status};
use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use queueset::Arrival;
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use store::Changes;
use table::{Schema, Table};
use tokio::time::Instant;

/// The seats of all levels: upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
const SEATS: u32 = 600;
/// How long a request waits for a seat: a quarter of the time that it may take, as upstream.
const PATIENCE: Duration = Duration::from_secs(15);

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Nanoseconds since the start.
type Nanos = u64;

/// A clock that never goes back.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Nanos {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The objects that configure it, and how they are read.
#[derive(Clone, Copy)]
pub struct Source {
    /// Their group.
    pub group: &'static str,
    /// The resource of the flow schemas.
    pub schemas: &'static str,
    /// The resource of the priority levels.
    pub levels: &'static str,
    /// What flow schemas and priority levels say.
    pub read: fn(Stored<'_>, Stored<'_>) -> Configuration,
}

/// All objects of a resource.
pub type Stored<'a> = &'a [Arc<Object>];

/// Priority and fairness of a server.
pub(crate) struct Fairness {
    source: Option<Source>,
    changes: OnceLock<[Changes; 2]>,
    table: ArcSwapOption<Table>,
    /// Held by who makes a table or shares the seats.
    making: Mutex<()>,
    /// When the seats are shared next.
    due: AtomicU64,
    clock: Clock,
    /// With a secret, as of every map, so that nobody can choose a name by the queues that it has.
    hasher: RandomState,
    metrics: FlowMetrics,
}

/// The flow that a request belongs to.
pub(crate) struct Flow {
    schema: Arc<Schema>,
    hash: u64,
}

impl Fairness {
    /// Without a source no request is limited.
    pub(crate) fn new(source: Option<Source>, metrics: FlowMetrics) -> Self {
        Self {
            source,
            changes: OnceLock::new(),
            table: ArcSwapOption::const_empty(),
            making: Mutex::new(()),
            due: AtomicU64::new(demand::PERIOD),
            clock: Clock(Instant::now()),
            hasher: RandomState::new(),
            metrics,
        }
    }

    /// The flow of a request. `objects` must be those of the same server at each call.
    pub(crate) fn classify(&self, objects: &dyn Objects, user: &User, info: &RequestInfo) -> Option<Flow> {
        let source = self.source.as_ref()?;
        let changes = self
            .changes
            .get_or_init(|| [source.schemas, source.levels].map(|resource| objects.changes(source.group, resource)));
        let now = self.clock.now();
        let seen = || changes.each_ref().map(Changes::last);
        let mut table = self.table.load();
        if table.as_deref().is_none_or(|table| table.seen != seen()) {
            drop(table);
            let _one = self.making.lock();
            let former = self.table.load_full();
            if former.as_deref().is_none_or(|table| table.seen != seen()) {
                // Read before the objects, so that a change in between makes another table.
                let seen = seen();
                let list = |resource| objects.list(source.group, resource, "");
                let configuration = (source.read)(&list(source.schemas), &list(source.levels));
                let (former, clock) = (former.as_deref(), (self.clock, now));
                let made = Table::new(configuration, former, (seen, SEATS), clock, &self.metrics);
                self.table.store(Some(Arc::new(made)));
            }
            table = self.table.load();
        }
        let table = table.as_deref()?;
        self.adjust(table, now);
        let schema = table.find(user, info)?;
        let hash = if schema.has_flows { self.hash(schema, user, info) } else { 0 };
        Some(Flow { schema: schema.clone(), hash })
    }

    /// Shares the seats anew, every ten seconds.
    fn adjust(&self, table: &Table, now: Nanos) {
        let due = self.due.load(Ordering::Relaxed);
        let next = now.saturating_add(demand::PERIOD);
        if now >= due && self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let _one = self.making.lock();
            level::adjust(&table.levels, now);
        }
    }

    fn hash(&self, schema: &Schema, user: &User, info: &RequestInfo) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(schema.configured.name.as_bytes());
        hasher.write_u8(0);
        hasher.write(match schema.configured.distinguisher {
            Some(Distinguisher::User) => user.name.as_bytes(),
            Some(Distinguisher::Namespace) => info.namespace.as_bytes(),
            None => &[],
        });
        hasher.finish()
    }

    /// The levels and their requests, as upstream's debugging page.
    pub(crate) fn dump(&self) -> String {
        self.table.load().as_deref().map(|table| dump::levels(&table.levels)).unwrap_or_default()
    }
}

impl Flow {
    /// Says in the headers of an answer what the request belonged to: not by name, as upstream.
    pub(crate) fn put_headers(&self, headers: &mut HeaderMap) {
        let (schema, level) = self.schema.uids.clone();
        headers.insert(SCHEMA_UID, schema);
        headers.insert(LEVEL_UID, level);
    }

    /// The most seats of one list.
    pub(crate) fn widest(&self) -> u32 {
        self.schema.level.widest()
    }

    /// Waits for seats, which are held until they are dropped. One who is patient waits in a full queue too. If the wait is dropped, so is its
    /// place.
    ///
    /// # Errors
    /// 429.
    pub(crate) async fn enter(&self, seats: u32, patient: bool) -> Result<Seat, Status> {
        let arrival = Arrival { flow: self.hash, seats: seats.max(1), patient };
        level::enter((&self.schema.level, &self.schema.counts), arrival, PATIENCE).await.map_err(|reason| {
            self.schema.counts.refused(reason);
            too_many_requests()
        })
    }
}

#[cfg(test)]
mod tests;
