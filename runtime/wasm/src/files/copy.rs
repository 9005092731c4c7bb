//! Copies the files of an image to a folder of a container.
//!
//! The source is what the node has unpacked, and nobody changes it; the target is new, and no guest sees it yet. No link is followed. Blocks
//! of the disk are shared where the file system can.

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, futimens, linkat, mkdirat, openat,
        readlinkat, statat, symlinkat,
    },
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::CStr,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

/// Deepest nesting; the image's unpacker allows less.
const MAX_DEPTH: usize = 256;

/// Bytes that are copied between two questions to [`Progress`].
const CHUNK: u64 = 16 << 20;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Asked before so many bytes are written; an error ends the copy. An entry without content counts as [`super::budget::ENTRY_BYTES`].
pub(super) type Progress<'a> = &'a mut dyn FnMut(u64) -> io::Result<()>;

/// Copies the content of a folder to an empty one.
pub(super) fn copy(from: impl AsFd, to: impl AsFd, progress: Progress<'_>) -> io::Result<()> {
    let root = to.as_fd();
    Copy { root, linked: HashMap::new(), progress }.folder(from.as_fd(), root, Path::new(""), 0)
}

struct Copy<'a> {
    root: BorrowedFd<'a>,
    /// Files with several names, and where the copy has the first of them.
    linked: HashMap<u64, PathBuf>,
    progress: Progress<'a>,
}

impl Copy<'_> {
    fn folder(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let own = path.join(std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes()) as &std::ffi::OsStr);
            (self.progress)(super::budget::ENTRY_BYTES)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    mkdirat(to, name, mode(&stat, 0o700))?;
                    let folder = openat(to, name, FOLDER, Mode::empty())?;
                    self.folder(openat(from, name, FOLDER, Mode::empty())?.as_fd(), folder.as_fd(), &own, depth + 1)?;
                    like(&folder, &stat)?;
                }
                FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
                FileType::RegularFile => self.file(from, to, name, &own, &stat)?,
                // the unpacker makes no others
                _ => {}
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
        stat: &Stat,
    ) -> io::Result<()> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&stat.st_ino) {
                return Ok(linkat(self.root, first, to, name, AtFlags::empty())?);
            }
            self.linked.insert(stat.st_ino, path.to_owned());
        }
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = File::from(openat(from, name, read, Mode::empty())?);
        let target = File::from(openat(to, name, write, mode(stat, 0o600))?);
        let mut left = u64::try_from(stat.st_size).unwrap_or(0);
        while left > 0 {
            let bytes = left.min(CHUNK);
            (self.progress)(bytes)?;
            // `copy_file_range`, where the file system has it
            let copied = io::copy(&mut (&source).take(bytes), &mut &target)?;
            if copied == 0 {
                break;
            }
            left -= copied.min(left);
        }
        like(&target, stat)
    }
}

/// The permissions of a copy: those of its source, with `owner` for the container. They are given when it is made: the process of an isolated
/// pod cannot change them.
fn mode(stat: &Stat, owner: u32) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o777 | owner)
}

/// Gives a copy the times of its source.
fn like(file: impl AsFd, stat: &Stat) -> io::Result<()> {
    #[allow(clippy::unnecessary_cast)] // the types differ between systems
    let time = Timespec { tv_sec: stat.st_mtime as i64, tv_nsec: stat.st_mtime_nsec as _ };
    futimens(file, &Timestamps { last_access: time, last_modification: time })?;
    Ok(())
}
