//! Cgroups of pods and containers, of version 1 (one folder in each hierarchy) and version 2 (one folder). The OCI runtime makes those of containers
//! and their parents, and removes only the former.

use crate::config::resources::{PERIOD, quota, shares};
use container::{Limits, Stats};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where cgroups are.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";
/// How deep a container may nest cgroups of its own for them to be removed.
const MAX_DEPTH: usize = 16;

/// The cgroups of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    root: PathBuf,
    is_v2: bool,
}

impl Cgroups {
    /// Those below `root`.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), is_v2: root.join("cgroup.controllers").exists() }
    }

    /// Whether there is one hierarchy with all controllers.
    pub(crate) fn is_v2(&self) -> bool {
        self.is_v2
    }

    /// The folders of a cgroup, one in each hierarchy; some may not exist.
    fn folders(&self, path: &str) -> Vec<PathBuf> {
        let below = path.trim_start_matches('/');
        if self.is_v2 {
            return vec![self.root.join(below)];
        }
        let hierarchies = fs::read_dir(&self.root).into_iter().flatten().flatten();
        // `cpu` and `cpuacct` are links to the one with both
        let real = hierarchies.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        real.map(|entry| entry.path().join(below)).collect()
    }

    /// The folder of a cgroup that has a controller's files.
    fn folder(&self, controller: &str, path: &str) -> PathBuf {
        let below = path.trim_start_matches('/');
        if self.is_v2 { self.root.join(below) } else { self.root.join(controller).join(below) }
    }

    /// Kills all processes in a cgroup and in those below. Returns how many it saw: while some can fork, it has to be called again.
    pub(crate) fn kill(&self, path: &str) -> usize {
        let mut killed = std::collections::HashSet::new();
        for folder in self.folders(path) {
            // at once, where the kernel can
            let at_once = fs::OpenOptions::new().write(true).open(folder.join("cgroup.kill"));
            let _ = at_once.and_then(|mut file| io::Write::write_all(&mut file, b"1"));
            walk(&folder, 0, &mut |folder| {
                let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                killed.extend(processes.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
            });
        }
        // a process of another namespace has number 0 here, which is none
        killed.iter().filter(|pid| kill_process(**pid, Signal::KILL).is_ok()).count()
    }

    /// Removes a cgroup and those below, as far as they have no processes. Returns whether nothing is left.
    pub(crate) fn remove(&self, path: &str) -> bool {
        let mut gone = true;
        for folder in self.folders(path) {
            walk(&folder, 0, &mut |folder| {
                let _ = fs::remove_dir(folder);
            });
            gone &= !folder.exists();
        }
        gone
    }

    /// How many processes of a cgroup the kernel killed because there was no memory within its limit.
    pub(crate) fn oom_kills(&self, path: &str) -> u64 {
        let file = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        field(&self.folder("memory", path).join(file), "oom_kill").unwrap_or(0)
    }

    /// The use of a cgroup; `None` if it does not exist.
    pub(crate) fn stats(&self, path: &str) -> Option<Stats> {
        let memory = self.folder("memory", path);
        let (cpu_nanos, used, inactive) = if self.is_v2 {
            let cpu = field(&memory.join("cpu.stat"), "usage_usec")?.saturating_mul(1000);
            (cpu, number(&memory.join("memory.current")), field(&memory.join("memory.stat"), "inactive_file"))
        } else {
            let used = number(&memory.join("memory.usage_in_bytes"));
            let cpu = number(&self.folder("cpuacct", path).join("cpuacct.usage"))?;
            (cpu, used, field(&memory.join("memory.stat"), "total_inactive_file"))
        };
        let memory_bytes = used.unwrap_or(0).saturating_sub(inactive.unwrap_or(0));
        let throttled = field(&self.folder("cpu", path).join("cpu.stat"), "nr_throttled").unwrap_or(0);
        Some(Stats { cpu_nanos, memory_bytes, throttled, instances: 1, ..Stats::default() })
    }

    /// Makes the cgroup of a pod with its limits.
    ///
    /// # Errors
    /// This process may not, or a controller is missing.
    pub(crate) fn limit_pod(&self, path: &str, limits: &Limits) -> io::Result<()> {
        if self.is_v2 {
            self.delegate(path)?;
        }
        for controller in ["memory", "cpu"] {
            fs::create_dir_all(self.folder(controller, path))?;
        }
        self.limit(path, limits)
    }

    /// Sets the limits of a cgroup that exists; `None` is no limit.
    ///
    /// # Errors
    /// The kernel refuses one: processes may use more memory than that already, or the pod as a whole has less.
    pub(crate) fn limit(&self, path: &str, limits: &Limits) -> io::Result<()> {
        let (memory, cpu) = (self.folder("memory", path), self.folder("cpu", path));
        let (shares, quota) = (shares(limits.cpu_request_millis), quota(limits.cpu_millis));
        let or = |number: Option<u64>, none: &str| number.map_or_else(|| none.to_owned(), |number| number.to_string());
        if self.is_v2 {
            fs::write(memory.join("memory.max"), or(limits.memory_bytes, "max"))?;
            fs::write(cpu.join("cpu.max"), format!("{} {PERIOD}", or(quota, "max")))?;
            return fs::write(cpu.join("cpu.weight"), (1 + (shares - 2) * 9999 / 262_142).to_string());
        }
        let bytes = or(limits.memory_bytes, "-1");
        if fs::write(memory.join("memory.limit_in_bytes"), &bytes).is_err() {
            // it must not be above the limit of memory and swap together
            let _ = fs::write(memory.join("memory.memsw.limit_in_bytes"), "-1");
            fs::write(memory.join("memory.limit_in_bytes"), &bytes)?;
        }
        fs::write(cpu.join("cpu.cfs_quota_us"), or(quota, "-1"))?;
        fs::write(cpu.join("cpu.shares"), shares.to_string())
    }

    /// Lets the cgroups above `path` give controllers to those below.
    fn delegate(&self, path: &str) -> io::Result<()> {
        let mut folder = self.root.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            for controller in ["+cpu", "+memory", "+pids"] {
                fs::write(folder.join("cgroup.subtree_control"), controller)?;
            }
            folder.push(part);
            fs::create_dir_all(&folder)?;
        }
        Ok(())
    }
}

