//! `sampan snapshot save FILE`: copies the store of a running or stopped cluster to a file.
//!
//! The store of a running cluster may change while it is copied. Therefore each copy is opened and read completely: the checksums and the
//! number of records show whether it is the state after one commit. If not, the store is copied again.
//!
//! With `--salvage`, the store may be damaged: the copy has its intact records, and the losses are reported.

use super::seal::seal;
use crate::{data_dir::DataDir, exit::io, out};
use anyhow::{Context, bail};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{fs, io::ErrorKind, os::unix::fs::PermissionsExt, path::Path, time::Duration};
use store::{Log, LogError, Redb, Revision, Salvage};

/// How often a store in use is copied until a copy is consistent.
const MAX_TRIES: u32 = 50;
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The content of a copy.
struct Copied {
    objects: usize,
    revision: Revision,
}

/// How a store is copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Copy the intact records of a damaged store.
    pub(crate) salvage: bool,
    /// Replace the file if it exists.
    pub(crate) force: bool,
}

/// Copies the store of a data directory to a file.
pub(crate) async fn save(dir: &DataDir, file: &Path, options: Options) -> anyhow::Result<()> {
    let Options { salvage, force } = options;
    let store = dir.join(crate::data_dir::STORE);
    if !store.exists() {
        bail!("there is no store in {}", dir.path().display());
    }
    if fs::canonicalize(file).is_ok_and(|file| fs::canonicalize(&store).is_ok_and(|store| store == file)) {
        bail!("{} is the store itself; name another file", file.display());
    }
    if !force && fs::symlink_metadata(file).is_ok() {
        return Err(exists(file));
    }
    let mut name = file.file_name().context("the copy needs the name of a file")?.to_owned();
    name.push(format!(".tmp{}", std::process::id()));
    let unfinished = file.with_file_name(name);
    let copied = if salvage {
        salvaged(dir, &store, &unfinished, file).await
    } else {
        copy(dir, &store, &unfinished, file).await
    };
    let moved = copied.and_then(|copied| {
        let sealed = seal(&unfinished);
        sealed.map_err(|error| anyhow::anyhow!("cannot write {}: {}", file.display(), io(&error)))?;
        put(&unfinished, file, force).map_err(|error| match error.kind() {
            // Somebody was faster.
            ErrorKind::AlreadyExists => exists(file),
            _ => anyhow::anyhow!("cannot write {}: {}", file.display(), io(&error)),
        })?;
        Ok(copied)
    });
    let Copied { objects, revision } = moved.inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
    out::line(&format!("copied {objects} objects at revision {revision} to {}", file.display()))?;
    eprintln!(
        "keys and images are not in it; make a cluster of it with sampan snapshot restore {} --data-dir NEW",
        out::shell(file)
    );
    Ok(())
}

fn exists(file: &Path) -> anyhow::Error {
    anyhow::anyhow!("{} exists already; name another file, or give --force to replace it", file.display())
}

/// Moves a synced file to its final path, durably. `force` replaces what is there.
pub(super) fn put(from: &Path, to: &Path, force: bool) -> std::io::Result<()> {
    let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match renameat_with(CWD, from, CWD, to, flags) {
        // A file system that cannot look and move at once.
        Err(Errno::INVAL | Errno::NOSYS) if !force => fs::rename(from, to)?,
        moved => moved?,
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

/// Saves the intact records and reports the losses. `named` is the path that the user gave; the copy is written beside it until it is
/// complete.
async fn salvaged(dir: &DataDir, store: &Path, to: &Path, named: &Path) -> anyhow::Result<Copied> {
    if dir.holder()?.is_some() {
        bail!("the cluster is up, so its store is not damaged: leave --salvage out");
    }
    let failed = |error: LogError| anyhow::anyhow!("cannot save {} to {}: {error}", store.display(), named.display());
    let salvage = Salvage::read(store).map_err(failed)?;
    if salvage.records.is_empty() {
        bail!("nothing in {} is whole", store.display());
    }
    salvage.write(to).await.map_err(failed)?;
    close_to_others(to)?;
    fs::File::open(to)?.sync_all()?;
    for text in describe_losses(&salvage) {
        eprintln!("{text}");
    }
    Ok(Copied { objects: salvage.records.len(), revision: salvage.revision })
}

/// Describes what a damaged store has lost, in a line each.
fn describe_losses(salvage: &Salvage) -> Vec<String> {
    let saved = (salvage.records.len() - salvage.doubtful.len()) as u64;
    let mut lines = Vec::new();
    if let Some(count) = salvage.count.filter(|count| *count > saved && !salvage.previous) {
        lines.push(format!("damaged: {} of {count} objects", count - saved));
    }
    lines.extend(salvage.lost.iter().map(|gap| format!("damaged: objects {gap}")));
    if salvage.previous {
        lines.push("damaged: the newest index; what was deleted since the one before it is back".to_owned());
    }
    let doubtful = |key| format!("saved as it once was, perhaps changed or deleted since: {key}");
    lines.extend(salvage.doubtful.iter().map(doubtful));
    if lines.is_empty() {
        lines.push("no object is damaged".to_owned());
    }
    lines
}

/// It has Secrets.
fn close_to_others(file: &Path) -> std::io::Result<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))
}

