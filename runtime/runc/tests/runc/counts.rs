//! What a node has of the machine, counted before and after.

use super::support::{Node, can_run, is_root, wait};
use container::Runtime;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Everything on this machine that carries a node's name or folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub cgroups: Vec<PathBuf>,
    pub mounts: Vec<String>,
    pub processes: Vec<u32>,
}

impl Node {
    pub fn counted(&self) -> Counted {
        let (cgroup, folder) = (self.options.cgroup.trim_start_matches('/'), &self.options.folder);
        let mut cgroups = Vec::new();
        find(Path::new("/sys/fs/cgroup"), cgroup, 0, &mut cgroups);
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below = folder.to_str().unwrap();
        let mounts = text.lines().filter(|line| line.contains(below)).map(ToOwned::to_owned).collect();
        Counted { cgroups, mounts, processes: self.processes() }
    }

    /// Waits until nothing is left: what was killed takes a moment to go.
    pub async fn nothing_is_left(&self) {
        wait("nothing is left", || (self.counted() == Counted::default()).then_some(())).await;
    }

    /// The processes whose folder, arguments or cgroup are of this node.
    pub fn processes(&self) -> Vec<u32> {
        let (cgroup, folder) = (&self.options.cgroup, &self.options.folder);
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let found = entries.filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let path = entry.path();
            let in_folder = fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
            let named = fs::read_to_string(path.join("cmdline")).unwrap_or_default().contains(folder.to_str()?);
            let grouped = fs::read_to_string(path.join("cgroup")).unwrap_or_default().contains(&format!("{cgroup}/"));
            (!is_gone(pid) && (in_folder || named || grouped)).then_some(pid)
        });
        found.collect()
    }

    /// Waits until the shim of a pod is the only process of this node: it still takes out what has ended.
    pub async fn only_the_shim(&self, pod: &str) {
        let alone = || (self.processes() == [self.shim(pod)]).then_some(());
        wait(&format!("only the shim of {pod} is there, not {:?}", self.processes()), alone).await;
    }

    /// The process of the shim of a pod.
    pub fn shim(&self, pod: &str) -> u32 {
        let text = fs::read_to_string(self.options.folder.join(pod).join("shim.pid")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["pid"].as_u64().unwrap().try_into().unwrap()
    }
}

fn find(folder: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.to_str().is_some_and(|path| path.ends_with(name)) {
            found.push(path);
        } else if depth < 2 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&path, name, depth + 1, found);
        }
    }
}

/// Whether a process has ended, although its parent may not know it.
pub fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, after)| after.trim_start().starts_with('Z'))
}

pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_pod() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.nothing_is_left().await;
    for round in 0..2 {
        node.pod("one").await;
        let running = node.start("one", node.sh("sleep 1000 & sleep 1000")).await;
        node.runtime.create(&"one".into(), node.sh("true")).await.unwrap();
        let (exit, _) = node.run("one", node.sh("exit 3")).await;
        assert_eq!(exit.code, 3);
        let counted = node.counted();
        assert!(
            counted.cgroups.is_empty() != is_root() && counted.processes.len() >= if is_root() { 3 } else { 1 },
            "{counted:?}"
        );
        assert_eq!(counted.mounts, Vec::<String>::new(), "the node itself mounts nothing");
        if round == 1 {
            node.runtime.stop(&running, std::time::Duration::ZERO).await.unwrap();
        }
        node.runtime.remove_sandbox(&"one".into()).await.unwrap();
        node.nothing_is_left().await;
        assert_eq!(fs::read_dir(&node.options.folder).unwrap().count(), 0);
    }
}
