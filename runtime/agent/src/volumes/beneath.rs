//! Resolves the `subPath` of a mount below a volume's root, once, when a container is created. It resolves symbolic links inside the volume
//! only, component by component and relative to open folders, so that a guest cannot redirect the lookup by changing the volume meanwhile
//! (CVE-2017-1002101, CVE-2021-25741).

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fchmod, mkdirat, open, openat, readlinkat, statat},
    io::Errno,
};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

/// The kernel's limit of symbolic links per lookup.
const MAX_LINKS: u32 = 40;

/// Flags to open a folder for reading.
pub(super) const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Flags to open a file without blocking: a guest may have replaced it by a named pipe.
pub(super) const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The result of a lookup.
#[derive(Debug)]
pub(super) enum Found {
    /// A folder, and its path without symbolic links.
    Folder(PathBuf, OwnedFd),
    /// A regular file, open for reading.
    File(File),
}

/// Opens the root of a volume. Symbolic links in its own path are trusted.
pub(super) fn root(path: &Path) -> Result<OwnedFd, String> {
    open(path, FOLDER, Mode::empty()).map_err(|e| format!("the volume cannot be opened: {e}"))
}

/// Resolves `sub` below a folder that `accept` allows. Missing components are created as folders with the mode `make`, if it is set. The
/// error is for the user and contains no path of the host.
pub(super) fn find(
    path: &Path,
    sub: &Path,
    make: Option<Mode>,
    accept: impl FnOnce(&OwnedFd) -> Result<(), String>,
) -> Result<Found, String> {
    let root = root(path)?;
    accept(&root)?;
    let mut search = Search { root, stack: Vec::new(), todo: VecDeque::new(), links: 0, make };
    search.push(sub, false)?;
    search.run(sub)
}

struct Search {
    root: OwnedFd,
    /// The open folders from the root to the current one. `..` returns to an open folder, never to the folder's current parent.
    stack: Vec<(OsString, OwnedFd)>,
    /// The remaining components, and whether each comes from a symbolic link.
    todo: VecDeque<(OsString, bool)>,
    links: u32,
    make: Option<Mode>,
}

impl Search {
    fn push(&mut self, path: &Path, link: bool) -> Result<(), String> {
        for part in path.components().rev() {
            match part {
                Component::Normal(name) => self.todo.push_front((name.to_owned(), link)),
                Component::ParentDir => self.todo.push_front(("..".into(), link)),
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return Err(outside()),
            }
        }
        Ok(())
    }

    fn run(mut self, sub: &Path) -> Result<Found, String> {
        while let Some((name, link)) = self.todo.pop_front() {
            if name == ".." {
                self.stack.pop().ok_or_else(outside)?;
                continue;
            }
            let at = self.stack.last().map_or(&self.root, |(_, handle)| handle);
            match statat(at, &name, AtFlags::SYMLINK_NOFOLLOW).map(|s| FileType::from_raw_mode(s.st_mode)) {
                Ok(FileType::Directory) => {
                    let handle = openat(at, &name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(changed)?;
                    self.stack.push((name, handle));
                }
                Ok(FileType::Symlink) => self.follow(&name)?,
                Ok(FileType::RegularFile) if self.todo.is_empty() => return file(at, &name),
                Ok(_) => return Err(format!("{} is neither a folder nor a file", sub.display())),
                Err(Errno::NOENT) if link => return Err("it leads nowhere".into()),
                Err(Errno::NOENT) => {
                    let mode = self.make.ok_or_else(|| format!("{} does not exist", sub.display()))?;
                    match mkdirat(at, &name, mode) {
                        Ok(()) => {
                            // Sets the mode regardless of the process's umask.
                            let recorded =
                                openat(at, &name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(changed)?;
                            fchmod(recorded, mode).map_err(changed)?;
                        }
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(format!("cannot make {}: {errno}", sub.display())),
                    }
                    self.todo.push_front((name, false));
                }
                Err(errno) => return Err(format!("{}: {errno}", sub.display())),
            }
        }
        let below = self.stack.iter().map(|(name, _)| name).collect();
        Ok(Found::Folder(below, self.stack.pop().map_or(self.root, |(_, handle)| handle)))
    }

    fn follow(&mut self, name: &OsStr) -> Result<(), String> {
        use std::os::unix::ffi::OsStrExt;
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err("it holds too many links".into());
        }
        let at = self.stack.last().map_or(&self.root, |(_, handle)| handle);
        let target = readlinkat(at, name, Vec::new()).map_err(changed)?;
        self.push(Path::new(OsStr::from_bytes(target.to_bytes())), true)
    }
}

/// Opens a regular file in an open folder. Other file types are an error.
pub(super) fn file(at: &OwnedFd, name: &OsStr) -> Result<Found, String> {
    let file = File::from(openat(at, name, FILE, Mode::empty()).map_err(changed)?);
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(Found::File(file)),
        _ => Err(format!("{} is neither a folder nor a file", name.display())),
    }
}

fn outside() -> String {
    "it leads out of the volume".into()
}

fn changed(errno: Errno) -> String {
    format!("it changed while it was looked at, or may not be opened: {errno}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn way(root: &Path, sub: &str, make: bool) -> Result<PathBuf, String> {
        match find(root, Path::new(sub), make.then(|| Mode::from_raw_mode(0o777)), |_| Ok(()))? {
            Found::Folder(way, _) => Ok(way),
            Found::File(_) => Err("a file".into()),
        }
    }

    #[test]
    fn links_in_a_volume_lead_nowhere_else_and_nothing_is_made_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let (volume, outside) = (folder.path().join("volume"), folder.path().join("outside"));
        std::fs::create_dir_all(volume.join("real/deep")).expect("made");
        std::fs::create_dir(&outside).expect("made");
        for (target, link) in [
            ("../outside", "out"),
            ("../outside/new", "dangling"),
            ("gone", "nowhere"),
            ("real", "in"),
            ("../in", "real/up"),
            ("loop", "loop"),
            ("real/../../outside", "hidden"),
        ] {
            symlink(target, volume.join(link)).expect("made");
        }
        symlink(&outside, volume.join("absolute")).expect("made");
        std::fs::write(volume.join("file"), "x").expect("written");
        let real = |sub: &str, make| way(&volume, sub, make);
        assert_eq!(real("a/./b", true), Ok("a/b".into()));
        assert_eq!(real("in/c", true), Ok("real/c".into()));
        assert_eq!(real("in/up/up/deep", false), Ok("real/deep".into()));
        assert_eq!(real("absent", false), Err("absent does not exist".into()));
        assert_eq!(real("file", false), Err("a file".into()));
        assert_eq!(real("nowhere", true), Err("it leads nowhere".into()));
        for sub in ["out", "out/EVIL/deep", "dangling", "dangling/deep", "hidden", "absolute", "loop", "file/x", "/"] {
            assert!(real(sub, true).is_err(), "{sub}");
        }
        assert_eq!(std::fs::read_dir(&outside).expect("there").count(), 0);
        let mode = volume.join("a").metadata().expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o777, "whatever the process's mask is");
    }

    #[test]
    fn what_is_neither_a_folder_nor_a_file_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).expect("bound");
        rustix::fs::mknodat(rustix::fs::CWD, folder.path().join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("made");
        for name in ["socket", "pipe"] {
            let error = way(folder.path(), name, true).expect_err("no folder");
            assert_eq!(error, format!("{name} is neither a folder nor a file"));
            let at = open(folder.path(), FOLDER, Mode::empty()).expect("open");
            assert!(file(&at, OsStr::new(name)).is_err(), "swapped after the look");
        }
    }
}
