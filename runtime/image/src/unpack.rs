//! Unpacks all layers of an image to one folder, for WebAssembly: the files of the image as guests see them.
//!
//! Links are kept as they are, for those who open files beneath the folder. Whiteouts (`.wh.NAME`, and `.wh..wh..opq` for all of a folder)
//! remove what lower layers have. Users, devices, pipes, extended attributes and the bits setuid, setgid and sticky are left out, since
//! everything belongs to the user of this process; others cannot write. [`Tree`] keeps it beneath the folder.
//!
//! It follows the OCI image specification, "Image Layer Filesystem Changeset". Layers of Linux images are unpacked by [`crate::lower`].

use crate::{
    Limits,
    content::Content,
    error::Fault,
    tree::{Name, Tree, io, names, parts, refused, remove, times},
    walk::{Budget, Entry, walk},
};
use rustix::fs::{AtFlags, FileType, Mode, fchmod, fstat, futimens, statat};
use std::{
    collections::HashSet,
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};
use tar::EntryType;

/// What the names of whiteouts begin with.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of all that lower layers have in its folder.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks layers, the lowest first, to a folder that is empty and that nobody else changes meanwhile. Everything is on the disk afterwards.
pub(crate) fn unpack(content: &Content, layers: &[PathBuf], target: &Path, limits: &Limits) -> Result<(), Fault> {
    let mut budget = Budget::new(limits);
    let mut merged = Merged { tree: Tree::new(content, target, limits)?, present: HashSet::new() };
    for layer in layers {
        merged.present.clear();
        walk(File::open(layer)?, &mut budget, |entry, data| merged.add(&entry, data))?;
    }
    merged.tree.sync()
}

struct Merged<'a> {
    tree: Tree<'a>,
    /// The inodes that the present layer has made or changed, which its whiteouts leave alone.
    present: HashSet<u64>,
}

/// Permissions of what is unpacked: the owner can read, write and enter, others cannot write.
fn mode(entry: u32, folder: bool) -> Mode {
    Mode::from_raw_mode(if folder { entry & 0o755 | 0o700 } else { entry & 0o755 | 0o600 })
}

/// What a whiteout hides: the last part of its name without [`WHITEOUT`].
pub(crate) fn hidden<'a>(name: &Name<'a>) -> Result<Option<&'a [u8]>, Fault> {
    if parts(name.folder).any(|part| part.starts_with(WHITEOUT)) {
        return Err(refused(name.path, "it is in a whiteout"));
    }
    match name.last.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") => Err(refused(name.path, "it is a whiteout of nothing")),
        hidden => Ok(hidden),
    }
}

impl Merged<'_> {
    fn add(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), Fault> {
        self.tree.in_time()?;
        let Some(name) = Name::parse(&entry.path)? else { return Ok(()) }; // the root itself
        if let Some(hidden) = hidden(&name)? {
            return self.whiteout(&name, hidden);
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
        let at = self.parent(name)?;
        match entry.kind {
            EntryType::Directory => {
                let folder = self.tree.folder(&at, name)?;
                fchmod(&folder, mode(entry.mode, true)).map_err(io)?;
                self.mark(folder)
            }
            EntryType::Symlink => {
                self.tree.symlink(&at, name, &entry.link)?;
                self.present.insert(statat(&at, name.last, AtFlags::SYMLINK_NOFOLLOW).map_err(io)?.st_ino);
                Ok(())
            }
            EntryType::Link => {
                let file = self.tree.hard_link(&at, name, &entry.link, |kind| kind == FileType::RegularFile)?;
                self.present.insert(file.st_ino);
                Ok(())
            }
            _ => {
                let file = self.tree.file(&at, name, entry, data)?;
                self.mark(&file)?;
                fchmod(&file, mode(entry.mode, false)).map_err(io)?;
                // A time that the file system cannot keep is not worth more.
                let _ = futimens(&file, &times(entry.modified));
                self.tree.complete(&file)
            }
        }
    }

    fn parent(&mut self, name: Name<'_>) -> Result<OwnedFd, Fault> {
        let present = &mut self.present;
        self.tree.make(name, |made, _| {
            present.insert(fstat(made).map_err(io)?.st_ino);
            Ok(())
        })
    }

    fn mark(&mut self, file: impl AsFd) -> Result<(), Fault> {
        self.present.insert(fstat(file).map_err(io)?.st_ino);
        Ok(())
    }

    fn whiteout(&self, name: &Name<'_>, hidden: &[u8]) -> Result<(), Fault> {
        let Some(folder) = self.tree.open(name.folder)? else { return Ok(()) };
        let depth = parts(name.folder).count();
        if name.last == OPAQUE {
            for entry in names(folder.as_fd())? {
                remove(folder.as_fd(), &*entry, &self.present, depth)?;
            }
            return Ok(());
        }
        if hidden.starts_with(WHITEOUT) {
            return Ok(()); // notes of AUFS
        }
        remove(folder.as_fd(), hidden, &self.present, depth).map(drop)
    }
}
