//! What only a Linux container has: users, capabilities, namespaces, devices. Plain data, in the words of Kubernetes; a runtime for another kind of
//! artifact ignores it.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// What the containers of a pod share, where the kernel runs them. The default is a pod with namespaces of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxSandbox {
    /// The NIS domain name, usually empty.
    pub domain: String,
    /// Kernel parameters of the pod's own namespaces, such as `net.ipv4.ip_unprivileged_port_start`.
    pub sysctls: BTreeMap<String, String>,
    /// Whose processes its containers see.
    pub processes: Processes,
    /// Whether its containers share System V IPC, POSIX message queues and `/dev/shm` with the host.
    pub host_ipc: bool,
    /// Most bytes of the pod's `/dev/shm`; `None` is 64 MiB.
    pub shm_bytes: Option<u64>,
    /// The folder of the pod's cgroup below the runtime's own, such as `burstable`; empty for none.
    pub cgroup: String,
    /// Whether a mount of the pod is [`crate::Propagation::Bidirectional`]: then what its containers mount there appears on the host.
    pub mounts_on_host: bool,
}

/// Whose processes a container sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Processes {
    /// Its own: its program is process 1.
    #[default]
    Container,
    /// Those of all containers of the pod (`shareProcessNamespace`).
    Pod,
    /// Those of the host (`hostPID`).
    Host,
}

/// What a Linux container has beside the parts of every container. The default is an unprivileged container of user 0 with the default
/// capabilities and no filter of system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxContainer {
    /// Who runs its program.
    pub user: User,
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// All capabilities, all devices of the host, writable `/sys`, no filter, no masked paths.
    pub privileged: bool,
    /// Set-user-id programs and file capabilities give nothing (`allowPrivilegeEscalation: false`).
    pub no_new_privileges: bool,
    /// The filter of its system calls.
    pub seccomp: Seccomp,
    /// Whether `/proc` is shown whole, with nothing masked or read-only (`procMount: Unmasked`).
    pub unmasked_proc: bool,
    /// Devices of the host, by their paths.
    pub devices: Vec<Device>,
    /// Resource limits of its processes, such as `RLIMIT_NOFILE`: soft and hard. What is not named is the runtime's choice.
    pub rlimits: BTreeMap<String, (u64, u64)>,
    /// How much the kernel prefers its processes when the node's memory is used up: -1000 to 1000.
    pub oom_score_adj: i32,
    /// Limits besides those of [`crate::Limits`].
    pub resources: LinuxResources,
    /// The signal that asks its program to end, such as `SIGQUIT` or `3`; empty for SIGTERM.
    pub stop_signal: String,
}

/// Who runs a program. Names are looked up in the container's own files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// `user[:group]` of the image, each a name or a number; empty for user 0.
    pub of_image: String,
    /// The user instead (`runAsUser`).
    pub user: Option<u32>,
    /// The primary group instead (`runAsGroup`).
    pub group: Option<u32>,
    /// More groups (`supplementalGroups` and `fsGroup`).
    pub groups: Vec<u32>,
    /// Whether the groups that the image's `/etc/group` gives the user are left out (`supplementalGroupsPolicy: Strict`).
    pub only_these_groups: bool,
}

/// Changes to the default set of capabilities. Names with or without `CAP_`; `ALL` is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Added.
    pub add: Vec<String>,
    /// Dropped; an added one stays, unless it came by `ALL`.
    pub drop: Vec<String>,
}

/// A filter of system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// None.
    #[default]
    Unconfined,
    /// The runtime's own.
    RuntimeDefault,
    /// A file with a profile as JSON, in the form of the OCI runtime configuration's `linux.seccomp`.
    Localhost(PathBuf),
}

/// A device of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its path on the host.
    pub host: PathBuf,
    /// Its path in the container.
    pub container: String,
    /// Any of `r`, `w` and `m` (mknod).
    pub access: String,
}

/// Limits that [`crate::Limits`] has not, since only a cgroup keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxResources {
    /// Most processes and threads.
    pub pids: Option<i64>,
    /// Most bytes of swap; `None` is the kernel's default, which may be as much as there is.
    pub swap_bytes: Option<u64>,
    /// Limits of huge pages by their size, such as `2MB`.
    pub huge_pages: BTreeMap<String, u64>,
    /// The CPUs that it may use, such as `0-1,3`; empty for all.
    pub cpus: String,
}
