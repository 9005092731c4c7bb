//! The contract of a store over a log, as one suite that every log runs in two lines:
//!
//! ```ignore
//! store::contract_suite!(store::contract::reopen(move || MyLog::open(&path)));
//! ```
//!
//! The expression makes a fresh, empty log per test; its closure opens that same log each time it is called. Tests run on
//! a paused clock.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]
#![allow(missing_docs, reason = "the name of each test is its promise")]

use crate::{
    Batch, Bytes, Clock, Entry, Error, Expect, FIRST, Log, LogError, Options, Payload, Replay, Revision, Store, Watch,
};
use async_trait::async_trait;
use futures::future::join_all;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, advance, sleep},
};

/// Expands to one `#[tokio::test]` per promise.
#[macro_export]
macro_rules! contract_suite {
    ($fixture:expr) => {
        $crate::contract_suite! { @ $fixture;
            a_new_store_is_empty_and_its_first_write_is_above_one
            a_put_is_seen_at_once_with_its_revisions_and_payload
            a_write_happens_only_if_the_expectation_holds
            a_delete_answers_with_its_revision_and_the_last_state
            one_of_many_writers_with_the_same_expectation_wins
            everything_acknowledged_is_there_after_reopening
            a_revision_is_never_reused
            nothing_is_visible_before_it_is_durable
            a_conflict_tells_only_what_is_durable
            what_queues_during_a_commit_shares_the_next
            a_snapshot_never_changes
            a_range_is_ordered_and_starts_after_a_key
            every_revision_of_the_history_can_be_listed
            history_ends_after_its_time
            history_is_bounded_in_events_and_bytes
            the_future_is_refused
            a_watch_sees_every_change_once_in_order
            a_watch_starts_in_the_past_or_says_that_it_is_gone
            a_slow_watch_is_cut_and_holds_nobody_up
            compaction_forgets_the_past_but_no_entry
            an_entry_with_a_time_to_live_is_deleted_in_time
            expiry_is_kept_over_a_restart
            a_failed_commit_makes_the_store_read_only_and_loses_nothing
            a_closed_store_refuses_writes_and_ends_watches
            waiting_for_a_revision_ends_when_it_is_published
            a_key_that_cannot_be_stored_is_refused
        }
    };
    (@ $fixture:expr; $($name:ident)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                $crate::contract::$name($fixture).await;
            }
        )*
    };
}

/// A payload that shows what it was made of.
pub struct Text(pub String);

impl Payload for Text {
    fn publish(key: &str, revision: Revision, stored: Bytes) -> Self {
        Self(format!("{key}@{revision}={}", String::from_utf8_lossy(&stored)))
    }
}

type Fail = Error<Text>;

/// A log that can be opened again and again, and a clock that goes with tokio's.
pub struct Fixture {
    make: Box<dyn Fn() -> Result<Arc<dyn Log>, LogError> + Send + Sync>,
    clock: Clock,
}

/// The fixture for a log that `make` opens.
pub fn reopen<L: Log>(make: impl Fn() -> Result<L, LogError> + Send + Sync + 'static) -> Fixture {
    let start = Instant::now();
    let clock = Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + start.elapsed());
    Fixture { make: Box::new(move || Ok(Arc::new(make()?))), clock }
}

impl Fixture {
    fn options(&self) -> Options {
        Options::new(self.clock.clone())
    }

    async fn open(&self) -> Store<Text> {
        self.open_with(|_| {}).await
    }

    async fn open_with(&self, change: impl FnOnce(&mut Options)) -> Store<Text> {
        let mut options = self.options();
        change(&mut options);
        Store::open((self.make)().unwrap(), options).await.unwrap()
    }

    async fn reopen(&self, store: Store<Text>) -> Store<Text> {
        store.close().await.unwrap();
        self.open().await
    }

    async fn gated(&self) -> (Store<Text>, Arc<Gate>) {
        let gate = Arc::new(Gate {
            log: (self.make)().unwrap(),
            open: Semaphore::new(0),
            waiting: Semaphore::new(0),
            commits: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        });
        (Store::open(gate.clone(), self.options()).await.unwrap(), gate)
    }
}

/// A log whose commits wait to be let through, or fail.
struct Gate {
    log: Arc<dyn Log>,
    open: Semaphore,
    waiting: Semaphore,
    commits: AtomicUsize,
    broken: AtomicBool,
}

