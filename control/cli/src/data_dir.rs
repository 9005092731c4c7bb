//! The folder in which a cluster keeps everything, and the lock that makes it one cluster's.
//!
//! ```text
//! DIR/            0700
//!   lock          held by the running cluster; names its process and address
//!   cluster.redb  the store
//!   pki/          keys and certificates, 0600
//!   kubeconfig    0600
//!   images/       content store; compiled/ the compile cache; pods/ volumes and logs; agent/ the node agent's notes
//!   sampan.log    output of a detached cluster
//! ```

use anyhow::{Context, bail};
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A data directory that exists and is ours alone.
#[derive(Clone, Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
}

/// Who holds a data directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Process id.
    pub(crate) pid: u32,
    /// Where its API listens, once it does.
    #[serde(default)]
    pub(crate) address: String,
}

/// The lock on a data directory; free when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl DataDir {
    /// The folder named by the user, or the default place; made if absent. A folder that others may read is refused.
    pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let path = match path {
            Some(path) => std::path::absolute(path)?,
            None => default_path()?,
        };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the data directory {}", path.display()))?;
        let mode = fs::metadata(&path)?.mode();
        if mode & 0o077 != 0 {
            bail!(
                "the data directory {} may be read by others (mode {:o}): it holds keys; run: chmod 700 {}",
                path.display(),
                mode & 0o777,
                path.display()
            );
        }
        Ok(Self { path })
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the lock, or says who has it.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let mut file = self.open_lock()?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "the data directory {} is in use by {}; stop it with `sampan down`, or choose another with --data-dir",
                self.path.display(),
                describe(&read_holder(&mut file))
            ),
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the data directory"),
        }
        let mut lock = Lock { file };
        lock.announce("")?;
        Ok(lock)
    }

    /// Who runs here now, if anybody does.
    pub(crate) fn holder(&self) -> anyhow::Result<Option<Holder>> {
        let mut file = self.open_lock()?;
        match file.try_lock() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file))),
            Err(TryLockError::Error(error)) => Err(error).context("cannot read the lock of the data directory"),
        }
    }

    fn open_lock(&self) -> anyhow::Result<File> {
        let path = self.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(&path).with_context(|| format!("cannot open {}", path.display()))
    }
}

impl Lock {
    /// Writes who holds the lock and where it listens.
    pub(crate) fn announce(&mut self, address: &str) -> anyhow::Result<()> {
        let holder = Holder { pid: std::process::id(), address: address.to_owned() };
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(&serde_json::to_vec(&holder)?)?;
        Ok(())
    }
}

fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| Read::by_ref(file).take(4096).read_to_string(&mut text));
    read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn describe(holder: &Holder) -> String {
    match (holder.pid, holder.address.as_str()) {
        (0, _) => "another process".into(),
        (pid, "") => format!("process {pid}"),
        (pid, address) => format!("process {pid} (https://{address})"),
    }
}

fn default_path() -> anyhow::Result<PathBuf> {
    if let Some(base) = crate::env::var_os("XDG_DATA_HOME").filter(|v| !v.is_empty()) {
        return Ok(PathBuf::from(base).join("sampan"));
    }
    match crate::env::var_os("HOME").filter(|v| !v.is_empty()) {
        Some(home) => Ok(PathBuf::from(home).join(".local/share/sampan")),
        None => bail!("no data directory: HOME is not set; name one with --data-dir"),
    }
}

/// Writes a file that only its owner may read, all of it or nothing.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a file that must be private; one that others may read is refused.
pub(crate) fn read_private(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if metadata.mode() & 0o077 != 0 {
        bail!("{} may be read by others; run: chmod 600 {}", path.display(), path.display());
    }
    Ok(Some(fs::read(path).with_context(|| format!("cannot read {}", path.display()))?))
}

/// New files are private unless they say otherwise.
pub(crate) fn private_umask() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cluster_at_a_time_and_the_second_is_told_who() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        let dir = DataDir::open(Some(&path)).expect("made");
        let mut lock = dir.lock().expect("free");
        lock.announce("127.0.0.1:6443").expect("written");
        let error = dir.lock().expect_err("taken").to_string();
        assert!(error.contains(&format!("process {} (https://127.0.0.1:6443)", std::process::id())), "{error}");
        assert_eq!(dir.holder().expect("read").map(|h| h.address), Some("127.0.0.1:6443".to_owned()));
        drop(lock);
        assert_eq!(dir.holder().expect("read"), None);
        dir.lock().expect("free again");
    }

    #[test]
    fn folders_and_keys_that_others_may_read_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        write_private(&key, b"secret").expect("written");
        assert_eq!(read_private(&key).expect("private"), Some(b"secret".to_vec()));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("changed");
        assert!(read_private(&key).expect_err("readable").to_string().contains("chmod 600"));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("changed");
        assert!(DataDir::open(Some(folder.path())).expect_err("readable").to_string().contains("chmod 700"));
    }
}
