//! The file of redb with reserved space: the blocks of the file and a few additional MiB are allocated in advance, so that a commit that
//! does not grow the store (a deletion, a renewed Lease) succeeds even if other programs have filled the disk.
//!
//! The reserve is allocated in the file itself, beyond its end, so that no other program can use it between its release and its use. On
//! file systems that do not support this (NFS before 4.2, some FUSE file systems), the reserve is a separate file that is removed when a
//! write finds no space. On copy-on-write file systems such as btrfs, the reserve helps less, and a commit may fail.

use super::LogError;
use parking_lot::Mutex;
use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Reserved for changes that do not grow the store, in bytes.
pub(super) const RESERVE_BYTES: u64 = 4 << 20;
/// With this much free space, the disk is not low on space even if some pages have no blocks yet, in bytes.
const AMPLE_BYTES: u64 = 4 * RESERVE_BYTES;

/// Allocates the blocks of a file's first bytes, also beyond its end. Fails if the file system does not support it.
type Allocate = fn(&File, u64) -> io::Result<()>;

/// The file and the state of its reserve. Clones are the same file.
#[derive(Clone, Debug)]
pub(super) struct Space {
    file: Arc<File>,
    allocate: Allocate,
    /// The path of the reserve file, if the reserve cannot be in the file itself.
    beside: Arc<Path>,
    /// Whether all pages of the file and the reserve are allocated.
    secured: Arc<AtomicBool>,
    /// Serializes allocations.
    securing: Arc<Mutex<()>>,
}

impl Space {
    /// Opens or creates the file at a path, for [`Space::backend`].
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let absent = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if absent {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()?; // the file's directory entry survives a power failure as well
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".reserve");
        Ok(Self {
            file: Arc::new(file),
            allocate,
            beside: PathBuf::from(beside).into(),
            secured: Arc::default(),
            securing: Arc::default(),
        })
    }

    /// The next read is from the disk.
    pub(super) fn forget_cached(&self) -> io::Result<()> {
        forget_cached(&self.file)
    }

    /// The storage backend for redb.
    pub(super) fn backend(&self) -> Result<impl StorageBackend + use<>, DatabaseError> {
        let file = self.file.try_clone().map_err(redb::StorageError::Io)?;
        Ok(Backend { under: FileBackend::new(file)?, space: self.clone() })
    }

    /// Whether the disk need not be checked.
    pub(super) fn is_secured(&self) -> bool {
        self.secured.load(Ordering::Acquire)
    }

    /// Allocates the missing part of the reserve. Blocks.
    pub(super) fn secure(&self) -> Result<(), LogError> {
        let _one = self.securing.lock();
        if self.is_secured() {
            return Ok(());
        }
        let result = self.take();
        self.secured.store(matches!(result, Ok(true)), Ordering::Release);
        result.map(drop).map_err(LogError::from)
    }

    /// After the file is closed, allocates the space that its next use needs first. Closing truncates the free space at its end, so that
    /// the first commit doubles its size, and that start must not fail because other programs have filled the disk. Failures are handled at
    /// the next start.
    pub(super) fn keep(&self) {
        let needs = self.file.metadata().map_or(0, |metadata| 2 * metadata.len() + RESERVE_BYTES);
        let _ = (self.allocate)(&self.file, needs);
    }

    /// `Ok(true)` if everything is allocated. `Ok(false)` if not, but enough space is free.
    fn take(&self) -> io::Result<bool> {
        let metadata = self.file.metadata()?;
        let wanted = metadata.len() + RESERVE_BYTES;
        let has = blocks(&metadata) + std::fs::metadata(&self.beside).map_or(0, |beside| blocks(&beside));
        let missing = wanted.saturating_sub(has);
        if let Some(free) = free(&self.file)?.filter(|free| missing > *free) {
            return if free >= AMPLE_BYTES { Ok(false) } else { Err(io::ErrorKind::StorageFull.into()) };
        }
        match (self.allocate)(&self.file, wanted) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.take_beside().map(|()| true),
            result => result.map(|()| true),
        }
    }

    /// Creates the reserve as a separate file, with content that a compressing file system cannot shrink.
    fn take_beside(&self) -> io::Result<()> {
        if std::fs::metadata(&self.beside).is_ok_and(|beside| beside.len() == RESERVE_BYTES) {
            return Ok(());
        }
        let noise: Vec<u8> = (0..1u32 << 16).map(|n| (n.wrapping_mul(0x9e37_79b9) ^ n).to_le_bytes()[3]).collect();
        let write = || {
            let mut file = File::create(&self.beside)?;
            for _ in 0..RESERVE_BYTES >> 16 {
                file.write_all(&noise)?;
            }
            file.sync_all()
        };
        write().inspect_err(|_| drop(std::fs::remove_file(&self.beside)))
    }

    /// Writes. If the disk is full, releases the reserve and writes again.
    fn spend(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        write().or_else(|error| if self.give_up(&error) { write() } else { Err(error) })
    }

    /// Removes the reserve file, if it exists and its space is needed.
    fn give_up(&self, error: &io::Error) -> bool {
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let has_room = is_full && std::fs::remove_file(&self.beside).is_ok();
        if has_room {
            self.secured.store(false, Ordering::Release);
        }
        has_room
    }
}