impl Gate {
    /// Waits until one more commit stands before the gate.
    async fn arrived(&self) {
        self.waiting.acquire().await.unwrap().forget();
    }
}

#[async_trait]
impl Log for Gate {
    async fn replay(&self) -> Result<Replay, LogError> {
        self.log.replay().await
    }

    async fn commit(&self, batch: Batch) -> Result<(), LogError> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.waiting.add_permits(1);
        self.open.acquire().await.unwrap().forget();
        if self.broken.load(Ordering::SeqCst) {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
        }
        self.log.commit(batch).await
    }

    async fn close(&self) -> Result<(), LogError> {
        self.log.close().await
    }
}

async fn put(store: &Store<Text>, key: &str, expect: Expect, value: &str) -> Result<Arc<Entry<Text>>, Fail> {
    store.put(key, expect, Bytes::copy_from_slice(value.as_bytes()), None).await
}

async fn create(store: &Store<Text>, key: &str) -> Arc<Entry<Text>> {
    put(store, key, Expect::Absent, "new").await.unwrap()
}

fn keys<'a>(entries: impl Iterator<Item = &'a Arc<Entry<Text>>>) -> Vec<String> {
    entries.map(|entry| entry.key.to_string()).collect()
}

/// One line per event that has happened: `revision key before→after`.
fn drain(watch: &mut Watch<Text>) -> Vec<String> {
    let text = |entry: &Option<Arc<Entry<Text>>>| {
        entry.as_ref().map_or("-".into(), |entry| String::from_utf8_lossy(&entry.stored).into_owned())
    };
    std::iter::from_fn(|| watch.try_next())
        .map(|event| format!("{} {} {}→{}", event.revision, event.key(), text(&event.before), text(&event.after)))
        .collect()
}

fn oldest<R>(result: Result<R, Fail>) -> Revision {
    match result {
        Err(Error::Compacted { oldest }) => oldest,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not compacted"),
    }
}

pub async fn a_new_store_is_empty_and_its_first_write_is_above_one(fixture: Fixture) {
    let store = fixture.open().await;
    assert_eq!(store.revision(), FIRST);
    assert_eq!(store.snapshot(None).unwrap().count(""), 0);
    assert!(create(&store, "/a").await.revision > 1);
}

pub async fn a_put_is_seen_at_once_with_its_revisions_and_payload(fixture: Fixture) {
    let store = fixture.open().await;
    let first = create(&store, "/a").await;
    assert_eq!((first.created, store.revision()), (first.revision, first.revision));
    let second = put(&store, "/a", Expect::At(first.revision), "two").await.unwrap();
    assert_eq!(second.revision, first.revision + 1);
    assert_eq!(second.created, first.revision);
    let seen = store.get("/a").unwrap();
    assert!(Arc::ptr_eq(&seen, &second));
    assert_eq!(seen.payload.0, format!("/a@{}=two", second.revision));
    assert_eq!(&seen.stored[..], b"two");
    assert!(store.get("/").is_none() && store.get("/aa").is_none());
}

pub async fn a_write_happens_only_if_the_expectation_holds(fixture: Fixture) {
    let store = fixture.open().await;
    let entry = create(&store, "/a").await;
    let actual = |error: Fail| match error {
        Error::Conflict { actual } => actual.map(|entry| entry.revision),
        other => panic!("{other}"),
    };
    let at = Expect::At(entry.revision);
    let wrong = Expect::At(entry.revision + 7);
    assert_eq!(actual(put(&store, "/a", Expect::Absent, "x").await.unwrap_err()), Some(entry.revision));
    assert_eq!(actual(put(&store, "/a", wrong, "x").await.unwrap_err()), Some(entry.revision));
    assert_eq!(actual(put(&store, "/b", at, "x").await.unwrap_err()), None);
    assert_eq!(actual(store.delete("/a", Expect::Absent).await.unwrap_err()), Some(entry.revision));
    assert_eq!(actual(store.delete("/a", wrong).await.unwrap_err()), Some(entry.revision));
    assert_eq!(actual(store.delete("/b", at).await.unwrap_err()), None);
    assert_eq!(actual(store.delete("/b", Expect::Absent).await.unwrap_err()), None);
    assert_eq!(store.revision(), entry.revision);
    assert_eq!(&store.get("/a").unwrap().stored[..], b"new");
    put(&store, "/a", at, "y").await.unwrap();
}

