//! The data directory of a cluster, and the lock that gives it to one process.
//!
//! ```text
//! DIR/            0700
//!   lock          held by the running cluster; names its process and address
//!   cluster.redb  the store
//!   chosen.json   what the first start chose for good, the node's name and address ranges; and where the last one listened
//!   pki/          keys and certificates, 0600
//!   kubeconfig    0600
//!   images/       content store; compiled/ the compile cache; pods/ volumes and logs; agent/ the node agent's notes
//!   sampan.log    output of a detached cluster
//! ```

use crate::exit::io;
use anyhow::{Context, bail};
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// An existing data directory of this user.
#[derive(Clone, Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
}

/// The process that holds a data directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Process id.
    pub(crate) pid: u32,
    /// Where its API listens. `None` before it listens.
    #[serde(default)]
    pub(crate) address: String,
    /// How long its pods may take to stop, in seconds.
    #[serde(default)]
    pub(crate) drain: u32,
    /// The settings that it was started with: see [`crate::settings`].
    #[serde(default)]
    pub(crate) flags: BTreeMap<String, String>,
}

/// The lock of a data directory. Released when dropped, and when the process ends in any way.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

/// The lock.
pub(crate) const LOCK: &str = "lock";
/// The store.
pub(crate) const STORE: &str = "cluster.redb";
/// The reserve file of the store for a full disk.
const RESERVE: &str = "cluster.redb.reserve";
/// Files that only clusters create: a folder with one of them is a data directory, whatever else it contains.
const CERTAINLY_OURS: [&str; 4] = [STORE, "compile.key", "pki/sa.key", "images/blobs"];
/// Everything that a cluster creates. A folder with nothing else is a data directory too: a start may have been interrupted.
const OURS: [&str; 13] = [
    "agent",
    LOCK,
    "ranges.json",
    "chosen.json",
    STORE,
    RESERVE,
    "pki",
    "kubeconfig",
    "images",
    "compile.key",
    "compiled",
    "pods",
    "sampan.log",
];
/// Bytes of a lock file to read.
const MAX_HOLDER: u64 = 64 << 10;
/// A folder that the file system itself creates.
const LOST_AND_FOUND: &str = "lost+found";

/// Whether a folder is a data directory, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    Nobodys,
    Ours,
    Foreign,
}

