//! Makes files beneath a folder, as untrusted archives say.
//!
//! Every name is resolved from the folder's handle, and no link is ever followed: what is below a link is refused. Bytes of the disk are
//! reserved before they are written; names, depth, and folders that no entry names are limited here, bytes and entries by the
//! [`Budget`](crate::walk::Budget).

use crate::{
    Limits,
    content::{Content, DiskReservation},
    error::{Fault, damaged},
    registry::printable,
    walk::{Entry, clean},
};
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, fchmod, linkat, mkdirat,
        openat, openat2, statat, symlinkat, syncfs, unlinkat,
    },
    io::Errno,
};
use std::{
    collections::HashSet,
    ffi::CStr,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};
use tokio::time::Instant;

/// Deepest nesting of folders.
pub(crate) const MAX_DEPTH: usize = 128;
/// Longest part of a name, bytes: `NAME_MAX` of Linux.
const MAX_NAME: usize = 255;
/// Longest name and longest target of a link, bytes: less than `PATH_MAX` of Linux.
const MAX_PATH: usize = 4_000;
/// Bytes that an entry without content is counted as, on the disk, and what contents are rounded to.
pub(crate) const ENTRY_BYTES: u64 = 4_096;
/// Most files that are synced one by one; more are synced with all of the file system.
const MAX_SYNCED: usize = 64;
/// Length of the copy buffer, bytes.
const CHUNK: usize = 128 << 10;

pub(crate) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

pub(crate) struct Tree<'a> {
    content: &'a Content,
    root: OwnedFd,
    files: usize,
    /// For small files and entries, of which many are reserved at a time.
    room: Option<DiskReservation>,
    /// Bytes that were taken of the disk, about.
    taken: u64,
    /// How many folders that no entry names may still be made.
    implied: usize,
    started: Instant,
    time: Duration,
}

/// A checked name.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a> {
    /// All of it.
    pub(crate) path: &'a [u8],
    /// The path of its folder.
    pub(crate) folder: &'a [u8],
    pub(crate) last: &'a [u8],
}

impl<'a> Name<'a> {
    /// Checks a clean path; `None` is the root itself.
    pub(crate) fn parse(path: &'a [u8]) -> Result<Option<Self>, Fault> {
        if path.is_empty() {
            return Ok(None);
        }
        if path.len() > MAX_PATH || parts(path).any(|part| part.len() > MAX_NAME) {
            return Err(refused(path, "its name is too long"));
        }
        if path.contains(&0) || parts(path).any(|part| matches!(part, b"" | b"." | b"..")) {
            return Err(refused(path, "its name is not valid"));
        }
        if parts(path).count() > MAX_DEPTH {
            return Err(refused(path, &format!("it is in more than {MAX_DEPTH} folders")));
        }
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (folder, last) = slash.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        Ok(Some(Self { path, folder, last }))
    }
}

/// The parts of a path, none of the root.
pub(crate) fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(move |_| !path.is_empty())
}

pub(crate) fn refused(path: &[u8], why: &str) -> Fault {
    Fault::content(format!("{:?} cannot be unpacked: {why}", shown(path)))
}

pub(crate) fn shown(path: &[u8]) -> String {
    printable(&String::from_utf8_lossy(path))
}

pub(crate) fn io(errno: Errno) -> Fault {
    io::Error::from(errno).into()
}

