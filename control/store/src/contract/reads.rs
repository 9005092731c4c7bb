//! The guarantees of reads, history and watches.

use super::*;
use crate::{Error, Expect, FIRST};
use futures::future::join_all;
use std::{sync::Arc, time::Duration};
use tokio::time::{advance, sleep};

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
    // Concurrent writers, so that commits have several revisions, and enough writes for several checkpoints.
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
    // The current state never expires.
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
    assert_eq!(drain(&store, &mut some).await, lines);
    assert_eq!(
        drain(&store, &mut all).await,
        [&lines[0], &format!("{b} /b/1 -→new"), &lines[1], &lines[2]].map(String::from)
    );
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
    assert_eq!(drain(&store, &mut watch).await, want);
    let now = store.revision();
    assert!(drain(&store, &mut store.watch("/", now).unwrap()).await.is_empty());
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
    store.compact(first); // already removed: nothing happens
    store.compact(first + 100); // future revisions are not affected
    assert_eq!(store.snapshot(None).unwrap().count(""), 3);
    assert_eq!(oldest(store.snapshot(Some(first + 1))), first + 2);
    create(&store, "/d").await;
    assert_eq!(store.snapshot(Some(first + 2)).unwrap().count(""), 3);
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

pub async fn changes_under_a_prefix_are_told_when_they_are_acknowledged(fixture: Fixture) {
    let store = fixture.open().await;
    create(&store, "/a/1").await;
    let (a, b) = (store.changes("/a/"), store.changes("/b/"));
    let begun = (a.last(), b.last());
    assert_eq!(begun.0, store.revision());
    let entry = create(&store, "/a/2").await;
    assert_eq!((a.last(), b.last()), (entry.revision, begun.1));
    let waiting = {
        let (a, since) = (a.clone(), a.last());
        tokio::spawn(async move { a.after(since).await })
    };
    let (revision, _) = store.delete("/a/2", Expect::At(entry.revision)).await.unwrap();
    waiting.await.unwrap();
    assert_eq!((a.last(), b.last()), (revision, begun.1));
    a.after(revision - 1).await;
}