impl DataDir {
    /// Opens the folder that the user named, or the default, and creates it if it does not exist. An empty folder is made private. A data
    /// directory that other users can read is rejected, as is a folder with other content.
    pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let dir = Self::locate(path)?;
        let path = &dir.path;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| {
            let why = match error.kind() {
                ErrorKind::AlreadyExists => "there is a file of that name".to_owned(),
                _ => io(&error),
            };
            anyhow::anyhow!("cannot make the data directory {}: {why}", path.display())
        })?;
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        let whose = whose(path).map_err(|error| unreadable(path, &error))?;
        if whose == Ownership::Foreign {
            bail!(
                "the directory {} holds files that are not sampan's; it was left as it is: name an empty or a new one with --data-dir",
                path.display()
            );
        }
        if metadata.mode() & 0o077 == 0 {
            return Ok(dir);
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            bail!(
                "the data directory {} belongs to another user (id {}): it would hold your keys; name another with --data-dir",
                path.display(),
                metadata.uid()
            );
        }
        if whose == Ownership::Ours {
            bail!("{}", open_to_others(path, metadata.mode()));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|error| {
            anyhow::anyhow!("cannot close the data directory {} to others: {}", path.display(), io(&error))
        })?;
        Ok(dir)
    }

    /// Like [`DataDir::open`], but only if the folder exists: for commands that have nothing to do in a new one.
    pub(crate) fn open_existing(path: Option<&Path>) -> anyhow::Result<Option<Self>> {
        if Self::locate(path)?.path.exists() { Self::open(path).map(Some) } else { Ok(None) }
    }

    /// The folder that the user named, or the default, for reading. It need not exist, and nothing is created or changed.
    pub(crate) fn locate(path: Option<&Path>) -> anyhow::Result<Self> {
        let path = match path {
            Some(path) => std::path::absolute(path).context("--data-dir names no directory")?,
            None => match crate::env::var_os("SAMPAN_DATA_DIR").filter(|path| !path.is_empty()) {
                Some(path) => std::path::absolute(path).context("SAMPAN_DATA_DIR names no directory")?,
                None => default_path()?,
            },
        };
        Ok(Self { path })
    }

    /// The data directory that contains a kubeconfig, if there is one.
    pub(crate) fn of_kubeconfig(file: &Path) -> Option<PathBuf> {
        let folder = file.parent().filter(|_| file.file_name().is_some_and(|name| name == "kubeconfig"))?;
        folder.join(LOCK).is_file().then(|| folder.to_owned())
    }

    /// The name of the cluster, and of its cluster, user and context in kubeconfigs: `sampan` for the default data directory, and a unique
    /// name for each other one, so that one kubeconfig can have several clusters.
    pub(crate) fn name(&self) -> String {
        if self.is_default() {
            return "sampan".to_owned();
        }
        let folder = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        format!("sampan-{}", folder.chars().map(plain).collect::<String>())
    }

    /// Whether it is the default directory.
    pub(crate) fn is_default(&self) -> bool {
        let same = |path: PathBuf| canonical(&path) == canonical(&self.path);
        default_path().and_then(|path| Ok(std::path::absolute(path)?)).is_ok_and(same)
    }

    /// A sampan command with this directory, for pasting: `sampan up --data-dir /d`.
    pub(crate) fn command(&self, command: &str) -> String {
        match Self::locate(None).is_ok_and(|meant| meant.path == self.path) {
            true => format!("sampan {command}"),
            false => format!("sampan {command} --data-dir {}", crate::out::shell(&self.path)),
        }
    }

    /// Like [`DataDir::command`], for commands that use $KUBECONFIG: all except `up`.
    pub(crate) fn client_command(&self, command: &str) -> String {
        let set = |name: &str| crate::env::var_os(name).filter(|value| !value.is_empty());
        match set("KUBECONFIG").filter(|_| set("SAMPAN_DATA_DIR").is_none()) {
            None => self.command(command),
            Some(ours) if ours == self.join("kubeconfig") => format!("sampan {command}"),
            Some(_) => format!("sampan {command} --data-dir {}", crate::out::shell(&self.path)),
        }
    }

    /// Adds this directory to sampan commands in other texts, such as the node agent's.
    pub(crate) fn complete(&self, text: &str) -> String {
        let commands = ["image load FILE", "image prune"];
        commands.iter().fold(text.to_owned(), |text, command| {
            text.replace(&format!("sampan {command}"), &self.client_command(command))
        })
    }

    /// kubectl for the cluster of this directory, for pasting.
    pub(crate) fn kubectl(&self) -> String {
        let path = self.join("kubeconfig");
        match crate::env::var_os("KUBECONFIG").is_some_and(|value| value == path) {
            true => "kubectl".to_owned(),
            false => format!("kubectl --kubeconfig {}", crate::out::shell(&path)),
        }
    }

    /// A private folder inside, created if it does not exist.
    pub(crate) fn private_folder(&self, name: &str) -> anyhow::Result<Self> {
        let path = self.join(name);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| anyhow::anyhow!("cannot make {}: {}", path.display(), io(&error)))?;
        sync_folder_of(&path).map_err(|error| unreadable(&path, &error))?;
        let mode = fs::metadata(&path).map_err(|error| unreadable(&path, &error))?.mode();
        if mode & 0o077 != 0 {
            bail!("{}", open_to_others(&path, mode));
        }
        Ok(Self { path })
    }

    /// The path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside the directory.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Rejects a folder with foreign content: for commands that stop or remove something. An absent folder is accepted.
    pub(crate) fn refuse_foreign(&self) -> anyhow::Result<()> {
        match whose(&self.path) {
            Ok(Ownership::Foreign) => {
                bail!("the directory {} holds files that are not sampan's; it was left as it is", self.path.display())
            }
            Err(error) if error.kind() != ErrorKind::NotFound => Err(unreadable(&self.path, &error)),
            _ => Ok(()),
        }
    }

    /// Removes the files of the cluster, and the folder if it is empty then. Returns the names of the remaining files.
    pub(crate) fn remove(&self) -> anyhow::Result<Vec<String>> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        self.refuse_foreign()?;
        // Prevents a cluster from starting here meanwhile.
        let lock = self.lock()?;
        let (ours, left) = self.entries()?;
        for path in ours {
            let folder = path.is_dir() && !path.is_symlink();
            let removed = if folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| not_removed(&path, &error))?;
        }
        drop(lock);
        if left.is_empty() {
            // If the path is a symbolic link, its target folder stays, empty.
            let link = self.path.is_symlink();
            match if link { fs::remove_file(&self.path) } else { fs::remove_dir(&self.path) } {
                // A mount point stays, with its lost+found.
                Err(error) if !matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty) => {
                    return Err(not_removed(&self.path, &error));
                }
                _ => {}
            }
        }
        Ok(left)
    }

    /// The cluster's files in the order of their removal, and the names of other files. The store is first: an interrupted removal leaves
    /// no cluster. The lock is last, because without it a cluster could start during the removal.
    fn entries(&self) -> anyhow::Result<(Vec<PathBuf>, Vec<String>)> {
        let (mut ours, mut left) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.path).map_err(|error| unreadable(&self.path, &error))? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            match name.to_str() {
                Some(LOST_AND_FOUND) => {}
                Some(name) if is_ours(name) => ours.push((name == LOCK, name != STORE, path)),
                _ => left.push(name.to_string_lossy().into_owned()),
            }
        }
        ours.sort();
        Ok((ours.into_iter().map(|(.., path)| path).collect(), left))
    }

    /// Takes the lock. The error names its holder.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        loop {
            let mut file = self.open_lock()?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(self.in_use(&read_holder(&mut file))),
                Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the data directory"),
            }
            let mut lock = Lock { file };
            // The directory may have been removed, so that the lock is that of a deleted file.
            if lock.is_there(self) {
                lock.announce("", 0, BTreeMap::new())?;
                return Ok(lock);
            }
        }
    }

    /// The error for a second cluster.
    pub(crate) fn in_use(&self, holder: &Holder) -> anyhow::Error {
        anyhow::anyhow!(
            "the data directory {} is in use by {}; stop it with `{}`, or choose another with --data-dir",
            self.path.display(),
            describe(holder),
            self.client_command("down")
        )
    }

    /// The current holder of the lock, if any. Creates no files.
    pub(crate) fn holder(&self) -> anyhow::Result<Option<Holder>> {
        let path = self.join(LOCK);
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => bail!("cannot open {}: {}", path.display(), io(&error)),
        };
        match file.try_lock() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file))),
            Err(TryLockError::Error(error)) => Err(error).context("cannot read the lock of the data directory"),
        }
    }

    fn open_lock(&self) -> anyhow::Result<File> {
        let path = self.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(&path).map_err(|error| anyhow::anyhow!("cannot open {}: {}", path.display(), io(&error)))
    }
}

