//! Makes the OCI runtime configuration of a container. Pure: what was looked up comes as values.

pub(crate) mod capabilities;
pub(crate) mod mounts;
pub(crate) mod resources;
mod seccomp;

use crate::oci::{Config, Device, DeviceRule, Linux, Namespace, Process, Resources, Rlimit, Root, User, VERSION};
use container::{ContainerSpec, LinuxContainer, RootFolder, Seccomp};
use mounts::Bind;
use serde_json::Value;
use std::path::PathBuf;

/// What a program finds its commands by, if neither image nor pod says it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files of a container, if the pod says nothing: soft and hard. Those of systemd's services; this process has many more.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// What of `/proc` and `/sys` tells about the machine or other containers.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What of `/proc` changes the machine.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the containers of a pod have in common.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    /// Whether this process is root of a user namespace of its own with one user, and without cgroups.
    pub(crate) rootless: bool,
    pub(crate) cgroup_v2: bool,
    /// The capabilities that this process may give, as bits.
    pub(crate) bounding: u64,
    /// The kernel's preference to end this process. It gives a lower one only with `CAP_SYS_RESOURCE`.
    pub(crate) oom_score_adj: i32,
    /// The most open files that this process may give.
    pub(crate) max_open_files: u64,
    /// The namespaces: those of the pod by path, the container's own without; one that is not named is the host's.
    pub(crate) namespaces: Vec<Namespace>,
    /// The folder for `/dev/shm`.
    pub(crate) shm: Option<PathBuf>,
    /// The path of the pod's cgroup from the root of all; `None` without cgroups.
    pub(crate) cgroup: Option<String>,
}

/// What was looked up for one container.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) user: User,
    pub(crate) root: PathBuf,
    pub(crate) binds: Vec<Bind>,
    /// The devices to make, each with its access.
    pub(crate) devices: Vec<(Device, String)>,
    /// The profile of [`Seccomp::Localhost`].
    pub(crate) profile: Option<Value>,
}

/// The configuration of a container.
///
/// # Errors
/// The specification asks for what cannot be: the text is for its author.
pub(crate) fn config(spec: &ContainerSpec, pod: &Pod, found: Found) -> Result<Config, String> {
    let default = LinuxContainer::default();
    let linux = spec.linux.as_deref().unwrap_or(&default);
    let capabilities = capabilities::bits(&linux.capabilities, linux.privileged, pod.bounding)?;
    let seccomp = match &linux.seccomp {
        _ if linux.privileged => None,
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => Some(seccomp::default_profile(capabilities)),
        Seccomp::Localhost(_) => found.profile,
    };
    let is_shown = linux.privileged || linux.unmasked_proc;
    let (masked_paths, readonly_paths) =
        if is_shown { (vec![], vec![]) } else { (MASKED.to_vec(), READ_ONLY.to_vec()) };
    let resources = pod.cgroup.as_ref().map(|_| Resources {
        devices: device_rules(linux.privileged, &found.devices),
        ..resources::resources(&spec.limits, &linux.resources, pod.cgroup_v2)
    });
    Ok(Config {
        oci_version: VERSION,
        process: process(spec, linux, pod, found.user, capabilities)?,
        root: Root { path: found.root, readonly: spec.root == RootFolder::ReadOnly },
        mounts: mounts::mounts(pod, linux.privileged, &found.binds),
        linux: Linux {
            namespaces: pod.namespaces.clone(),
            devices: found.devices.into_iter().map(|(device, _)| device).collect(),
            cgroups_path: pod.cgroup.as_ref().map(|cgroup| format!("{cgroup}/{}", spec.id)),
            resources,
            rootfs_propagation: mounts::root_propagation(&found.binds),
            seccomp,
            masked_paths,
            readonly_paths,
        },
    })
}

fn process(
    spec: &ContainerSpec,
    linux: &LinuxContainer,
    pod: &Pod,
    mut user: User,
    capabilities: u64,
) -> Result<Process, String> {
    if spec.args.first().is_none_or(String::is_empty) {
        return Err("no command specified".into());
    }
    let has_nul = |text: &str| text.contains('\0');
    if spec.args.iter().any(|arg| has_nul(arg)) || spec.env.iter().any(|(name, value)| has_nul(name) || has_nul(value))
    {
        return Err("arguments and environment must not contain NUL".into());
    }
    let cwd = spec.cwd.clone().filter(|cwd| !cwd.is_empty()).unwrap_or_else(|| "/".into());
    if !cwd.starts_with('/') {
        return Err(format!("the working directory {cwd:?} is not an absolute path"));
    }
    if pod.rootless {
        if user.uid != 0 || user.gid != 0 {
            let (uid, gid) = (user.uid, user.gid);
            return Err(format!(
                "the container runs as user {uid} and group {gid}, and this node has one user only: run sampan as root, or give its user \
                 subordinate ids (/etc/subuid, /etc/subgid) and install the package uidmap"
            ));
        }
        // the kernel lets one user have no others
        user.additional_gids.clear();
    }
    Ok(Process {
        terminal: spec.tty,
        user,
        args: spec.args.clone(),
        env: environment(spec),
        cwd,
        capabilities: capabilities::sets(capabilities),
        rlimits: rlimits(linux, pod),
        no_new_privileges: linux.no_new_privileges,
        // one user may not ask for less
        oom_score_adj: (!pod.rootless).then(|| {
            let least = if capabilities::may_lower_oom_score(pod.bounding) { -1000 } else { pod.oom_score_adj };
            linux.oom_score_adj.clamp(least, 1000)
        }),
    })
}

/// Of several entries of one name, the last wins.
fn environment(spec: &ContainerSpec) -> Vec<String> {
    let mut env: Vec<String> = Vec::with_capacity(spec.env.len() + 2);
    let is_set = |name: &str| spec.env.iter().any(|(set, _)| set == name);
    if !is_set("PATH") {
        env.push(PATH.into());
    }
    if spec.tty && !is_set("TERM") {
        env.push("TERM=xterm".into());
    }
    let mut seen = std::collections::HashSet::new();
    let mut last: Vec<_> = spec.env.iter().rev().filter(|(name, _)| seen.insert(name)).collect();
    last.reverse();
    env.extend(last.into_iter().map(|(name, value)| format!("{name}={value}")));
    env
}

fn rlimits(linux: &LinuxContainer, pod: &Pod) -> Vec<Rlimit> {
    let mut all = linux.rlimits.clone();
    all.entry("RLIMIT_NOFILE".into()).or_insert((OPEN_FILES.0, OPEN_FILES.1.min(pod.max_open_files)));
    all.into_iter().map(|(kind, (soft, hard))| Rlimit { kind, hard, soft: soft.min(hard) }).collect()
}

/// A container reaches the devices that are made for it, and those of every container, which the runtime adds.
fn device_rules(privileged: bool, devices: &[(Device, String)]) -> Vec<DeviceRule> {
    let mut rules = vec![DeviceRule { allow: privileged, access: "rwm".into(), ..DeviceRule::default() }];
    if !privileged {
        rules.extend(devices.iter().map(|(device, access)| DeviceRule {
            allow: true,
            kind: Some(device.kind),
            major: Some(device.major),
            minor: Some(device.minor),
            access: access.clone(),
        }));
    }
    rules
}

#[cfg(test)]
mod tests;
