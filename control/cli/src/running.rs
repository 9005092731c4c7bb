//! `sampan ls`: the clusters of this machine. A running cluster has its lock and its store open, which `/proc` shows, even if its directory
//! was removed and for other users' clusters. Stopped clusters are listed for the user who started them.

use crate::{
    args::{LsArgs, Report},
    data_dir::{DataDir, LOCK, STORE, canonical},
    known::Clusters,
    out,
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A running cluster, as far as this user can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    /// Its data directory.
    pub(crate) dir: PathBuf,
    /// The directory was removed while the cluster runs.
    pub(crate) gone: bool,
}

/// The suffix that the kernel adds to the path of an open file that was removed.
const DELETED: &str = " (deleted)";

/// All clusters that run, by directory.
pub(crate) fn all() -> Vec<Running> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let links = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let links: Vec<String> =
            links.filter_map(|fd| fs::read_link(fd.path()).ok()?.into_os_string().into_string().ok()).collect();
        found.extend(of_process(pid, &links));
    }
    found.sort_by(|a, b| a.dir.cmp(&b.dir).then(a.pid.cmp(&b.pid)));
    found
}

/// The cluster of a process, found by its open files.
fn of_process(pid: u32, links: &[String]) -> Option<Running> {
    links.iter().find_map(|link| {
        let (path, gone) = link.strip_suffix(DELETED).map_or((link.as_str(), false), |path| (path, true));
        let dir = path.strip_suffix(STORE)?.strip_suffix('/')?;
        let lock = format!("{dir}/{LOCK}");
        let locked = links.iter().any(|other| other.strip_suffix(DELETED).unwrap_or(other) == lock);
        locked.then(|| Running { pid, dir: PathBuf::from(dir), gone })
    })
}

/// The data directory of the cluster on this machine whose API has this address, such as `127.0.0.1:6443`.
pub(crate) fn with_api(address: &str) -> Option<PathBuf> {
    let at = |one: &Running| api(&one.dir).is_some_and(|api| api == address);
    all().into_iter().find(at).map(|one| one.dir)
}

/// The directories of other running clusters whose API this user can access.
pub(crate) fn others(than: &DataDir) -> Vec<PathBuf> {
    let here = canonical(than.path());
    let mut dirs: Vec<PathBuf> = all().into_iter().filter(|one| !one.gone).map(|one| one.dir).collect();
    dirs.retain(|dir| canonical(dir) != here && dir.join("kubeconfig").is_file());
    dirs.dedup();
    dirs
}

fn api(dir: &Path) -> Option<String> {
    let holder = DataDir::locate(Some(dir)).ok()?.holder().ok()??;
    Some(holder.address).filter(|address| !address.is_empty())
}

/// A line of the list.
struct Line {
    name: String,
    status: &'static str,
    api: String,
    pid: Option<u32>,
    dir: PathBuf,
}

/// `sampan ls`.
pub(crate) fn run(args: &LsArgs) -> anyhow::Result<()> {
    let lines = lines()?;
    match args.output {
        Report::Json => {
            let all: Vec<_> = lines
                .iter()
                .map(|line| {
                    json!({"name": line.name, "status": line.status, "api": line.api, "pid": line.pid,
                        "dataDirectory": line.dir.display().to_string()})
                })
                .collect();
            out::line(&serde_json::to_string_pretty(&all)?)
        }
        Report::Text if lines.is_empty() => {
            eprintln!("there is no cluster on this machine; start one with `sampan up`");
            Ok(())
        }
        Report::Text => {
            let mut rows = vec![["NAME", "STATUS", "API", "PID", "DATA DIRECTORY"].map(str::to_owned).to_vec()];
            rows.extend(lines.iter().map(|line| {
                let pid = line.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
                let api = if line.api.is_empty() { "-" } else { &line.api };
                vec![line.name.clone(), line.status.to_owned(), api.to_owned(), pid, line.dir.display().to_string()]
            }));
            out::columns(&rows).iter().try_for_each(|line| out::line(line))
        }
    }
}

/// Running clusters, and stopped ones that were started here and still exist.
fn lines() -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for one in all() {
        let dir = DataDir::locate(Some(&one.dir))?;
        let api = if one.gone { None } else { api(&one.dir) };
        lines.push(Line {
            name: dir.name(),
            status: if one.gone { "removed" } else { "running" },
            api: api.map(|address| format!("https://{address}")).unwrap_or_default(),
            pid: Some(one.pid),
            dir: one.dir,
        });
    }
    let default = DataDir::locate(None).map(|dir| canonical(dir.path()));
    let known = Clusters::of_user().all().into_iter().map(|known| known.dir);
    for dir in stopped(default.into_iter().chain(known), &lines) {
        lines.push(Line {
            name: DataDir::locate(Some(&dir))?.name(),
            status: "stopped",
            api: String::new(),
            pid: None,
            dir,
        });
    }
    lines.sort_by(|a, b| a.dir.cmp(&b.dir));
    Ok(lines)
}

/// The directories with a store, each once, without those of running clusters. Removed directories are skipped.
fn stopped(known: impl Iterator<Item = PathBuf>, running: &[Line]) -> BTreeSet<PathBuf> {
    let there = known.filter(|dir| dir.join(STORE).exists());
    there.filter(|dir| !running.iter().any(|line| line.dir == *dir)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_known_by_the_lock_and_the_store_that_it_holds() {
        let links = |all: &[&str]| all.iter().map(|link| (*link).to_owned()).collect::<Vec<_>>();
        let dir = |gone| Some(Running { pid: 7, dir: "/d 1".into(), gone });
        assert_eq!(of_process(7, &links(&["/dev/null", "/d 1/lock", "/d 1/cluster.redb"])), dir(false));
        assert_eq!(of_process(7, &links(&["/d 1/cluster.redb (deleted)", "/d 1/lock (deleted)"])), dir(true));
        for other in [&["/d/lock"][..], &["/d/cluster.redb"], &["/d/lock", "/e/cluster.redb"], &["socket:[1]"]] {
            assert_eq!(of_process(7, &links(other)), None, "{other:?}");
        }
    }

    #[test]
    fn what_is_stopped_is_told_once_and_neither_what_runs_nor_what_is_gone() {
        let place = tempfile::tempdir().expect("a folder");
        let dir = |name: &str| place.path().join(name);
        for name in ["a", "b"] {
            fs::create_dir(dir(name)).expect("made");
            fs::write(dir(name).join("cluster.redb"), "").expect("written");
        }
        let runs = Line { name: "b".into(), status: "running", api: String::new(), pid: Some(7), dir: dir("b") };
        let known = ["a", "gone", "b", "a"].map(dir);
        assert_eq!(stopped(known.into_iter(), &[runs]), BTreeSet::from([dir("a")]));
    }
}
