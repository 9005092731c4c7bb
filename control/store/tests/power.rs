//! An acknowledged write survives a power cut.
//!
//! The storage under redb here keeps what has been written but not synced apart, and at the cut drops it, or keeps any
//! part of it: each 512-byte sector of each write is kept or lost by chance, in any order. What a disk may do, it does.
//! The negative test takes the syncs out and shows that the loss is then noticed.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]

use parking_lot::Mutex;
use redb::StorageBackend;
use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};
use store::{Bytes, Clock, Expect, LogError, Options, Redb, Revision, Store};

const SECTOR: usize = 512;

/// A disk with a write cache and no battery.
#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What is on the platters.
    durable: Vec<u8>,
    /// What a reader sees as long as there is power.
    current: Vec<u8>,
    /// What happened since the last sync.
    unsynced: Vec<Unsynced>,
    /// Operations until the power fails; `None`: never.
    power: Option<u32>,
    /// Whether a sync does anything.
    honest: bool,
}

#[derive(Debug)]
enum Unsynced {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl Disk {
    fn new(durable: Vec<u8>, power: Option<u32>, honest: bool) -> Self {
        let current = durable.clone();
        Self(Arc::new(Mutex::new(State { durable, current, unsynced: Vec::new(), power, honest })))
    }

    fn on<R>(&self, work: impl FnOnce(&mut State) -> R) -> io::Result<R> {
        let mut state = self.0.lock();
        match &mut state.power {
            Some(0) => return Err(io::Error::other("no power")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(work(&mut state))
    }

    fn without_power(&self) -> bool {
        self.0.lock().power == Some(0)
    }

    /// What is found when the power is back: the synced state and an arbitrary part of what was written after.
    fn after_the_cut(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let state = self.0.lock();
        let mut image = state.durable.clone();
        let chance = *random.choice(&[0.0, 0.1, 0.5, 0.9, 1.0]).unwrap();
        let mut sectors = Vec::new();
        for unsynced in &state.unsynced {
            match unsynced {
                Unsynced::Length(length) if random.f64() < chance => image.resize(*length, 0),
                Unsynced::Length(_) => {}
                Unsynced::Write(offset, data) => {
                    let mut at = 0;
                    while at < data.len() {
                        let end = data.len().min((offset + at) / SECTOR * SECTOR + SECTOR - offset);
                        sectors.push((offset + at, &data[at..end]));
                        at = end;
                    }
                }
            }
        }
        random.shuffle(&mut sectors);
        for (offset, data) in sectors {
            if random.f64() < chance && offset + data.len() <= image.len() {
                image[offset..offset + data.len()].copy_from_slice(data);
            }
        }
        image
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.on(|state| state.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.on(|state| state.current.get(start..start + out.len()).map(|data| out.copy_from_slice(data)))?
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let length = usize::try_from(len).unwrap();
        self.on(|state| {
            state.current.resize(length, 0);
            state.unsynced.push(Unsynced::Length(length));
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.on(|state| {
            if state.honest {
                state.durable.clone_from(&state.current);
                state.unsynced.clear();
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.on(|state| {
            state.current[start..start + data.len()].copy_from_slice(data);
            state.unsynced.push(Unsynced::Write(start, data.to_vec()));
        })
    }
}

/// What has been acknowledged: the last change of each key, and the newest revision.
#[derive(Default)]
struct Told {
    keys: BTreeMap<String, (Revision, Option<Bytes>)>,
    /// Changes that were asked for and not answered.
    asked: BTreeMap<String, Option<Bytes>>,
    newest: Revision,
}

impl Told {
    fn acknowledge(&mut self, key: &str, revision: Revision, value: Option<Bytes>) {
        self.keys.insert(key.into(), (revision, value));
        self.asked.remove(key);
        self.newest = self.newest.max(revision);
    }
}

async fn open(disk: &Disk) -> Result<Store<()>, LogError> {
    let log = Redb::with_backend(disk.clone())?;
    let options = Options::new(Clock::new(|| SystemTime::UNIX_EPOCH));
    Store::open(log, options).await.map_err(|error| LogError::Corrupt(error.to_string()))
}

/// Eight writers change random keys until the power fails.
async fn work(disk: &Disk, seed: u64, told: &Mutex<Told>) {
    let Ok(store) = open(disk).await else { return };
    let writers = (0..8u64).map(|writer| {
        let store = store.clone();
        let mut random = fastrand::Rng::with_seed(seed * 8 + writer);
        async move {
            while !disk.without_power() {
                let key = format!("/{writer}/{}", random.u8(..12));
                let value = Bytes::from(vec![random.u8(..); random.usize(..6000)]);
                let found = store.get(&key);
                let expect = found.as_ref().map_or(Expect::Absent, |entry| Expect::At(entry.revision));
                if found.is_some() && random.u8(..4) == 0 {
                    told.lock().asked.insert(key.clone(), None);
                    let Ok((revision, _)) = store.delete(&key, expect).await else { return };
                    told.lock().acknowledge(&key, revision, None);
                } else {
                    told.lock().asked.insert(key.clone(), Some(value.clone()));
                    let Ok(entry) = store.put(&key, expect, value.clone(), None).await else { return };
                    told.lock().acknowledge(&key, entry.revision, Some(value));
                }
            }
        }
    });
    futures::future::join_all(writers).await;
    drop(store.close().await); // without power this fails as well
}

/// Compares what is found with what was acknowledged; a change that was asked for and not answered may be there or not.
fn compare(store: &Store<()>, told: &Told) -> Result<(), String> {
    if store.revision() < told.newest {
        return Err(format!("the newest revision is {}, {} was acknowledged", store.revision(), told.newest));
    }
    for (key, (revision, value)) in &told.keys {
        let found = store.get(key).map(|entry| entry.stored.clone());
        if found != *value && told.asked.get(key) != Some(&found) {
            return Err(format!("{key}, acknowledged at {revision}, is lost"));
        }
    }
    Ok(())
}

/// Compares, and takes what was found as what holds from now on.
fn settle(store: &Store<()>, told: &mut Told) -> Result<(), String> {
    compare(store, told)?;
    for key in std::mem::take(&mut told.asked).into_keys() {
        let found = store.get(&key);
        let revision = found.as_ref().map_or(0, |entry| entry.revision);
        told.keys.insert(key, (revision, found.map(|entry| entry.stored.clone())));
    }
    Ok(())
}

/// One life: some power cuts in a row on the same disk, each at a random operation.
async fn life(seed: u64, honest: bool) -> Result<usize, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut image = Vec::new();
    let told = Mutex::new(Told::default());
    for cut in 0..4 {
        let disk = Disk::new(image, Some(random.u32(..1500)), honest);
        work(&disk, seed * 4 + cut, &told).await;
        image = disk.after_the_cut(&mut random);
        let disk = Disk::new(image.clone(), None, true);
        let store = open(&disk).await.map_err(|error| format!("it cannot be opened: {error}"))?;
        settle(&store, &mut told.lock())?;
        store.close().await.map_err(|error| error.to_string())?;
    }
    Ok(told.into_inner().keys.len())
}

fn lives(seeds: std::ops::Range<u64>, honest: bool) -> Vec<(u64, Result<usize, String>)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let one = |seed| async move {
        let guard = tokio::time::timeout(Duration::from_secs(120), life(seed, honest));
        (seed, guard.await.expect("a life ends"))
    };
    runtime.block_on(async {
        let mut results = Vec::new();
        for seed in seeds {
            let life = tokio::spawn(one(seed)).await;
            results.push(life.unwrap_or_else(|panic| (seed, Err(panic.to_string()))));
        }
        results
    })
}

#[test]
fn survives_power_cuts() {
    let mut keys = 0;
    for (seed, result) in lives(0..100, true) {
        keys += result.unwrap_or_else(|lost| panic!("seed {seed}: {lost}"));
    }
    assert!(keys > 1000, "the load was too small: {keys}");
}

#[test]
fn without_syncs_a_power_cut_is_noticed() {
    let noticed = lives(0..20, false).into_iter().filter(|(_, result)| result.is_err()).count();
    assert!(noticed > 15, "only {noticed} of 20 lives without syncs lost something");
}
