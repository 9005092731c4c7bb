//! A host folder that is mounted into a container, and the only function that opens it.
//!
//! Guests write to volumes, and may replace a part of a path by a link between check and use. [`Mount::open`] therefore starts at a root that
//! no guest can replace, resolves one name at a time without following links, and accepts only the folder that existed when the container was
//! created. No descriptor stays open in between: an idle container costs none.
//! (`openat2` with `RESOLVE_BENEATH` does the same for paths without links and `..`, but only on Linux, and not in every sandbox.)

use rustix::{
    fs::{FileType, Mode, OFlags, fstat, open, openat},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

/// Flags of a handle for path resolution and `fstat`; on Linux, opening it needs no read permission.
#[cfg(target_os = "linux")]
const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const HANDLE: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Identifies a folder or file of the host while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

impl FileId {
    /// Of what is open.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let stat = fstat(file)?;
        #[allow(clippy::unnecessary_cast)] // the types differ between systems
        Ok(Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 })
    }
}

/// How mounts below a mounted folder travel between host and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    None,
    /// What is mounted on the host later appears in the container.
    HostToContainer,
    /// And what the container mounts appears on the host.
    Bidirectional,
}

/// A host folder that is mounted into a container. Into WebAssembly, files are mounted by their folder; a Linux container also takes a file alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// A host folder that no guest can replace.
    pub root: PathBuf,
    /// The path from `root` to the mounted folder: names only, neither links nor `..`; empty for the root itself.
    pub below: PathBuf,
    /// The identity of the folder when the container was created.
    pub id: FileId,
    /// The path in the container, absolute.
    pub target: String,
    /// Refuse writes.
    pub read_only: bool,
    /// It is a file, for a Linux container only ([`Mount::file`]).
    pub is_file: bool,
    /// Refuse to run programs from it, for a Linux container only.
    #[serde(default)]
    pub no_exec: bool,
    /// How mounts below it travel, for a Linux container only.
    pub propagation: Propagation,
}

/// Why a mount cannot be opened. The text contains no path of the host outside the volume.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The root or a part of the path does not exist or cannot be opened.
    #[error("{what}: {error}")]
    Io {
        /// `the volume`, or the path within it.
        what: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// A part of the path is no folder, for example a link.
    #[error("{0}: it is not a folder, or it was replaced by a link")]
    NotAFolder(String),
    /// The path is a folder or a link.
    #[error("{0}: it is not a file, or it was replaced by a link")]
    NotAFile(String),
    /// The path contains `..` or is absolute.
    #[error("{0}: it leads out of the volume")]
    Outside(String),
    /// The folder was replaced by another one.
    #[error("{0}: it was replaced since the container was made")]
    Replaced(String),
}

impl Mount {
    /// Creates a mount of the folder that exists now.
    ///
    /// # Errors
    /// It does not exist, is no folder, or leads out of the volume.
    pub fn new(
        root: impl Into<PathBuf>,
        below: impl Into<PathBuf>,
        target: impl Into<String>,
        read_only: bool,
    ) -> Result<Self, MountError> {
        Self::of(root.into(), below.into(), target.into(), read_only, false)
    }

    /// Creates a mount of the file that exists now: a regular one, a device or a socket.
    ///
    /// # Errors
    /// It does not exist, is a folder or a link, or leads out of the volume.
    pub fn file(
        root: impl Into<PathBuf>,
        below: impl Into<PathBuf>,
        target: impl Into<String>,
        read_only: bool,
    ) -> Result<Self, MountError> {
        Self::of(root.into(), below.into(), target.into(), read_only, true)
    }

    fn of(root: PathBuf, below: PathBuf, target: String, read_only: bool, is_file: bool) -> Result<Self, MountError> {
        let id = look(&below, FileId::of(handle(&root, &below, is_file)?))?;
        Ok(Self { root, below, id, target, read_only, is_file, no_exec: false, propagation: Propagation::None })
    }

    /// Opens `below` in the folder, following links that stay within it. `flags` apply to the last name, including `O_NOFOLLOW`. Blocks on the
    /// disk.
    pub fn open_below(&self, below: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let root = self.open().map_err(io::Error::other)?;
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        beneath(&root, below, flags | OFlags::CLOEXEC, mode)
    }

