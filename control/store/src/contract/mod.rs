//! The contract tests of a store. A log that a store sequences runs all of them in two lines:
//!
//! ```ignore
//! store::contract_suite!(store::contract::reopen(move || MyLog::open(&path)));
//! ```
//!
//! A log that a store follows runs those about what callers see:
//!
//! ```ignore
//! store::contract_suite!(followed store::contract::follow(|| MyLog::connect(&endpoint)));
//! ```
//!
//! The expression creates a new, empty log per test. Its closure opens the same log at each call. Tests run on a paused clock.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]
#![allow(missing_docs, reason = "the name of each test is its promise")]

mod commits;
mod followed;
mod reads;
mod writes;

pub use commits::*;
pub use followed::*;
pub use reads::*;
pub use writes::*;

use crate::{Bytes, Clock, Entry, Error, Expect, Options, Payload, Revision, Store, Watch};
use futures::future::BoxFuture;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// Expands to one `#[tokio::test]` per guarantee.
#[macro_export]
macro_rules! contract_suite {
    ($embedded:expr) => {
        $crate::contract_suite! { followed $embedded }
        $crate::contract_suite! { @ $embedded;
            nothing_is_visible_before_it_is_durable
            a_conflict_tells_only_what_is_durable
            what_queues_during_a_commit_shares_the_next
            a_failed_commit_never_happened_and_writing_goes_on
            a_failed_commit_that_is_there_after_all_has_happened
            a_log_that_does_not_open_is_tried_with_pauses_and_nothing_is_claimed
            a_log_that_lost_what_was_acknowledged_is_written_no_more
            a_full_disk_takes_what_makes_the_store_no_larger
        }
    };
    (followed $fixture:expr) => {
        $crate::contract_suite! { @ $fixture;
            a_new_store_is_empty_and_its_first_write_is_above_one
            a_put_is_seen_at_once_with_its_revisions_and_payload
            a_write_happens_only_if_the_expectation_holds
            a_delete_answers_with_its_revision_and_the_last_state
            writes_of_a_transaction_happen_together_or_not_at_all
            one_of_many_writers_with_the_same_expectation_wins
            everything_acknowledged_is_there_after_reopening
            a_revision_is_never_reused
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
                $crate::contract::$name($fixture.into()).await;
            }
        )*
    };
}

/// A payload that shows its input.
pub struct Text(pub String);

impl Payload for Text {
    fn publish(key: &str, revision: Revision, stored: Bytes) -> Self {
        Self(format!("{key}@{revision}={}", String::from_utf8_lossy(&stored)))
    }
}

type Fail = Error<Text>;

type Open = Box<dyn Fn(Options) -> BoxFuture<'static, Result<Store<Text>, Fail>> + Send + Sync>;

/// A store that can be reopened, and a clock that advances with tokio's.
pub struct Fixture {
    open: Open,
    clock: Clock,
}

fn clock() -> Clock {
    let start = Instant::now();
    Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + start.elapsed())
}

impl Fixture {
    async fn open(&self) -> Store<Text> {
        self.open_with(|_| {}).await
    }

    async fn open_with(&self, change: impl FnOnce(&mut Options)) -> Store<Text> {
        let mut options = Options::new(self.clock.clone());
        change(&mut options);
        (self.open)(options).await.unwrap()
    }

    async fn reopen(&self, store: Store<Text>) -> Store<Text> {
        store.close().await.unwrap();
        self.open().await
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