#[cfg(target_os = "linux")]
fn blocks(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

/// Free bytes of the file's disk. `None` if the file system does not report them.
#[cfg(target_os = "linux")]
fn free(file: &File) -> io::Result<Option<u64>> {
    let disk = rustix::fs::fstatvfs(file)?;
    Ok((disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize)))
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, bytes)?)
}

#[cfg(not(target_os = "linux"))]
fn blocks(metadata: &std::fs::Metadata) -> u64 {
    metadata.len()
}

#[cfg(not(target_os = "linux"))]
fn free(_: &File) -> io::Result<Option<u64>> {
    Ok(None)
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Discards the file's page cache, so that it is read from the disk. After a failed sync, cached pages may never have been written but
/// count as clean.
#[cfg(target_os = "linux")]
fn forget_cached(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(not(target_os = "linux"))]
fn forget_cached(_: &File) -> io::Result<()> {
    Ok(())
}

/// [`FileBackend`] that notices changes of the file's length.
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
        self.space.spend(|| self.under.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not retried: after a failed sync, cached pages may be lost but count as written.
        let result = self.under.sync_data();
        if let Err(error) = &result {
            self.space.give_up(error);
        }
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.space.spend(|| self.under.write(offset, data))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn space(folder: &tempfile::TempDir, allocate: Allocate) -> Space {
        Space { allocate, ..Space::open(&folder.path().join("store.redb")).unwrap() }
    }

    #[test]
    fn a_file_may_be_named_without_its_folder() {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        let name = file.path().file_name().unwrap().to_owned();
        drop(file);
        Space::open(Path::new(&name)).unwrap();
        std::fs::remove_file(name).unwrap();
    }

    fn cannot(_: &File, _: u64) -> io::Result<()> {
        Err(rustix::io::Errno::OPNOTSUPP.into())
    }

    #[test]
    fn the_reserve_lies_behind_the_end_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let space = space(&folder, allocate);
        space.secure().unwrap();
        let metadata = space.file.metadata().unwrap();
        assert!(space.is_secured() && metadata.len() == 0 && blocks(&metadata) >= RESERVE_BYTES);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_system_that_cannot_reserve_has_a_file_that_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let space = space(&folder, cannot);
        let reserve = folder.path().join("store.redb.reserve");
        space.secure().unwrap();
        assert!(space.is_secured());
        assert!(blocks(&std::fs::metadata(&reserve).unwrap()) >= RESERVE_BYTES);
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        // other errors, and a full disk without a reserve, are returned unchanged
        space.spend(|| Err(io::ErrorKind::InvalidData.into())).unwrap_err();
        assert!(reserve.exists() && space.is_secured());
        space.spend(|| if reserve.exists() { Err(full()) } else { Ok(()) }).unwrap();
        assert!(!reserve.exists() && !space.is_secured(), "it is taken again when there is room");
        assert_eq!(space.spend(|| Err(full())).unwrap_err().kind(), io::ErrorKind::StorageFull);
        space.secure().unwrap();
        assert!(reserve.exists() && space.is_secured());
    }

    #[test]
    fn a_disk_that_fills_while_the_reserve_is_taken_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let space = space(&folder, |_, _| Err(io::ErrorKind::StorageFull.into()));
        assert!(matches!(space.secure(), Err(LogError::Full(_))));
        assert!(!space.is_secured());
    }
}
