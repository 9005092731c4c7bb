//! Visits, measures and removes folders that containers have filled. They can nest folders arbitrarily deep, and a traversal with an open folder or a
//! stack frame per level would exhaust file descriptors or the stack. These traversals hold few open folders, follow no symbolic link,
//! enter no mount, and use paths of one component only.

use crate::FileId;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, chmod, open, openat, renameat, statat, unlinkat},
    io::Errno,
    path::Arg,
};
use std::{
    collections::HashSet,
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The unit of `st_blocks`, in bytes.
const BLOCK: u64 = 512;

/// A walk stops after this number of entries, which takes some seconds.
const MAX_ENTRIES: u64 = 4_000_000;

fn names(folder: &OwnedFd) -> io::Result<Vec<(CString, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

fn is_folder(at: &OwnedFd, name: &CString, kind: FileType) -> io::Result<bool> {
    if kind != FileType::Unknown {
        return Ok(kind == FileType::Directory);
    }
    Ok(FileType::from_raw_mode(statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) == FileType::Directory)
}

/// Opens a folder in `at` without following a symbolic link or entering a mount. Without `openat2` (Linux before 5.6, other systems), only
/// mounts of other file systems are detected.
fn enter<P: Arg + Copy>(at: &OwnedFd, name: P) -> io::Result<OwnedFd> {
    let mounted = || io::Error::new(io::ErrorKind::CrossesDevices, "something is mounted there");
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{ResolveFlags, openat2};
        let stay = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        match openat2(at, name, FOLDER, Mode::empty(), stay) {
            Ok(folder) => return Ok(folder),
            Err(Errno::XDEV) => return Err(mounted()),
            // The kernel, or a seccomp filter, does not support it.
            Err(Errno::NOSYS | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let folder = openat(at, name, FOLDER, Mode::empty())?;
    if FileId::of(&folder)?.device != FileId::of(at)?.device { Err(mounted()) } else { Ok(folder) }
}

/// As [`enter`], also a folder of this user that it may not read: the overlay of a Linux container makes one.
fn enter_own<P: Arg + Copy>(at: &OwnedFd, name: P) -> io::Result<OwnedFd> {
    match enter(at, name) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            permit(at, name)?;
            enter(at, name)
        }
        entered => entered,
    }
}

/// Lets this user into a folder of its own.
fn permit<P: Arg>(at: &OwnedFd, name: P) -> rustix::io::Result<()> {
    let handle = openat(at, name, FOLDER | OFlags::PATH, Mode::empty())?;
    chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)
}

/// Removes a folder with its content. Idempotent. Moves nested folders up into it before it empties them, so that no folder is deeper than
/// one level. A mount in it or on it is an error, and the folder stays.
///
/// # Errors
/// Something is mounted there, `path` is a link or has no parent, or the disk fails; then some of it may be left.
pub fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(own)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no parent"));
    };
    let opened = open(parent, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty()).map_err(io::Error::from);
    let opened = opened.and_then(|parent| Ok((enter_own(&parent, own)?, parent)));
    let (top, parent) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut fresh = 0u64;
    loop {
        let found = names(&top)?;
        if found.is_empty() {
            break;
        }
        for (name, kind) in found {
            if is_folder(&top, &name, kind)? {
                empty(&top, &name, &mut fresh)?;
                unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
            } else {
                unlinkat(&top, &name, AtFlags::empty())?;
            }
        }
    }
    drop(top);
    match unlinkat(&parent, own, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Empties a folder in `top`: removes its files and moves its folders to `top`.
fn empty(top: &OwnedFd, name: &CString, fresh: &mut u64) -> io::Result<()> {
    let folder = enter_own(top, name)?;
    for (name, kind) in names(&folder)? {
        if !is_folder(&folder, &name, kind)? {
            unlinkat(&folder, &name, AtFlags::empty())?;
            continue;
        }
        // A guest may already use some of the names.
        loop {
            *fresh += 1;
            let to = format!("..{fresh}");
            match statat(top, &to, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    // a folder is written to when it moves
                    match renameat(&folder, &name, top, &to) {
                        Err(Errno::ACCESS) => {
                            permit(&folder, &name)?;
                            renameat(&folder, &name, top, &to)?;
                        }
                        moved => moved?,
                    }
                    break;
                }
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// The disk usage of a folder's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// What the disk has allocated, in bytes.
    pub bytes: u64,
    /// Files, folders and links.
    pub inodes: u64,
}

/// The disk usage of a folder's content, as of `du`: allocated blocks, and a hard-linked file once. Excludes the folder itself. Concurrent
/// changes may or may not be counted, and mounts and folders that this user may not read are left out.
///
/// # Errors
/// The folder exists and cannot be read.
pub fn usage(path: &Path) -> io::Result<Size> {
    let root = match open(path, FOLDER, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(Size::default()),
        Err(errno) => return Err(errno.into()),
    };
    let (mut size, mut linked) = (Size::default(), HashSet::new());
    walk(root, |_, _, stat| {
        #[allow(clippy::unnecessary_cast)] // the types differ between systems
        let (blocks, links, id) =
            (stat.st_blocks as u64, stat.st_nlink as u64, (stat.st_dev as u64, stat.st_ino as u64));
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory && links > 1 && !linked.insert(id) {
            return;
        }
        size.inodes += 1;
        size.bytes = size.bytes.saturating_add(blocks.saturating_mul(BLOCK));
    })?;
    Ok(size)
}

/// Visits what is in a folder, but not the folder itself: each time the open folder that it is in, its name there, and its status. A folder comes
/// before what it holds. Others may change the folder meanwhile; mounts and folders that this user may not read are not entered.
///
/// Returns whether that was all: a guest may have moved a folder, or there are more entries than anybody counts.
///
/// # Errors
/// The folder cannot be read.
pub fn walk(root: OwnedFd, mut visit: impl FnMut(&OwnedFd, &CStr, &Stat)) -> io::Result<bool> {
    let (mut at, mut entries) = (root, 0u64);
    // Per level: the folder's id, and its folders that are not visited yet.
    let mut stack: Vec<(FileId, Vec<CString>)> = Vec::new();
    let mut down = true;
    loop {
        if down {
            let mut folders = Vec::new();
            for (name, _) in names(&at)? {
                let Ok(stat) = statat(&at, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                entries += 1;
                visit(&at, &name, &stat);
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    folders.push(name);
                }
            }
            stack.push((FileId::of(&at)?, folders));
        }
        let Some((_, folders)) = stack.last_mut() else { return Ok(true) };
        if entries > MAX_ENTRIES {
            return Ok(false);
        }
        down = false;
        if let Some(name) = folders.pop() {
            // Skips a folder that was removed or replaced by a symbolic link, and mounts, which do not belong to the pod.
            if let Ok(folder) = enter(&at, &name) {
                (at, down) = (folder, true);
            }
            continue;
        }
        stack.pop();
        let Some((parent, _)) = stack.last() else { return Ok(true) };
        at = openat(&at, "..", FOLDER, Mode::empty())?;
        if FileId::of(&at)? != *parent {
            // A guest moved the folder meanwhile.
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Folders in each other, deeper than any path can name, and the innermost.
    fn nest(root: &Path, levels: usize) -> OwnedFd {
        let mut at = open(root, FOLDER, Mode::empty()).expect("open");
        for _ in 0..levels {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).expect("made");
            at = openat(&at, "d", FOLDER, Mode::empty()).expect("open");
        }
        at
    }

    #[test]
    fn folders_of_any_depth_are_measured_and_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let volume = root.path().join("volume");
        std::fs::create_dir(&volume).expect("made");
        let deepest = nest(&volume, 2_500);
        let file = openat(&deepest, "f", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600)).expect("made");
        io::Write::write_all(&mut std::fs::File::from(file), &vec![1; 1 << 20]).expect("written");
        std::fs::create_dir(volume.join("..1")).expect("made");
        std::fs::write(volume.join("..2"), "").expect("written");
        let used = usage(&volume).expect("measured").bytes;
        assert!(used >= 1 << 20, "{used}");
        remove(&volume).expect("removed");
        assert!(!volume.exists());
        remove(&volume).expect("idempotent");
        assert_eq!(usage(&volume).expect("nothing is there"), Size::default());
    }

    #[test]
    fn a_folder_of_this_user_that_nobody_may_read_is_removed() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let work = root.path().join("written/work/work");
        std::fs::create_dir_all(work.join("a")).unwrap();
        std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o000)).unwrap();
        remove(&root.path().join("written")).unwrap();
        assert!(!root.path().join("written").exists());
    }

    #[test]
    fn links_are_neither_followed_nor_counted() {
        let root = tempfile::tempdir().expect("a folder");
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        for folder in [&volume, &outside] {
            std::fs::create_dir(folder).expect("made");
        }
        std::fs::write(outside.join("f"), vec![1; 1 << 20]).expect("written");
        symlink(&outside, volume.join("link")).expect("made");
        symlink("../outside/f", volume.join("file")).expect("made");
        assert!(usage(&volume).expect("measured").bytes < 1 << 16);
        std::fs::write(volume.join("a"), vec![1; 1 << 18]).expect("written");
        std::fs::hard_link(volume.join("a"), volume.join("b")).expect("linked");
        let used = usage(&volume).expect("measured").bytes;
        assert!((1 << 18..2 << 18).contains(&used), "{used}");
        std::fs::File::create(volume.join("hole")).and_then(|f| f.set_len(1 << 40)).expect("made");
        assert!(usage(&volume).expect("measured").bytes < 2 << 18, "a hole takes no room");
        remove(&volume).expect("removed");
        assert!(outside.join("f").exists());
        symlink(&outside, &volume).expect("made");
        assert!(remove(&volume).is_err() && outside.join("f").exists(), "nor is the root a link");
    }

    #[test]
    fn everything_goes_but_what_links_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let (outside, own) = (folder.path().join("outside"), folder.path().join("own"));
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("kept"), "").unwrap();
        std::fs::create_dir_all(own.join("a/b/c/..1")).unwrap();
        std::fs::create_dir_all(own.join("..1/x")).unwrap();
        std::fs::write(own.join("a/b/file"), "").unwrap();
        symlink(&outside, own.join("a/link")).unwrap();
        let mut deep = open(&own, FOLDER, Mode::empty()).unwrap();
        for _ in 0..300 {
            rustix::fs::mkdirat(&deep, "d", Mode::RWXU).unwrap();
            deep = enter(&deep, c"d").unwrap();
        }
        remove(&own).unwrap();
        remove(&own).unwrap();
        assert!(!own.exists() && outside.join("kept").exists());
    }
}
