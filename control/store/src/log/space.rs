//! The file under redb, with a reserve: its blocks, and a few MiB more, are taken from the disk before they are needed, so that a
//! commit that makes the store no larger (a deletion, a renewed lease) finds room also when somebody else has filled the disk.
//!
//! The reserve lies in the file itself, behind its end: nobody else can take it between giving it up and using it. On a file
//! system that cannot reserve (or copies what it overwrites, as btrfs does) there is none, and a commit may fail instead.

use super::LogError;
use parking_lot::Mutex;
use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};
use std::{
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Kept for what makes the store no larger, bytes.
pub(super) const RESERVE: u64 = 4 << 20;
/// With so much free on the disk there is no shortage, even if not every page of the file has its block, bytes.
const PLENTY: u64 = 4 * RESERVE;

/// The file and what is known of its space. A clone is the same file.
#[derive(Clone, Debug)]
pub(super) struct Space {
    file: Arc<File>,
    /// Whether every page of the file and the reserve have their blocks.
    secured: Arc<AtomicBool>,
    /// One at a time.
    securing: Arc<Mutex<()>>,
}

impl Space {
    /// The file at a path, made if it is absent, for [`Space::backend`].
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let absent = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if absent && let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?; // the file's own entry survives a power cut as well
        }
        Ok(Self { file: Arc::new(file), secured: Arc::default(), securing: Arc::default() })
    }

    /// The next read comes from the disk.
    pub(super) fn forget_cached(&self) -> io::Result<()> {
        forget_cached(&self.file)
    }

    /// The storage for redb.
    pub(super) fn backend(&self) -> Result<impl StorageBackend + use<>, DatabaseError> {
        let file = self.file.try_clone().map_err(redb::StorageError::Io)?;
        Ok(Backend { under: FileBackend::new(file)?, space: self.clone() })
    }

    /// Whether there is no need to look at the disk.
    pub(super) fn is_secured(&self) -> bool {
        self.secured.load(Ordering::Acquire)
    }

    /// Takes what is missing from the disk. Blocks.
    pub(super) fn secure(&self) -> Result<(), LogError> {
        let _one = self.securing.lock();
        if self.is_secured() {
            return Ok(());
        }
        let result = secure(&self.file);
        self.secured.store(matches!(result, Ok(true)), Ordering::Release);
        result.map(drop).map_err(LogError::from)
    }
}

/// `Ok(true)`: nothing is missing. `Ok(false)`: not all is secured, yet nothing is short.
#[cfg(target_os = "linux")]
fn secure(file: &File) -> io::Result<bool> {
    use rustix::fs::FallocateFlags;
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata()?;
    let wanted = metadata.len() + RESERVE;
    let missing = wanted.saturating_sub(metadata.blocks() * 512);
    let disk = rustix::fs::fstatvfs(file)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if missing > free {
        return if free >= PLENTY { Ok(false) } else { Err(io::ErrorKind::StorageFull.into()) };
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, wanted) {
        Ok(()) => Ok(true),
        Err(error) => match io::Error::from(error) {
            error if error.kind() == io::ErrorKind::Unsupported => Ok(true),
            error => Err(error),
        },
    }
}

#[cfg(not(target_os = "linux"))]
fn secure(_: &File) -> io::Result<bool> {
    Ok(true)
}

/// Drops what the operating system has of the file in memory, so that it is read from the disk: after a failed sync what is in memory
/// may never have been written, and counts as clean.
#[cfg(target_os = "linux")]
fn forget_cached(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(not(target_os = "linux"))]
fn forget_cached(_: &File) -> io::Result<()> {
    Ok(())
}

/// [`FileBackend`], except that it notices when the file's length changes.
#[derive(Debug)]
struct Backend {
    under: FileBackend,
    space: Space,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.under.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.under.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.space.secured.store(false, Ordering::Release);
        self.under.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.under.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.under.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.under.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.under.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.under.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.under.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.under.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.under.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.under.query_lock_range(start, end)
    }
}
