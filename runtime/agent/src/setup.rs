//! Sets up a pod's volumes and network before its containers start, and tears them down after they end.

use crate::{
    kernel::{self, Namespace},
    pod,
    shared::Shared,
    state::PodState,
    volumes::{self, Context, FileBudget, Notice, Ownership, PersistentVolumes, SyncedVolume, VolumeRecord},
};
use client::{EventType, fit::ports};
use container::{
    Protocol, Runtime, SandboxId,
    net::{Attachment, Error, HostPort, PodNetwork, Sandbox},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The resources of a pod that containers need.
pub(crate) struct PodSetup {
    pub(crate) attachment: Attachment,
    /// Whether it has a network namespace of the kernel.
    pub(crate) namespace: Namespace,
    pub(crate) volumes: BTreeMap<String, SyncedVolume>,
}

/// Sets up volumes and network. Idempotent. `address` is that of before, `kernel` whether it is known to need a network namespace. Errors were
/// recorded as events.
pub(crate) async fn set_up(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    address: Option<IpAddr>,
    kernel: bool,
) -> Result<PodSetup, String> {
    let kernel = kernel || kernel::is_needed(shared, pod).await;
    let volumes = sync_volumes(shared, pod, &[], kernel, true).await?;
    if kernel && pod::spec(pod).host_network == Some(true) {
        return Ok(PodSetup { namespace: Namespace::There, attachment: at_host(shared, pod).await?, volumes });
    }
    let wanted = PodNetwork { kernel, ..network(pod, address) };
    let mut attached = shared.network.attach(wanted.clone()).await;
    if let Err(Error::Unsupported(why)) = &attached
        && kernel
    {
        let message = format!("The Linux containers of the pod have no network: {why}");
        shared.event(pod, None, EventType::Warning, "NetworkUnavailable", message);
        attached = shared.network.attach(PodNetwork { kernel: false, ..wanted }).await;
    }
    let attachment = attached.map_err(|error| refused(shared, pod, &error))?;
    Ok(PodSetup { namespace: Namespace::of(kernel, &attachment.sandbox), attachment, volumes })
}

/// The attachment of a pod whose processes are in the host's network, with the host's addresses.
async fn at_host(shared: &Shared, pod: &Pod) -> Result<Attachment, String> {
    let attached = shared.network.attach(network(pod, None)).await.map_err(|error| refused(shared, pod, &error))?;
    Ok(Attachment { sandbox: Sandbox::Host, addresses: shared.options.addresses.clone(), ..attached })
}

fn refused(shared: &Shared, pod: &Pod, error: &Error) -> String {
    let message = format!("Failed to create pod sandbox: network: {error}");
    shared.event(pod, None, EventType::Warning, "FailedCreatePodSandBox", &*message);
    message
}

/// Sets up a pod again that needs a network namespace and has none: its sandboxes are removed, in which nothing runs. As [`set_up`] otherwise.
pub(crate) async fn set_up_again(shared: &Arc<Shared>, pod: &Arc<Pod>) -> Result<PodSetup, String> {
    remove_sandboxes(shared, &pod::uid(pod).into()).await?;
    set_up(shared, pod, None, true).await
}

fn network(pod: &Pod, address: Option<IpAddr>) -> PodNetwork {
    let aliases = pod::spec(pod).host_aliases.iter().flatten();
    let aliases = aliases.filter_map(|a| Some((a.ip.parse().ok()?, a.hostnames.clone().unwrap_or_default())));
    PodNetwork {
        id: pod::uid(pod).into(),
        name: pod::name(pod).to_owned(),
        namespace: pod::namespace(pod).to_owned(),
        hostname: pod::hostname(pod),
        address,
        host_aliases: aliases.collect(),
        host_ports: host_ports(pod),
        kernel: false,
    }
}

/// The ports of the host that lead to the pod. One that sees the host's network has them itself.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    if pod::spec(pod).host_network == Some(true) {
        return Vec::new();
    }
    let number = |number: i32| u16::try_from(number).ok();
    let of = |port: ports::HostPort| {
        let protocol = match &*port.protocol {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            _ => return None,
        };
        let address = port.ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Some(HostPort { protocol, at: SocketAddr::new(address, number(port.port)?), to: number(port.target)? })
    };
    ports::host_ports(pod).into_iter().filter_map(of).collect()
}