pub async fn a_delete_answers_with_its_revision_and_the_last_state(fixture: Fixture) {
    let store = fixture.open().await;
    let entry = create(&store, "/a").await;
    let (revision, last) = store.delete("/a", Expect::At(entry.revision)).await.unwrap();
    assert_eq!(revision, entry.revision + 1);
    assert!(Arc::ptr_eq(&entry, &last));
    assert!(store.get("/a").is_none());
    let again = create(&store, "/a").await;
    assert_eq!(again.created, again.revision);
    assert_eq!(again.revision, revision + 1);
}

pub async fn one_of_many_writers_with_the_same_expectation_wins(fixture: Fixture) {
    let store = fixture.open().await;
    let mut at = Expect::Absent;
    for _ in 0..10 {
        let results = join_all((0..20).map(|n| {
            let store = store.clone();
            async move { put(&store, "/a", at, &n.to_string()).await }
        }));
        let won: Vec<_> = results.await.into_iter().filter_map(Result::ok).collect();
        assert_eq!(won.len(), 1);
        assert!(Arc::ptr_eq(&won[0], &store.get("/a").unwrap()));
        at = Expect::At(won[0].revision);
    }
    assert_eq!(store.revision(), FIRST + 10);
}

pub async fn everything_acknowledged_is_there_after_reopening(fixture: Fixture) {
    let store = fixture.open().await;
    let results = join_all((0..300).map(|n| {
        let store = store.clone();
        async move { create(&store, &format!("/{:03}", n)).await }
    }));
    let entries = results.await;
    let changed = put(&store, "/007", Expect::At(entries[7].revision), "changed").await.unwrap();
    store.delete("/008", Expect::At(entries[8].revision)).await.unwrap();
    let large = "x".repeat(3 << 20);
    put(&store, "/large", Expect::Absent, &large).await.unwrap();
    let revision = store.revision();
    let store = fixture.reopen(store).await;
    assert_eq!(store.revision(), revision);
    assert_eq!(store.snapshot(None).unwrap().count(""), 300);
    for entry in entries.iter().filter(|entry| !matches!(&*entry.key, "/007" | "/008")) {
        let found = store.get(&entry.key).unwrap();
        assert_eq!((found.revision, found.created), (entry.revision, entry.created));
        assert_eq!((&found.stored, &found.payload.0), (&entry.stored, &entry.payload.0));
    }
    let found = store.get("/007").unwrap();
    assert_eq!(
        (found.revision, found.created, &found.stored[..]),
        (changed.revision, changed.created, &b"changed"[..])
    );
    assert!(store.get("/008").is_none());
    assert_eq!(store.get("/large").unwrap().stored, large);
}

pub async fn a_revision_is_never_reused(fixture: Fixture) {
    let mut store = fixture.open().await;
    let mut newest = store.revision();
    for _ in 0..3 {
        let entry = create(&store, "/a").await;
        let (deleted, _) = store.delete("/a", Expect::At(entry.revision)).await.unwrap();
        assert!(newest < entry.revision && entry.revision < deleted);
        newest = deleted;
        store.compact(newest);
        store = fixture.reopen(store).await;
        assert_eq!((store.revision(), store.snapshot(None).unwrap().count("")), (newest, 0));
    }
}

pub async fn nothing_is_visible_before_it_is_durable(fixture: Fixture) {
    let (store, gate) = fixture.gated().await;
    let mut watch = store.watch("/", FIRST).unwrap();
    let write = tokio::spawn({
        let store = store.clone();
        async move { create(&store, "/a").await }
    });
    gate.arrived().await;
    assert!(store.get("/a").is_none());
    assert_eq!((store.revision(), store.snapshot(None).unwrap().count("/")), (FIRST, 0));
    assert!(watch.try_next().is_none() && !write.is_finished());
    assert!(matches!(store.snapshot(Some(FIRST + 1)), Err(Error::Future { current: FIRST })));
    gate.open.add_permits(1);
    let event = watch.next().await.unwrap();
    // Whoever has seen an event can read it.
    assert!(Arc::ptr_eq(&store.get("/a").unwrap(), event.after.as_ref().unwrap()));
    assert_eq!(write.await.unwrap().revision, event.revision);
}

