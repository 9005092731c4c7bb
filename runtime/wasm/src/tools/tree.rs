//! The file tree of a container as its program sees it, for the built-in tools. A path is resolved beneath the mount that contains it, by the
//! mount's handle, or else in the container's root. Ancestors of mounts that are not there appear as read-only folders that contain only the
//! path to the mounts.

use crate::files::{Refused, budget::DiskSpace, root::Root};
use container::{ContainerSpec, Mount, MountError};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, mkdirat, readlinkat, symlinkat},
    io::Errno,
};
use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// Most listed entries of one folder.
const MAX_ENTRIES: usize = 65_536;

/// Opens a path for `fstat` and `readlinkat` only.
const PATH_ONLY: OFlags = OFlags::PATH;

/// The file tree of one container.
pub(crate) struct Tree {
    mounts: Vec<Mount>,
    cwd: PathBuf,
    root: Option<Arc<Root>>,
    space: Arc<DiskSpace>,
}

/// The status of a file, folder or link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: FileType,
    pub(crate) mode: u32,
    pub(crate) links: u64,
    pub(crate) size: u64,
    pub(crate) inode: u64,
    /// Seconds since 1970.
    pub(crate) modified: i64,
}

enum Location<'a> {
    /// Beneath a mount.
    Mount(&'a Mount, PathBuf),
    /// In the root.
    Root(&'a Root, PathBuf),
    /// An ancestor of mounts.
    Between,
}

impl Tree {
    pub(crate) fn new(spec: &ContainerSpec, root: Option<Arc<Root>>, space: Arc<DiskSpace>) -> Self {
        Self { mounts: spec.mounts.clone(), cwd: PathBuf::from(spec.cwd.as_deref().unwrap_or("/")), root, space }
    }

    /// The path from the root, without `.` and `..`.
    fn absolute(&self, path: &Path) -> PathBuf {
        let mut whole = PathBuf::from("/");
        for part in self.cwd.join(path).components() {
            match part {
                Component::Normal(name) => whole.push(name),
                Component::ParentDir => drop(whole.pop()),
                _ => {}
            }
        }
        whole
    }

    fn locate(&self, path: &Path) -> io::Result<Location<'_>> {
        let path = self.absolute(path);
        let within = |mount: &&Mount| path.starts_with(&mount.target);
        let deepest = self.mounts.iter().filter(within).max_by_key(|it| Path::new(&it.target).components().count());
        if let Some(mount) = deepest {
            let below = path.strip_prefix(&mount.target).unwrap_or(Path::new("")).to_owned();
            return Ok(Location::Mount(mount, below));
        }
        let on_the_way =
            path == Path::new("/") || self.mounts.iter().any(|it| Path::new(&it.target).starts_with(&path));
        if let Some(root) = &self.root {
            let below = path.strip_prefix("/").unwrap_or(Path::new("")).to_owned();
            let there = || root.mount().is_some_and(|mount| mount.open_below(&below, PATH_ONLY, Mode::empty()).is_ok());
            if !on_the_way || there() {
                return Ok(Location::Root(root, below));
            }
        }
        if on_the_way { Ok(Location::Between) } else { Err(Errno::NOENT.into()) }
    }

    fn at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        match self.locate(path)? {
            Location::Mount(mount, _)
                if mount.read_only && flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::CREATE) =>
            {
                Err(Errno::ROFS.into())
            }
            Location::Mount(mount, below) => mount.open_below(&below, flags, mode),
            Location::Root(root, below) if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::CREATE) => {
                self.own(root)?.open_below(&below, flags, mode)
            }
            Location::Root(root, below) => root.mount().ok_or(Errno::NOENT)?.open_below(&below, flags, mode),
            Location::Between if flags.contains(OFlags::CREATE) => Err(Errno::ROFS.into()),
            Location::Between => Err(Errno::ISDIR.into()),
        }
    }

    /// The container's own copy of its root, which is made if there is none.
    fn own<'a>(&self, root: &'a Root) -> io::Result<&'a Mount> {
        root.copy(&self.space).map_err(|refused| match refused {
            Refused::Root(error) | Refused::Mount(_, MountError::Io { error, .. }) => error,
            other => io::Error::other(other.to_string()),
        })
    }

    /// The status of a path; `follow`: of a link's target instead of the link.
    pub(crate) fn stat(&self, path: &Path, follow: bool) -> io::Result<Entry> {
        if matches!(self.locate(path)?, Location::Between) {
            let (kind, mode) = (FileType::Directory, 0o555);
            return Ok(Entry { kind, mode, links: 1, size: 0, inode: 0, modified: 0 });
        }
        let flags = if follow { PATH_ONLY } else { PATH_ONLY | OFlags::NOFOLLOW };
        Ok(Entry::of(&fstat(self.at(path, flags, Mode::empty())?)?))
    }

    /// Opens a regular file for reading. Refuses pipes and devices, whose open may block or have effects.
    pub(crate) fn read(&self, path: &Path) -> io::Result<(File, Entry)> {
        let entry = self.stat(path, true)?;
        match entry.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR.into()),
            _ => return Err(Errno::NOTSUP.into()),
        }
        let file = self.at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        let entry = Entry::of(&fstat(&file)?);
        if entry.kind != FileType::RegularFile {
            return Err(Errno::NOTSUP.into());
        }
        Ok((file.into(), entry))
    }

    /// The target of a link.
    pub(crate) fn link(&self, path: &Path) -> io::Result<OsString> {
        let link = self.at(path, PATH_ONLY | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(OsStr::from_bytes(readlinkat(link, "", Vec::new())?.as_bytes()).to_owned())
    }

    /// The names in a folder, sorted, including mounts.
    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut names = BTreeSet::new();
        if let Location::Mount(..) | Location::Root(..) = self.locate(path)? {
            let folder = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            for entry in Dir::new(folder)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.insert(OsStr::from_bytes(name).to_owned());
                }
                if names.len() > MAX_ENTRIES {
                    return Err(Errno::OVERFLOW.into());
                }
            }
        }
        let path = self.absolute(path);
        let below = self.mounts.iter().filter_map(|mount| Path::new(&mount.target).strip_prefix(&path).ok());
        names.extend(below.filter_map(|rest| Some(rest.components().next()?.as_os_str().to_owned())));
        Ok(names.into_iter().collect())
    }

    /// Creates or truncates a file.
    pub(crate) fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = self.at(path, flags, Mode::from_raw_mode(mode & 0o777))?;
        if Entry::of(&fstat(&file)?).kind != FileType::RegularFile {
            return Err(Errno::NOTSUP.into());
        }
        Ok(file.into())
    }

    /// Creates a folder and its ancestors, if they do not exist.
    pub(crate) fn make_folder(&self, path: &Path) -> io::Result<()> {
        match self.stat(path, true) {
            Ok(entry) if entry.kind == FileType::Directory => return Ok(()),
            Ok(_) => return Err(Errno::NOTDIR.into()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
        let path = self.absolute(path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        if let Location::Root(root, _) = self.locate(&path)? {
            self.own(root)?;
        }
        self.make_folder(parent)?;
        match mkdirat(self.writable(parent)?, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a link; replaces an existing link, but no file or folder.
    pub(crate) fn make_link(&self, path: &Path, target: &OsStr) -> io::Result<()> {
        let path = self.absolute(path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EXIST.into()) };
        let folder = self.writable(parent)?;
        if self.stat(&path, false).is_ok_and(|entry| entry.kind == FileType::Symlink) {
            rustix::fs::unlinkat(&folder, name, AtFlags::empty())?;
        }
        Ok(symlinkat(target, folder, name)?)
    }

    /// Opens a folder of a writable mount.
    fn writable(&self, folder: &Path) -> io::Result<OwnedFd> {
        match self.locate(folder)? {
            Location::Mount(mount, _) if mount.read_only => Err(Errno::ROFS.into()),
            Location::Root(root, below) => {
                self.own(root)?.open_below(&below, PATH_ONLY | OFlags::DIRECTORY, Mode::empty())
            }
            Location::Between => match &self.root {
                // a copy of the root has it
                Some(root) => {
                    let below = folder.strip_prefix("/").unwrap_or(Path::new(""));
                    self.own(root)?.open_below(below, PATH_ONLY | OFlags::DIRECTORY, Mode::empty())
                }
                None => Err(Errno::ROFS.into()),
            },
            Location::Mount(mount, below) => mount.open_below(&below, PATH_ONLY | OFlags::DIRECTORY, Mode::empty()),
        }
    }
}

impl Entry {
    #[allow(clippy::unnecessary_cast)] // the types differ between systems
    fn of(stat: &Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode as u32 & 0o7777,
            links: stat.st_nlink as u64,
            size: stat.st_size as u64,
            inode: stat.st_ino as u64,
            modified: stat.st_mtime as i64,
        }
    }

    /// Type and permissions as in `ls -l`: `-rw-r--r--`.
    pub(crate) fn mode_text(&self) -> String {
        let kind = match self.kind {
            FileType::Directory => 'd',
            FileType::Symlink => 'l',
            FileType::Fifo => 'p',
            FileType::Socket => 's',
            FileType::CharacterDevice => 'c',
            FileType::BlockDevice => 'b',
            _ => '-',
        };
        let bits = (0..9).map(|bit| if self.mode & (0o400 >> bit) == 0 { '-' } else { ['r', 'w', 'x'][bit % 3] });
        std::iter::once(kind).chain(bits).collect()
    }

    /// The name of the type as in `stat`.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self.kind {
            FileType::Directory => "directory",
            FileType::Symlink => "symbolic link",
            FileType::RegularFile if self.size == 0 => "regular empty file",
            FileType::RegularFile => "regular file",
            _ => "special file",
        }
    }
}