impl Lock {
    /// Writes the holder of the lock, where it listens, and its settings.
    pub(crate) fn announce(
        &mut self,
        address: &str,
        drain: u32,
        flags: BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let holder = Holder { pid: std::process::id(), address: address.to_owned(), drain, flags };
        let text = serde_json::to_vec(&holder)?;
        // Overwrites the content and then truncates the file: on a full disk, a file keeps its space and gets no more.
        self.file.rewind()?;
        self.file.write_all(&text)?;
        self.file.set_len(text.len() as u64)?;
        Ok(())
    }

    /// Whether the lock is still that of the directory: the directory may have been removed and created again.
    pub(crate) fn is_there(&self, dir: &DataDir) -> bool {
        let ours = self.file.metadata().map(|file| (file.dev(), file.ino()));
        let there = fs::metadata(dir.join(LOCK)).map(|file| (file.dev(), file.ino()));
        match (ours, there) {
            (Ok(ours), Ok(there)) => ours == there,
            // An unreadable file may become readable again.
            (_, Err(error)) => error.kind() != ErrorKind::NotFound,
            (Err(_), _) => true,
        }
    }
}

/// Whether a folder is a data directory.
fn whose(path: &Path) -> std::io::Result<Ownership> {
    let mut whose = Ownership::Nobodys;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name == LOST_AND_FOUND {
            continue;
        }
        if !name.to_str().is_some_and(is_ours) {
            let certain = CERTAINLY_OURS.iter().any(|file| path.join(file).exists());
            return Ok(if certain { Ownership::Ours } else { Ownership::Foreign });
        }
        whose = Ownership::Ours;
    }
    Ok(whose)
}

