//! A cgroup for the process of each pod, where the node may make one: it bounds what the process itself uses, whatever its guests make of it.
//! The limits of guests are kept by `wasm`, much closer; the cgroup is for the rest.
//!
//! In version 2 it stands beside the node's own, since a cgroup with processes can have none with controllers below; in version 1 below it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where cgroups are.
const ROOT: &str = "/sys/fs/cgroup";
/// The beginning of the names, which the node's process id and the pod's follow.
const PREFIX: &str = "sampan-";
/// Most threads of a process.
const MAX_THREADS: u32 = 1024;
/// What a process needs beside the memory of its guests: its own pages, stacks, buffers of connections.
const OVERHEAD: u64 = 128 << 20;

/// The cgroup of one process. Removed when dropped, after the process has ended.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// One folder for each hierarchy.
    folders: Vec<PathBuf>,
    /// The file of the limit of memory.
    memory: PathBuf,
    /// The file that counts what was killed for lack of memory.
    killed: PathBuf,
    /// What stands for no limit.
    unlimited: &'static str,
}

impl Cgroup {
    /// Makes a cgroup.
    ///
    /// # Errors
    /// This process may not make one, or no controller of memory is there.
    pub(crate) fn new(pod: &str) -> io::Result<Self> {
        Self::make(Path::new(ROOT), &fs::read_to_string("/proc/self/cgroup")?, pod)
    }

    fn make(root: &Path, own: &str, pod: &str) -> io::Result<Self> {
        let name = format!("{PREFIX}{}-{}", std::process::id(), plain(pod));
        let absent = || io::Error::new(io::ErrorKind::Unsupported, "no controller of memory is there");
        if root.join("cgroup.controllers").exists() {
            let path = own.lines().find_map(|line| line.strip_prefix("0::/")).ok_or_else(absent)?;
            let beside = root.join(path).parent().filter(|_| !path.is_empty()).unwrap_or(root).to_owned();
            if !fs::read_to_string(beside.join("cgroup.subtree_control"))?.split_whitespace().any(|it| it == "memory") {
                return Err(absent());
            }
            remove_stale(&beside);
            let folder = beside.join(name);
            fs::create_dir(&folder)?;
            let (memory, killed) = (folder.join("memory.max"), folder.join("memory.events"));
            let made = Self { folders: vec![folder], memory, killed, unlimited: "max" };
            made.limit_threads();
            return Ok(made);
        }
        let mut folders = Vec::new();
        for controller in ["memory", "pids"] {
            let path = own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|it| it == controller).then_some(path.trim_start_matches('/'))
            });
            let folder = path.map(|path| {
                let own = root.join(controller).join(path);
                remove_stale(&own);
                own.join(&name)
            });
            match folder.map(|folder| fs::create_dir(&folder).map(|()| folder)) {
                Some(Ok(folder)) => folders.push(folder),
                Some(Err(error)) if folders.is_empty() => return Err(error),
                None if folders.is_empty() => return Err(absent()),
                _ => {}
            }
        }
        let memory = folders.first().ok_or_else(absent)?;
        let (memory, killed) = (memory.join("memory.limit_in_bytes"), memory.join("memory.oom_control"));
        let made = Self { folders, memory, killed, unlimited: "-1" };
        made.limit_threads();
        Ok(made)
    }

    /// Best effort: without the controller, threads are bounded by what the process itself starts.
    fn limit_threads(&self) {
        for folder in &self.folders {
            let _ = fs::write(folder.join("pids.max"), MAX_THREADS.to_string());
        }
    }

    /// Moves a process in.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), pid.to_string()))
    }

    /// Bounds the memory of the process, given the limit of its guests.
    pub(crate) fn limit_memory(&self, guests: Option<u64>) -> io::Result<()> {
        let limit = guests.map(|guests| guests.saturating_add(OVERHEAD).to_string());
        fs::write(&self.memory, limit.as_deref().unwrap_or(self.unlimited))
    }

    /// Whether the kernel has killed the process because it exceeded the limit.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        let text = fs::read_to_string(&self.killed).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
        count.is_some_and(|count| count > 0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Removes what nodes left behind that were killed. A cgroup with processes cannot be removed.
fn remove_stale(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let node = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if node.is_some_and(|node| node.parse::<u32>().is_ok() && !Path::new("/proc").join(node).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// A pod's id as the name of a folder.
fn plain(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_version_2_it_stands_beside_the_nodes_own() {
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join("a");
        fs::create_dir_all(parent.join("node")).unwrap();
        fs::write(root.path().join("cgroup.controllers"), "memory pids").unwrap();
        fs::write(parent.join("cgroup.subtree_control"), "cpu").unwrap();
        let error = Cgroup::make(root.path(), "0::/a/node\n", "x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        fs::write(parent.join("cgroup.subtree_control"), "memory pids").unwrap();
        let made = Cgroup::make(root.path(), "0::/a/node\n", "../x y").unwrap();
        let folder = parent.join(format!("sampan-{}-xy", std::process::id()));
        assert_eq!(made.folders, std::slice::from_ref(&folder));
        made.add(7).unwrap();
        made.limit_memory(Some(1 << 20)).unwrap();
        let read = |name| fs::read_to_string(folder.join(name)).unwrap();
        let limit = ((1 << 20) + OVERHEAD).to_string();
        assert_eq!((read("cgroup.procs"), read("memory.max"), read("pids.max")), ("7".into(), limit, "1024".into()));
        made.limit_memory(None).unwrap();
        assert_eq!(read("memory.max"), "max");
        assert!(!made.was_out_of_memory());
        fs::write(folder.join("memory.events"), "low 0\noom 1\noom_kill 1\noom_group_kill 0\n").unwrap();
        assert!(made.was_out_of_memory());
    }

    #[test]
    fn in_version_1_it_is_below_the_nodes_own_in_each_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        let own = "9:name=systemd:/\n8:pids:/\n4:cpu,memory:/a/b\n0::/\n";
        assert!(Cgroup::make(root.path(), own, "x").is_err());
        fs::create_dir_all(root.path().join("memory/a/b")).unwrap();
        let stale = root.path().join("memory/a/b/sampan-4294967295-y");
        let others = ["sampan-x", "other"].map(|name| root.path().join("memory/a/b").join(name));
        for folder in others.iter().chain([&stale]) {
            fs::create_dir(folder).unwrap();
        }
        let made = Cgroup::make(root.path(), own, "x").unwrap();
        assert!(!stale.exists() && others.iter().all(|folder| folder.exists()));
        assert_eq!(made.folders.len(), 1, "without pids");
        made.limit_memory(None).unwrap();
        assert_eq!(fs::read_to_string(made.folders[0].join("memory.limit_in_bytes")).unwrap(), "-1");
    }
}
