//! The root folder of a container: the files of its image, which all its instances share and no one changes, until the first write to the
//! root. Then the files are copied to a folder of the container's own, where all its instances see them from there on. A container that only
//! reads has no such folder.
//!
//! Folders of the shared files have the permission [`FsPerms::ReadOnly`], so that no call can change them, and show the flags of writable ones.
//! A call that changes something is preceded by the copy, and by [`Root::follow`], which replaces a folder of the shared files by the same
//! folder of the copy. A file that was open before the copy stays the one of the image, as in an overlay file system.

use super::{budget::DiskSpace, copy, refused::Refused};
use crate::long_polls::hand_over;
use container::{Artifact, ContainerSpec, FileId, Mount, MountError, RootFolder};
use parking_lot::Mutex;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::{Component, Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::{
    FsPerms, OpenMode,
    filesystem::{Descriptor, Dir},
};

const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// The root folder of one container.
pub(crate) struct Root {
    /// The shared files of the image; `None`: it has none.
    image: Option<Mount>,
    /// The path of the shared files without links.
    image_path: Option<PathBuf>,
    /// An empty folder that stands for an image without files.
    empty: Option<Dir>,
    /// Where the copy is made; `None`: the root is read-only.
    writable: Option<PathBuf>,
    /// Folders that the copy has besides the image's: the working directory, and the targets of mounts.
    besides: Vec<PathBuf>,
    copy: OnceLock<Mount>,
    copying: Mutex<()>,
    /// For instances that would make the copy.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// The container has ended.
    closed: AtomicBool,
}

/// The names of a path from the root; `None` if it has none but these.
fn names(path: &str) -> Option<PathBuf> {
    let mut names = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => names.push(name),
            Component::ParentDir | Component::Prefix(_) => return None,
            Component::RootDir | Component::CurDir => {}
        }
    }
    (!names.as_os_str().is_empty()).then_some(names)
}

impl Root {
    /// The root of a container, unless it has none, or a volume is mounted there. `empty`: a folder that is empty and stays so. Blocks on the
    /// disk for some microseconds.
    pub(crate) fn new(spec: &ContainerSpec, empty: Option<&Dir>) -> Result<Option<Arc<Self>>, MountError> {
        let writable = match &spec.root {
            RootFolder::Absent => return Ok(None),
            RootFolder::ReadOnly => None,
            RootFolder::Writable(folder) => Some(folder.clone()),
        };
        if spec.mounts.iter().any(|mount| names(&mount.target).is_none()) {
            return Ok(None);
        }
        let files = match &spec.artifact {
            Artifact::Wasm { files, .. } => files.as_ref(),
            Artifact::Linux { .. } => None,
        };
        let image = files.map(|files| Mount::new(files, "", "/", true)).transpose()?;
        let image_path = files.and_then(|files| fs::canonicalize(files).ok());
        let besides = spec.mounts.iter().map(|mount| mount.target.as_str()).chain(spec.cwd.as_deref());
        let besides = besides.filter_map(names).collect();
        let empty = empty.filter(|_| image.is_none()).cloned();
        let (copy, copying, turn, closed) = Default::default();
        Ok(Some(Arc::new(Self { image, image_path, empty, writable, besides, copy, copying, turn, closed })))
    }

