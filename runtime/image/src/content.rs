//! The content store: plain files that appear by atomic renames.
//!
//! ```text
//! blobs/sha256/HEX    verified content: indexes, manifests, configs, layers, modules
//! partial/HEX         a download that runs or was interrupted
//! tmp/                files that are being written
//! files/HEX/          the files of a Wasm image, by the digest of its manifest
//! layers/HEX/         a layer of Linux images, by its chain ID
//! images/HEX.json     a complete image, by the digest of its index or manifest ([`Record`])
//! names/HEX.json      a name and the image it stands for; HEX is the digest of the name
//! lock                held shared while an image is pulled or loaded, exclusively while something is deleted
//! ```
//!
//! Several processes may use one store: a cluster, and `sampan image load`.

use crate::{
    Config, Digest, Error,
    access::Access,
    cached::{Cached, read_json},
    chain::{Layer, Unpacked},
    error::{Fault, damaged},
    manifest::Descriptor,
    recognise::Layout,
    removal::{clear, remove, remove_all},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Length of the copy buffer, bytes.
const CHUNK: usize = 128 << 10;
/// Most bytes of a disk that images leave free (of a small disk a twentieth), for the cluster's store, and for pods until they are evicted.
const MIN_FREE: u64 = 256 << 20;

/// A complete image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The image manifest; the index that led to it is only in the blobs.
    pub manifest: Descriptor,
    /// The module, unless it is a Linux image.
    pub wasm: Option<Digest>,
    pub platform: String,
    pub layout: Layout,
    pub config: Config,
    /// Every stored blob that belongs to it, with its size.
    pub blobs: Vec<(Digest, u64)>,
    /// Of a Linux image, the lowest first. `None` if they were not fetched, as earlier versions did not.
    #[serde(default)]
    pub layers: Option<Vec<Layer>>,
    #[serde(default)]
    pub access: Access,
}

