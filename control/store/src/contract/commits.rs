//! The additional guarantees of an embedded log: writes are sequenced, share commits, and survive faults of the disk.

use super::*;
use crate::{Batch, Expect, FIRST, Log, LogError, Replay, Store};
use async_trait::async_trait;
use futures::FutureExt;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::sleep};

/// A log that can be reopened, and a clock that advances with tokio's.
pub struct Embedded {
    make: Arc<dyn Fn() -> Result<Arc<dyn Log>, LogError> + Send + Sync>,
    clock: Clock,
}

/// The fixture of the log that `make` opens.
pub fn reopen<L: Log>(make: impl Fn() -> Result<L, LogError> + Send + Sync + 'static) -> Embedded {
    Embedded { make: Arc::new(move || Ok(Arc::new(make()?))), clock: clock() }
}

impl From<Embedded> for Fixture {
    fn from(Embedded { make, clock }: Embedded) -> Self {
        let open = move |options| {
            let make = make.clone();
            async move { Store::open(make()?, options).await }.boxed()
        };
        Self { open: Box::new(open), clock }
    }
}

impl Embedded {
    async fn reopen(self, store: Store<Text>) -> Store<Text> {
        Fixture::from(self).reopen(store).await
    }

    async fn gated(&self) -> (Store<Text>, Arc<Gate>) {
        let gate = Arc::new(Gate {
            log: (self.make)().unwrap(),
            open: Semaphore::new(0),
            waiting: Semaphore::new(0),
            commits: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            after: AtomicBool::new(false),
            shut: AtomicBool::new(false),
            forgetful: AtomicBool::new(false),
            full: AtomicBool::new(false),
            opens: AtomicUsize::new(0),
        });
        (Store::open(gate.clone(), Options::new(self.clock.clone())).await.unwrap(), gate)
    }
}

/// A log whose commits wait at a gate, or fail.
struct Gate {
    log: Arc<dyn Log>,
    open: Semaphore,
    waiting: Semaphore,
    commits: AtomicUsize,
    /// Whether commits fail, before or after they are stored.
    broken: AtomicBool,
    after: AtomicBool,
    /// Whether reopening fails, and how often it was attempted.
    shut: AtomicBool,
    opens: AtomicUsize,
    /// Whether a record is missing after reopening.
    forgetful: AtomicBool,
    full: AtomicBool,
}

impl Gate {
    /// Waits until one more commit waits at the gate.
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
            return Err(std::io::Error::other("the disk is gone").into());
        }
        self.log.commit(batch).await?;
        if self.after.load(Ordering::SeqCst) {
            return Err(std::io::Error::other("the sync failed").into());
        }
        Ok(())
    }

    async fn reopen(&self) -> Result<Replay, LogError> {
        self.opens.fetch_add(1, Ordering::SeqCst);
        if self.shut.load(Ordering::SeqCst) {
            return Err(std::io::Error::other("the disk is gone").into());
        }
        let mut replay = self.log.reopen().await?;
        if self.forgetful.load(Ordering::SeqCst) {
            replay.records.pop();
        }
        Ok(replay)
    }

    async fn check_space(&self) -> Result<(), LogError> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into()),
            false => self.log.check_space().await,
        }
    }

    async fn close(&self) -> Result<(), LogError> {
        self.log.close().await
    }
}

pub async fn nothing_is_visible_before_it_is_durable(fixture: Embedded) {
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
    // A reader that has seen an event can read its entry.
    assert!(Arc::ptr_eq(&store.get("/a").unwrap(), event.after.as_ref().unwrap()));
    assert_eq!(write.await.unwrap().revision, event.revision);
}

pub async fn a_conflict_tells_only_what_is_durable(fixture: Embedded) {
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

pub async fn what_queues_during_a_commit_shares_the_next(fixture: Embedded) {
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

/// A store with the entry `/kept`, and a function to start writes, which wait at the gate.
async fn with_an_entry(fixture: &Embedded) -> (Store<Text>, Arc<Gate>, Arc<Entry<Text>>) {
    let (store, gate) = fixture.gated().await;
    gate.open.add_permits(1);
    let kept = create(&store, "/kept").await;
    gate.arrived().await;
    (store, gate, kept)
}

fn start(store: &Store<Text>, key: &'static str) -> tokio::task::JoinHandle<Result<Arc<Entry<Text>>, Fail>> {
    let store = store.clone();
    tokio::spawn(async move { put(&store, key, Expect::Absent, "").await })
}

/// Waits until the store accepts every write again.
async fn recovered(store: &Store<Text>) {
    store.failures().wait_for(Option::is_none).await.unwrap();
}

pub async fn a_failed_commit_never_happened_and_writing_goes_on(fixture: Embedded) {
    let (store, gate, kept) = with_an_entry(&fixture).await;
    let mut watch = store.watch("/", kept.revision).unwrap();
    gate.broken.store(true, Ordering::SeqCst);
    gate.shut.store(true, Ordering::SeqCst);
    let first = start(&store, "/lost");
    gate.arrived().await;
    let queued = [start(&store, "/queued"), start(&store, "/kept")];
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.open.add_permits(1);
    for write in queued {
        let error = write.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::ReadOnly { .. }), "{error}");
        assert!(
            error.to_string().starts_with("nothing was stored: ") && error.to_string().contains("the disk is gone")
        );
    }
    assert!(matches!(first.await.unwrap(), Err(Error::Unknown { .. })));
    assert!(matches!(store.delete("/kept", Expect::At(kept.revision)).await, Err(Error::ReadOnly { .. })));
    assert!(store.failure().is_some());
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/kept"]);
    assert_eq!((store.revision(), watch.try_next().is_none()), (kept.revision, true));
    store.watch("/", FIRST).unwrap();
    gate.broken.store(false, Ordering::SeqCst);
    gate.shut.store(false, Ordering::SeqCst);
    recovered(&store).await;
    // Reopened at once, the log shows that the failed commit did not happen.
    gate.broken.store(true, Ordering::SeqCst);
    gate.open.add_permits(100);
    assert!(matches!(put(&store, "/no", Expect::Absent, "").await, Err(Error::ReadOnly { .. })));
    recovered(&store).await;
    gate.broken.store(false, Ordering::SeqCst);
    let more = create(&store, "/more").await;
    assert_eq!(&**watch.next().await.unwrap().key(), "/more");
    store.delete("/kept", Expect::At(kept.revision)).await.unwrap();
    let store = fixture.reopen(store).await;
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/more"]);
    assert_eq!(store.get("/more").unwrap().revision, more.revision);
}

