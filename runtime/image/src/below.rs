//! What the layers below one show together, as the kernel's overlay will: see [`crate::lower`], which makes them.

use crate::{
    error::Fault,
    tree::{FOLDER, io, parts},
};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, Stat, fgetxattr, fstat, openat, statat},
    io::Errno,
};
use std::{
    fs::Metadata,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::PathBuf,
};

/// The attribute of folders that hide all that is below them, for overlays mounted with `userxattr`.
pub(crate) const OPAQUE_ATTRIBUTE: &str = "user.overlay.opaque";

/// Handles of unpacked layers, the lowest first. Those that a root hides are not among them.
pub(crate) struct Below(Vec<OwnedFd>);

/// What is at a path.
pub(crate) enum Seen {
    Nothing,
    Entry(Stat),
    /// In a folder that this process may not read.
    Unreadable,
}

impl Below {
    pub(crate) fn open(layers: &[PathBuf]) -> Result<Self, Fault> {
        let open = |layer: &PathBuf| openat(CWD, layer, FOLDER, Mode::empty()).map_err(io);
        Ok(Self(layers.iter().map(open).collect::<Result<_, _>>()?))
    }

    /// The root of the uppermost.
    pub(crate) fn root(&self) -> Result<Option<Stat>, Fault> {
        self.0.last().map(|layer| fstat(layer).map_err(io)).transpose()
    }

    pub(crate) fn has_folder(&self, path: &[u8]) -> Result<bool, Fault> {
        Ok(match self.find(path)? {
            Seen::Nothing => false,
            Seen::Entry(found) => FileType::from_raw_mode(found.st_mode) == FileType::Directory,
            Seen::Unreadable => true,
        })
    }

    /// Looks a path up, through no link.
    pub(crate) fn find(&self, path: &[u8]) -> Result<Seen, Fault> {
        for layer in self.0.iter().rev() {
            match look(layer, path) {
                Ok(Some(found)) if is_whiteout(&found) => return Ok(Seen::Nothing),
                Ok(Some(found)) => return Ok(Seen::Entry(found)),
                Ok(None) => {}
                // what is no folder, or hides all below
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Seen::Nothing),
                Err(Errno::ACCESS) => return Ok(Seen::Unreadable),
                Err(errno) => return Err(io(errno)),
            }
        }
        Ok(Seen::Nothing)
    }
}

/// What one layer has at a path. `ENOTDIR`: nothing, and layers below do not count either.
fn look(layer: &OwnedFd, path: &[u8]) -> Result<Option<Stat>, Errno> {
    let mut at = None;
    let mut hides = false;
    let mut todo = parts(path).peekable();
    while let Some(part) = todo.next() {
        let folder = at.as_ref().unwrap_or(layer);
        let missing = |errno| match errno {
            Errno::NOENT if hides => Err(Errno::NOTDIR),
            Errno::NOENT => Ok(None),
            errno => Err(errno),
        };
        if todo.peek().is_none() {
            return statat(folder, part, AtFlags::SYMLINK_NOFOLLOW).map(Some).or_else(missing);
        }
        match openat(folder, part, FOLDER, Mode::empty()) {
            Ok(next) => {
                hides |= is_opaque(&next)?;
                at = Some(next);
            }
            Err(errno) => return missing(errno),
        }
    }
    fstat(layer).map(Some)
}

fn is_opaque(folder: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0; 2];
    match fgetxattr(folder, OPAQUE_ATTRIBUTE, &mut value) {
        Ok(length) => Ok(value[..length.min(2)] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A character device 0:0.
pub(crate) fn is_whiteout(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0
}

/// As [`is_whiteout`].
pub(crate) fn is_whiteout_file(found: &Metadata) -> bool {
    found.file_type().is_char_device() && found.rdev() == 0
}
