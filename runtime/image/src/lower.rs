//! Unpacks one layer of a Linux image to a folder that the kernel takes as a lower folder of an overlay mounted with `userxattr`.
//!
//! What a layer hides of the layers below it becomes what the overlay understands: a whiteout is a character device 0:0, which needs no
//! privilege, and a folder that hides all below has the attribute `user.overlay.opaque`. They are made when the whole layer has been read,
//! because a whiteout hides what is *below* its layer wherever it stands in the archive, and only where there is something to hide: the
//! kernel lists a whiteout in a folder that it does not merge.
//!
//! Owners, modes, times, devices and file capabilities are as the archive has them where this process is root; else everything belongs to
//! its user, which is the only one in the containers too, and there are no devices and capabilities. Attributes by which the image could
//! speak to the overlay (`user.overlay.*`, `trusted.*`) and those of the host (`security.*` but capabilities, `system.*`) are left out.
//! [`Tree`] keeps everything beneath the folder.
//!
//! It follows the OCI image specification, "Image Layer Filesystem Changeset", and the kernel's `filesystems/overlayfs`.

use crate::{
    Digest, Limits,
    below::{Below, OPAQUE_ATTRIBUTE, Seen},
    chain::Unpacked,
    content::Content,
    error::Fault,
    owner::Owners,
    tree::{ENTRY_BYTES, Name, Tree, io, refused, times},
    unpack::{OPAQUE, WHITEOUT, hidden},
    walk::{Budget, Entry, walk_all},
};
use rustix::{
    fs::{
        AtFlags, FileType, Mode, Stat, XattrFlags, chmodat, fchmod, fsetxattr, futimens, makedev, mknodat, statat,
        utimensat,
    },
    io::Errno,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};
use tar::EntryType;

/// Most bytes that a layer may unpack to for each of its own, beside [`FREE`]. Programs and texts have ratios below 20.
const RATIO: u64 = 100;
/// What a layer may unpack to whatever its own size, bytes.
const FREE: u64 = 1 << 30;
/// Most whiteouts of a layer.
const MAX_WHITEOUTS: usize = 100_000;
/// Most bytes of names that are kept until the end of a layer: of folders and whiteouts.
const MAX_KEPT: usize = 64 << 20;
/// The attribute of file capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// Unpacks the archive `layer`, whose unpacked content has the digest `diff`, to the empty folder `target`. `below` are the folders of the
/// layers below, the lowest first. Everything is on the disk afterwards.
pub(crate) fn unpack(
    content: &Content,
    layer: &Path,
    diff: &Digest,
    below: &[PathBuf],
    target: &Path,
    limits: &Limits,
    budget: &mut Budget,
) -> Result<Unpacked, Fault> {
    let file = File::open(layer)?;
    let allowed = file.metadata()?.len().saturating_mul(RATIO).saturating_add(FREE).min(budget.bytes);
    let limit = if allowed < budget.bytes { allowed } else { budget.limit };
    let mut own = Budget { bytes: allowed, limit, ..*budget };
    let tree = Tree::new(content, target, limits)?;
    let below = Below::open(below)?;
    let owners = Owners::here();
    // until the archive tells its own
    let root = below.root()?.map_or(Attributes::DEFAULT, Attributes::of);
    owners.own(tree.root(), root.owner, b"/")?;
    let mut lower = Lower {
        folders: BTreeMap::from([(Vec::new(), root)]),
        tree,
        below,
        owners,
        whiteouts: BTreeSet::new(),
        opaque: BTreeSet::new(),
        kept: 0,
    };
    let found = walk_all(file, &mut own, |entry, data| lower.add(entry, data))?;
    if found != *diff {
        return Err(Fault::content(format!("its layer {diff} has the content {found}")));
    }
    let entries = budget.entries - own.entries;
    budget.spend(allowed - own.bytes, entries)?;
    let (taken, opaque) = lower.finish()?;
    Ok(Unpacked { bytes: allowed - own.bytes, entries, taken, opaque })
}

/// What a folder is given at the end, when nothing more is made in it.
#[derive(Clone, Copy)]
struct Attributes {
    owner: (u32, u32),
    mode: u32,
    modified: Option<(i64, u32)>,
}

impl Attributes {
    const DEFAULT: Self = Self { owner: (0, 0), mode: 0o755, modified: None };

    /// Those of the same folder in a layer below.
    fn of(found: Stat) -> Self {
        let modified = Some((found.st_mtime, u32::try_from(found.st_mtime_nsec).unwrap_or(0)));
        Self { owner: (found.st_uid, found.st_gid), mode: found.st_mode & 0o7777, modified }
    }
}

struct Lower<'a> {
    tree: Tree<'a>,
    below: Below,
    owners: Owners,
    folders: BTreeMap<Vec<u8>, Attributes>,
    /// Paths that are hidden.
    whiteouts: BTreeSet<Vec<u8>>,
    /// Folders of which all is hidden that lower layers have.
    opaque: BTreeSet<Vec<u8>>,
    /// Bytes of the names in the three.
    kept: usize,
}

