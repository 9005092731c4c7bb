//! An acknowledged write survives `kill -9` at any moment.
//!
//! The test runs itself as a child that writes under load and prints every acknowledgement, after it got it, to a pipe.
//! The parent kills the child at a random moment, opens what it left, and looks for every acknowledged change; hundreds of
//! times on one growing store, so that the same file also lives through many recoveries.
//!
//! `SAMPAN_TEST_KILLS` is the number of kills (default 200), `SAMPAN_TEST_SEED` the seed of the moments.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]
#![allow(clippy::disallowed_methods, reason = "a test is told how much to do by its environment")]

use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
    time::{Duration, SystemTime},
};
use store::{Bytes, Clock, Expect, Options, Redb, Revision, Store};

const DIRECTORY: &str = "SAMPAN_TEST_KILL_DIRECTORY";
const ROUND: &str = "SAMPAN_TEST_KILL_ROUND";
const WRITERS: usize = 16;
/// Keys of a writer that earlier rounds have made and later ones change and delete.
const SHARED: usize = 4;

async fn open(directory: &Path) -> Store<()> {
    let log = Redb::open(directory.join("store.redb")).unwrap();
    Store::open(log, Options::new(Clock::new(|| SystemTime::UNIX_EPOCH))).await.unwrap()
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Tells the parent: one line, written whole.
fn acknowledge(out: &Mutex<std::fs::File>, revision: Revision, key: &str, what: &str) {
    let line = format!("{revision} {key} {what}\n");
    out.lock().unwrap().write_all(line.as_bytes()).unwrap();
}

async fn write_for_ever(store: Store<()>, writer: usize, round: u64, out: &Mutex<std::fs::File>) {
    for n in 0u64.. {
        let key = format!("/new/{round:05}/{writer:02}/{n:06}");
        let value = format!("{key} {}", "x".repeat((n as usize * 37) % 1500));
        let entry = store.put(&key, Expect::Absent, Bytes::from(value), None).await.unwrap();
        acknowledge(out, entry.revision, &key, "put");
        let key = format!("/shared/{writer:02}/{}", n as usize % SHARED);
        match store.get(&key) {
            Some(entry) if n % 3 == 0 => {
                let (revision, _) = store.delete(&key, Expect::At(entry.revision)).await.unwrap();
                acknowledge(out, revision, &key, "delete");
            }
            found => {
                let expect = found.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
                let entry = store.put(&key, expect, Bytes::from(round.to_string()), None).await.unwrap();
                acknowledge(out, entry.revision, &key, "put");
            }
        }
    }
}

/// Not a test of its own: what the parent runs and kills.
#[test]
#[ignore = "the child of survives_kill_9"]
fn child() {
    let Some(directory) = env::var_os(DIRECTORY) else { return };
    let round = number(ROUND, 0);
    let out = Box::leak(Box::new(Mutex::new(std::fs::OpenOptions::new().append(true).open("/dev/stdout").unwrap())));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&directory)).await;
        let writers = (0..WRITERS).map(|writer| write_for_ever(store.clone(), writer, round, out));
        futures::future::join_all(writers.map(tokio::spawn)).await;
    });
}

/// Runs a child until `moment` after its first acknowledgement; returns the acknowledged changes.
fn run_and_kill(directory: &Path, round: u64, moment: Duration) -> Vec<(Revision, String, bool)> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1", "--quiet"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    let (first, started) = std::sync::mpsc::channel();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut acknowledged = Vec::new();
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            // A last line without its end was never completely told.
            if let Some(whole) = line.strip_suffix('\n')
                && let [revision, key, what] = whole.split(' ').collect::<Vec<_>>()[..]
                && let Ok(revision) = revision.parse::<Revision>()
            {
                acknowledged.push((revision, key.to_owned(), what == "put"));
                let _ = first.send(());
            }
            line.clear();
        }
        acknowledged
    });
    started.recv_timeout(Duration::from_secs(60)).expect("the child acknowledges a write");
    std::thread::sleep(moment); // the load runs; the moment of the kill is arbitrary
    kill_process(pid, Signal::KILL).unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn survives_kill_9() {
    let kills = number("SAMPAN_TEST_KILLS", 200);
    let mut random = fastrand::Rng::with_seed(number("SAMPAN_TEST_SEED", 1));
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut newest = 0;
    let mut total = 0;
    for round in 0..kills {
        let mut acknowledged = run_and_kill(directory.path(), round, Duration::from_micros(random.u64(..40_000)));
        acknowledged.sort_unstable();
        // The last acknowledged change of each key; a later one may have been made that nobody was told of.
        let mut last = BTreeMap::new();
        for (revision, key, exists) in acknowledged {
            assert!(revision > newest, "revision {revision} of {key} was given twice");
            total += 1;
            last.insert(key, (revision, exists));
        }
        runtime.block_on(async {
            let store = open(directory.path()).await;
            for (key, (revision, exists)) in last {
                assert!(store.revision() >= revision, "round {round}: revision {revision} is gone");
                let found = store.get(&key).map(|entry| entry.revision);
                let later = key.starts_with("/shared/") && found.is_none_or(|found| found > revision);
                // A later unacknowledged delete leaves nothing, a later put something newer.
                let kept = if exists { found == Some(revision) || later } else { found.is_none() || later };
                assert!(kept, "round {round}: {key} was acknowledged at {revision} ({exists}), found {found:?}");
                if let Some(entry) = store.get(&key).filter(|_| key.starts_with("/new/")) {
                    assert!(entry.stored.starts_with(key.as_bytes()), "round {round}: {key} has another value");
                }
            }
            newest = store.revision();
            if round % 20 == 19 {
                clear(&store).await;
                newest = store.revision();
            }
            store.close().await.unwrap();
        });
    }
    println!("{kills} kills, {total} acknowledged changes, all there");
    assert!(total > kills, "the children did not work");
}

/// Deletes the old keys, so that the file stays small and its pages are used again.
async fn clear(store: &Store<()>) {
    let snapshot = store.snapshot(None).unwrap();
    let deletes = snapshot.range("/new/", None).map(|entry| store.delete(&entry.key, Expect::At(entry.revision)));
    for result in futures::future::join_all(deletes).await {
        result.unwrap();
    }
}
