//! Unpacks the layers of an image, which are untrusted tar archives, to a folder.
//!
//! Every name is resolved from the folder's handle, one part after the other, and no link is ever followed: an entry below a link is refused.
//! Links are kept as they are, for those who open files beneath the folder. Whiteouts (`.wh.NAME`, and `.wh..wh..opq` for all of a folder)
//! remove what lower layers have. Users, devices, pipes, extended attributes and the bits setuid, setgid and sticky are left out, since
//! everything belongs to the user of this process; others cannot write. Bytes and entries are limited by the [`Budget`], names and depth here.
//!
//! It follows the OCI image specification, "Image Layer Filesystem Changeset".

use crate::{
    Limits,
    content::{Content, DiskReservation},
    error::{Fault, damaged},
    layer::{Budget, Entry, walk},
    registry::printable,
};
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, fchmod, fstat, futimens, linkat, mkdirat,
        openat, statat, symlinkat, syncfs, unlinkat,
    },
    io::Errno,
};
use std::{
    collections::HashSet,
    ffi::CStr,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};
use tar::EntryType;

/// Deepest nesting of folders.
pub(crate) const MAX_DEPTH: usize = 128;
/// Longest part of a name, bytes: `NAME_MAX` of Linux.
const MAX_NAME: usize = 255;
/// Longest name and longest target of a link, bytes: less than `PATH_MAX` of Linux.
const MAX_PATH: usize = 4_000;
/// Bytes that an entry without content is counted as, on the disk.
const ENTRY_BYTES: u64 = 4_096;
/// Most files that are synced one by one; more are synced with all of the file system.
const MAX_SYNCED: usize = 64;
/// Length of the copy buffer, bytes.
const CHUNK: usize = 128 << 10;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Unpacks layers, the lowest first, to a folder that is empty and that nobody else changes meanwhile. Everything is on the disk afterwards.
pub(crate) fn unpack(content: &Content, layers: &[PathBuf], target: &Path, limits: &Limits) -> Result<(), Fault> {
    let root = openat(CWD, target, FOLDER, Mode::empty()).map_err(io::Error::from)?;
    fchmod(&root, mode(0o755, true)).map_err(io)?;
    let mut budget = Budget::new(limits);
    let mut tree = Tree { content, root, present: HashSet::new(), files: 0, room: None };
    for layer in layers {
        tree.present.clear();
        walk(File::open(layer)?, &mut budget, |entry| tree.add(entry))?;
    }
    if tree.files > MAX_SYNCED {
        syncfs(&tree.root).map_err(io::Error::from)?;
    }
    Ok(())
}

struct Tree<'a> {
    content: &'a Content,
    root: OwnedFd,
    /// The inodes that the present layer has made or changed, which its whiteouts leave alone.
    present: HashSet<u64>,
    files: usize,
    /// For small files and entries, of which many are reserved at a time.
    room: Option<DiskReservation>,
}

/// The parts of a checked name.
struct Name<'a> {
    folders: Vec<&'a str>,
    last: &'a str,
}

fn refused(name: &str, why: &str) -> Fault {
    Fault::content(format!("{:?} cannot be unpacked: {why}", printable(name)))
}

fn parse(path: &str) -> Result<Option<Name<'_>>, Fault> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if path.len() > MAX_PATH || parts.iter().any(|part| part.len() > MAX_NAME) {
        return Err(refused(path, "its name is too long"));
    }
    if path.contains('\0') || parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Err(refused(path, "its name is not valid"));
    }
    if parts.len() > MAX_DEPTH {
        return Err(refused(path, &format!("it is in more than {MAX_DEPTH} folders")));
    }
    Ok(parts.pop().map(|last| Name { folders: parts, last }))
}

/// Permissions of what is unpacked: the owner can read, write and enter, others cannot write.
fn mode(entry: u32, folder: bool) -> Mode {
    Mode::from_raw_mode(if folder { entry & 0o755 | 0o700 } else { entry & 0o755 | 0o600 })
}

fn io(errno: Errno) -> Fault {
    io::Error::from(errno).into()
}

