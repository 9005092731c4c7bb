//! The mounts of a container: what every Linux program expects, then what the pod asks for.

use super::Pod;
use crate::oci::Mount;
use container::Propagation;
use std::path::PathBuf;

/// Something of the pod to mount, at a path that no guest can replace.
#[derive(Clone, Debug)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) read_only: bool,
    pub(crate) no_exec: bool,
    pub(crate) propagation: Propagation,
}

fn mount(destination: &str, kind: &'static str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(ToString::to_string).collect();
    Mount { destination: destination.into(), kind, source: source.into(), options }
}

/// The mounts of a container in their order. A mount of the pod replaces one of these at the same path.
pub(crate) fn mounts(pod: &Pod, privileged: bool, binds: &[Bind]) -> Vec<Mount> {
    let system = if privileged { "rw" } else { "ro" };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", system]),
    ];
    if !pod.rootless {
        // the group `tty`; it is not there with one user
        all[2].options.push("gid=5".into());
        all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", system]));
    }
    if let Some(shm) = &pod.shm {
        let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"].map(ToOwned::to_owned).to_vec();
        all.push(Mount { destination: "/dev/shm".into(), kind: "bind", source: shm.clone(), options });
    }
    let normal = |path: &str| path.trim_end_matches('/').to_owned();
    all.retain(|mount| !binds.iter().any(|bind| normal(&bind.target) == mount.destination));
    // a mount comes after those that it is in
    let mut binds: Vec<&Bind> = binds.iter().collect();
    binds.sort_by_key(|bind| bind.target.split('/').filter(|part| !part.is_empty()).count());
    all.extend(binds.into_iter().map(bind));
    all
}

fn bind(bind: &Bind) -> Mount {
    let propagation = match bind.propagation {
        Propagation::None => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = if bind.read_only { "ro" } else { "rw" };
    let programs = bind.no_exec.then_some("noexec");
    let options = ["rbind", propagation, access].into_iter().chain(programs).map(ToOwned::to_owned).collect();
    Mount { destination: bind.target.clone(), kind: "bind", source: bind.source.clone(), options }
}

/// The propagation of the root folder, without which that of the mounts would end there.
pub(crate) fn root_propagation(binds: &[Bind]) -> Option<&'static str> {
    let any = |wanted| binds.iter().any(|bind| bind.propagation == wanted);
    match (any(Propagation::Bidirectional), any(Propagation::HostToContainer)) {
        (true, _) => Some("rshared"),
        (false, true) => Some("rslave"),
        (false, false) => None,
    }
}
