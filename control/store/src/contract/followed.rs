//! An in-memory log with several writers, to test the follower.

use super::*;
use crate::{Action, Batch, Change, FIRST, LogError, Outcome, Record, Replay, SharedLog, Transaction, Write};
use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

/// The fixture of a store that follows the log that `make` opens.
pub fn follow<L: SharedLog>(make: impl Fn() -> L + Send + Sync + 'static) -> Fixture {
    let open = move |options| {
        let log = make();
        async move { Store::follow(log, options).await }.boxed()
    };
    Fixture { open: Box::new(open), clock: clock() }
}

/// A shared in-memory log. Clones are the same log.
#[derive(Clone, Default)]
pub struct SharedMemory {
    state: Arc<Mutex<State>>,
    /// The newest revision. While it is held back, changes are not reported.
    told: watch::Sender<Revision>,
    held: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<Arc<str>, (Record, Option<Instant>)>,
    changes: Vec<Change>,
}

impl State {
    fn revision(&self) -> Revision {
        self.changes.last().map_or(FIRST, |change| change.revision)
    }

    fn change(&mut self, key: Arc<str>, value: Option<(Bytes, Option<Instant>)>) -> Revision {
        let revision = self.revision() + 1;
        let action = match value {
            Some((value, expires)) => {
                let created = self.records.get(&key).map_or(revision, |(record, _)| record.created);
                let record = Record { key: key.clone(), revision, created, expires: None, value: value.clone() };
                self.records.insert(key.clone(), (record, expires));
                Action::Put { created, expires: None, value }
            }
            None => {
                self.records.remove(&key);
                Action::Delete
            }
        };
        self.changes.push(Change { key, revision, action });
        revision
    }

    /// Deletes expired entries. Returns the next expiry.
    fn expire(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due =
            |(key, (_, at)): (&Arc<str>, &(Record, Option<Instant>))| at.filter(|at| *at <= now).map(|_| key.clone());
        for key in self.records.iter().filter_map(due).collect::<Vec<_>>() {
            self.change(key, None);
        }
        self.records.values().filter_map(|(_, at)| *at).min()
    }
}

#[async_trait]
impl SharedLog for SharedMemory {
    async fn read(&self) -> Result<Replay, LogError> {
        let mut state = self.state.lock();
        state.expire();
        let records = state.records.values().map(|(record, _)| record.clone()).collect();
        Ok(Replay { revision: state.revision(), records })
    }

    async fn write(&self, Transaction { write, mut with }: Transaction) -> Result<Outcome, LogError> {
        let mut state = self.state.lock();
        state.expire();
        with.push(write);
        let holds = |write: &Write| {
            let actual = state.records.get(&write.key).map(|(record, _)| Expect::At(record.revision));
            actual.unwrap_or(Expect::Absent) == write.expect && (actual.is_some() || write.value.is_some())
        };
        if !with.iter().all(holds) {
            return Ok(Outcome::Refused(state.revision()));
        }
        let mut revision = state.revision();
        for write in with {
            let expires = write.ttl.map(|ttl| Instant::now() + ttl);
            revision = state.change(write.key, write.value.map(|value| (value, expires)));
        }
        self.told.send_replace(revision);
        Ok(Outcome::Written(revision))
    }

    async fn changes_after(&self, revision: Revision) -> Result<Batch, LogError> {
        let (mut told, mut held) = (self.told.subscribe(), self.held.subscribe());
        loop {
            held.wait_for(|held| !held).await.map_err(|_| LogError::Closed)?;
            told.borrow_and_update();
            let next = {
                let mut state = self.state.lock();
                let next = state.expire();
                let changes: Vec<Change> = state.changes.iter().filter(|c| c.revision > revision).cloned().collect();
                if !changes.is_empty() {
                    return Ok(Batch { revision: state.revision(), changes });
                }
                next
            };
            let expiry = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = told.changed() => {}
                () = expiry => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::contract_suite!(followed crate::contract::follow({
        let log = super::SharedMemory::default();
        move || log.clone()
    }));

    async fn open(log: impl SharedLog) -> Store<Text> {
        Store::follow(log, Options::new(clock())).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_answered_when_memory_has_it() {
        let log = SharedMemory::default();
        let store = open(log.clone()).await;
        create(&store, "/first").await;
        log.held.send_replace(true);
        let write = tokio::spawn({
            let store = store.clone();
            async move { create(&store, "/a").await }
        });
        let refused = tokio::spawn({
            let store = store.clone();
            async move { put(&store, "/first", Expect::Absent, "x").await }
        });
        sleep(Duration::from_secs(60)).await;
        assert_eq!(log.read().await.unwrap().records.len(), 2, "it is in the log");
        assert!(!write.is_finished() && !refused.is_finished() && store.get("/a").is_none());
        log.held.send_replace(false);
        assert!(Arc::ptr_eq(&write.await.unwrap(), &store.get("/a").unwrap()));
        let Err(Error::Conflict { actual }) = refused.await.unwrap() else { panic!("created twice") };
        assert!(Arc::ptr_eq(&actual.unwrap(), &store.get("/first").unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn two_stores_over_one_log_see_the_changes_of_both() {
        let log = SharedMemory::default();
        let (one, two) = (open(log.clone()).await, open(log).await);
        let mut watch = two.watch("/", FIRST).unwrap();
        let entry = create(&one, "/a").await;
        let seen = watch.next().await.unwrap();
        assert_eq!((seen.revision, &**seen.key()), (entry.revision, "/a"));
        let newer = put(&two, "/a", Expect::At(entry.revision), "two").await.unwrap();
        // Whether or not the first store has seen it.
        assert!(matches!(
            put(&one, "/a", Expect::At(entry.revision), "x").await,
            Err(Error::Conflict { actual: Some(_) })
        ));
        one.wait_for(newer.revision).await.unwrap();
        assert_eq!(&one.get("/a").unwrap().stored[..], b"two");
        one.close().await.unwrap();
        two.delete("/a", Expect::At(newer.revision)).await.unwrap();
    }

    /// A log whose changes cannot be read for a while.
    struct Interrupted(SharedMemory, watch::Receiver<bool>);

    #[async_trait]
    impl SharedLog for Interrupted {
        async fn read(&self) -> Result<Replay, LogError> {
            self.0.read().await
        }

        async fn write(&self, transaction: Transaction) -> Result<Outcome, LogError> {
            self.0.write(transaction).await
        }

        async fn changes_after(&self, revision: Revision) -> Result<Batch, LogError> {
            let mut cut = self.1.clone();
            tokio::select! {
                biased;
                _ = cut.wait_for(|cut| *cut) => Err(std::io::Error::other("unreachable").into()),
                batch = self.0.changes_after(revision) => batch,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_cannot_be_followed_is_not_written_until_it_can() {
        let (cut, interrupted) = watch::channel(false);
        let log = SharedMemory::default();
        let store = open(Interrupted(log.clone(), interrupted)).await;
        let entry = create(&store, "/a").await;
        cut.send_replace(true);
        store.failures().wait_for(Option::is_some).await.unwrap();
        let elsewhere = open(log).await;
        create(&elsewhere, "/b").await;
        assert!(matches!(store.delete("/a", Expect::At(entry.revision)).await, Err(Error::ReadOnly { .. })));
        assert!(store.get("/a").is_some() && store.get("/b").is_none());
        cut.send_replace(false);
        store.failures().wait_for(Option::is_none).await.unwrap();
        assert!(store.get("/b").is_some(), "what happened meanwhile is there");
        store.delete("/a", Expect::At(entry.revision)).await.unwrap();
    }
}
