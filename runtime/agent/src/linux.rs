//! What a pod asks for its Linux containers, in the words of `container`. Pure. Runtimes of WebAssembly ignore it.
//!
//! Follows <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>; a field of a container wins over that of its pod.

use crate::{images::Command, pod, resources};
use container::{Capabilities, LinuxContainer, LinuxResources, LinuxSandbox, Processes, Propagation, Seccomp, User};
use k8s_openapi::api::core::v1::{
    Container, HostAlias, Pod, PodSecurityContext, SeccompProfile, SecurityContext, VolumeMount,
};
use std::{collections::BTreeMap, fmt::Write, net::IpAddr, path::Path};

/// The preference of the kernel to keep a container, if the node's memory is used up: upstream's.
const OOM_GUARANTEED: i32 = -997;
const OOM_BEST_EFFORT: i32 = 1000;
/// The least of a pod between these.
const OOM_BURSTABLE_LEAST: i64 = 1000 + OOM_GUARANTEED as i64;
/// The priority from which a pod is critical for its node.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod::spec(pod).security_context.as_ref()
}

/// What the containers of a pod share.
pub fn sandbox(pod: &Pod) -> LinuxSandbox {
    let spec = pod::spec(pod);
    let processes = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => Processes::Host,
        (_, Some(true)) => Processes::Pod,
        _ => Processes::Container,
    };
    let sysctls = pod_context(pod).and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    let is_shared = |mount: &VolumeMount| propagation(mount) == Propagation::Bidirectional;
    let mut mounts = pod::all_containers(pod)
        .flat_map(|(container, _)| container.volume_mounts.iter().flatten().map(is_shared).collect::<Vec<_>>());
    LinuxSandbox {
        domain: String::new(),
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        processes,
        host_ipc: spec.host_ipc == Some(true),
        shm_bytes: None,
        cgroup: match pod::qos_class(pod) {
            "Guaranteed" => String::new(),
            class => class.to_ascii_lowercase(),
        },
        mounts_on_host: mounts.any(|is_shared| is_shared),
    }
}

/// How the mounts below a volume travel.
pub fn propagation(mount: &VolumeMount) -> Propagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::None,
    }
}

/// What a container asks for. `profiles` is the folder of the node's seccomp profiles, `memory` the node's bytes of memory.
///
/// # Errors
/// The message of `CreateContainerConfigError`.
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &Command,
    profiles: &Path,
    memory: i64,
) -> Result<LinuxContainer, String> {
    let empty = (PodSecurityContext::default(), SecurityContext::default());
    let of_pod = pod_context(pod).unwrap_or(&empty.0);
    let own = container.security_context.as_ref().unwrap_or(&empty.1);
    let run_as_user = own.run_as_user.or(of_pod.run_as_user);
    check_not_root(pod, container, own.run_as_non_root.or(of_pod.run_as_non_root), run_as_user, &image.user)?;
    let id = |name: &str, id: i64| u32::try_from(id).map_err(|_| format!("{name} {id} is out of range"));
    let groups = of_pod.fs_group.iter().chain(of_pod.supplemental_groups.iter().flatten());
    let capabilities = own.capabilities.as_ref();
    let names = |names: Option<&Vec<String>>| names.cloned().unwrap_or_default();
    Ok(LinuxContainer {
        user: User {
            of_image: image.user.clone(),
            user: run_as_user.map(|user| id("runAsUser", user)).transpose()?,
            group: own.run_as_group.or(of_pod.run_as_group).map(|group| id("runAsGroup", group)).transpose()?,
            groups: groups.map(|group| id("group", *group)).collect::<Result<_, _>>()?,
            only_these_groups: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        },
        capabilities: Capabilities {
            add: names(capabilities.and_then(|it| it.add.as_ref())),
            drop: names(capabilities.and_then(|it| it.drop.as_ref())),
        },
        privileged: own.privileged == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), profiles)?,
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
        devices: Vec::new(),
        rlimits: BTreeMap::new(),
        oom_score_adj: oom_score_adj(pod, container, memory),
        // as the kubelet's `NoSwap`
        resources: LinuxResources { swap_bytes: Some(0), ..LinuxResources::default() },
        stop_signal: stop_signal(container).unwrap_or_else(|| image.stop_signal.clone()),
    })
}

/// The signal that the container itself names (`lifecycle.stopSignal`).
fn stop_signal(container: &Container) -> Option<String> {
    container.lifecycle.as_ref()?.stop_signal.clone().filter(|signal| !signal.is_empty())
}

/// Upstream's check and its texts. Names are not looked up: an image can give any name to user 0.
fn check_not_root(
    pod: &Pod,
    container: &Container,
    non_root: Option<bool>,
    run_as_user: Option<i64>,
    of_image: &str,
) -> Result<(), String> {
    if non_root != Some(true) {
        return Ok(());
    }
    let of = format!("(pod: {:?}, container: {})", pod::full_name(pod), container.name);
    let user = of_image.split(':').next().unwrap_or_default();
    match (run_as_user, user.parse::<i64>()) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {of}")),
        (Some(_), _) => Ok(()),
        (None, Ok(0)) => Err(format!("container has runAsNonRoot and image will run as root {of}")),
        (None, Ok(_)) => Ok(()),
        (None, Err(_)) if user.is_empty() => Err(format!("container has runAsNonRoot and image will run as root {of}")),
        (None, Err(_)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {of}"
        )),
    }
}

fn seccomp(profile: Option<&SeccompProfile>, profiles: &Path) -> Result<Seccomp, String> {
    let Some(profile) = profile else { return Ok(Seccomp::Unconfined) };
    match (&*profile.type_, profile.localhost_profile.as_deref().filter(|name| !name.is_empty())) {
        ("RuntimeDefault", _) => Ok(Seccomp::RuntimeDefault),
        ("Localhost", Some(name)) => Ok(Seccomp::Localhost(profiles.join(name))),
        ("Localhost", None) => Err("localhostProfile must be set if seccompProfile type is Localhost.".into()),
        _ => Ok(Seccomp::Unconfined),
    }
}

/// A container that uses more than it requests goes first, one of a pod that requests all of its limits last. Upstream's formula.
fn oom_score_adj(pod: &Pod, container: &Container, memory: i64) -> i32 {
    let is_critical = pod::spec(pod).priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL);
    match pod::qos_class(pod) {
        _ if is_critical => OOM_GUARANTEED,
        "Guaranteed" => OOM_GUARANTEED,
        "BestEffort" => OOM_BEST_EFFORT,
        _ => {
            let requested = resources::memory_request(container);
            let own = 1000 - (i128::from(requested) * 1000 / i128::from(memory.max(1))).clamp(0, 1000) as i64;
            // above those of Guaranteed pods, below those of BestEffort ones
            i32::try_from(own.clamp(OOM_BURSTABLE_LEAST, 999)).unwrap_or(OOM_BEST_EFFORT)
        }
    }
}

/// The text of a pod's `/etc/hosts`, as upstream's. `domain` is that of its host name.
pub fn hosts(addresses: &[IpAddr], hostname: &str, domain: Option<&str>, aliases: &[HostAlias]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for address in addresses {
        let _ = match domain {
            Some(domain) => writeln!(text, "{address}\t{hostname}.{domain}\t{hostname}"),
            None => writeln!(text, "{address}\t{hostname}"),
        };
    }
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
    text
}

#[cfg(test)]
#[path = "linux_tests.rs"]
mod tests;