/// Calls `see` for the folders below, then for `folder`.
fn walk(folder: &Path, depth: usize, see: &mut dyn FnMut(&Path)) {
    if depth < MAX_DEPTH {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), depth + 1, see);
            }
        }
    }
    see(folder);
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number after a word in a file of lines.
fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_has_a_folder_in_each_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in ["memory/s/p/c", "cpu,cpuacct/s/p/c/deep", "pids/s/p"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        std::os::unix::fs::symlink("cpu,cpuacct", at("cpu")).unwrap();
        std::os::unix::fs::symlink("cpu,cpuacct", at("cpuacct")).unwrap();
        let cgroups = Cgroups::at(root.path());
        assert!(!cgroups.is_v2() && cgroups.stats("/s/p/c").is_none());
        for (file, text) in [
            ("memory/s/p/c/memory.usage_in_bytes", "100\n"),
            ("memory/s/p/c/memory.stat", "inactive_file 1\ntotal_inactive_file 30\n"),
            ("memory/s/p/c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ("cpu/s/p/c/cpuacct.usage", "7\n"),
            ("cpu/s/p/c/cpu.stat", "nr_periods 9\nnr_throttled 4\n"),
        ] {
            fs::write(at(file), text).unwrap();
        }
        let stats = cgroups.stats("/s/p/c").unwrap();
        assert_eq!((stats.cpu_nanos, stats.memory_bytes, stats.throttled, stats.instances), (7, 70, 4, 1));
        assert_eq!((cgroups.oom_kills("/s/p/c"), cgroups.oom_kills("/s/p")), (2, 0));
        let limits = Limits { cpu_millis: Some(500), memory_bytes: Some(4096), cpu_request_millis: Some(500) };
        cgroups.limit_pod("/s/p", &limits).unwrap();
        let read = |file| fs::read_to_string(at(file)).unwrap();
        let (memory, quota) = (read("memory/s/p/memory.limit_in_bytes"), read("cpu/s/p/cpu.cfs_quota_us"));
        assert_eq!((&*memory, &*quota, &*read("cpu/s/p/cpu.shares")), ("4096", "50000", "512"));
        assert!(!cgroups.remove("/s/p"), "real folders hold files");
    }

    #[test]
    fn version_2_has_one_folder() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("s/p/c")).unwrap();
        fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        let cgroups = Cgroups::at(root.path());
        let container = root.path().join("s/p/c");
        for (file, text) in [
            ("memory.current", "100\n"),
            ("memory.stat", "anon 1\ninactive_file 30\n"),
            ("memory.events", "low 0\noom 5\noom_kill 2\noom_group_kill 1\n"),
            ("cpu.stat", "usage_usec 7\nnr_throttled 4\n"),
        ] {
            fs::write(container.join(file), text).unwrap();
        }
        let stats = cgroups.stats("/s/p/c").unwrap();
        assert_eq!((stats.cpu_nanos, stats.memory_bytes, stats.throttled), (7000, 70, 4));
        assert_eq!(cgroups.oom_kills("/s/p/c"), 2);
        let limits = Limits { cpu_millis: None, memory_bytes: Some(4096), cpu_request_millis: Some(1000) };
        cgroups.limit_pod("/s/p", &limits).unwrap();
        let read = |file| fs::read_to_string(root.path().join("s/p").join(file)).unwrap();
        assert_eq!((&*read("memory.max"), &*read("cpu.max"), &*read("cpu.weight")), ("4096", "max 100000", "39"));
        assert_eq!(fs::read_to_string(root.path().join("s/cgroup.subtree_control")).unwrap(), "+pids");
        assert!(cgroups.remove("/nothing"));
    }

    #[test]
    fn what_is_empty_is_removed_with_what_is_below() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["memory/s/p/c/d", "pids/s/p"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let cgroups = Cgroups::at(root.path());
        assert_eq!(cgroups.kill("/s/p"), 0);
        assert!(cgroups.remove("/s/p") && root.path().join("memory/s").exists());
    }
}
