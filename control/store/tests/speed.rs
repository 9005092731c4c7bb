//! Figures, printed: `cargo test --release -p store --test speed -- --ignored --nocapture`. Nothing here fails for being slow.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::time::{Instant, SystemTime};
use store::{Bytes, Clock, Expect, Log, Memory, Options, Redb, Store};

async fn measure(name: &str, log: impl Log, writers: usize, each: usize) {
    let store: Store<()> = Store::open(log, Options::new(Clock::new(SystemTime::now))).await.unwrap();
    let value = Bytes::from(vec![b'x'; 1024]);
    let start = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let (store, value) = (store.clone(), value.clone());
        tokio::spawn(async move {
            for n in 0..each {
                let key =
                    format!("/core/configmaps/default/{:04x}-{writer}-{n}", (n * 7919 + writer * 104_729) % 65_536);
                store.put(&key, Expect::Absent, value.clone(), None).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let (count, took) = (writers * each, start.elapsed());
    println!("{name}: {writers} writers, 1 KiB puts: {:.0}/s", count as f64 / took.as_secs_f64());

    let snapshot = store.snapshot(None).unwrap();
    let keys: Vec<_> = snapshot.range("", None).map(|entry| entry.key.clone()).collect();
    let start = Instant::now();
    let found = (0..1_000_000).filter(|n| store.get(&keys[n * 7919 % keys.len()]).is_some()).count();
    println!("{name}: get among {}: {:.0} ns", keys.len(), start.elapsed().as_nanos() as f64 / found as f64);

    let start = Instant::now();
    let bytes: usize = snapshot.range("/core/", None).take(5000).map(|entry| entry.stored.len()).sum();
    println!("{name}: list 5,000 ({bytes} bytes): {:?}", start.elapsed());
    let start = Instant::now();
    let counted = snapshot.count("/core/configmaps/");
    println!("{name}: count {counted}: {:?}", start.elapsed());
    let start = Instant::now();
    let old = store.snapshot(Some(store.revision() - 250)).unwrap();
    println!("{name}: snapshot 250 revisions ago ({}): {:?}", old.count(""), start.elapsed());
    store.close().await.unwrap();
}

/// How long a start waits for the store: every page and record is checked.
async fn start(objects: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let options = || Options::new(Clock::new(SystemTime::now));
    let store: Store<()> = Store::open(Redb::open(&path).unwrap(), options()).await.unwrap();
    let value = Bytes::from(vec![b'x'; 1500]);
    let puts = (0..objects).map(|n| {
        let (store, value) = (store.clone(), value.clone());
        async move { drop(store.put(&format!("/core/pods/default/{n:06}"), Expect::Absent, value, None).await.unwrap()) }
    });
    futures::future::join_all(puts).await;
    store.close().await.unwrap();
    let began = Instant::now();
    let log = Redb::open(&path).unwrap();
    let opened = began.elapsed();
    let store: Store<()> = Store::open(log, options()).await.unwrap();
    println!("start with {objects} objects: open {opened:?}, with replay {:?}", began.elapsed());
    store.close().await.unwrap();
}

#[test]
#[ignore = "prints figures"]
fn speed_of_a_start() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for objects in [0, 100, 20_000] {
            start(objects).await;
        }
    });
}

#[test]
#[ignore = "prints figures"]
fn speed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        measure("memory", Memory::new(), 32, 3000).await;
        for (writers, each) in [(1, 300), (32, 1500), (100, 500)] {
            let log = Redb::open(directory.path().join(format!("{writers}.redb"))).unwrap();
            measure("redb", log, writers, each).await;
        }
    });
}
