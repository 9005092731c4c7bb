//! What no pod may see of the node: its processes (procfs), and the cluster's data folder, which contains keys and executed code. Folders
//! are compared by device and inode, so that symbolic links and bind mounts cannot circumvent the check.

use container::FileId;
use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, open, openat};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// More folders than a path can have (`PATH_MAX / 2`).
const MAX_DEPTH: usize = 2048;

/// A folder that pods must not see.
#[derive(Clone, Debug, Default)]
pub struct PrivateDir(PathBuf);

impl PrivateDir {
    /// Protects this folder.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Checks that a folder neither contains the private folder nor lies inside it. The error is for the user.
    pub fn check(&self, folder: &OwnedFd) -> Result<(), String> {
        self.check_not_inside(folder)?;
        if let Some(at) = procfs_below(folder) {
            return Err(format!("it holds {}, where the processes of this node are", at.display()));
        }
        let (Some(private), Ok(it)) = (self.ancestors(), FileId::of(folder)) else { return Ok(()) };
        if private.contains(&it) {
            return Err("it holds the data directory of this node, which pods may not see".into());
        }
        Ok(())
    }

    /// Checks that a folder does not lie inside the private folder or procfs. The error is for the user.
    pub fn check_not_inside(&self, folder: &OwnedFd) -> Result<(), String> {
        if is_procfs(folder) {
            return Err("it shows the processes of this node, and whoever writes their memory is one of them".into());
        }
        let Some(private) = self.ancestors() else { return Ok(()) };
        let up = ancestors(folder).map_err(|e| format!("it cannot be looked at: {e}"))?;
        if private.first().is_some_and(|private| up.contains(private)) {
            return Err("it lies in the data directory of this node, which pods may not see".into());
        }
        Ok(())
    }

    /// The private folder and its ancestors. `None` if it does not exist.
    fn ancestors(&self) -> Option<Vec<FileId>> {
        ancestors(&open(&self.0, FOLDER, Mode::empty()).ok()?).ok()
    }
}

/// Whether the folder is part of procfs: `/proc/self/mem` writes to the memory of this process, even to read-only pages.
fn is_procfs(folder: &OwnedFd) -> bool {
    fstatfs(folder).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC)
}

/// Where procfs is mounted below a folder.
fn procfs_below(folder: &OwnedFd) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounted = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after
            .starts_with("proc ")
            .then(|| before.split(' ').nth(4).map(|at| PathBuf::from(at.replace("\\040", " "))))?
    });
    mounted.into_iter().find(|at| at.starts_with(&path))
}

/// A folder and its ancestors.
fn ancestors(folder: &OwnedFd) -> std::io::Result<Vec<FileId>> {
    let mut chain = vec![FileId::of(folder)?];
    let mut at = openat(folder, ".", FOLDER, Mode::empty())?;
    while chain.len() < MAX_DEPTH {
        at = openat(&at, "..", FOLDER, Mode::empty())?;
        let id = FileId::of(&at)?;
        if chain.last() == Some(&id) {
            break;
        }
        chain.push(id);
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_holds_it_or_lies_in_it_is_refused_however_it_is_called() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join(name);
        for name in ["home/data/pki", "home/other", "home/data2"] {
            std::fs::create_dir_all(at(name)).expect("made");
        }
        symlink("home/data/pki", at("link")).expect("made");
        symlink("/proc/self", at("processes")).expect("made");
        let private = PrivateDir::new(at("home/data"));
        for (path, text) in [
            ("home/data", "lies in"),
            ("home/data/pki", "lies in"),
            ("link", "lies in"),
            ("home/other/../data", "lies in"),
            ("home", "holds"),
            ("", "holds"),
            ("/", "holds"),
            ("home/other", ""),
            ("home/data2", ""),
            ("/proc", "processes of this node"),
            ("/proc/self", "processes of this node"),
            ("/proc/self/fd", "processes of this node"),
            ("/proc/1/task/1", "processes of this node"),
            ("processes", "processes of this node"),
        ] {
            let result = private.check(&open(at(path), FOLDER, Mode::empty()).expect("open"));
            assert_eq!(result.is_err(), !text.is_empty(), "{path}: {result:?}");
            assert!(result.err().unwrap_or_default().contains(text), "{path}");
        }
    }
}