    /// Whether guests may write.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable.is_some()
    }

    /// Whether the container has a copy of its own.
    pub(crate) fn is_copied(&self) -> bool {
        self.copy.get().is_some()
    }

    /// The mount of the present root; `None`: it is empty.
    pub(crate) fn mount(&self) -> Option<&Mount> {
        self.copy.get().or(self.image.as_ref())
    }

    /// Whether the image has this folder.
    pub(crate) fn has_folder(&self, below: &Path) -> bool {
        self.image.as_ref().is_some_and(|image| image.open_below(below, HANDLE, Mode::empty()).is_ok())
    }

    /// The folders of the image at its top, if they are few.
    pub(crate) fn top_folders(&self, most: usize) -> Vec<PathBuf> {
        let Some(path) = &self.image_path else { return Vec::new() };
        let folders = fs::read_dir(path).into_iter().flatten().flatten();
        let folders = folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut folders: Vec<PathBuf> = folders.map(|entry| entry.file_name().into()).take(most + 1).collect();
        folders.sort();
        if folders.len() > most { Vec::new() } else { folders }
    }

    /// Opens a folder of the root for a guest. `space` is charged if it can only be in a copy. Blocks on the disk.
    pub(crate) fn open(&self, below: &Path, in_place: bool, space: &DiskSpace) -> Result<Dir, Refused> {
        let missing = |error: io::Error| {
            let what = if below.as_os_str().is_empty() { "the root".into() } else { below.display().to_string() };
            Refused::Mount(format!("/{}", below.display()), MountError::Io { what, error })
        };
        if self.copy.get().is_none() {
            let opened = match (&self.image, &self.empty) {
                (Some(image), _) => Some(image.open_below(below, HANDLE, Mode::empty()).map(File::from)),
                (None, Some(empty)) if below.as_os_str().is_empty() => Some(empty.dir.try_clone()),
                (None, _) => None,
            };
            match opened {
                Some(Ok(dir)) => {
                    return Ok(Dir::new(dir, FsPerms::ReadOnly, self.mode(), in_place));
                }
                Some(Err(error)) if error.kind() != io::ErrorKind::NotFound || !self.is_writable() => {
                    return Err(missing(error));
                }
                None if !self.is_writable() => return Err(missing(Errno::NOENT.into())),
                // the working directory, which is made with the copy
                _ => {}
            }
        }
        let copy = hand_over(|| self.copy(space))?;
        let dir = copy.open_below(below, HANDLE, Mode::empty()).map_err(missing)?;
        Ok(Dir::new(dir.into(), FsPerms::ReadWrite, self.mode(), in_place))
    }

    fn mode(&self) -> OpenMode {
        if self.is_writable() { OpenMode::READ | OpenMode::WRITE } else { OpenMode::READ }
    }

    /// The path of a folder of the shared files below their root; `None` if it is no such folder.
    fn shared_path(&self, dir: &Dir) -> Option<PathBuf> {
        if dir.perms != FsPerms::ReadOnly {
            return None;
        }
        if let Some(empty) = &self.empty {
            let same = FileId::of(&*dir.dir).ok()? == FileId::of(&*empty.dir).ok()?;
            return same.then(PathBuf::new);
        }
        let path = fs::read_link(format!("/proc/self/fd/{}", dir.dir.as_raw_fd())).ok()?;
        path.strip_prefix(self.image_path.as_ref()?).ok().map(Path::to_owned)
    }

    /// Whether a call that changes something in this folder must be preceded by the copy.
    pub(crate) fn needs_copy(&self, dir: &Dir) -> bool {
        self.is_writable() && !self.is_copied() && self.shared_path(dir).is_some()
    }

    /// The folder of the copy in place of one of the shared files; `None`: it is none, or there is no copy. Blocks on the disk.
    pub(crate) fn moved(&self, dir: &Dir, in_place: bool) -> Result<Option<Dir>, Refused> {
        let Some(copy) = self.copy.get() else { return Ok(None) };
        let Some(below) = self.shared_path(dir) else { return Ok(None) };
        let opened = copy.open_below(&below, HANDLE | OFlags::NOFOLLOW, Mode::empty()).map_err(Refused::Root)?;
        Ok(Some(Dir::new(opened.into(), FsPerms::ReadWrite, dir.open_mode, in_place)))
    }

    /// Replaces an entry of an instance's table, if it is a folder of the shared files and there is a copy. Blocks on the disk.
    pub(crate) fn follow(&self, table: &mut ResourceTable, entry: u32) -> Result<(), Refused> {
        if !self.is_copied() {
            return Ok(());
        }
        if let Ok(Descriptor::Dir(dir)) = table.get_mut(&Resource::new_borrow(entry))
            && let Some(moved) = self.moved(dir, true)?
        {
            *dir = moved;
        }
        Ok(())
    }

    /// As [`Root::needs_copy`], for an entry of an instance's table.
    pub(crate) fn entry_needs_copy(&self, table: &mut ResourceTable, entry: u32) -> bool {
        matches!(table.get(&Resource::new_borrow(entry)), Ok(Descriptor::Dir(dir)) if self.needs_copy(dir))
    }

    /// Makes the copy, if there is none. Blocks on the disk for as long as it takes to copy the image's files.
    pub(crate) fn copy(&self, space: &DiskSpace) -> Result<&Mount, Refused> {
        if let Some(copy) = self.copy.get() {
            return Ok(copy);
        }
        let Some(folder) = &self.writable else { return Err(Refused::Root(Errno::ROFS.into())) };
        let _one = self.copying.lock();
        if let Some(copy) = self.copy.get() {
            return Ok(copy);
        }
        let made = self.make(folder, space).map_err(Refused::Root);
        let made =
            made.and_then(|()| Mount::new(folder, "", "/", false).map_err(|error| Refused::Mount("/".into(), error)));
        match made {
            Ok(mount) => Ok(self.copy.get_or_init(|| mount)),
            Err(refused) => {
                // no guest has seen it
                let _ = fs::remove_dir_all(folder);
                Err(refused)
            }
        }
    }

    fn make(&self, folder: &Path, space: &DiskSpace) -> io::Result<()> {
        let mut progress = |bytes| match (self.closed.load(Relaxed), space.take(bytes)) {
            (true, _) => Err(io::Error::from(Errno::CANCELED)),
            (false, true) => Ok(()),
            (false, false) => Err(Errno::NOSPC.into()),
        };
        progress(super::budget::ENTRY_BYTES)?;
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        if let Some(image) = &self.image {
            let from = image.open().map_err(io::Error::other)?;
            let from =
                rustix::fs::openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            copy::copy(from, File::open(folder)?, &mut progress)?;
        }
        let mount = Mount::new(folder, "", "/", false).map_err(io::Error::other)?;
        for besides in &self.besides {
            // What the image has at that name, such as a file or a link, stays: mounts are beside it.
            let _ = make_folders(&mount, besides);
        }
        Ok(())
    }

    /// The container has ended: nothing is copied any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
    }
}

fn make_folders(mount: &Mount, path: &Path) -> io::Result<()> {
    let mut at = mount.open_below(Path::new(""), HANDLE, Mode::empty())?;
    for part in path.components() {
        match rustix::fs::mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        at = rustix::fs::openat(&at, part.as_os_str(), HANDLE | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    }
    Ok(())
}
