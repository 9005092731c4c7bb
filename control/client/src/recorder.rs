//! Records Events with upstream's correlation (client-go `tools/record`): equal events are counted on one object, many similar ones are
//! aggregated into one "(combined from similar events)", a spam filter limits the events about an object, and a rate those of a component.

use crate::{Client, Kind, Patch};
use api::Clock;
use futures::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde_json::json;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// Upstream's limits.
const MAX_SIMILAR_EVENTS: usize = 10;
const SIMILAR_WINDOW_SECONDS: i64 = 600;
const SPAM_BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
const CACHE_SIZE: usize = 4096;
/// Queued events; when full, new ones are dropped (an Event is a message, never state). Four times upstream's `maxQueuedEvents`: a node has
/// more pods than one of upstream, and late is better than never.
const QUEUE_LENGTH: usize = 4096;
/// The most writes of a component in a second, and at once: the defaults of kubelet (`eventRecordQPS`, `eventBurst`) and scheduler. Without
/// them thousands of pods that start cost more writes for their events than for themselves.
const WRITES_PER_SECOND: f64 = 50.0;
/// See [`WRITES_PER_SECOND`].
const WRITE_BURST: f64 = 100.0;
/// Concurrent writes; those of one Event happen one after another.
const IN_FLIGHT: usize = 32;
/// The API refuses longer messages.
const MAX_MESSAGE: usize = 1024;

/// `type` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Information.
    Normal,
    /// A problem.
    Warning,
}

/// The source of events.
#[derive(Clone, Debug)]
pub struct RecorderOptions {
    /// `deployment-controller`, `default-scheduler`, `kubelet`.
    pub component: String,
    /// The node, for events of a node agent.
    pub host: Option<String>,
}

/// Records Events in the background. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<EventRecord>,
    clock: Clock,
}

#[derive(Clone, Debug)]
struct EventRecord {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// A reference to an object, as events and owner references need it.
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.into()),
        kind: Some(K::KIND.into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

impl Recorder {
    /// A recorder, and the future that writes its events, which ends when the last clone of the recorder is dropped.
    pub fn new(client: Client, clock: Clock, options: RecorderOptions) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut records) = mpsc::channel::<EventRecord>(QUEUE_LENGTH);
        let write = async move {
            let mut correlator = Correlator::new(options);
            let mut requests = FuturesUnordered::new();
            let mut busy: HashSet<Fingerprint> = HashSet::new();
            let mut rate = Rate::new(Instant::now());
            loop {
                tokio::select! {
                    Some(done) = requests.next(), if !requests.is_empty() => {
                        busy.remove(&done);
                    }
                    record = records.recv(), if requests.len() < IN_FLIGHT => {
                        let Some(record) = record else { break };
                        let Some(correlated) = correlator.observe(record) else { continue };
                        let key = correlated.key;
                        let mut turn = std::pin::pin!(tokio::time::sleep(rate.take(Instant::now())));
                        loop {
                            tokio::select! {
                                biased;
                                () = &mut turn => break,
                                Some(done) = requests.next(), if !requests.is_empty() => {
                                    busy.remove(&done);
                                }
                            }
                        }
                        while busy.contains(&key) {
                            let Some(done) = requests.next().await else { break };
                            busy.remove(&done);
                        }
                        let (client, request) = (client.clone(), correlator.request(correlated));
                        busy.insert(key);
                        requests.push(async move {
                            request.send(&client).await;
                            key
                        });
                    }
                }
            }
            while requests.next().await.is_some() {}
        };
        (Self { sender, clock }, write)
    }

    /// Records an event about an object. It never waits; the event is dropped when the queue is full.
    pub fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE - 3).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(end);
            message.push_str("...");
        }
        let record = EventRecord { about: about.clone(), kind, reason: reason.into(), message, at: self.clock.now() };
        if self.sender.try_send(record).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting");
        }
    }
}

/// Identifies an object, a group of events, an event or a message, in place of the texts themselves: a cluster with many pods would keep
/// megabytes of them. The keys of the hash are secret, so that nobody finds two texts with one fingerprint.
type Fingerprint = u128;

/// The hash functions of a recorder.
struct Hashes([RandomState; 2]);

impl Hashes {
    fn of(&self, value: impl Hash) -> Fingerprint {
        let [high, low] = &self.0;
        u128::from(high.hash_one(&value)) << 64 | u128::from(low.hash_one(&value))
    }
}