impl Record {
    /// Whether its layers are archives of files, of which one is the module.
    pub(crate) fn has_files(&self) -> bool {
        self.wasm.is_some() && matches!(self.layout, Layout::Platform | Layout::Compat)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Name {
    pub name: String,
    pub image: Digest,
    /// Loaded from a file: no registry may have it, so that it is not collected.
    #[serde(default)]
    pub loaded: bool,
}

/// A cheap handle to the folder.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    root: Arc<Path>,
    next: Arc<AtomicU64>,
    /// The sum of the [`DiskReservation`]s of this process.
    reserved: Reserved,
    /// Layers, images and names that were looked up.
    unpacked: Arc<Cached<Unpacked>>,
    records: Arc<Cached<Record>>,
    known: Arc<Cached<Name>>,
}

/// The sum of all [`DiskReservation`]s, bytes; wider than each of them, so that it never overflows.
type Reserved = Arc<Mutex<u128>>;

/// Disk space that is reserved for a write in progress. It counts against other writes until the bytes are written or it is dropped.
#[derive(Debug)]
pub(crate) struct DiskReservation {
    reserved: Reserved,
    left: u64,
}

impl DiskReservation {
    /// The bytes that are not written yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Releases so many bytes, which are now on the disk.
    pub(crate) fn spend(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        *self.reserved.lock() -= u128::from(bytes);
    }
}

impl Drop for DiskReservation {
    fn drop(&mut self) {
        self.spend(self.left);
    }
}

/// The lock of the store, until dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "closing it unlocks")] File);

impl Content {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        for folder in ["", "blobs/sha256", "partial", "tmp", "files", "layers", "images", "names"] {
            DirBuilder::new().recursive(true).mode(0o700).create(root.join(folder))?;
        }
        let (next, reserved, unpacked, records, known) = Default::default();
        Ok(Self { root: root.into(), next, reserved, unpacked, records, known })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.hex())
    }

    /// Whether a verified blob of that size exists.
    pub(crate) fn has(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.blob(digest)).is_ok_and(|found| found.len() == size)
    }

    /// Waits for the shared lock.
    pub(crate) async fn shared(&self) -> Result<Lock, Fault> {
        let file = self.lock_file()?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::Error(error)) => Err(error.into()),
            Err(TryLockError::WouldBlock) => blocking(move || Ok(Lock(file.lock_shared().map(|()| file)?))).await,
        }
    }

    /// The exclusive lock, if it is free.
    pub(crate) fn try_exclusive(&self) -> Result<Option<Lock>, Fault> {
        let file = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Waits for the exclusive lock.
    pub(crate) async fn exclusive(&self) -> Result<Lock, Fault> {
        let file = self.lock_file()?;
        blocking(move || Ok(Lock(file.lock().map(|()| file)?))).await
    }

    fn lock_file(&self) -> io::Result<File> {
        File::options().create(true).truncate(false).write(true).open(self.root.join("lock"))
    }

    /// Removes what a process that died has left half-made, unless another process is at work.
    pub(crate) fn clear_leftovers(&self) -> Result<(), Fault> {
        let Some(_lock) = self.try_exclusive()? else { return Ok(()) };
        clear(&self.root.join("tmp"), |_| false, remove_all).map(drop)
    }

    /// Reserves so many bytes, if enough stays free beside the other reservations.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<DiskReservation, Fault> {
        let mut reserved = self.reserved.lock();
        let disk = rustix::fs::statvfs(&*self.root).map_err(io::Error::from)?;
        match room(&disk).map(|room| u128::from(room).saturating_sub(*reserved)) {
            Some(room) if room < bytes.into() => Err(Fault::full(&format!(
                "no space left on device: {bytes} bytes are needed, and images may take {room}"
            ))),
            _ => {
                *reserved += u128::from(bytes);
                Ok(DiskReservation { reserved: self.reserved.clone(), left: bytes })
            }
        }
    }

    /// The files of an image by the digest of its manifest.
    pub(crate) fn files(&self, manifest: &Digest) -> PathBuf {
        self.root.join("files").join(manifest.hex())
    }

    /// The folder of a layer.
    pub(crate) fn layer(&self, chain: &Digest) -> PathBuf {
        self.root.join("layers").join(chain.hex())
    }

    /// What is known of a layer, if it is unpacked.
    pub(crate) fn unpacked(&self, chain: &Digest) -> Result<Option<Unpacked>, Fault> {
        self.unpacked.read(&self.layer(chain).join("layer.json"))
    }

    /// Makes something new under `tmp`.
    pub(crate) fn temporary<T>(&self, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.root.join("tmp").join(format!("{}-{number}", std::process::id()));
            match make(&path) {
                Ok(made) => return Ok((made, path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {} // another store's, or a dead process's
                Err(error) => return Err(error),
            }
        }
    }

    /// A new, empty file under `tmp`.
    pub(crate) fn incoming(&self) -> Result<Incoming, Fault> {
        let (file, path) = self.temporary(|path| File::options().create_new(true).write(true).open(path))?;
        Ok(Incoming { content: self.clone(), file, path, hasher: Sha256::new(), size: 0, kept: false })
    }

    /// Reads a file of `size` bytes from an archive or a layout, and at most one byte more.
    pub(crate) fn receive(&self, data: &mut dyn Read, size: u64, limit: u64) -> Result<Incoming, Fault> {
        if size > limit {
            return Err(Fault::content(format!("the archive holds a file of {size} bytes, {limit} are allowed")));
        }
        let mut room = self.reserve(size)?;
        let mut incoming = self.incoming()?;
        let mut buffer = vec![0; CHUNK];
        let mut data = data.take(size.saturating_add(1));
        loop {
            let count = data.read(&mut buffer).map_err(damaged)?;
            if count == 0 {
                break;
            }
            incoming.write(&buffer[..count])?;
            room.spend(count as u64);
        }
        if incoming.size > size {
            return Err(Fault::content(format!("it holds a file of more than the {size} bytes that it tells")));
        }
        if incoming.size < size {
            return Err(Fault::content("the archive ends within a file"));
        }
        Ok(incoming)
    }

    /// Stores bytes as a blob.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, Fault> {
        let digest = Digest::of(bytes);
        if !self.has(&digest, bytes.len() as u64) {
            let _room = self.reserve(bytes.len() as u64)?;
            let mut incoming = self.incoming()?;
            incoming.write(bytes)?;
            incoming.commit(None)?;
        }
        Ok(digest)
    }

    /// The first four bytes of a blob.
    pub(crate) fn start(&self, digest: &Digest) -> Result<Vec<u8>, Fault> {
        let mut found = Vec::new();
        File::open(self.blob(digest))?.take(4).read_to_end(&mut found)?;
        Ok(found)
    }

    /// Reads a small blob.
    pub(crate) fn bytes(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Fault> {
        let file = File::open(self.blob(digest))?;
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(Fault::content(format!("{digest} has more than {limit} bytes")));
        }
        Ok(bytes)
    }

    pub(crate) fn record(&self, image: &Digest) -> Result<Option<Record>, Fault> {
        self.records.read(&self.record_path(image))
    }

    pub(crate) fn name(&self, name: &str) -> Result<Option<Name>, Fault> {
        self.known.read(&self.name_path(name))
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.root.join("names").join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    pub(crate) fn record_path(&self, image: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", image.hex()))
    }

    pub(crate) fn set_record(&self, image: &Digest, record: &Record) -> Result<(), Fault> {
        self.write_json(&self.record_path(image), record)
    }

    pub(crate) fn set_name(&self, name: &str, image: Digest, loaded: bool) -> Result<(), Fault> {
        self.write_json(&self.name_path(name), &Name { name: name.to_owned(), image, loaded })
    }

    pub(crate) fn forget_name(&self, name: &str) -> Result<(), Fault> {
        remove(&self.name_path(name))
    }

    /// All names, sorted; an unreadable one is skipped and logged.
    pub(crate) fn names(&self) -> Result<Vec<Name>, Fault> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join("names"))? {
            let path = entry?.path();
            match read_json::<Name>(&path) {
                Ok(name) => names.extend(name),
                Err(fault) => tracing::warn!(path = %path.display(), ?fault, "the name of an image cannot be read"),
            }
        }
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    /// All images; an unreadable one is skipped and logged.
    pub(crate) fn images(&self) -> Result<Vec<(Digest, Record)>, Fault> {
        let mut images = Vec::new();
        for entry in fs::read_dir(self.root.join("images"))? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let Ok(digest) = format!("sha256:{stem}").parse() else { continue };
            match read_json(&path) {
                Ok(Some(record)) => images.push((digest, record)),
                Ok(None) => {}
                Err(fault) => tracing::warn!(path = %path.display(), ?fault, "an image record cannot be read"),
            }
        }
        images.sort_by_key(|(digest, _)| *digest);
        Ok(images)
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), Fault> {
        let mut incoming = self.incoming()?;
        incoming.write(&serde_json::to_vec(value).map_err(io::Error::other)?)?;
        incoming.keep_as(path)
    }
}