pub async fn a_failed_commit_that_is_there_after_all_has_happened(fixture: Embedded) {
    let (store, gate, kept) = with_an_entry(&fixture).await;
    let mut watch = store.watch("/", kept.revision).unwrap();
    gate.after.store(true, Ordering::SeqCst);
    gate.open.add_permits(100);
    let entry = create(&store, "/there").await;
    assert_eq!((entry.revision, store.revision()), (kept.revision + 1, kept.revision + 1));
    assert_eq!(watch.next().await.unwrap().revision, entry.revision);
    gate.after.store(false, Ordering::SeqCst);
    recovered(&store).await;
    assert_eq!(create(&store, "/next").await.revision, entry.revision + 1);
    let store = fixture.reopen(store).await;
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/kept", "/next", "/there"]);
}

pub async fn a_log_that_does_not_open_is_tried_with_pauses_and_nothing_is_claimed(fixture: Embedded) {
    let (store, gate, _) = with_an_entry(&fixture).await;
    gate.after.store(true, Ordering::SeqCst);
    gate.shut.store(true, Ordering::SeqCst);
    gate.open.add_permits(100);
    // The commit is stored, but nobody can read the log.
    let error = put(&store, "/there", Expect::Absent, "").await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    let before = gate.opens.load(Ordering::SeqCst);
    sleep(Duration::from_secs(600)).await;
    let tries = gate.opens.load(Ordering::SeqCst) - before;
    assert!((100..200).contains(&tries), "{tries} tries in ten minutes");
    assert!(store.get("/there").is_none());
    gate.shut.store(false, Ordering::SeqCst);
    gate.after.store(false, Ordering::SeqCst);
    recovered(&store).await;
    assert!(store.get("/there").is_some(), "what is durable is published");
    create(&store, "/next").await;
    let store = fixture.reopen(store).await;
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/kept", "/next", "/there"]);
}

pub async fn a_log_that_lost_what_was_acknowledged_is_written_no_more(fixture: Embedded) {
    let (store, gate, kept) = with_an_entry(&fixture).await;
    gate.broken.store(true, Ordering::SeqCst);
    gate.forgetful.store(true, Ordering::SeqCst);
    gate.open.add_permits(100);
    assert!(matches!(put(&store, "/a", Expect::Absent, "").await, Err(Error::Unknown { .. })));
    gate.broken.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(600)).await;
    assert!(matches!(put(&store, "/a", Expect::Absent, "").await, Err(Error::ReadOnly { .. })));
    assert!(store.failure().is_some() && store.get("/kept").is_some());
    assert_eq!(store.revision(), kept.revision);
    store.close().await.unwrap();
}

pub async fn a_full_disk_takes_what_makes_the_store_no_larger(fixture: Embedded) {
    let (store, gate, kept) = with_an_entry(&fixture).await;
    gate.open.add_permits(100);
    gate.full.store(true, Ordering::SeqCst);
    let other = create(&store, "/other").await; // the last write for which there is space
    let error = put(&store, "/new", Expect::Absent, "").await.unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    let want = "nothing was stored: the disk of the store is full; free some space on it, or delete objects, which still works";
    assert!(error.to_string().starts_with(want), "{error}");
    assert!(matches!(&*store.failure().unwrap(), LogError::Full(_)));
    let large = "x".repeat(5000);
    assert!(matches!(put(&store, "/kept", Expect::At(kept.revision), &large).await, Err(Error::Full { .. })));
    // A deletion first sets a field of the object.
    put(&store, "/kept", Expect::At(kept.revision), "a little larger").await.unwrap();
    store.delete("/other", Expect::At(other.revision)).await.unwrap();
    gate.full.store(false, Ordering::SeqCst);
    recovered(&store).await;
    put(&store, "/new", Expect::Absent, &large).await.unwrap();
    let store = fixture.reopen(store).await;
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/kept", "/new"]);
}
