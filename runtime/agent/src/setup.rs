//! A pod's own part: volumes and network, made before its containers and undone after them.

use crate::{
    pod,
    shared::Shared,
    state::PodState,
    volumes::{self, Context, FileBudget, SyncedVolume, VolumeRecord},
};
use client::EventType;
use container::{
    Runtime, SandboxId,
    net::{Attachment, PodNetwork},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// What containers need.
pub(crate) struct PodSetup {
    pub(crate) attachment: Attachment,
    pub(crate) volumes: BTreeMap<String, SyncedVolume>,
}

/// Makes it. Idempotent. What went wrong was report by an event.
pub(crate) async fn set_up(shared: &Arc<Shared>, pod: &Arc<Pod>, address: Option<IpAddr>) -> Result<PodSetup, String> {
    let volumes = sync_volumes(shared, pod, &[]).await?;
    let attachment = shared.network.attach(network(pod, address)).await.map_err(|error| {
        let message = format!("Failed to create pod sandbox: network: {error}");
        shared.event(pod, None, EventType::Warning, "FailedCreatePodSandBox", &*message);
        message
    })?;
    Ok(PodSetup { attachment, volumes })
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
    }
}

/// Brings all volumes up to date.
pub(crate) async fn sync_volumes(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    addresses: &[IpAddr],
) -> Result<BTreeMap<String, SyncedVolume>, String> {
    if pod::spec(pod).volumes.as_ref().is_none_or(Vec::is_empty) {
        return Ok(BTreeMap::new());
    }
    let report = |message: String| {
        shared.event(pod, None, EventType::Warning, "FailedMount", &*message);
        message
    };
    let configs = shared.cluster.configs(pod).await.map_err(|e| report(format!("MountVolume.SetUp failed: {e}")))?;
    let root = shared.volumes_dir(pod::uid(pod));
    let cx = Context {
        pod: pod.clone(),
        configs: Arc::new(configs),
        facts: Arc::new(shared.facts(addresses)),
        allocatable: shared.allocatable.clone(),
        tokens: shared.tokens.clone(),
        now: shared.now(),
        dir: root.clone(),
        private: shared.private.clone(),
        budget: FileBudget::default(),
    };
    volumes::sync_all(&shared.plugins, &cx, &root).await.map_err(report)
}

/// When the first volume wants to be synced again.
pub(crate) fn next_sync(volumes: &BTreeMap<String, SyncedVolume>) -> Option<Timestamp> {
    volumes.values().filter_map(|v| v.resync_at).min()
}

/// Undoes everything of a pod but its logs and its state file, the volumes as they were recorded. Idempotent. What fails keeps what it needs:
/// volumes stay while a sandbox may use them, and each that cannot be removed stays as it is.
pub(crate) async fn tear_down(shared: &Shared, uid: &str, recorded: &[VolumeRecord]) -> Result<(), String> {
    let id: Arc<str> = uid.into();
    let mut failures = Vec::new();
    for runtime in shared.runtimes.iter() {
        if let Err(error) = runtime.remove_sandbox(&id).await {
            failures.push(format!("cannot remove the sandbox in {}: {error}", runtime.name()));
        }
    }
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    shared.network.detach(&id).await;
    shared.tokens.forget(&id);
    volumes::tear_down(&shared.plugins, recorded, &shared.volumes_dir(&id)).await
}

/// Undoes everything of a pod that is gone from the API, and removes its logs; its state file as the last thing, so that what fails is
/// found again. Idempotent.
pub(crate) async fn clean_up(shared: &Shared, state: &PodState) -> Result<(), String> {
    tear_down(shared, &state.uid, &state.volumes).await?;
    let logs = shared.logs_dir(&state.namespace, &state.name, &state.uid);
    let removed = volumes::blocking(move || volumes::tree::remove(&logs)).await;
    removed.map_err(|error| format!("cannot remove the logs: {error}"))?;
    shared.states.remove(&state.uid).await.map_err(|error| format!("cannot remove the state file: {error}"))
}

/// Forgets a pod that was deleted while the agent was away. It is tried again until it works or the process ends.
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

/// Removes the sandbox of a pod of which nothing else is known. It is tried again until it works or the process ends, since a pod whose programs
/// still run must not keep the others from starting.
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

/// How long to wait after so many failures before this one: a second, doubled up to two minutes.
pub(crate) fn retry_delay(failures: u32) -> Duration {
    Duration::from_secs((1 << failures.min(10)).min(120))
}