/// A bounded map that evicts its oldest entries.
struct Recent<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn new() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }

    fn entry(&mut self, key: &K, new: impl FnOnce() -> V) -> &mut V {
        self.evict_for(key);
        self.map.entry(key.clone()).or_insert_with(new)
    }

    fn set(&mut self, key: &K, value: V) {
        self.evict_for(key);
        self.map.insert(key.clone(), value);
    }

    /// Evicts the oldest entry if a new key needs its place.
    fn evict_for(&mut self, key: &K) {
        if !self.map.contains_key(key) {
            if self.order.len() >= CACHE_SIZE
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
    }
}

/// A token bucket, as client-go's `flowcontrol`: who finds it empty waits for its turn.
struct Rate {
    tokens: f64,
    at: Instant,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { tokens: WRITE_BURST, at: now }
    }

    /// Takes a token; how long to wait for it.
    fn take(&mut self, now: Instant) -> Duration {
        let refilled = self.tokens + now.duration_since(self.at).as_secs_f64() * WRITES_PER_SECOND;
        (self.tokens, self.at) = (refilled.min(WRITE_BURST) - 1.0, now);
        Duration::from_secs_f64((-self.tokens / WRITES_PER_SECOND).max(0.0))
    }
}

struct Similar {
    messages: Vec<Fingerprint>,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Written {
    name: String,
    count: i32,
    first: Timestamp,
}

enum Request {
    Create(Box<Event>),
    Count(Box<Event>),
}

impl Request {
    async fn send(self, client: &Client) {
        let outcome = match self {
            Self::Create(event) => client.submit(&*event).await,
            Self::Count(event) => count(client, &event).await,
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "cannot write an event");
        }
    }
}

/// Updates the count of a written Event; one that has expired is created again.
async fn count(client: &Client, event: &Event) -> crate::Result<()> {
    let meta = &event.metadata;
    let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let patch = json!({"count": event.count, "message": event.message, "lastTimestamp": event.last_timestamp});
    match client.patch::<Event>(namespace, name, Patch::Merge(patch)).await {
        Err(error) if error.is_not_found() => client.submit(event).await,
        other => other.map(drop),
    }
}

struct Correlator {
    options: RecorderOptions,
    hashes: Hashes,
    /// By object, type and reason.
    similar: Recent<Fingerprint, Similar>,
    /// By object.
    buckets: Recent<Fingerprint, Bucket>,
    /// By group, and the field and message within it, which are empty once the events are aggregated.
    written: Recent<Fingerprint, Written>,
    sequence: u64,
}

/// An event that passed the spam filter.
struct CorrelateResult {
    record: EventRecord,
    /// Identifies the Event that is written.
    key: Fingerprint,
}

impl Correlator {
    fn new(options: RecorderOptions) -> Self {
        let hashes = Hashes([RandomState::new(), RandomState::new()]);
        Self { options, hashes, similar: Recent::new(), buckets: Recent::new(), written: Recent::new(), sequence: 0 }
    }

