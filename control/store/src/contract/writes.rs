//! The guarantees of writes: expectations, durability, order, expiry.

use super::*;
use crate::{Bytes, Expect, FIRST, Write};
use futures::future::join_all;
use std::{sync::Arc, time::Duration};
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

pub async fn writes_of_a_transaction_happen_together_or_not_at_all(fixture: Fixture) {
    let store = fixture.open().await;
    let write = |key: &str, expect: Expect, value: Option<&'static str>| Write {
        key: key.into(),
        expect,
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
        ttl: None,
    };
    let new = Bytes::from_static(b"new");
    let mut watch = store.watch("/", FIRST).unwrap();
    let others = vec![write("/ip/1", Expect::Absent, Some("1")), write("/ip/2", Expect::Absent, Some("2"))];
    let entry = store.put_with("/s/a", Expect::Absent, new.clone(), None, others).await.unwrap();
    assert_eq!(keys(store.snapshot(None).unwrap().range("/", None)), ["/ip/1", "/ip/2", "/s/a"]);
    assert!(store.get("/ip/2").unwrap().revision <= entry.revision && store.revision() == entry.revision);
    for key in ["/ip/1", "/ip/2", "/s/a"] {
        assert_eq!(&**watch.next().await.unwrap().key(), key, "the answered one is the last");
    }
    let before = store.revision();
    // Another write conflicts.
    let others = vec![write("/ip/3", Expect::Absent, Some("3")), write("/ip/1", Expect::Absent, Some("x"))];
    match store.put_with("/s/b", Expect::Absent, new.clone(), None, others).await {
        Err(Error::OtherConflict { key, actual: Some(actual) }) => {
            assert_eq!((&*key, &actual.stored[..]), ("/ip/1", &b"1"[..]))
        }
        other => panic!("{:?}", other.map(|entry| entry.revision)),
    }
    // The answered one conflicts, and so do others.
    let others = vec![write("/ip/1", Expect::Absent, Some("x"))];
    let error = store.put_with("/s/a", Expect::Absent, new.clone(), None, others).await.err();
    assert!(matches!(error, Some(Error::Conflict { actual: Some(_) })), "{error:?}");
    let gone = vec![write("/ip/9", Expect::At(entry.revision), None)];
    let error = store.put_with("/s/a", Expect::At(entry.revision), new.clone(), None, gone).await.err();
    assert!(matches!(error, Some(Error::OtherConflict { actual: None, .. })), "{error:?}");
    let twice = vec![write("/s/b", Expect::Absent, Some("x"))];
    assert!(matches!(store.put_with("/s/b", Expect::Absent, new, None, twice).await, Err(Error::Invalid(_))));
    assert_eq!(store.revision(), before, "nothing was written");
    // One put, one deletion, one change.
    let at = |key: &str| Expect::At(store.get(key).unwrap().revision);
    let others = vec![write("/ip/1", at("/ip/1"), None), write("/ip/2", at("/ip/2"), Some("two"))];
    let (revision, _) = store.delete_with("/s/a", Expect::At(entry.revision), others).await.unwrap();
    assert_eq!(keys(store.snapshot(None).unwrap().range("/", None)), ["/ip/2"]);
    assert_eq!((store.revision(), &store.get("/ip/2").unwrap().stored[..]), (revision, &b"two"[..]));
    let store = fixture.reopen(store).await;
    assert_eq!(keys(store.snapshot(None).unwrap().range("/", None)), ["/ip/2"]);
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

pub async fn a_closed_store_refuses_writes_and_ends_watches(fixture: Fixture) {
    let store = fixture.open().await;
    let entry = create(&store, "/a").await;
    let mut watch = store.watch("/", FIRST).unwrap();
    let other = store.clone();
    // Requests before the close are completed.
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