pub async fn a_conflict_tells_only_what_is_durable(fixture: Fixture) {
    let (store, gate) = fixture.gated().await;
    let first = tokio::spawn({
        let store = store.clone();
        async move { create(&store, "/a").await }
    });
    gate.arrived().await;
    let second = tokio::spawn({
        let store = store.clone();
        async move { put(&store, "/a", Expect::Absent, "second").await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished());
    gate.open.add_permits(1);
    let Err(Error::Conflict { actual }) = second.await.unwrap() else { panic!("both created it") };
    assert!(Arc::ptr_eq(&actual.unwrap(), &store.get("/a").unwrap()));
    first.await.unwrap();
}

pub async fn what_queues_during_a_commit_shares_the_next(fixture: Fixture) {
    let (store, gate) = fixture.gated().await;
    let start = |key: String| {
        let store = store.clone();
        tokio::spawn(async move { create(&store, &key).await })
    };
    let first = start("/first".into());
    gate.arrived().await;
    let rest: Vec<_> = (0..200).map(|n| start(format!("/{n}"))).collect();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    gate.open.add_permits(2);
    first.await.unwrap();
    for write in rest {
        write.await.unwrap();
    }
    assert_eq!(gate.commits.load(Ordering::SeqCst), 2);
    assert_eq!(store.revision(), FIRST + 201);
}

pub async fn a_snapshot_never_changes(fixture: Fixture) {
    let store = fixture.open().await;
    let a = create(&store, "/a").await;
    create(&store, "/b").await;
    let snapshot = store.snapshot(None).unwrap();
    put(&store, "/a", Expect::At(a.revision), "two").await.unwrap();
    store.delete("/b", Expect::At(a.revision + 1)).await.unwrap();
    create(&store, "/c").await;
    assert_eq!(keys(snapshot.range("", None)), ["/a", "/b"]);
    assert_eq!((snapshot.revision(), snapshot.count("/")), (a.revision + 1, 2));
    assert!(Arc::ptr_eq(snapshot.get("/a").unwrap(), &a));
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/a", "/c"]);
}

pub async fn a_range_is_ordered_and_starts_after_a_key(fixture: Fixture) {
    let store = fixture.open().await;
    for key in ["/p/b", "/p/a", "/p/ab", "/p", "/q/a", "/p/c", "/o/z", "/p/ä"] {
        create(&store, key).await;
    }
    let snapshot = store.snapshot(None).unwrap();
    let cases: [(&str, Option<&str>, &[&str]); 8] = [
        ("/p/", None, &["/p/a", "/p/ab", "/p/b", "/p/c", "/p/ä"]),
        ("/p/", Some("/p/a"), &["/p/ab", "/p/b", "/p/c", "/p/ä"]),
        ("/p/", Some("/p/aa"), &["/p/ab", "/p/b", "/p/c", "/p/ä"]),
        ("/p/", Some("/p/c"), &["/p/ä"]),
        ("/p/", Some("/q/a"), &[]),
        ("/p/", Some("/a"), &["/p/a", "/p/ab", "/p/b", "/p/c", "/p/ä"]),
        ("/x", None, &[]),
        ("", None, &["/o/z", "/p", "/p/a", "/p/ab", "/p/b", "/p/c", "/p/ä", "/q/a"]),
    ];
    for (prefix, after, want) in cases {
        assert_eq!(keys(snapshot.range(prefix, after)), want, "{prefix} {after:?}");
        match after {
            None => assert_eq!(snapshot.count(prefix), want.len(), "{prefix}"),
            Some(after) => assert_eq!(snapshot.count_after(prefix, after), want.len(), "{prefix} {after}"),
        }
    }
}

pub async fn every_revision_of_the_history_can_be_listed(fixture: Fixture) {
    let store = fixture.open().await;
    // Concurrent writers, so that commits hold several revisions; enough for several checkpoints.
    join_all((0..40u64).map(|writer| {
        let store = store.clone();
        async move {
            for round in 0..80 {
                let key = format!("/{}", (writer * 7 + round) % 60);
                match store.get(&key) {
                    None => drop(put(&store, &key, Expect::Absent, "x").await),
                    Some(found) if round % 3 == 0 => drop(store.delete(&key, Expect::At(found.revision)).await),
                    Some(found) => drop(put(&store, &key, Expect::At(found.revision), "y").await),
                }
            }
        }
    }))
    .await;
    let mut events = store.watch("", FIRST).unwrap();
    let mut model = std::collections::BTreeMap::new();
    assert_eq!(store.snapshot(Some(FIRST)).unwrap().count(""), 0);
    while let Some(event) = events.try_next() {
        match &event.after {
            Some(entry) => drop(model.insert(entry.key.clone(), entry.revision)),
            None => drop(model.remove(event.key())),
        }
        if event.revision % 13 == 0 || event.revision == store.revision() {
            let snapshot = store.snapshot(Some(event.revision)).unwrap();
            assert_eq!(snapshot.revision(), event.revision);
            let found: Vec<_> = snapshot.range("", None).map(|entry| (entry.key.clone(), entry.revision)).collect();
            let want: Vec<_> = model.clone().into_iter().collect();
            assert_eq!(found, want, "at {}", event.revision);
        }
    }
    assert!(store.revision() > 1500, "the load was too small: {}", store.revision());
}

pub async fn history_ends_after_its_time(fixture: Fixture) {
    let store = fixture.open().await;
    let first = create(&store, "/a").await.revision;
    advance(Duration::from_secs(200)).await;
    let second = create(&store, "/b").await.revision;
    sleep(Duration::from_secs(99)).await;
    assert_eq!(store.snapshot(Some(FIRST)).unwrap().count(""), 0);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(oldest(store.snapshot(Some(FIRST))), first);
    assert_eq!(oldest(store.watch("", FIRST)), first);
    assert_eq!(store.snapshot(Some(first)).unwrap().count(""), 1);
    sleep(Duration::from_secs(1000)).await;
    assert_eq!(oldest(store.snapshot(Some(first))), second);
    // The present never grows old.
    assert_eq!(store.snapshot(Some(second)).unwrap().count(""), 2);
    store.watch("", second).unwrap();
}

pub async fn history_is_bounded_in_events_and_bytes(fixture: Fixture) {
    let store = fixture.open_with(|options| options.ring = 10).await;
    for n in 0..30 {
        create(&store, &format!("/{n}")).await;
    }
    let newest = store.revision();
    assert_eq!(oldest(store.snapshot(Some(newest - 11))), newest - 10);
    assert_eq!(store.snapshot(Some(newest - 10)).unwrap().count(""), 20);
    store.close().await.unwrap();
    let store = fixture.open_with(|options| options.history_bytes = 100_000).await;
    let mut entry = create(&store, "/big").await;
    for _ in 0..30 {
        entry = put(&store, "/big", Expect::At(entry.revision), &"x".repeat(10_000)).await.unwrap();
    }
    assert!((6..10).contains(&(store.revision() - oldest(store.snapshot(Some(newest))))));
}

pub async fn the_future_is_refused(fixture: Fixture) {
    let store = fixture.open().await;
    let now = create(&store, "/a").await.revision;
    assert!(matches!(store.snapshot(Some(now + 1)), Err(Error::Future { current }) if current == now));
    assert!(matches!(store.watch("", now + 1), Err(Error::Future { current }) if current == now));
}

pub async fn a_watch_sees_every_change_once_in_order(fixture: Fixture) {
    let store = fixture.open().await;
    let mut all = store.watch("/", FIRST).unwrap();
    let mut some = store.watch("/a/", FIRST).unwrap();
    let a = create(&store, "/a/1").await.revision;
    create(&store, "/b/1").await;
    put(&store, "/a/1", Expect::At(a), "two").await.unwrap();
    store.delete("/a/1", Expect::At(a + 2)).await.unwrap();
    let (b, c, d) = (a + 1, a + 2, a + 3);
    let lines = [format!("{a} /a/1 -→new"), format!("{c} /a/1 new→two"), format!("{d} /a/1 two→-")];
    assert_eq!(drain(&mut some), lines);
    assert_eq!(drain(&mut all), [&lines[0], &format!("{b} /b/1 -→new"), &lines[1], &lines[2]].map(String::from));
    join_all((0..50).map(|writer| {
        let store = store.clone();
        async move {
            for n in 0..10 {
                create(&store, &format!("/c/{writer}/{n}")).await;
            }
        }
    }))
    .await;
    for revision in d + 1..=store.revision() {
        assert_eq!(all.next().await.unwrap().revision, revision);
    }
    assert!(all.try_next().is_none() && some.try_next().is_none() && !all.lagged());
}

pub async fn a_watch_starts_in_the_past_or_says_that_it_is_gone(fixture: Fixture) {
    let store = fixture.open().await;
    let first = create(&store, "/a").await.revision;
    create(&store, "/b").await;
    let mut watch = store.watch("/", first).unwrap();
    create(&store, "/c").await;
    let want = [format!("{} /b -→new", first + 1), format!("{} /c -→new", first + 2)];
    assert_eq!(drain(&mut watch), want);
    let now = store.revision();
    assert!(drain(&mut store.watch("/", now).unwrap()).is_empty());
    let store = fixture.reopen(store).await;
    assert_eq!(oldest(store.watch("/", now - 1)), now);
    store.watch("/", now).unwrap();
}

pub async fn a_slow_watch_is_cut_and_holds_nobody_up(fixture: Fixture) {
    let store = fixture.open_with(|options| options.watch_queue = 5).await;
    let mut slow = store.watch("/", FIRST).unwrap();
    let mut quick = store.watch("/", FIRST).unwrap();
    for n in 0..20 {
        let revision = create(&store, &format!("/{n}")).await.revision;
        assert_eq!(quick.next().await.unwrap().revision, revision);
    }
    assert!(slow.lagged() && !quick.lagged());
    let mut seen = 0;
    while let Some(event) = slow.next().await {
        seen += 1;
        assert_eq!(event.revision, FIRST + seen);
    }
    assert_eq!(seen, 5);
}

pub async fn compaction_forgets_the_past_but_no_entry(fixture: Fixture) {
    let store = fixture.open().await;
    let first = create(&store, "/a").await.revision;
    create(&store, "/b").await;
    create(&store, "/c").await;
    store.compact(first + 1);
    assert_eq!(oldest(store.snapshot(Some(first))), first + 1);
    assert_eq!(store.snapshot(Some(first + 1)).unwrap().count(""), 2);
    store.compact(first); // already gone: nothing happens
    store.compact(first + 100); // what has not happened stays
    assert_eq!(store.snapshot(None).unwrap().count(""), 3);
    assert_eq!(oldest(store.snapshot(Some(first + 1))), first + 2);
    create(&store, "/d").await;
    assert_eq!(store.snapshot(Some(first + 2)).unwrap().count(""), 3);
}

pub async fn an_entry_with_a_time_to_live_is_deleted_in_time(fixture: Fixture) {
    let store = fixture.open().await;
    let ttl = Some(Duration::from_secs(3600));
    let entry = store.put("/event", Expect::Absent, Bytes::from_static(b"e"), ttl).await.unwrap();
    create(&store, "/stays").await;
    let extended = store.put("/extended", Expect::Absent, Bytes::new(), ttl).await.unwrap();
    let kept = store.put("/kept", Expect::Absent, Bytes::new(), ttl).await.unwrap();
    sleep(Duration::from_secs(1800)).await;
    store.put("/extended", Expect::At(extended.revision), Bytes::new(), ttl).await.unwrap();
    put(&store, "/kept", Expect::At(kept.revision), "").await.unwrap();
    let mut watch = store.watch("/", store.revision()).unwrap();
    sleep(Duration::from_secs(1790)).await;
    assert!(store.get("/event").is_some());
    sleep(Duration::from_secs(15)).await;
    let gone = watch.next().await.unwrap();
    assert_eq!((&**gone.key(), gone.before.as_ref().unwrap().revision), ("/event", entry.revision));
    assert!(gone.after.is_none());
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/extended", "/kept", "/stays"]);
    sleep(Duration::from_secs(7200)).await;
    assert_eq!(&**watch.next().await.unwrap().key(), "/extended");
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/kept", "/stays"]);
}

pub async fn expiry_is_kept_over_a_restart(fixture: Fixture) {
    let store = fixture.open().await;
    for (key, seconds) in [("/soon", 100), ("/later", 1000)] {
        store.put(key, Expect::Absent, Bytes::new(), Some(Duration::from_secs(seconds))).await.unwrap();
    }
    let revision = store.revision();
    store.close().await.unwrap();
    sleep(Duration::from_secs(500)).await;
    let store = fixture.open().await;
    store.wait_for(revision + 1).await.unwrap();
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/later"]);
    sleep(Duration::from_secs(501)).await;
    store.wait_for(revision + 2).await.unwrap();
    assert_eq!(store.snapshot(None).unwrap().count(""), 0);
    let store = fixture.reopen(store).await;
    assert_eq!((store.revision(), store.snapshot(None).unwrap().count("")), (revision + 2, 0));
}

pub async fn a_failed_commit_makes_the_store_read_only_and_loses_nothing(fixture: Fixture) {
    let (store, gate) = fixture.gated().await;
    gate.open.add_permits(1);
    let kept = create(&store, "/kept").await;
    gate.arrived().await;
    let mut watch = store.watch("/", kept.revision).unwrap();
    assert!(store.failure().is_none());
    gate.broken.store(true, Ordering::SeqCst);
    let start = |key: &'static str| {
        let store = store.clone();
        tokio::spawn(async move { put(&store, key, Expect::Absent, "").await })
    };
    let first = start("/lost");
    gate.arrived().await;
    let second = start("/queued");
    let conflict = start("/kept");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.open.add_permits(1);
    for write in [first, second, conflict] {
        let error = write.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::ReadOnly { .. }), "{error}");
        let want = "the store is read-only since a commit failed: no space left on the device";
        assert!(error.to_string().starts_with(want), "{error}");
    }
    let delete = store.delete("/kept", Expect::At(kept.revision)).await;
    assert!(matches!(delete, Err(Error::ReadOnly { .. })));
    assert!(store.failure().is_some());
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/kept"]);
    assert_eq!((store.revision(), watch.try_next().is_none()), (kept.revision, true));
    store.watch("/", FIRST).unwrap();
    let store = fixture.reopen(store).await;
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/kept"]);
    create(&store, "/more").await;
}

