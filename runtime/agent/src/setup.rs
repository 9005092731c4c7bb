//! A pod's own part: volumes and network, made before its containers and undone after them.

use crate::{
    pod,
    shared::Shared,
    volumes::{self, Context, Synced},
};
use client::EventType;
use container::net::{Attachment, PodNetwork};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// What containers need.
pub(crate) struct Made {
    pub(crate) attachment: Attachment,
    pub(crate) volumes: BTreeMap<String, Synced>,
}

/// Makes it. Idempotent. What went wrong was told by an event.
pub(crate) async fn make(shared: &Arc<Shared>, pod: &Arc<Pod>, address: Option<IpAddr>) -> Result<Made, String> {
    let volumes = sync_volumes(shared, pod, &[]).await?;
    let attachment = shared.network.attach(network(pod, address)).await.map_err(|error| {
        let message = format!("Failed to create pod sandbox: network: {error}");
        shared.event(pod, None, EventType::Warning, "FailedCreatePodSandBox", &*message);
        message
    })?;
    Ok(Made { attachment, volumes })
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
) -> Result<BTreeMap<String, Synced>, String> {
    if pod::spec(pod).volumes.as_ref().is_none_or(Vec::is_empty) {
        return Ok(BTreeMap::new());
    }
    let told = |message: String| {
        shared.event(pod, None, EventType::Warning, "FailedMount", &*message);
        message
    };
    let configs = shared.cluster.configs(pod).await.map_err(|e| told(format!("MountVolume.SetUp failed: {e}")))?;
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
    };
    volumes::sync_all(&shared.plugins, &cx, &root).await.map_err(told)
}

/// When the first volume wants to be synced again.
pub(crate) fn next_sync(volumes: &BTreeMap<String, Synced>) -> Option<Timestamp> {
    volumes.values().filter_map(|v| v.again).min()
}

/// Undoes everything of a pod but its logs and its state file. Idempotent.
pub(crate) async fn undo(shared: &Arc<Shared>, pod: &Arc<Pod>) {
    let id: Arc<str> = pod::uid(pod).into();
    for runtime in shared.runtimes.iter() {
        if let Err(error) = runtime.remove_sandbox(&id).await {
            tracing::warn!(pod = pod::full_name(pod), runtime = runtime.name(), %error, "cannot remove the sandbox");
        }
    }
    shared.network.detach(&id).await;
    let root = shared.volumes_dir(&id);
    for volume in pod::spec(pod).volumes.iter().flatten() {
        if let Some(plugin) = shared.plugins.iter().find(|p| p.handles(volume))
            && let Err(error) = plugin.teardown(&root.join(&volume.name)).await
        {
            tracing::warn!(pod = pod::full_name(pod), volume = volume.name, %error, "cannot remove the volume");
        }
    }
    remove_dir(&root).await;
    shared.tokens.forget(&id);
}

/// Removes a folder of the agent's own. Idempotent.
pub(crate) async fn remove_dir(dir: &std::path::Path) {
    let owned = dir.to_owned();
    if let Err(error) = volumes::blocking(move || volumes::tree::remove(&owned)).await {
        tracing::warn!(dir = %dir.display(), %error, "cannot remove a folder");
    }
}