    /// Opens a handle of the folder, or of the file, for path resolution. Blocks on the disk for some microseconds.
    pub fn open(&self) -> Result<File, MountError> {
        let handle = handle(&self.root, &self.below, self.is_file)?;
        if look(&self.below, FileId::of(&handle))? != self.id {
            return Err(MountError::Replaced(name(&self.below)));
        }
        Ok(handle.into())
    }
}

fn name(below: &Path) -> String {
    if below.as_os_str().is_empty() { "the volume".into() } else { below.display().to_string() }
}

fn look<T>(below: &Path, found: io::Result<T>) -> Result<T, MountError> {
    found.map_err(|error| MountError::Io { what: name(below), error })
}

fn handle(root: &Path, below: &Path, is_file: bool) -> Result<OwnedFd, MountError> {
    if is_file { file(root, below) } else { folder(root, below) }
}

fn folder(root: &Path, below: &Path) -> Result<OwnedFd, MountError> {
    let failed = |way: &Path, errno: Errno| match errno {
        Errno::NOTDIR | Errno::LOOP => MountError::NotAFolder(name(way)),
        other => MountError::Io { what: name(way), error: other.into() },
    };
    let mut at = open(root, HANDLE, Mode::empty()).map_err(|errno| failed(Path::new(""), errno))?;
    let mut way = PathBuf::new();
    for part in below.components() {
        let Component::Normal(part) = part else { return Err(MountError::Outside(name(below))) };
        way.push(part);
        at = openat(&at, part, HANDLE | OFlags::NOFOLLOW, Mode::empty()).map_err(|errno| failed(&way, errno))?;
    }
    Ok(at)
}

fn file(root: &Path, below: &Path) -> Result<OwnedFd, MountError> {
    let failed = |errno: Errno| match errno {
        Errno::NOTDIR | Errno::LOOP => MountError::NotAFile(name(below)),
        other => MountError::Io { what: name(below), error: other.into() },
    };
    let Some(Component::Normal(last)) = below.components().next_back() else {
        return Err(MountError::Outside(name(below)));
    };
    let at = folder(root, below.parent().unwrap_or(Path::new("")))?;
    let flags = HANDLE.difference(OFlags::DIRECTORY) | OFlags::NOFOLLOW;
    let found = openat(&at, last, flags, Mode::empty()).map_err(failed)?;
    let kind = FileType::from_raw_mode(fstat(&found).map_err(failed)?.st_mode);
    match kind {
        FileType::Directory | FileType::Symlink => Err(MountError::NotAFile(name(below))),
        _ => Ok(found),
    }
}