/// Copies until a copy is consistent. `named` as in [`salvaged`].
async fn copy(dir: &DataDir, store: &Path, to: &Path, named: &Path) -> anyhow::Result<Copied> {
    let mut tries = 0;
    loop {
        let running = dir.holder()?.is_some();
        let written = |error| anyhow::anyhow!("cannot copy {} to {}: {}", store.display(), named.display(), io(&error));
        fs::copy(store, to).and_then(|_| close_to_others(to)).map_err(written)?;
        tries += 1;
        match whole(to).await {
            Ok(copied) => return Ok(copied),
            Err(LogError::Corrupt(_)) if running && tries < MAX_TRIES => tokio::time::sleep(RETRY_DELAY).await,
            Err(error @ LogError::Corrupt(_)) if running => {
                bail!(
                    "the store was written to during each of {tries} copies ({error}); try again, or stop the cluster first"
                )
            }
            Err(error @ LogError::Corrupt(_)) => {
                bail!("cannot copy the store {}: {error}; --salvage copies what is whole of it", store.display())
            }
            Err(error) => bail!("cannot copy the store {}: {error}", store.display()),
        }
    }
}

/// Reads a copy completely, and leaves it as a closed store.
async fn whole(copy: &Path) -> Result<Copied, LogError> {
    let log = Redb::open(copy)?;
    let replay = log.replay().await?;
    log.close().await?;
    fs::File::open(copy)?.sync_all()?;
    Ok(Copied { objects: replay.records.len(), revision: replay.revision })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::seal::unseal;
    use std::time::SystemTime;
    use store::{Bytes, Clock, Expect, Store};

    const COPY: Options = Options { salvage: false, force: true };
    const SAVE: Options = Options { salvage: true, force: true };

    #[tokio::test]
    async fn a_file_that_is_there_is_replaced_by_force_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        let (file, link) = (folder.path().join("copy"), folder.path().join("link"));
        open(&dir.join(crate::data_dir::STORE)).await.close().await.expect("closed");
        fs::write(&file, "precious").expect("written");
        std::os::unix::fs::symlink("nowhere", &link).expect("a link");
        for (file, salvage) in [(&file, false), (&file, true), (&link, false)] {
            let error = save(&dir, file, Options { salvage, force: false }).await.expect_err("it is there").to_string();
            assert_eq!(
                error,
                format!("{} exists already; name another file, or give --force to replace it", file.display())
            );
        }
        let unfinished = folder.path().join("unfinished");
        fs::write(&unfinished, "late").expect("written");
        let late = put(&unfinished, &file, false).expect_err("it came meanwhile");
        assert_eq!(
            (late.kind(), fs::read_to_string(&file).expect("read").as_str()),
            (ErrorKind::AlreadyExists, "precious")
        );
        save(&dir, &file, COPY).await.expect("replaced");
        assert_eq!(saved(&file).await.revision(), 1);
        save(&dir, &folder.path().join("new"), Options::default()).await.expect("nothing was there");
    }

    /// The store in a snapshot.
    async fn saved(file: &Path) -> Store<()> {
        let store = file.with_extension("store");
        let _ = fs::remove_file(&store);
        unseal(file, &store).expect("a snapshot");
        open(&store).await
    }

    async fn open(path: &Path) -> Store<()> {
        let log = Redb::open(path).expect("opened");
        Store::open(log, store::Options::new(Clock::new(|| SystemTime::UNIX_EPOCH))).await.expect("read")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_copy_of_a_store_under_load_is_the_state_after_one_commit() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        let _lock = dir.lock().expect("free");
        let store = open(&dir.join(crate::data_dir::STORE)).await;
        let writer = tokio::spawn({
            let store = store.clone();
            async move {
                for n in 0..100_000u64 {
                    let value = Bytes::from(vec![b'x'; 500]);
                    store.put(&format!("/{n:06}"), Expect::Absent, value, None).await.expect("written");
                    // Like a busy cluster, not like a benchmark: a copy needs a moment without a commit.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        store.wait_for(50).await.expect("written");
        for _ in 0..3 {
            let before = store.revision();
            let file = folder.path().join("copy");
            save(&dir, &file, COPY).await.expect("copied");
            let copy = saved(&file).await;
            assert!(copy.revision() >= before, "what was acknowledged before is in it");
            // Revision 2 wrote the first key, and each further revision the next key.
            let snapshot = copy.snapshot(None).expect("the newest");
            assert_eq!(snapshot.count("/") as u64, copy.revision() - 1);
            copy.close().await.expect("closed");
        }
        writer.abort();
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 3, "the data, the copy and the store in it");
    }

    #[tokio::test]
    async fn a_damaged_store_and_the_store_itself_are_no_copies() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        let (path, file) = (dir.join(crate::data_dir::STORE), folder.path().join("copy"));
        save(&dir, &file, COPY).await.expect_err("there is none");
        open(&path).await.close().await.expect("closed");
        save(&dir, &path, COPY).await.expect_err("itself");
        let mut bytes = fs::read(&path).expect("read");
        bytes.truncate(5000);
        fs::write(&path, bytes).expect("written");
        let error = save(&dir, &file, COPY).await.expect_err("damaged").to_string();
        assert!(error.starts_with("cannot copy the store ") && error.len() > 60, "{error}");
        assert!(!file.exists());
        let nowhere = folder.path().join("absent/copy");
        let error = save(&dir, &nowhere, COPY).await.expect_err("no such folder").to_string();
        assert!(error.ends_with(&format!(" to {}: No such file or directory", nowhere.display())), "{error}");
    }

    #[tokio::test]
    async fn what_is_whole_of_a_damaged_store_is_saved_and_the_rest_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        let (path, file) = (dir.join(crate::data_dir::STORE), folder.path().join("copy"));
        let store = open(&path).await;
        for n in 0..50 {
            let value = Bytes::from(format!("value {n} ").repeat(300));
            store.put(&format!("/pods/default/{n:03}"), Expect::Absent, value, None).await.expect("written");
        }
        store.close().await.expect("closed");
        let mut bytes = fs::read(&path).expect("read");
        let wanted = b"value 33 value 33 ";
        // In every copy that the file contains.
        let places: Vec<_> = (0..bytes.len() - wanted.len()).filter(|at| bytes[*at..].starts_with(wanted)).collect();
        places.into_iter().for_each(|at| bytes[at] = b'V');
        fs::write(&path, bytes).expect("written");
        save(&dir, &file, COPY).await.expect_err("it is damaged");
        save(&dir, &file, SAVE).await.expect("saved");
        let copy = saved(&file).await;
        assert_eq!((copy.snapshot(None).expect("the newest").count("/"), copy.revision()), (49, 51));
        assert!(copy.get("/pods/default/033").is_none());
        copy.put("/pods/default/033", Expect::Absent, Bytes::from("again"), None).await.expect("it can be written to");
        copy.close().await.expect("closed");
        let lines = describe_losses(&Salvage::read(&path).expect("read"));
        assert_eq!((lines.len(), &*lines[0]), (2, "damaged: 1 of 50 objects"));
        assert!(
            lines[1].starts_with("damaged: objects between /pods/default/032 and /pods/default/03"),
            "{}",
            lines[1]
        );
        save(&dir, &folder.path().join("whole"), SAVE).await.expect("a store that is not damaged is saved too");
        fs::write(&path, [7; 9000]).expect("written");
        let error = save(&dir, &file, SAVE).await.expect_err("nothing").to_string();
        assert!(error.starts_with("nothing in ") && error.ends_with(" is whole"), "{error}");
        assert_eq!(saved(&file).await.revision(), 51, "the older copy is left alone");
    }
}