impl Lower<'_> {
    fn add(&mut self, entry: Entry, data: &mut dyn Read) -> Result<(), Fault> {
        self.tree.in_time()?;
        let owner = match entry.owner {
            Some(owner) => owner,
            None if self.owners == Owners::All => return Err(refused(&entry.path, "its owner is not valid")),
            None => (0, 0),
        };
        let Some(name) = Name::parse(&entry.path)? else {
            return match entry.kind {
                EntryType::Directory => self.folder(None, &[], &entry, owner),
                _ => Err(refused(b"/", "the root of an image is a folder")),
            };
        };
        if let Some(hidden) = hidden(&name)? {
            return self.whiteout(&name, hidden);
        }
        if entry.kind == EntryType::Char && entry.device == Some((0, 0)) {
            // That is one to the overlay, and so it is here.
            return self.whiteout(&name, name.last);
        }
        match entry.kind {
            EntryType::Directory => {
                let at = self.parent(name)?;
                let folder = self.tree.folder(&at, name)?;
                self.folder(Some(folder), name.path, &entry, owner)
            }
            EntryType::Regular | EntryType::Continuous => self.file(name, &entry, owner, data),
            EntryType::Symlink => {
                let at = self.parent(name)?;
                self.tree.symlink(&at, name, &entry.link)?;
                self.own(&at, name, owner, &entry)
            }
            EntryType::Link => {
                let at = self.parent(name)?;
                self.tree.hard_link(&at, name, &entry.link, |kind| kind != FileType::Directory).map(drop)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => self.special(name, &entry, owner),
            other => {
                let kind = char::from(other.as_byte()).escape_default();
                Err(refused(name.path, &format!("it is of the unknown type '{kind}'")))
            }
        }
    }

    /// The folder of a name. Of those that the archive does not tell, the attributes are those of the layers below.
    fn parent(&mut self, name: Name<'_>) -> Result<OwnedFd, Fault> {
        let Self { tree, below, folders, kept, owners, .. } = self;
        tree.make(name, |made, path| {
            let attributes = match below.find(path)? {
                Seen::Entry(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                    Attributes::of(found)
                }
                _ => Attributes::DEFAULT,
            };
            owners.own(made, attributes.owner, path)?;
            keep(kept, path)?;
            folders.insert(path.to_owned(), attributes);
            Ok(())
        })
    }

    /// Takes in the attributes of a folder, the root if it has no handle.
    fn folder(&mut self, folder: Option<OwnedFd>, path: &[u8], entry: &Entry, owner: (u32, u32)) -> Result<(), Fault> {
        match &folder {
            Some(folder) => {
                self.owners.own(folder, owner, path)?;
                self.attributes(folder, path, entry)?;
            }
            None => {
                self.owners.own(self.tree.root(), owner, path)?;
                self.attributes(self.tree.root(), path, entry)?;
            }
        }
        keep(&mut self.kept, path)?;
        let attributes = Attributes { owner, mode: entry.mode & 0o7777, modified: Some(entry.modified) };
        self.folders.insert(path.to_owned(), attributes);
        Ok(())
    }

    fn file(&mut self, name: Name<'_>, entry: &Entry, owner: (u32, u32), data: &mut dyn Read) -> Result<(), Fault> {
        let at = self.parent(name)?;
        let file = self.tree.file(&at, name, entry, data)?;
        // A change of the owner takes setuid and capabilities away: first of all.
        self.owners.own(&file, owner, name.path)?;
        fchmod(&file, Mode::from_raw_mode(entry.mode & 0o7777)).map_err(io)?;
        self.attributes(&file, name.path, entry)?;
        // A time that the file system cannot keep is not worth more.
        let _ = futimens(&file, &times(entry.modified));
        Ok(())
    }

    /// A pipe, or a device, which is only for root: of a user namespace it is not either.
    fn special(&mut self, name: Name<'_>, entry: &Entry, owner: (u32, u32)) -> Result<(), Fault> {
        let (kind, device) = match (entry.kind, entry.device) {
            (EntryType::Fifo, _) => (FileType::Fifo, 0),
            (_, None) => return Err(refused(name.path, "it is a device without numbers")),
            (_, Some(_)) if self.owners == Owners::One => return Ok(()),
            (EntryType::Block, Some((major, minor))) => (FileType::BlockDevice, makedev(major, minor)),
            (_, Some((major, minor))) => (FileType::CharacterDevice, makedev(major, minor)),
        };
        let at = self.parent(name)?;
        self.tree.clear(&at, name.last)?;
        self.tree.spend(ENTRY_BYTES)?;
        match mknodat(&at, name.last, kind, Mode::from_raw_mode(0o600), device) {
            Err(Errno::PERM) if kind != FileType::Fifo => return Ok(()),
            made => made.map_err(io)?,
        }
        self.own(&at, name, owner, entry)?;
        // It was just made, and is no link.
        chmodat(&at, name.last, Mode::from_raw_mode(entry.mode & 0o7777), AtFlags::empty()).map_err(io)
    }

    /// The owner and the times of what has no handle.
    fn own(&self, at: &OwnedFd, name: Name<'_>, owner: (u32, u32), entry: &Entry) -> Result<(), Fault> {
        self.owners.own_at(at, name.last, owner, name.path)?;
        let _ = utimensat(at, name.last, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    fn attributes(&self, file: impl AsFd, path: &[u8], entry: &Entry) -> Result<(), Fault> {
        for (name, value) in &entry.attributes {
            let of_user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            let kept = of_user || self.owners == Owners::All && name == CAPABILITY;
            if !kept || name.contains(&0) {
                continue;
            }
            match fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()) {
                // The file system keeps none, or this process may not.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::INVAL | Errno::NAMETOOLONG) => {
                    return Err(refused(path, "its extended attributes are too long or not valid"));
                }
                Err(errno) => return Err(io(errno)),
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, name: &Name<'_>, hidden: &[u8]) -> Result<(), Fault> {
        if self.whiteouts.len() + self.opaque.len() >= MAX_WHITEOUTS {
            return Err(Fault::content(format!("it hides more than {MAX_WHITEOUTS} names of its layers")));
        }
        keep(&mut self.kept, name.path)?;
        if name.last == OPAQUE {
            self.opaque.insert(name.folder.to_owned());
        } else if !hidden.starts_with(WHITEOUT) {
            let slash: &[u8] = if name.folder.is_empty() { b"" } else { b"/" };
            self.whiteouts.insert([name.folder, slash, hidden].concat());
        } // else notes of AUFS
        Ok(())
    }

    /// Returns how much of the disk was taken, and whether everything below is hidden.
    fn finish(mut self) -> Result<(u64, bool), Fault> {
        let opaque = self.opaque.contains(&b""[..]);
        let whiteouts = std::mem::take(&mut self.whiteouts);
        let mut hiding = Vec::new();
        for path in whiteouts {
            let Some(name) = Name::parse(&path)? else { continue };
            match self.tree.open(name.folder)?.map(|at| statat(&at, name.last, AtFlags::SYMLINK_NOFOLLOW)) {
                // A folder of this layer hides what is in the one below.
                Some(Ok(found)) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                    self.opaque.insert(path);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => hiding.push(path),
            }
        }
        for path in hiding {
            self.tree.in_time()?;
            self.hide(&path)?;
        }
        for path in self.opaque.clone() {
            self.tree.in_time()?;
            self.make_opaque(&path)?;
        }
        // The deepest first: without its bits nobody but root may enter a folder.
        for (path, attributes) in self.folders.iter().rev() {
            let Some(folder) = self.tree.open(path)? else { continue }; // replaced since
            // who removes the layer opens its root
            let readable = if path.is_empty() { 0o500 } else { 0 };
            fchmod(&folder, Mode::from_raw_mode(attributes.mode | readable)).map_err(io)?;
            if let Some(modified) = attributes.modified {
                let _ = futimens(&folder, &times(modified));
            }
        }
        self.tree.sync_all()?;
        Ok((self.tree.taken(), opaque))
    }

    /// Lets a folder of this layer hide the one below.
    fn make_opaque(&mut self, path: &[u8]) -> Result<(), Fault> {
        let folder = match self.tree.open(path)? {
            Some(folder) => folder,
            // What is in the way hides it already.
            None if self.is_hidden(path)? || !self.below.has_folder(path)? => return Ok(()),
            None => self.parent(Name { path, folder: path, last: b"" })?,
        };
        match fsetxattr(&folder, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => Err(Fault::Store(
                "its file system keeps no extended attributes of users, which layers of Linux images need".into(),
            )),
            set => set.map_err(io),
        }
    }

    /// Whether a link, a file or an opaque folder of this layer hides what is at a path below.
    fn is_hidden(&self, path: &[u8]) -> Result<bool, Fault> {
        let mut above = path;
        while !above.is_empty() {
            above = above.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &above[..slash]);
            if self.opaque.contains(above) {
                return Ok(true);
            }
        }
        self.tree.is_blocked(path)
    }

    /// Hides what is at a path in the layers below, if something is.
    fn hide(&mut self, path: &[u8]) -> Result<(), Fault> {
        let Some(name) = Name::parse(path)? else { return Ok(()) };
        if self.is_hidden(path)? || matches!(self.below.find(path)?, Seen::Nothing) {
            return Ok(());
        }
        let at = self.parent(name)?;
        self.tree.spend(ENTRY_BYTES)?;
        match mknodat(&at, name.last, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
            Err(Errno::PERM) => Err(Fault::Store(
                "its file system takes no whiteouts, as one that is an overlay itself: put the data directory on a volume".into(),
            )),
            made => made.map_err(io),
        }
    }
}

/// Counts a name that is kept until the end.
fn keep(kept: &mut usize, name: &[u8]) -> Result<(), Fault> {
    // What an entry of the tables costs beside its name.
    *kept += name.len() + 64;
    match *kept > MAX_KEPT {
        true => Err(Fault::content("its layer has too many folders with long names")),
        false => Ok(()),
    }
}