    /// Aggregates and filters an event; `None` if the spam filter drops it.
    fn observe(&mut self, mut record: EventRecord) -> Option<CorrelateResult> {
        let object = &record.about;
        let about = self.hashes.of((&object.kind, &object.namespace, &object.name, &object.uid, &object.api_version));
        let group = self.hashes.of((about, record.kind, &record.reason));
        let message = self.hashes.of(&record.message);
        let now = record.at;
        let similar = self.similar.entry(&group, || Similar { messages: Vec::new(), last: now });
        if seconds(similar.last, now) > SIMILAR_WINDOW_SECONDS as f64 {
            similar.messages.clear();
        }
        similar.last = now;
        if !similar.messages.contains(&message) && similar.messages.len() < MAX_SIMILAR_EVENTS {
            similar.messages.push(message);
        }
        let combined = similar.messages.len() >= MAX_SIMILAR_EVENTS;
        let key = if combined {
            record.message = format!("(combined from similar events): {}", record.message);
            self.hashes.of((group, None::<&str>, ""))
        } else {
            self.hashes.of((group, record.about.field_path.as_deref(), &record.message))
        };
        let bucket = self.buckets.entry(&about, || Bucket { tokens: SPAM_BURST, at: now });
        bucket.tokens = (bucket.tokens + seconds(bucket.at, now).max(0.0) / REFILL_SECONDS).min(SPAM_BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;
        Some(CorrelateResult { record, key })
    }

    /// The request for an event: a new Event, or a higher count on the existing one.
    fn request(&mut self, correlated: CorrelateResult) -> Request {
        let CorrelateResult { record, key } = correlated;
        let mut event = self.event(&record);
        if let Some(written) = self.written.map.get_mut(&key) {
            written.count += 1;
            event.metadata.name = Some(written.name.clone());
            event.first_timestamp = Some(Time(written.first));
            event.count = Some(written.count);
            return Request::Count(Box::new(event));
        }
        let name = event.metadata.name.clone().unwrap_or_default();
        self.written.set(&key, Written { name, count: 1, first: record.at });
        Request::Create(Box::new(event))
    }

    fn event(&mut self, record: &EventRecord) -> Event {
        self.sequence += 1;
        let namespace = record.about.namespace.clone().unwrap_or_else(|| "default".into());
        let stamp = record.at.as_nanosecond() + i128::from(self.sequence % 1000);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{stamp:x}", record.about.name.as_deref().unwrap_or_default())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: record.about.clone(),
            reason: Some(record.reason.clone()),
            message: Some(record.message.clone()),
            type_: Some(match record.kind {
                EventType::Normal => "Normal".into(),
                EventType::Warning => "Warning".into(),
            }),
            count: Some(1),
            first_timestamp: Some(Time(record.at)),
            last_timestamp: Some(Time(record.at)),
            source: Some(EventSource {
                component: Some(self.options.component.clone()),
                host: self.options.host.clone(),
            }),
            reporting_component: Some(self.options.component.clone()),
            reporting_instance: self.options.host.clone(),
            ..Event::default()
        }
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str, second: i64) -> EventRecord {
        EventRecord {
            about: ObjectReference { name: Some("p".into()), uid: Some("u".into()), ..Default::default() },
            kind: EventType::Normal,
            reason: "Created".into(),
            message: message.into(),
            at: Timestamp::from_second(1_700_000_000 + second).expect("a time"),
        }
    }

    fn correlator() -> Correlator {
        Correlator::new(RecorderOptions { component: "test".into(), host: None })
    }

    #[test]
    fn equal_notes_share_a_key() {
        let mut correlator = correlator();
        let a = correlator.observe(record("x", 0)).expect("kept");
        let b = correlator.observe(record("x", 1)).expect("kept");
        let c = correlator.observe(record("y", 2)).expect("kept");
        assert_eq!(a.key, b.key);
        assert_ne!(a.key, c.key);
    }

    #[test]
    fn ten_similar_notes_are_combined() {
        let mut correlator = correlator();
        let texts: Vec<String> =
            (0..12).map(|i| correlator.observe(record(&format!("m{i}"), i)).expect("kept").record.message).collect();
        assert_eq!(texts[8], "m8");
        assert_eq!(texts[9], "(combined from similar events): m9");
        let later = correlator.observe(record("m50", 2000)).expect("kept");
        assert_eq!(later.record.message, "m50", "the window is over");
    }

    #[test]
    fn a_repeated_note_raises_the_count_of_the_first() {
        let mut correlator = correlator();
        let mut ask = |second| {
            let correlated = correlator.observe(record("x", second)).expect("kept");
            correlator.request(correlated)
        };
        let Request::Create(first) = ask(0) else { panic!("counted what was never written") };
        let Request::Count(second) = ask(5) else { panic!("written twice") };
        assert_eq!(first.metadata.name, second.metadata.name);
        assert_eq!((second.count, &second.first_timestamp), (Some(2), &first.first_timestamp));
    }

    #[test]
    fn a_component_writes_a_burst_and_then_by_its_rate() {
        let begin = Instant::now();
        let mut rate = Rate::new(begin);
        let waits: Vec<u128> = (0..110).map(|_| rate.take(begin).as_millis()).collect();
        assert_eq!(waits[..100], [0; 100]);
        assert_eq!(waits[100..], [20, 40, 60, 80, 100, 120, 140, 160, 180, 200]);
        let later = begin + Duration::from_millis(240);
        assert_eq!(
            (rate.take(later), rate.take(later).as_millis()),
            (Duration::ZERO, 0),
            "twelve came back, ten were owed"
        );
        assert_eq!(rate.take(later).as_millis(), 20);
        let idle = later + Duration::from_secs(60);
        assert_eq!((0..200).filter(|_| rate.take(idle).is_zero()).count(), 100, "no more than a burst is saved up");
    }

    #[test]
    fn a_talkative_source_is_cut_and_recovers() {
        let mut correlator = correlator();
        let kept = (0..100).filter(|_| correlator.observe(record("x", 0)).is_some()).count();
        assert_eq!(kept, 25);
        assert!(correlator.observe(record("x", 299)).is_none());
        assert!(correlator.observe(record("x", 301)).is_some());
    }
}
