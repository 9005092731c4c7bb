//! What a write promises: expectations, durability, order, expiry, failure.

use super::*;
use crate::{Bytes, Expect, FIRST};
use futures::future::join_all;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::sleep;

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

/// A store with one entry, `/kept`, and the way to start writes that stand before the gate.
async fn with_an_entry(fixture: &Fixture) -> (Store<Text>, Arc<Gate>, Arc<Entry<Text>>) {
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

/// Waits until the store takes every write again.
async fn recovered(store: &Store<Text>) {
    store.failures().wait_for(Option::is_none).await.unwrap();
}

pub async fn a_failed_commit_never_happened_and_writing_goes_on(fixture: Fixture) {
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
    // Opened at once, a commit that failed is known not to have happened.
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

pub async fn a_failed_commit_that_is_there_after_all_has_happened(fixture: Fixture) {
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

pub async fn a_log_that_does_not_open_is_tried_with_pauses_and_nothing_is_claimed(fixture: Fixture) {
    let (store, gate, _) = with_an_entry(&fixture).await;
    gate.after.store(true, Ordering::SeqCst);
    gate.shut.store(true, Ordering::SeqCst);
    gate.open.add_permits(100);
    // It is there, but nobody can know.
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

pub async fn a_log_that_lost_what_was_acknowledged_is_written_no_more(fixture: Fixture) {
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

pub async fn a_full_disk_takes_what_makes_the_store_no_larger(fixture: Fixture) {
    let (store, gate, kept) = with_an_entry(&fixture).await;
    gate.open.add_permits(100);
    gate.full.store(true, Ordering::SeqCst);
    let other = create(&store, "/other").await; // the last that had room
    let error = put(&store, "/new", Expect::Absent, "").await.unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    let want = "nothing was stored: the disk of the store is full; free some space on it, or delete objects, which still works";
    assert!(error.to_string().starts_with(want), "{error}");
    assert!(matches!(&*store.failure().unwrap(), LogError::Full(_)));
    let large = "x".repeat(5000);
    assert!(matches!(put(&store, "/kept", Expect::At(kept.revision), &large).await, Err(Error::Full { .. })));
    // A deletion is first a note in the object.
    put(&store, "/kept", Expect::At(kept.revision), "a little larger").await.unwrap();
    store.delete("/other", Expect::At(other.revision)).await.unwrap();
    gate.full.store(false, Ordering::SeqCst);
    recovered(&store).await;
    put(&store, "/new", Expect::Absent, &large).await.unwrap();
    let store = fixture.reopen(store).await;
    assert_eq!(keys(store.snapshot(None).unwrap().range("", None)), ["/kept", "/new"]);
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

pub async fn a_key_that_cannot_be_stored_is_refused(fixture: Fixture) {
    let store = fixture.open().await;
    assert!(matches!(put(&store, "", Expect::Absent, "").await, Err(Error::Invalid(_))));
    assert!(matches!(put(&store, &"x".repeat(4097), Expect::Absent, "").await, Err(Error::Invalid(_))));
    assert_eq!(store.revision(), FIRST);
    put(&store, &"x".repeat(4096), Expect::Absent, "").await.unwrap();
}