/// Whether a cluster creates files with this name. Files are written beside their final path and renamed: an interrupted start may have
/// left one.
fn is_ours(name: &str) -> bool {
    let stem = |ours: &str| ours.rsplit_once('.').map_or(ours, |(stem, _)| stem).to_owned();
    OURS.iter().any(|ours| name == *ours || name.starts_with(&format!("{}.tmp", stem(ours))))
}

fn open_to_others(path: &Path, mode: u32) -> String {
    let (shown, mode) = (path.display(), mode & 0o777);
    format!(
        "{shown} is open to other users (mode {mode:o}), and it holds keys; close it and start again: chmod 700 {}",
        crate::out::shell(path)
    )
}

fn unreadable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot read {}: {}", path.display(), io(error))
}

fn not_removed(path: &Path, error: &std::io::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot remove {}: {}", path.display(), io(error))
}

fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| Read::by_ref(file).take(MAX_HOLDER).read_to_string(&mut text));
    read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn describe(holder: &Holder) -> String {
    match (holder.pid, holder.address.as_str()) {
        (0, _) => "another process".into(),
        (pid, "") => format!("process {pid}"),
        (pid, address) => format!("process {pid} (https://{address})"),
    }
}

/// The canonical path of a directory. For a removed directory, its name in its canonical parent.
pub(crate) fn canonical(path: &Path) -> PathBuf {
    let within = || Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    fs::canonicalize(path).ok().or_else(within).unwrap_or_else(|| path.to_owned())
}

/// The default data directory.
pub(crate) fn default_path() -> anyhow::Result<PathBuf> {
    if let Some(base) = crate::env::var_os("XDG_DATA_HOME").filter(|v| !v.is_empty()) {
        return Ok(PathBuf::from(base).join("sampan"));
    }
    match crate::env::var_os("HOME").filter(|v| !v.is_empty()) {
        Some(home) => Ok(PathBuf::from(home).join(".local/share/sampan")),
        None => bail!("no data directory: HOME is not set; name one with --data-dir"),
    }
}

/// Writes a private file atomically and durably, if its content differs.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    replace_private(path, content, true)
}

/// Like [`write_private`], but not durably: a power failure may lose the file.
pub(crate) fn note_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    replace_private(path, content, false)
}

fn replace_private(path: &Path, content: &[u8], durably: bool) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) && fs::metadata(path).is_ok_and(|m| m.mode() & 0o177 == 0) {
        return Ok(());
    }
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        if durably {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durably { sync_folder_of(path) } else { Ok(()) }
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        anyhow::anyhow!("cannot write {}: {}", path.display(), io(&error))
    })
}

/// Syncs the folder of a created or renamed file. Ignores folders that cannot be synced.
fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    match File::open(folder)?.sync_all() {
        Err(error) if error.kind() != ErrorKind::InvalidInput => Err(error),
        _ => Ok(()),
    }
}

/// Reads a private file. A file that others can read is rejected.
pub(crate) fn read_private(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
    };
    if metadata.mode() & 0o077 != 0 {
        bail!("{} may be read by others; run: chmod 600 {}", path.display(), crate::out::shell(path));
    }
    Ok(Some(fs::read(path).map_err(|error| unreadable(path, &error))?))
}

/// Makes new files private by default.
pub(crate) fn private_umask() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

#[cfg(test)]
mod tests;
