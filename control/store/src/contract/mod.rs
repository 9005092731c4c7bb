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

mod reads;
mod writes;

pub use reads::*;
pub use writes::*;

use crate::{
    Batch, Bytes, Clock, Entry, Error, Expect, Log, LogError, Options, Payload, Replay, Revision, Store, Watch,
};
use async_trait::async_trait;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{sync::Semaphore, time::Instant};

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
            a_failed_commit_never_happened_and_writing_goes_on
            a_failed_commit_that_is_there_after_all_has_happened
            a_log_that_does_not_open_is_tried_with_pauses_and_nothing_is_claimed
            a_log_that_lost_what_was_acknowledged_is_written_no_more
            a_full_disk_takes_what_makes_the_store_no_larger
            a_closed_store_refuses_writes_and_ends_watches
            waiting_for_a_revision_ends_when_it_is_published
            changes_under_a_prefix_are_told_when_they_are_acknowledged
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
            after: AtomicBool::new(false),
            shut: AtomicBool::new(false),
            forgetful: AtomicBool::new(false),
            full: AtomicBool::new(false),
            opens: AtomicUsize::new(0),
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
    /// Whether commits fail: before they are there, or after.
    broken: AtomicBool,
    after: AtomicBool,
    /// Whether opening again fails, and how often it was tried.
    shut: AtomicBool,
    opens: AtomicUsize,
    /// Whether a record is missing when it is opened again.
    forgetful: AtomicBool,
    full: AtomicBool,
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

    async fn room(&self) -> Result<(), LogError> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into()),
            false => self.log.room().await,
        }
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
async fn drain(store: &Store<Text>, watch: &mut Watch<Text>) -> Vec<String> {
    store.wait_until_delivered(store.revision()).await.unwrap();
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
