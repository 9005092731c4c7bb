//! `sampan backup FILE`: a copy of the store, with the cluster up or down, that a start takes in place of its own.
//!
//! The file of a running cluster may change while it is copied. A copy is therefore opened and read whole before it counts: the checksums
//! of pages and records and their number say whether it is the state after one commit, and if not, it is copied again.

use crate::{data_dir::DataDir, exit::io, out};
use anyhow::{Context, bail};
use std::{fs, path::Path, time::Duration};
use store::{Log, LogError, Redb, Replay};

/// How often a store that is written to is copied until a copy is whole.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Copies the store of a data directory to a file, which it replaces.
pub(crate) async fn run(dir: &DataDir, file: &Path) -> anyhow::Result<()> {
    let store = dir.join(crate::cluster::STORE);
    if !store.exists() {
        bail!("there is no store in {}", dir.path().display());
    }
    if fs::canonicalize(file).is_ok_and(|file| fs::canonicalize(&store).is_ok_and(|store| store == file)) {
        bail!("{} is the store itself; name another file", file.display());
    }
    let mut name = file.file_name().context("the copy needs the name of a file")?.to_owned();
    name.push(format!(".tmp{}", std::process::id()));
    let unfinished = file.with_file_name(name);
    let copied = copy(dir, &store, &unfinished, file).await;
    let moved = copied.and_then(|replay| {
        fs::rename(&unfinished, file)
            .map_err(|error| anyhow::anyhow!("cannot write {}: {}", file.display(), io(&error)))?;
        Ok(replay)
    });
    let replay = moved.inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
    let (objects, revision) = (replay.records.len(), replay.revision);
    out::line(&format!("copied {objects} objects at revision {revision} to {}", file.display()))?;
    eprintln!(
        "to put it back: {}, then cp {} {}, then {}",
        dir.command("down"),
        out::shell(file),
        out::shell(&store),
        dir.command("up")
    );
    Ok(())
}

/// Copies until a copy is whole. `named` is what the user called the copy, which lies beside its place until it is whole.
async fn copy(dir: &DataDir, store: &Path, to: &Path, named: &Path) -> anyhow::Result<Replay> {
    let mut tries = 0;
    loop {
        let running = dir.holder()?.is_some();
        let written = |error| anyhow::anyhow!("cannot copy {} to {}: {}", store.display(), named.display(), io(&error));
        fs::copy(store, to).map_err(written)?;
        tries += 1;
        match whole(to).await {
            Ok(replay) => return Ok(replay),
            Err(LogError::Corrupt(_)) if running && tries < TRIES => tokio::time::sleep(PAUSE).await,
            Err(error @ LogError::Corrupt(_)) if running => {
                bail!(
                    "the store was written to during each of {tries} copies ({error}); try again, or stop the cluster first"
                )
            }
            Err(error) => bail!("cannot copy the store {}: {error}", store.display()),
        }
    }
}

/// Reads a copy, and leaves it as a store that was closed.
async fn whole(copy: &Path) -> Result<Replay, LogError> {
    let log = Redb::open(copy)?;
    let replay = log.replay().await?;
    log.close().await?;
    fs::File::open(copy)?.sync_all()?;
    Ok(replay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;
    use store::{Bytes, Clock, Expect, Options, Store};

    async fn open(path: &Path) -> Store<()> {
        let log = Redb::open(path).expect("opened");
        Store::open(log, Options::new(Clock::new(|| SystemTime::UNIX_EPOCH))).await.expect("read")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_copy_of_a_store_under_load_is_the_state_after_one_commit() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        let _lock = dir.lock().expect("free");
        let store = open(&dir.join(crate::cluster::STORE)).await;
        let writer = tokio::spawn({
            let store = store.clone();
            async move {
                for n in 0..100_000u64 {
                    let value = Bytes::from(vec![b'x'; 500]);
                    store.put(&format!("/{n:06}"), Expect::Absent, value, None).await.expect("written");
                    // Like a cluster that is busy, not like a benchmark: a copy needs a moment without a commit.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        store.wait_for(50).await.expect("written");
        for _ in 0..3 {
            let before = store.revision();
            let file = folder.path().join("copy");
            run(&dir, &file).await.expect("copied");
            let copy = open(&file).await;
            assert!(copy.revision() >= before, "what was acknowledged before is in it");
            // Revision 2 wrote the first key, and each one after it the next.
            let snapshot = copy.snapshot(None).expect("the newest");
            assert_eq!(snapshot.count("/") as u64, copy.revision() - 1);
            copy.close().await.expect("closed");
        }
        writer.abort();
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 2, "the data and the copy");
    }

    #[tokio::test]
    async fn a_damaged_store_and_the_store_itself_are_no_copies() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        let (path, file) = (dir.join(crate::cluster::STORE), folder.path().join("copy"));
        run(&dir, &file).await.expect_err("there is none");
        open(&path).await.close().await.expect("closed");
        run(&dir, &path).await.expect_err("itself");
        let mut bytes = fs::read(&path).expect("read");
        bytes.truncate(5000);
        fs::write(&path, bytes).expect("written");
        let error = run(&dir, &file).await.expect_err("damaged").to_string();
        assert!(error.starts_with("cannot copy the store ") && error.len() > 60, "{error}");
        assert!(!file.exists());
        let nowhere = folder.path().join("absent/copy");
        let error = run(&dir, &nowhere).await.expect_err("no such folder").to_string();
        assert!(error.ends_with(&format!(" to {}: No such file or directory", nowhere.display())), "{error}");
    }
}
