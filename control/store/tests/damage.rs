//! A damaged file is refused with a word, or serves exactly what was there: whatever bits, pages or tails of it are wrong.
//!
//! The copies are of a file that was closed cleanly, which a database has no reason to mistrust. What is whole of one can be saved.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]

use std::{collections::BTreeMap, path::Path, time::SystemTime};
use store::{Bytes, Clock, Expect, Options, Redb, Revision, Salvage, Store};

const PAGE: usize = 4096;
const COPIES: u64 = 200;

type Content = BTreeMap<String, (Revision, Bytes)>;

async fn open(path: &Path) -> Result<Store<()>, String> {
    let log = Redb::open(path).map_err(|error| error.to_string())?;
    let options = Options::new(Clock::new(|| SystemTime::UNIX_EPOCH));
    Store::open(log, options).await.map_err(|error| error.to_string())
}

fn content(store: &Store<()>) -> Content {
    let snapshot = store.snapshot(None).unwrap();
    snapshot.range("", None).map(|e| (e.key.to_string(), (e.revision, e.stored.clone()))).collect()
}

/// A file as a cluster leaves it: objects of all sizes, some changed, some gone.
async fn made(path: &Path) -> (Revision, Content) {
    let store = open(path).await.unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for n in 0..200 {
        let value = Bytes::from((0..random.usize(1..4000)).map(|_| random.alphanumeric() as u8).collect::<Vec<_>>());
        let entry = store.put(&format!("/pods/{n:03}"), Expect::Absent, value.clone(), None).await.unwrap();
        match n % 5 {
            0 => drop(store.delete(&entry.key, Expect::At(entry.revision)).await.unwrap()),
            1 => drop(store.put(&entry.key, Expect::At(entry.revision), value, None).await.unwrap()),
            _ => {}
        }
    }
    let made = (store.revision(), content(&store));
    store.close().await.unwrap();
    made
}

/// One kind of damage by chance, and its name.
fn damage(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) -> &'static str {
    let pages = bytes.len() / PAGE;
    let (one, other) = (random.usize(0..pages) * PAGE, random.usize(0..pages) * PAGE);
    match random.u8(0..6) {
        0 => {
            for _ in 0..random.usize(1..20) {
                let at = random.usize(0..bytes.len());
                bytes[at] ^= 1 << random.u8(0..8);
            }
            "flipped bits"
        }
        1 => {
            let page = bytes[one..one + PAGE].to_vec();
            bytes.copy_within(other..other + PAGE, one);
            bytes[other..other + PAGE].copy_from_slice(&page);
            "swapped pages"
        }
        2 => {
            bytes[one..one + PAGE].fill(0);
            "a zeroed page"
        }
        3 => {
            bytes.copy_within(other..other + PAGE, one);
            "a page written to the wrong place"
        }
        4 => {
            bytes.truncate(random.usize(0..bytes.len()));
            "a cut tail"
        }
        _ => {
            random.fill(&mut bytes[one..one + PAGE]);
            "a page of noise"
        }
    }
}

#[tokio::test]
async fn a_damaged_copy_is_refused_or_serves_exactly_what_was_there() {
    // redb panics on some damage; that is caught, and its trace would hide the result.
    std::panic::set_hook(Box::new(|_| {}));
    let directory = tempfile::tempdir().unwrap();
    let good = directory.path().join("good.redb");
    let made = made(&good).await;
    let bytes = std::fs::read(&good).unwrap();
    let (mut refused, mut served, mut wrong) = (0, 0, Vec::new());
    for seed in 0..COPIES {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut copy = bytes.clone();
        let what = damage(&mut copy, &mut random);
        let path = directory.path().join("copy.redb");
        std::fs::write(&path, &copy).unwrap();
        match open(&path).await {
            Err(text) if text.is_empty() => wrong.push(format!("{seed}, {what}: refused without a word")),
            Err(_) => refused += 1,
            Ok(store) => {
                if (store.revision(), content(&store)) != made {
                    wrong.push(format!("{seed}, {what}: served something else"));
                }
                served += 1;
                // It must also be sound to write to.
                store.put("/new", Expect::Absent, Bytes::from(vec![b'x'; 9000]), None).await.unwrap();
                store.close().await.unwrap();
                let again = open(&path).await.unwrap();
                if content(&again).len() != made.1.len() + 1 {
                    wrong.push(format!("{seed}, {what}: lost something with the next write"));
                }
                again.close().await.unwrap();
            }
        }
        std::fs::remove_file(&path).unwrap();
    }
    let _ = std::panic::take_hook();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(refused > 40 && served > 0, "{refused} refused, {served} served");
}