impl<'a> Tree<'a> {
    /// In an empty folder, which nobody else changes meanwhile.
    pub(crate) fn new(content: &'a Content, folder: &Path, limits: &Limits) -> Result<Self, Fault> {
        let root = openat(CWD, folder, FOLDER, Mode::empty()).map_err(io)?;
        fchmod(&root, Mode::from_raw_mode(0o755)).map_err(io)?;
        let (implied, time) = (limits.entries, limits.pull);
        Ok(Self { content, root, files: 0, room: None, taken: 0, implied, started: Instant::now(), time })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Bytes that were taken of the disk, about.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Ends what takes too long.
    pub(crate) fn in_time(&self) -> Result<(), Fault> {
        match self.started.elapsed() > self.time {
            true => Err(Fault::content(format!("it cannot be unpacked in {:?}", self.time))),
            false => Ok(()),
        }
    }

    /// Puts everything on the disk: folders, links and attributes too.
    pub(crate) fn sync_all(&self) -> Result<(), Fault> {
        syncfs(&self.root).map_err(io)
    }

    /// Puts the files on the disk.
    pub(crate) fn sync(&self) -> Result<(), Fault> {
        if self.files > MAX_SYNCED { syncfs(&self.root).map_err(io) } else { Ok(()) }
    }

    /// Opens a folder, if there is one and no link on the way.
    pub(crate) fn open(&self, folder: &[u8]) -> Result<Option<OwnedFd>, Fault> {
        if let Some(found) = self.quickly(folder) {
            return Ok(Some(found));
        }
        let mut at = self.root.try_clone()?;
        for part in parts(folder) {
            at = match openat(&at, part, FOLDER, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                opened => opened.map_err(io)?,
            };
        }
        Ok(Some(at))
    }

    /// Whether a link or a file is on the way to a folder.
    pub(crate) fn is_blocked(&self, folder: &[u8]) -> Result<bool, Fault> {
        let mut at = self.root.try_clone()?;
        for part in parts(folder) {
            at = match openat(&at, part, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(false),
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(true),
                opened => opened.map_err(io)?,
            };
        }
        Ok(false)
    }

    /// Opens the folder of a name. Those on the way that are not there are made, and told to `made` with their paths.
    pub(crate) fn make(
        &mut self,
        name: Name<'_>,
        mut made: impl FnMut(&OwnedFd, &[u8]) -> Result<(), Fault>,
    ) -> Result<OwnedFd, Fault> {
        if let Some(found) = self.quickly(name.folder) {
            return Ok(found);
        }
        let mut at = self.root.try_clone()?;
        let mut end = 0;
        for part in parts(name.folder) {
            end += part.len();
            at = match openat(&at, part, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) => {
                    let left = self.implied.checked_sub(1);
                    self.implied = left.ok_or_else(|| Fault::content("the archive has too many folders"))?;
                    self.spend(ENTRY_BYTES)?;
                    mkdirat(&at, part, Mode::from_raw_mode(0o755)).map_err(io)?;
                    let folder = openat(&at, part, FOLDER, Mode::empty()).map_err(io)?;
                    fchmod(&folder, Mode::from_raw_mode(0o755)).map_err(io)?;
                    made(&folder, &name.folder[..end])?;
                    folder
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(refused(name.path, &format!("{:?} is a link or a file, not a folder", shown(part))));
                }
                opened => opened.map_err(io)?,
            };
            end += 1;
        }
        Ok(at)
    }

    /// With one call of kernels of 5.6 and later.
    fn quickly(&self, folder: &[u8]) -> Option<OwnedFd> {
        if folder.is_empty() {
            return self.root.try_clone().ok();
        }
        openat2(&self.root, folder, FOLDER, Mode::empty(), BENEATH).ok()
    }

    /// Reserves space of the disk for what is written next.
    pub(crate) fn spend(&mut self, bytes: u64) -> Result<(), Fault> {
        const AHEAD: u64 = 16 << 20;
        if self.room.as_ref().is_none_or(|room| room.left() < bytes) {
            self.room = None;
            let ahead = self.content.reserve(bytes.max(AHEAD));
            self.room = Some(ahead.or_else(|_| self.content.reserve(bytes))?);
        }
        if let Some(room) = &mut self.room {
            room.spend(bytes);
        }
        self.taken += bytes;
        Ok(())
    }

    /// Removes what is at a name, before something else is put there.
    pub(crate) fn clear(&mut self, at: &OwnedFd, name: &[u8]) -> Result<(), Fault> {
        remove(at.as_fd(), name, &HashSet::new(), 0).map(drop)
    }