#[cfg(target_os = "linux")]
fn beneath(root: &File, below: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    use rustix::fs::{ResolveFlags, openat2};
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, below, flags, mode, resolve) {
            // retried, because a rename interfered
            Err(Errno::AGAIN) => {}
            Err(Errno::NOSYS) => return without_links(root, below, flags, mode),
            opened => return Ok(opened?),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn beneath(root: &File, below: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    without_links(root, below, flags, mode)
}

/// Resolves one name at a time, without following links.
fn without_links(root: &File, below: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let mut at = openat(root, ".", HANDLE, Mode::empty())?;
    let mut names = below.components().filter(|part| *part != Component::CurDir).peekable();
    if names.peek().is_none() {
        return Ok(openat(&at, ".", flags, mode)?);
    }
    while let Some(part) = names.next() {
        let Component::Normal(name) = part else { return Err(Errno::XDEV.into()) };
        if names.peek().is_none() {
            return Ok(openat(&at, name, flags | OFlags::NOFOLLOW, mode)?);
        }
        at = openat(&at, name, HANDLE | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn volume() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let volume = folder.path().join("volume");
        fs::create_dir_all(volume.join("sub/deep")).expect("made");
        fs::create_dir_all(folder.path().join("outside/deep")).expect("made");
        (folder, volume)
    }

    #[test]
    fn what_was_there_is_opened_again_and_again() {
        let (_folder, volume) = volume();
        for below in ["", "sub", "sub/deep"] {
            let mount = Mount::new(&volume, below, "/v", false).expect("there");
            for _ in 0..2 {
                assert_eq!(FileId::of(mount.open().expect("still there")).expect("open"), mount.id, "{below}");
            }
        }
    }

    #[test]
    fn a_link_anywhere_on_the_way_is_refused() {
        let (_folder, volume) = volume();
        let mount = Mount::new(&volume, "sub/deep", "/v", false).expect("there");
        fs::rename(volume.join("sub"), volume.join("old")).expect("renamed");
        symlink("../outside", volume.join("sub")).expect("made");
        assert_eq!(
            mount.open().expect_err("a link").to_string(),
            "sub: it is not a folder, or it was replaced by a link"
        );
        fs::remove_file(volume.join("sub")).expect("removed");
        symlink("old", volume.join("sub")).expect("made");
        assert!(mount.open().is_err(), "a link that stays inside is one too");
        fs::remove_file(volume.join("sub")).expect("removed");
        fs::rename(volume.join("old"), volume.join("sub")).expect("renamed");
        assert!(mount.open().is_ok(), "it is there again");
    }

    #[test]
    fn another_folder_in_its_place_is_told() {
        let (_folder, volume) = volume();
        let mount = Mount::new(&volume, "sub", "/v", false).expect("there");
        fs::rename(volume.join("sub"), volume.join("old")).expect("renamed");
        let error = mount.open().expect_err("gone").to_string();
        assert_eq!(error, "sub: No such file or directory (os error 2)");
        fs::create_dir(volume.join("sub")).expect("made");
        assert_eq!(mount.open().expect_err("another").to_string(), "sub: it was replaced since the container was made");
        fs::rename(&volume, volume.with_extension("old")).expect("renamed");
        fs::create_dir(&volume).expect("made");
        let mount = Mount { below: PathBuf::new(), ..mount };
        assert!(mount.open().is_err(), "the root itself is held to it too");
    }

    #[test]
    fn what_is_below_is_opened_and_nothing_else() {
        let (folder, volume) = volume();
        fs::write(volume.join("sub/file"), "inside").expect("written");
        fs::write(folder.path().join("outside/file"), "outside").expect("written");
        symlink("sub/file", volume.join("link")).expect("made");
        symlink("../outside/file", volume.join("out")).expect("made");
        symlink(folder.path().join("outside/file"), volume.join("absolute")).expect("made");
        let mount = Mount::new(&volume, "", "/v", false).expect("there");
        let read = |below: &str| {
            let file = mount.open_below(Path::new(below), OFlags::RDONLY, Mode::empty())?;
            io::read_to_string(File::from(file))
        };
        assert_eq!(read("sub/file").expect("read"), "inside");
        assert_eq!(read("link").expect("read"), "inside", "a link that stays inside");
        for below in ["out", "absolute", "../outside/file", "/etc/hostname", "sub/../../outside/file"] {
            assert!(read(below).is_err(), "{below}");
        }
        let root = mount.open().expect("there");
        let plain = |below: &str| without_links(&root, Path::new(below), OFlags::RDONLY, Mode::empty());
        assert!(plain("sub/file").is_ok() && plain(".").is_ok());
        for below in ["link", "out", "../outside/file", "/etc/hostname"] {
            assert!(plain(below).is_err(), "{below}");
        }
    }

    #[test]
    fn a_file_is_mounted_by_itself() {
        let (folder, volume) = volume();
        fs::write(volume.join("sub/file"), "inside").expect("written");
        fs::write(folder.path().join("outside/file"), "outside").expect("written");
        let mount = Mount::file(&volume, "sub/file", "/etc/hosts", true).expect("there");
        assert_eq!(FileId::of(mount.open().expect("still there")).expect("open"), mount.id);
        fs::rename(volume.join("sub/file"), volume.join("old")).expect("renamed");
        symlink("../../outside/file", volume.join("sub/file")).expect("made");
        assert_eq!(
            mount.open().expect_err("a link").to_string(),
            "sub/file: it is not a file, or it was replaced by a link"
        );
        for (below, outside) in [("sub", false), ("sub/file", false), ("", true), ("sub/..", true), ("../x", true)] {
            let error = Mount::file(&volume, below, "/v", false).expect_err("no file");
            assert_eq!(matches!(error, MountError::Outside(_)), outside, "{below}: {error}");
        }
    }

    #[test]
    fn only_names_are_taken() {
        let (_folder, volume) = volume();
        for below in ["..", "sub/../../outside", "/etc"] {
            assert!(matches!(Mount::new(&volume, below, "/v", false), Err(MountError::Outside(_))), "{below}");
        }
        fs::write(volume.join("file"), "").expect("written");
        assert!(matches!(Mount::new(&volume, "file", "/v", false), Err(MountError::NotAFolder(_))));
    }
}