pub async fn a_closed_store_refuses_writes_and_ends_watches(fixture: Fixture) {
    let store = fixture.open().await;
    let entry = create(&store, "/a").await;
    let mut watch = store.watch("/", FIRST).unwrap();
    let other = store.clone();
    // What was asked for before the close is done.
    let (last, closed) = tokio::join!(put(&other, "/b", Expect::Absent, ""), store.close());
    closed.unwrap();
    assert_eq!(last.unwrap().revision, entry.revision + 1);
    assert!(matches!(put(&other, "/c", Expect::Absent, "").await, Err(Error::Closed)));
    assert!(matches!(other.delete("/a", Expect::At(entry.revision)).await, Err(Error::Closed)));
    assert!(matches!(other.wait_for(entry.revision + 2).await, Err(Error::Closed)));
    assert!(other.get("/b").is_some());
    for key in ["/a", "/b"] {
        assert_eq!(&**watch.next().await.unwrap().key(), key);
    }
    assert!(watch.next().await.is_none() && !watch.lagged());
    let mut late = other.watch("/", entry.revision).unwrap();
    assert!(late.next().await.is_some());
    assert!(late.next().await.is_none());
}

pub async fn waiting_for_a_revision_ends_when_it_is_published(fixture: Fixture) {
    let store = fixture.open().await;
    store.wait_for(FIRST).await.unwrap();
    let wait = tokio::spawn({
        let store = store.clone();
        async move {
            store.wait_for(FIRST + 2).await.unwrap();
            store.revision()
        }
    });
    create(&store, "/a").await;
    tokio::task::yield_now().await;
    assert!(!wait.is_finished());
    create(&store, "/b").await;
    assert!(wait.await.unwrap() >= FIRST + 2);
}

pub async fn a_key_that_cannot_be_stored_is_refused(fixture: Fixture) {
    let store = fixture.open().await;
    assert!(matches!(put(&store, "", Expect::Absent, "").await, Err(Error::Invalid(_))));
    assert!(matches!(put(&store, &"x".repeat(4097), Expect::Absent, "").await, Err(Error::Invalid(_))));
    assert_eq!(store.revision(), FIRST);
    put(&store, &"x".repeat(4096), Expect::Absent, "").await.unwrap();
}
