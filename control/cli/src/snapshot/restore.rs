//! `sampan snapshot restore FILE`: the store of a new cluster from a snapshot.
//!
//! The cluster of the snapshot may have gone on. Clients that saw it then hold resource versions that the restored store has not given out.
//! Therefore it begins [`BEYOND`] the snapshot's: such a client is told that its version is gone (410) and lists anew, as after etcd's
//! `--bump-revision --mark-compacted`.

use super::{save::put, seal::unseal};
use crate::{
    data_dir::{DataDir, STORE},
    exit::io,
    out,
};
use anyhow::bail;
use std::{fs, io::ErrorKind, path::Path};
use store::{Batch, Log, Redb, Revision};

/// More revisions than a cluster gives out after its snapshot: at 10,000 writes a second it takes 79 days. Kubernetes' numbers have 63 bits.
const BEYOND: Revision = 1 << 36;

/// Makes the store of a data directory that has none.
pub(crate) async fn restore(dir: &DataDir, file: &Path) -> anyhow::Result<()> {
    let _lock = dir.lock()?;
    let store = dir.join(STORE);
    if fs::symlink_metadata(&store).is_ok() {
        bail!(
            "the data directory {} has a store already; name an empty one with --data-dir, or move {STORE} away",
            dir.path().display()
        );
    }
    let unfinished = store.with_extension(format!("tmp{}", std::process::id()));
    let restored = write(file, &unfinished).await.and_then(|written| {
        put(&unfinished, &store, false).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => anyhow::anyhow!("{} is there already", store.display()),
            _ => anyhow::anyhow!("{}", io(&error)),
        })?;
        Ok(written)
    });
    let (objects, revision) = restored.map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        let why = error.downcast_ref::<std::io::Error>().map_or_else(|| format!("{error:#}"), io);
        anyhow::anyhow!("cannot restore {} to {}: {why}", file.display(), dir.path().display())
    })?;
    out::line(&format!("restored {objects} objects of revision {revision} to {}", dir.path().display()))?;
    eprintln!("start it with {}", dir.command("up"));
    Ok(())
}

/// Writes the store. Returns the number of its objects and the snapshot's revision.
async fn write(file: &Path, to: &Path) -> anyhow::Result<(usize, Revision)> {
    unseal(file, to)?;
    let log = Redb::open(to)?;
    let replay = log.replay().await?;
    let Some(revision) = replay.revision.checked_add(BEYOND).filter(|new| *new <= i64::MAX as u64) else {
        bail!("its revision {} is too large", replay.revision);
    };
    log.commit(Batch { revision, changes: Vec::new() }).await?;
    log.close().await?;
    fs::File::open(to)?.sync_all()?;
    Ok((replay.records.len(), replay.revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Options, save};
    use std::{os::unix::fs::PermissionsExt, time::SystemTime};
    use store::{Bytes, Clock, Error, Expect, Store};

    async fn open(dir: &DataDir) -> Store<()> {
        let log = Redb::open(dir.join(STORE)).expect("opened");
        Store::open(log, store::Options::new(Clock::new(|| SystemTime::UNIX_EPOCH))).await.expect("read")
    }

    fn data(folder: &tempfile::TempDir, name: &str) -> DataDir {
        DataDir::open(Some(&folder.path().join(name))).expect("made")
    }

    #[tokio::test]
    async fn a_restored_store_begins_beyond_what_was_given_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, new, file) = (data(&folder, "old"), data(&folder, "new"), folder.path().join("snapshot"));
        let store = open(&old).await;
        for name in ["/a", "/b"] {
            store.put(name, Expect::Absent, Bytes::from("1"), None).await.expect("written");
        }
        save(&old, &file, Options::default()).await.expect("saved");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        // The old cluster goes on.
        let later = store.put("/c", Expect::Absent, Bytes::from("1"), None).await.expect("written").revision;
        store.close().await.expect("closed");
        restore(&new, &file).await.expect("restored");
        assert_eq!(fs::metadata(new.join(STORE)).expect("there").permissions().mode() & 0o777, 0o600);
        let store = open(&new).await;
        assert_eq!(store.snapshot(None).expect("the newest").count("/"), 2);
        assert!(store.revision() > later);
        for old in [2, later] {
            assert!(matches!(store.watch("/", old), Err(Error::Compacted { .. })), "{old} is gone");
            assert!(matches!(store.snapshot(Some(old)), Err(Error::Compacted { .. })), "{old} is gone");
        }
        let next = store.put("/c", Expect::Absent, Bytes::from("2"), None).await.expect("written").revision;
        assert_eq!(next, 3 + BEYOND + 1);
        store.close().await.expect("closed");
        let error = restore(&new, &file).await.expect_err("it has a store").to_string();
        assert!(error.contains("has a store already; name an empty one with --data-dir"), "{error}");
        assert_eq!(open(&new).await.revision(), next, "it is left alone");
    }

    #[tokio::test]
    async fn what_is_damaged_or_no_snapshot_is_not_restored() {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, new, file) = (data(&folder, "old"), data(&folder, "new"), folder.path().join("snapshot"));
        open(&old).await.close().await.expect("closed");
        save(&old, &file, Options::default()).await.expect("saved");
        let whole = fs::read(&file).expect("read");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let foreign = fs::read(old.join(STORE)).expect("read");
        let cases: [(&[u8], &str); 5] = [
            (&flipped, "it is damaged: its SHA-256 is not the one that was written with it"),
            (
                &whole[..whole.len() - 1],
                "it is not a snapshot that `sampan snapshot save` has written, or it is cut short",
            ),
            (&whole[1..], "it is damaged"),
            (&foreign, "it is not a snapshot"),
            (b"", "it is not a snapshot"),
        ];
        for (bytes, why) in cases {
            fs::write(&file, bytes).expect("written");
            let error = restore(&new, &file).await.expect_err(why).to_string();
            assert!(error.contains(why) && error.contains(&file.display().to_string()), "{error}");
            assert!(!new.join(STORE).exists());
        }
        let error = restore(&new, &folder.path().join("absent")).await.expect_err("no such file").to_string();
        assert!(error.ends_with("No such file or directory"), "{error}");
        assert_eq!(fs::read_dir(new.path()).expect("read").count(), 1, "nothing but the lock is left");
        fs::write(&file, whole).expect("written");
        let _lock = new.lock().expect("free");
        restore(&new, &file).await.expect_err("a cluster runs there");
    }
}
