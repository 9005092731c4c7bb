//! Removes the folders of volumes that are released and whose policy is `Delete`, and then the volumes. It does what a CSI driver and its
//! provisioner do with others.
//!
//! Nothing is removed because a volume is missing in the API: only what the API says to be released.

use crate::{
    setup::retry_delay,
    shared::Shared,
    volumes::{blocking, local_folder, local_handle, tree},
};
use client::{
    DeleteOptions, EventType,
    fit::volumes::{PROVISIONER_FINALIZER, reaches},
    meta, reference,
};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What happens with a volume of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing: it is in use, or kept.
    Keep,
    /// Its data is removed, then the volume.
    Remove,
    /// It is deleted, and its data stays: only the finalizer goes.
    Release,
}

fn plan(volume: &PersistentVolume) -> Step {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let deleted = meta::is_deleting(&volume.metadata) && meta::has_finalizer(&volume.metadata, PROVISIONER_FINALIZER);
    match (phase, policy) {
        (Some("Released"), Some("Delete")) => Step::Remove,
        // A volume whose claim never was bound, or whose binding was undone.
        (Some("Available"), Some("Delete")) if deleted => Step::Remove,
        (Some("Bound"), _) => Step::Keep,
        (_, Some("Delete")) => Step::Keep,
        _ if deleted => Step::Release,
        _ => Step::Keep,
    }
}

/// Runs until `token` is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    shared.cluster.volumes.subscribe(move |_| notify.notify_one());
    let mut failures = 0;
    loop {
        let retry = async {
            match failures {
                0 => std::future::pending().await,
                failures => tokio::time::sleep(retry_delay(failures)).await,
            }
        };
        tokio::select! {
            () = token.cancelled() => return,
            () = changed.notified() => {}
            () = retry => {}
        }
        failures = if pass(&shared).await { 0 } else { failures + 1 };
    }
}

/// Looks at all volumes of the node. Returns whether nothing failed.
async fn pass(shared: &Shared) -> bool {
    let Some(node) = shared.cluster.nodes.get("", &shared.options.node) else { return true };
    let mut good = true;
    for volume in shared.cluster.volumes.list() {
        if let Err(error) = one(shared, &volume, &node).await {
            let name = meta::name(&volume.metadata);
            tracing::warn!(volume = name, error, "a released volume cannot be removed yet");
            shared.recorder.event(&reference(&*volume), EventType::Warning, "VolumeFailedDelete", error);
            good = false;
        }
    }
    good
}

async fn one(shared: &Shared, volume: &PersistentVolume, node: &Node) -> Result<(), String> {
    let step = plan(volume);
    let Some(handle) = local_handle(volume).filter(|_| step != Step::Keep && reaches(volume, node)) else {
        return Ok(());
    };
    if step == Step::Remove {
        let folder = local_folder(&shared.persistent_dir(), handle);
        let folder = folder.ok_or_else(|| format!("{handle:?} is no name of a folder"))?;
        blocking(move || tree::remove(&folder)).await.map_err(|error| format!("its folder: {error}"))?;
        let options = DeleteOptions::uid(meta::uid(&volume.metadata));
        let deleted =
            shared.cluster.client.delete::<PersistentVolume>("", meta::name(&volume.metadata), &options).await;
        gone_or(deleted)?;
    }
    let mut changed = match shared.cluster.client.find::<PersistentVolume>("", meta::name(&volume.metadata)).await {
        Ok(Some(now)) if meta::uid(&now.metadata) == meta::uid(&volume.metadata) => now,
        Ok(_) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    changed.metadata.finalizers.iter_mut().for_each(|all| all.retain(|one| one != PROVISIONER_FINALIZER));
    gone_or(shared.cluster.client.update(&changed).await.map(drop))
}

fn gone_or(result: client::Result<()>) -> Result<(), String> {
    match result {
        Err(error) if !error.is_not_found() => Err(error.to_string()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_released_is_removed() {
        for (phase, policy, deleting, expected) in [
            ("Bound", "Delete", false, Step::Keep),
            ("Bound", "Delete", true, Step::Keep),
            ("Released", "Delete", false, Step::Remove),
            ("Released", "Delete", true, Step::Remove),
            ("Available", "Delete", false, Step::Keep),
            ("Available", "Delete", true, Step::Remove),
            ("Pending", "Delete", true, Step::Keep),
            ("Released", "Retain", false, Step::Keep),
            ("Released", "Retain", true, Step::Release),
            ("Bound", "Retain", true, Step::Keep),
            ("Failed", "Retain", true, Step::Release),
        ] {
            let time = deleting.then_some("2026-01-01T00:00:00Z");
            let volume: PersistentVolume = serde_json::from_value(json!({
                "metadata": {"name": "v", "finalizers": [PROVISIONER_FINALIZER], "deletionTimestamp": time},
                "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase}}))
            .unwrap();
            assert_eq!(plan(&volume), expected, "{phase} {policy} {deleting}");
        }
    }
}