fn saved(salvage: &Salvage) -> Content {
    salvage.records.values().map(|r| (r.key.to_string(), (r.revision, r.value.clone()))).collect()
}

#[tokio::test]
async fn what_is_whole_of_a_damaged_copy_is_saved_and_the_rest_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (good, copy) = (directory.path().join("good.redb"), directory.path().join("copy.redb"));
    let (revision, made) = made(&good).await;
    let whole = Salvage::read(&good).unwrap();
    assert_eq!((whole.revision, saved(&whole)), (revision, made.clone()));
    assert_eq!((whole.count, whole.previous), (Some(made.len() as u64), false));
    assert!(whole.lost.is_empty() && whole.doubtful.is_empty());
    let bytes = std::fs::read(&good).unwrap();
    let (mut lost, mut intact) = (0, 0);
    for seed in 0..COPIES {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut damaged = bytes.clone();
        let what = damage(&mut damaged, &mut random);
        std::fs::write(&copy, &damaged).unwrap();
        let salvage = Salvage::read(&copy).unwrap();
        let doubtful: Vec<_> = salvage.doubtful.iter().map(|key| key.to_string()).collect();
        let found = saved(&salvage);
        for (key, record) in &found {
            let is_doubtful = doubtful.contains(key);
            assert!(is_doubtful || made.get(key) == Some(record), "{seed}, {what}: {key} is not what it was");
            assert!(record.0 <= salvage.revision, "{seed}, {what}: the revision would be given again");
        }
        let missing: Vec<_> = made.iter().filter(|(key, record)| found.get(*key) != Some(record)).collect();
        if !missing.is_empty() {
            lost += 1;
            assert!(
                !salvage.lost.is_empty() || salvage.previous,
                "{seed}, {what}: {} lost without a word",
                missing.len()
            );
        } else if salvage.doubtful.is_empty() {
            intact += 1;
        }
        // A page or two are damaged, and a cut tail takes what was behind it.
        let most = if what == "a cut tail" { made.len() } else { 40 };
        assert!(missing.len() <= most, "{seed}, {what}: {} lost", missing.len());
    }
    assert!(lost > 20 && intact > 4, "{lost} lost something, {intact} nothing");
}

#[tokio::test]
async fn a_salvage_is_a_store_that_goes_on_behind_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let (good, copy) = (directory.path().join("good.redb"), directory.path().join("copy.redb"));
    let (revision, made) = made(&good).await;
    let mut bytes = std::fs::read(&good).unwrap();
    Salvage::read(&good).unwrap().write(&copy).await.unwrap();
    let store = open(&copy).await.unwrap();
    assert_eq!((store.revision(), content(&store)), (revision, made.clone()));
    store.close().await.unwrap();
    // Without the header nothing leads to the records: all are found by looking everywhere, and also what was deleted.
    bytes[..PAGE].fill(0);
    std::fs::write(&good, bytes).unwrap();
    std::fs::remove_file(&copy).unwrap();
    let salvage = Salvage::read(&good).unwrap();
    assert_eq!(salvage.lost.iter().map(ToString::to_string).collect::<Vec<_>>(), ["anywhere"]);
    assert_eq!(salvage.doubtful.len(), salvage.records.len());
    salvage.write(&copy).await.unwrap();
    let store = open(&copy).await.unwrap();
    let found = content(&store);
    assert!(made.iter().all(|(key, record)| found.get(key) == Some(record)), "the newest of each");
    let next = store.put("/new", Expect::Absent, Bytes::from("x"), None).await.unwrap();
    assert!(next.revision > revision, "no revision is given twice");
    store.close().await.unwrap();
}