    /// Opens a folder, which is made if there is none.
    pub(crate) fn folder(&mut self, at: &OwnedFd, name: Name<'_>) -> Result<OwnedFd, Fault> {
        match openat(at, name.last, FOLDER, Mode::empty()) {
            Ok(opened) => Ok(opened),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.clear(at, name.last)?;
                self.spend(ENTRY_BYTES)?;
                mkdirat(at, name.last, Mode::from_raw_mode(0o755)).map_err(io)?;
                openat(at, name.last, FOLDER, Mode::empty()).map_err(io)
            }
            Err(errno) => Err(refused(name.path, &io::Error::from(errno).to_string())),
        }
    }

    pub(crate) fn symlink(&mut self, at: &OwnedFd, name: Name<'_>, target: &[u8]) -> Result<(), Fault> {
        if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
            return Err(refused(name.path, "it is a link whose target is not valid"));
        }
        self.clear(at, name.last)?;
        self.spend(ENTRY_BYTES)?;
        symlinkat(target, at, name.last).map_err(io)
    }

    /// Links to what `may` allows. Returns it.
    pub(crate) fn hard_link(
        &mut self,
        at: &OwnedFd,
        name: Name<'_>,
        target: &[u8],
        may: impl FnOnce(FileType) -> bool,
    ) -> Result<Stat, Fault> {
        let outside = || refused(name.path, "it is a hard link that leads out of the image");
        let target = clean(b"", target).ok_or_else(outside)?;
        let other = Name::parse(&target)?.ok_or_else(outside)?;
        let nothing = || refused(name.path, &format!("it is a hard link to {:?}, which is no file", shown(&target)));
        let folder = self.open(other.folder)?.ok_or_else(nothing)?;
        let found = statat(&folder, other.last, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| nothing())?;
        if !may(FileType::from_raw_mode(found.st_mode)) {
            return Err(nothing());
        }
        if statat(at, name.last, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|it| (it.st_dev, it.st_ino) == (found.st_dev, found.st_ino))
        {
            return Ok(found); // to itself, or once more
        }
        self.clear(at, name.last)?;
        // without AT_SYMLINK_FOLLOW
        match linkat(&folder, other.last, at, name.last, AtFlags::empty()) {
            Err(Errno::MLINK) => Err(refused(name.path, "its file has too many names")),
            // It was in what was just cleared.
            Err(Errno::NOENT) => Err(nothing()),
            linked => linked.map_err(io).map(|()| found),
        }
    }

    /// Writes a new file. Its attributes are the caller's.
    pub(crate) fn file(
        &mut self,
        at: &OwnedFd,
        name: Name<'_>,
        entry: &Entry,
        data: &mut dyn Read,
    ) -> Result<File, Fault> {
        self.clear(at, name.last)?;
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(at, name.last, create, Mode::from_raw_mode(0o600)).map_err(io)?);
        let mut written = 0;
        let mut buffer = vec![0; CHUNK.min(usize::try_from(entry.size).unwrap_or(CHUNK).max(1))];
        self.spend(ENTRY_BYTES)?;
        loop {
            let count = data.read(&mut buffer).map_err(damaged)?;
            if count == 0 {
                break;
            }
            self.spend(count as u64)?;
            file.write_all(&buffer[..count])?;
            written += count as u64;
            self.in_time()?;
        }
        if written < entry.size {
            return Err(refused(name.path, "the archive ends within it"));
        }
        Ok(file)
    }

    /// Counts a file that is complete, and puts it on the disk if it is one of few.
    pub(crate) fn complete(&mut self, file: &File) -> Result<(), Fault> {
        self.files += 1;
        if self.files <= MAX_SYNCED { Ok(file.sync_data()?) } else { Ok(()) }
    }
}

/// Both times of a file.
pub(crate) fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn names(folder: BorrowedFd<'_>) -> Result<Vec<Box<CStr>>, Fault> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().into());
        }
    }
    Ok(names)
}

/// Removes a file, a link, or a folder with its content, but what is in `keep` and the folders above it. Returns whether all of it is gone.
/// The tree is no deeper than [`MAX_DEPTH`], and so is the recursion.
pub(crate) fn remove<N: rustix::path::Arg + Copy>(
    at: BorrowedFd<'_>,
    name: N,
    keep: &HashSet<u64>,
    depth: usize,
) -> Result<bool, Fault> {
    let found = match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(true),
        Err(errno) => return Err(io(errno)),
    };
    let kept = keep.contains(&found.st_ino);
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        if !kept {
            unlinkat(at, name, AtFlags::empty()).map_err(io)?;
        }
        return Ok(!kept);
    }
    if depth > MAX_DEPTH {
        return Err(Fault::content("the image is nested too deep"));
    }
    let folder = openat(at, name, FOLDER, Mode::empty()).map_err(io)?;
    let mut gone = !kept;
    for entry in names(folder.as_fd())? {
        gone &= remove(folder.as_fd(), &*entry, keep, depth + 1)?;
    }
    if gone {
        unlinkat(at, name, AtFlags::REMOVEDIR).map_err(io)?;
    }
    Ok(gone)
}