impl Tree<'_> {
    fn add(&mut self, entry: Entry<'_>) -> Result<(), Fault> {
        let path = entry.path.clone();
        let Some(name) = parse(&path)? else { return Ok(()) }; // the root itself
        if name.last.starts_with(WHITEOUT) {
            return self.whiteout(&path, &name);
        }
        if name.folders.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(refused(&path, "it is in a whiteout"));
        }
        match entry.kind {
            EntryType::Directory
            | EntryType::Regular
            | EntryType::Continuous
            | EntryType::Symlink
            | EntryType::Link => {}
            // devices and pipes
            _ => return Ok(()),
        }
        let folder = self.parent(&path, &name, true)?.ok_or_else(|| refused(&path, "its folder is gone"))?;
        match entry.kind {
            EntryType::Directory => self.folder(&folder, &path, name.last, entry.mode),
            EntryType::Symlink => self.symlink(&folder, &path, name.last, &entry.link),
            EntryType::Link => self.hard_link(&folder, &path, name.last, &entry.link),
            _ => self.file(&folder, &path, name.last, entry),
        }
    }

    /// Opens the folder of a name. `make`: folders that are not there are made; else there is none.
    fn parent(&mut self, path: &str, name: &Name<'_>, make: bool) -> Result<Option<OwnedFd>, Fault> {
        let mut at = self.root.try_clone()?;
        for part in &name.folders {
            at = match openat(&at, *part, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) if make => {
                    self.spend(ENTRY_BYTES)?;
                    mkdirat(&at, *part, mode(0o755, true)).map_err(io)?;
                    let made = openat(&at, *part, FOLDER, Mode::empty()).map_err(io)?;
                    self.mark(&made)?;
                    made
                }
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) if make => {
                    return Err(refused(path, &format!("{:?} is a link or a file, not a folder", printable(part))));
                }
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                opened => opened.map_err(io)?,
            };
        }
        Ok(Some(at))
    }

    fn mark(&mut self, file: impl AsFd) -> Result<(), Fault> {
        self.present.insert(fstat(file).map_err(io)?.st_ino);
        Ok(())
    }

    /// Reserves space of the disk for what is written next.
    fn spend(&mut self, bytes: u64) -> Result<(), Fault> {
        const AHEAD: u64 = 16 << 20;
        if self.room.as_ref().is_none_or(|room| room.left() < bytes) {
            self.room = None;
            let ahead = self.content.reserve(bytes.max(AHEAD));
            self.room = Some(ahead.or_else(|_| self.content.reserve(bytes))?);
        }
        if let Some(room) = &mut self.room {
            room.spend(bytes);
        }
        Ok(())
    }

    /// Removes what is at a name, before something else is put there.
    fn replace(&mut self, folder: &OwnedFd, name: &str) -> Result<(), Fault> {
        remove(folder.as_fd(), name, &HashSet::new(), 0).map(drop)
    }

    fn folder(&mut self, at: &OwnedFd, path: &str, name: &str, bits: u32) -> Result<(), Fault> {
        let bits = mode(bits, true);
        let opened = match openat(at, name, FOLDER, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.replace(at, name)?;
                self.spend(ENTRY_BYTES)?;
                mkdirat(at, name, bits).map_err(io)?;
                openat(at, name, FOLDER, Mode::empty()).map_err(io)?
            }
            Err(errno) => return Err(refused(path, &io::Error::from(errno).to_string())),
        };
        fchmod(&opened, bits).map_err(io)?;
        self.mark(opened)
    }

    fn symlink(&mut self, at: &OwnedFd, path: &str, name: &str, target: &str) -> Result<(), Fault> {
        if target.is_empty() || target.len() > MAX_PATH || target.contains('\0') {
            return Err(refused(path, "it is a link whose target is not valid"));
        }
        self.replace(at, name)?;
        self.spend(ENTRY_BYTES)?;
        symlinkat(target, at, name).map_err(io)?;
        self.present.insert(statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io)?.st_ino);
        Ok(())
    }

    fn hard_link(&mut self, at: &OwnedFd, path: &str, name: &str, target: &str) -> Result<(), Fault> {
        let outside = || refused(path, "it is a hard link that leads out of the image");
        let target = crate::layer::clean("", target).ok_or_else(outside)?;
        let other = parse(&target)?.ok_or_else(outside)?;
        let nothing = || refused(path, &format!("it is a hard link to {:?}, which is no file", printable(&target)));
        let folder = self.parent(path, &other, false)?.ok_or_else(nothing)?;
        let found = statat(&folder, other.last, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| nothing())?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(nothing());
        }
        if statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|it| (it.st_dev, it.st_ino) == (found.st_dev, found.st_ino))
        {
            return Ok(()); // to itself, or once more
        }
        self.replace(at, name)?;
        // without AT_SYMLINK_FOLLOW
        linkat(&folder, other.last, at, name, AtFlags::empty()).map_err(io)?;
        self.present.insert(found.st_ino);
        Ok(())
    }

    fn file(&mut self, at: &OwnedFd, path: &str, name: &str, entry: Entry<'_>) -> Result<(), Fault> {
        self.replace(at, name)?;
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(at, name, create, Mode::from_raw_mode(0o600)).map_err(io)?);
        self.mark(&file)?;
        let (mut data, mut written) = (entry.data.take(entry.size), 0);
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
        }
        if written < entry.size {
            return Err(refused(path, "the archive ends within it"));
        }
        fchmod(&file, mode(entry.mode, false)).map_err(io)?;
        let time = Timespec { tv_sec: entry.modified.try_into().unwrap_or(0), tv_nsec: 0 };
        // A time that the file system cannot keep is not worth more.
        let _ = futimens(&file, &Timestamps { last_access: time, last_modification: time });
        self.files += 1;
        if self.files <= MAX_SYNCED {
            file.sync_data()?;
        }
        Ok(())
    }

    fn whiteout(&mut self, path: &str, name: &Name<'_>) -> Result<(), Fault> {
        let hidden = &name.last[WHITEOUT.len()..];
        if matches!(hidden, "" | "." | "..") {
            return Err(refused(path, "it is a whiteout of nothing"));
        }
        let Some(folder) = self.parent(path, name, false)? else { return Ok(()) };
        if name.last == OPAQUE {
            return self.clear(&folder, name.folders.len());
        }
        if hidden.starts_with(WHITEOUT) {
            return Ok(()); // notes of AUFS
        }
        remove(folder.as_fd(), hidden, &self.present, name.folders.len()).map(drop)
    }

    /// Removes what lower layers have in a folder.
    fn clear(&self, folder: &OwnedFd, depth: usize) -> Result<(), Fault> {
        for entry in names(folder.as_fd())? {
            remove(folder.as_fd(), &*entry, &self.present, depth)?;
        }
        Ok(())
    }
}

fn names(folder: BorrowedFd<'_>) -> Result<Vec<Box<CStr>>, Fault> {
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
fn remove<N: rustix::path::Arg + Copy>(
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