async fn remove_sandboxes(shared: &Shared, id: &SandboxId) -> Result<(), String> {
    let mut failures = Vec::new();
    for runtime in shared.runtimes.iter() {
        if let Err(error) = runtime.remove_sandbox(id).await {
            failures.push(format!("cannot remove the sandbox in {}: {error}", runtime.name()));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// Syncs all volumes of the pod. `kernel` is whether processes run in it, `first` whether it is set up. Errors were recorded as events.
pub(crate) async fn sync_volumes(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    addresses: &[IpAddr],
    kernel: bool,
    first: bool,
) -> Result<BTreeMap<String, SyncedVolume>, String> {
    if pod::spec(pod).volumes.as_ref().is_none_or(Vec::is_empty) {
        return Ok(BTreeMap::new());
    }
    let report = |message: String| {
        shared.event(pod, None, EventType::Warning, "FailedMount", &*message);
        message
    };
    let configs = shared.cluster.configs(pod).await.map_err(|e| report(format!("MountVolume.SetUp failed: {e}")))?;
    let persistent = shared.cluster.persistent(pod).await.map_err(report)?;
    let root = shared.volumes_dir(pod::uid(pod));
    let cx = Context {
        pod: pod.clone(),
        configs: Arc::new(configs),
        facts: Arc::new(shared.facts(addresses)),
        allocatable: shared.allocatable.clone(),
        tokens: shared.tokens.clone(),
        persistent: Arc::new(PersistentVolumes { volumes: persistent, root: shared.persistent_dir() }),
        linux: kernel,
        first,
        ownership: Ownership::of(pod, kernel),
        now: shared.now(),
        dir: root.clone(),
        private: shared.private.clone(),
        budget: FileBudget::default(),
    };
    let volumes = volumes::sync_all(&shared.plugins, &cx, &root).await.map_err(report)?;
    if first {
        for Notice { reason, text } in volumes::notices(&cx.ownership, &volumes) {
            shared.event(pod, None, EventType::Warning, reason, text);
        }
    }
    Ok(volumes)
}

/// When the first volume must be synced again.
pub(crate) fn next_sync(volumes: &BTreeMap<String, SyncedVolume>) -> Option<Timestamp> {
    volumes.values().filter_map(|v| v.resync_at).min()
}

/// Tears down a pod except its logs and its state file. The volumes are those of the record. Idempotent. Keeps the volumes if a sandbox
/// cannot be removed, because it may use them. A volume that cannot be removed stays unchanged.
pub(crate) async fn tear_down(shared: &Shared, uid: &str, recorded: &[VolumeRecord]) -> Result<(), String> {
    let id: Arc<str> = uid.into();
    remove_sandboxes(shared, &id).await?;
    shared.network.detach(&id).await;
    shared.tokens.forget(&id);
    volumes::tear_down(&shared.plugins, recorded, &shared.volumes_dir(&id)).await
}

/// Tears down a pod that is deleted from the API, and removes its logs and then its state file, so that a failed clean-up is found and
/// repeated after a restart. Idempotent.
pub(crate) async fn clean_up(shared: &Shared, state: &PodState) -> Result<(), String> {
    tear_down(shared, &state.uid, &state.volumes).await?;
    let logs = shared.logs_dir(&state.namespace, &state.name, &state.uid);
    let removed = volumes::blocking(move || volumes::tree::remove(&logs)).await;
    removed.map_err(|error| format!("cannot remove the logs: {error}"))?;
    shared.states.remove(&state.uid).await.map_err(|error| format!("cannot remove the state file: {error}"))
}

/// Cleans up a pod that was deleted while the agent was down. Retries until it succeeds or the process ends.
pub(crate) async fn clean_up_orphan(shared: &Shared, state: &PodState, token: &CancellationToken) {
    let mut failures = 0;
    while let Err(error) = clean_up(shared, state).await {
        let PodState { namespace, name, uid, .. } = state;
        tracing::warn!(pod = format!("{namespace}/{name}"), uid, error, "an orphaned pod cannot be cleaned up yet");
        let pause = tokio::time::sleep(retry_delay(failures));
        if token.run_until_cancelled(pause).await.is_none() {
            return;
        }
        failures += 1;
    }
}

/// Removes a sandbox without a known pod. Retries until it succeeds or the process ends. It runs in the background, because its running
/// containers must not delay other pods.
pub(crate) async fn remove_sandbox(runtime: &dyn Runtime, sandbox: &SandboxId, token: &CancellationToken) {
    let mut failures = 0;
    while let Err(error) = runtime.remove_sandbox(sandbox).await {
        tracing::warn!(runtime = runtime.name(), %sandbox, %error, "an orphaned sandbox cannot be removed yet");
        let pause = tokio::time::sleep(retry_delay(failures));
        if token.run_until_cancelled(pause).await.is_none() {
            return;
        }
        failures += 1;
    }
}

/// The retry delay after this number of earlier failures: one second, doubled up to two minutes.
pub(crate) fn retry_delay(failures: u32) -> Duration {
    Duration::from_secs((1 << failures.min(10)).min(120))
}