/// Bytes of a disk that images may still use; `None` if the file system reports no size.
fn room(disk: &rustix::fs::StatVfs) -> Option<u64> {
    // As df counts: blocks kept back (for root, by a quota) are neither used nor free.
    let usable = disk.f_blocks.saturating_sub(disk.f_bfree).saturating_add(disk.f_bavail);
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    (usable > 0).then(|| bytes(disk.f_bavail).saturating_sub(MIN_FREE.min(bytes(usable) / 20)))
}

/// A file that is being written under `tmp`; it is removed when dropped.
#[derive(Debug)]
pub(crate) struct Incoming {
    content: Content,
    file: File,
    path: PathBuf,
    hasher: Sha256,
    size: u64,
    kept: bool,
}

impl Incoming {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(self.file.write_all(bytes)?)
    }

    /// Makes it a blob, if it has the expected digest.
    pub(crate) fn commit(mut self, expected: Option<Digest>) -> Result<(Digest, u64), Fault> {
        let digest = Digest::finish(std::mem::take(&mut self.hasher));
        let size = self.size;
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(Fault::content(format!("the content of {expected} has digest {digest}")));
        }
        let path = self.content.blob(&digest);
        self.keep_as(&path)?;
        Ok((digest, size))
    }

    fn keep_as(mut self, path: &Path) -> Result<(), Fault> {
        self.file.sync_data()?; // a name must never stand for content that a power cut takes away
        rename(&self.path, path)?;
        self.kept = true;
        Ok(())
    }
}

/// Moves a synced file to its place, durably: the directory is synced too.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    to.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Runs file work on a thread that may block.
pub(crate) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, Fault> + Send + 'static,
) -> Result<R, Fault> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Fault::Store(error.to_string())))
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Store(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_has_its_room_until_it_is_written_or_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let content = Content::open(folder.path()).unwrap();
        let disk = rustix::fs::statvfs(folder.path()).unwrap();
        // Others use the disk meanwhile: two of these are too many in any case, and one is not.
        let most = room(&disk).expect("the disk tells") / 3 * 2;
        let mut first = content.reserve(most).unwrap();
        content.clone().reserve(most).expect_err("reserved to the first");
        first.spend(most / 4 * 3);
        let second = content.reserve(most).expect("written, as far as this test goes");
        assert_eq!(*content.reserved.lock(), u128::from(most + (most - most / 4 * 3)));
        drop(first);
        drop(second);
        assert_eq!(*content.reserved.lock(), 0);
        let mut all = content.reserve(10).unwrap();
        all.spend(20);
        assert_eq!(*content.reserved.lock(), 0, "more than it was");
    }
}
