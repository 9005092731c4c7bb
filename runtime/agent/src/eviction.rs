//! Evicts pods that exceed their limits of local storage, and ranks and evicts pods while the node has disk pressure.
//!
//! Follows the kubelet's eviction manager: <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/> and
//! <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#local-ephemeral-storage>. Without disk pressure, only
//! pods with a limit are measured. A pod is not measured again before fifty times the duration of its last measurement, so that measuring
//! costs at most 2 % of a core per pod. The write path of guests limits how fast the disk can fill between two checks.

use crate::{
    claimsize::{self, MEASURE_PAUSE, Sizes},
    handle::{Eviction, Message},
    node,
    plan::EVICTED,
    pod, resources,
    shared::Shared,
    volumes::{blocking, messages_dir, roots_dir, tree},
};
use api::quantity::{Format, Quantity};
use client::EventType;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const RESOURCE: &str = "ephemeral-storage";
/// Pods that use less are not evicted for disk pressure: it would reclaim nothing.
const MIN_BYTES: u64 = 1 << 20;
/// The same for inodes.
const MIN_INODES: u64 = 100;
/// Pods with this priority or a higher one are critical, as upstream's `IsCriticalPodBasedOnPriority`.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// The local storage that a pod uses, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// By emptyDir volume.
    volumes: BTreeMap<String, u64>,
    /// The logs, and what is written beside the volumes, also in the folder of the termination message (`/dev`), by container.
    containers: BTreeMap<String, u64>,
    /// All volumes on the node's disk, and the logs.
    total: u64,
    /// The number of files and folders.
    inodes: u64,
}

/// The resource of the disk that the node is low on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StarvedResource {
    Storage,
    Inodes,
}

impl StarvedResource {
    /// The name in events and messages.
    fn name(self) -> &'static str {
        match self {
            Self::Storage => RESOURCE,
            Self::Inodes => "inodes",
        }
    }

    /// Whether evicting a pod with this usage reclaims enough.
    fn is_worth_reclaiming(self, usage: &Usage) -> bool {
        match self {
            Self::Storage => usage.total >= MIN_BYTES,
            Self::Inodes => usage.inodes >= MIN_INODES,
        }
    }
}

fn measure(pod: &Pod, volumes: &Path, logs: &Path) -> std::io::Result<Usage> {
    let all = tree::usage(volumes)?;
    let mut usage = Usage { total: all.bytes, inodes: all.inodes, ..Usage::default() };
    for volume in pod::spec(pod).volumes.iter().flatten().filter(|v| v.empty_dir.is_some()) {
        usage.volumes.insert(volume.name.clone(), tree::usage(&volumes.join(&volume.name))?.bytes);
    }
    for (container, _) in pod::all_containers(pod) {
        let size = tree::usage(&logs.join(&container.name))?;
        // They are in the total with the volumes.
        let mut own = size.bytes;
        for folder in [roots_dir(volumes), messages_dir(volumes)] {
            own = own.saturating_add(tree::usage(&folder.join(&container.name))?.bytes);
        }
        usage.containers.insert(container.name.clone(), own);
        usage.total += size.bytes;
        usage.inodes += size.inodes;
    }
    Ok(usage)
}

fn storage(resources: Option<&ResourceRequirements>, limit: bool) -> Option<(u64, String)> {
    let of = resources.and_then(|r| if limit { r.limits.as_ref() } else { r.requests.as_ref() })?.get(RESOURCE)?;
    let bytes = u64::try_from(resources::quantity(of)?.value()).ok()?;
    Some((bytes, of.0.clone()))
}

/// The pod's limit or request of local storage, as upstream's `PodLimits` and `PodRequests`.
fn pod_storage(pod: &Pod, limit: bool) -> Option<u64> {
    let of = |c: &Container| storage(c.resources.as_ref(), limit).map(|(bytes, _)| bytes);
    let (mut all, mut most, mut found) = (0, 0, false);
    for (container, role) in pod::containers(pod) {
        let Some(bytes) = of(container) else { continue };
        found = true;
        match role {
            pod::Role::Init => most = most.max(all + bytes),
            pod::Role::Sidecar | pod::Role::App | pod::Role::Ephemeral => all += bytes,
        }
    }
    found.then_some(most.max(all))
}

fn format_bytes(bytes: u64) -> String {
    Quantity::new(i64::try_from(bytes).unwrap_or(i64::MAX), Format::BinarySi).to_string()
}

/// Whether a pod has a limit of local storage.
fn is_limited(pod: &Pod) -> bool {
    let sized = |v: &k8s_openapi::api::core::v1::Volume| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some());
    pod::spec(pod).volumes.iter().flatten().any(sized) || pod_storage(pod, true).is_some()
}

/// The message about the limit that a pod exceeds. The texts are upstream's, with the trailing space.
fn exceeded(pod: &Pod, usage: &Usage) -> Option<String> {
    for volume in pod::spec(pod).volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) else { continue };
        let Some(bytes) = resources::quantity(limit).map(|q| q.value()).filter(|v| *v > 0) else { continue };
        if usage.volumes.get(&volume.name).is_some_and(|used| *used > bytes.unsigned_abs()) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0));
        }
    }
    if let Some(limit) = pod_storage(pod, true).filter(|limit| usage.total > *limit) {
        let limit = format_bytes(limit);
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
    }
    for container in &pod::spec(pod).containers {
        let Some((limit, text)) = storage(container.resources.as_ref(), true).filter(|(v, _)| *v > 0) else { continue };
        if usage.containers.get(&container.name).is_some_and(|used| *used > limit) {
            let name = &container.name;
            return Some(format!("Container {name} exceeded its local ephemeral storage limit {text:?}. "));
        }
    }
    None
}

/// The eviction order, as upstream's: usage above the request, then priority, then usage relative to the request.
fn rank(pod: &Pod, usage: &Usage, starved: StarvedResource) -> (bool, i32, Reverse<i128>) {
    let beyond = match starved {
        StarvedResource::Storage => i128::from(usage.total) - i128::from(pod_storage(pod, false).unwrap_or(0)),
        // Inodes cannot be requested.
        StarvedResource::Inodes => i128::from(usage.inodes),
    };
    (beyond <= 0, pod::spec(pod).priority.unwrap_or(0), Reverse(beyond))
}

/// The eviction message of a pod.
fn reason(pod: &Pod, usage: &Usage, starved: StarvedResource) -> String {
    let mut message = format!("The node was low on resource: {}. ", starved.name());
    if starved == StarvedResource::Inodes {
        return message;
    }
    for (container, _) in pod::containers(pod) {
        let (request, text) = storage(container.resources.as_ref(), false).unwrap_or((0, "0".into()));
        let used = usage.containers.get(&container.name).copied().unwrap_or(0);
        if used > request {
            let (name, used) = (&container.name, format_bytes(used));
            message += &format!(
                "Container {name} was using {used}, request is {text}, has larger consumption of {RESOURCE}. "
            );
        }
    }
    message
}

fn is_critical(pod: &Pod) -> bool {
    pod::spec(pod).priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY)
}

/// The last measurement of a pod.
struct Measurement {
    usage: Usage,
    /// When the pod may be measured again.
    due: Instant,
}

/// Checks the node's pods until `token` is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let (mut known, mut sizes) = (HashMap::new(), Sizes::new());
    let mut tick = tokio::time::interval(CHECK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = tick.tick() => synchronize(&shared, &mut known, &mut sizes).await,
        }
    }
}

async fn synchronize(shared: &Shared, known: &mut HashMap<String, Measurement>, sizes: &mut Sizes) {
    let pods = active(shared);
    known.retain(|uid, _| pods.iter().any(|pod| pod::uid(pod) == uid));
    let mut any = false;
    for (pod, message) in claimsize::exceeding(shared, &pods, sizes).await {
        any = true;
        evict(shared, &pod, Eviction { message, pressure: false });
    }
    for pod in pods.iter().filter(|pod| is_limited(pod)) {
        let usage = usage_of(shared, pod, known, false).await;
        if let Some(message) = usage.and_then(|usage| exceeded(pod, &usage)) {
            any = true;
            evict(shared, pod, Eviction { message, pressure: false });
        }
    }
    if any {
        return;
    }
    let Some(starved) = starved_resource(shared).await else { return };
    let node = node::reference(&shared.options);
    let text = format!("Attempting to reclaim {}", starved.name());
    shared.recorder.event(&node, EventType::Warning, "EvictionThresholdMet", text);
    remove_finished_logs(shared).await;
    shared.collect_images().await;
    let Some(starved) = starved_resource(shared).await else { return };
    let mut ranked = Vec::new();
    for pod in pods.iter().filter(|pod| !is_critical(pod)) {
        if let Some(usage) = usage_of(shared, pod, known, true).await.filter(|usage| starved.is_worth_reclaiming(usage))
        {
            ranked.push((rank(pod, &usage, starved), pod, usage));
        }
    }
    // Like upstream, evicts one pod per check: it may reclaim enough.
    match ranked.into_iter().min_by_key(|(rank, ..)| *rank) {
        Some((_, pod, usage)) => evict(shared, pod, Eviction { message: reason(pod, &usage, starved), pressure: true }),
        None => tracing::warn!("the disk is short, and no pod takes enough of it to be evicted"),
    }
}

/// Removes the logs of finished pods. Upstream removes dead containers with their logs before it evicts pods.
async fn remove_finished_logs(shared: &Shared) {
    let over = shared.cluster.pods.list();
    let over = over.iter().filter(|pod| pod::is_finished(pod) && !has_running_containers(shared, pod));
    let logs = |pod: &Arc<Pod>| shared.logs_dir(pod::namespace(pod), pod::name(pod), pod::uid(pod));
    let folders: Vec<PathBuf> = over.map(logs).collect();
    if let Err(error) = blocking(move || folders.iter().try_for_each(|folder| remove_log_files(folder))).await {
        tracing::warn!(%error, "cannot remove logs of pods that are over");
    }
}

fn has_running_containers(shared: &Shared, pod: &Pod) -> bool {
    let handle = shared.pods.lock().get(pod::uid(pod)).cloned();
    handle.is_some_and(|handle| handle.state().containers.values().any(|record| record.is_running()))
}

/// Removes the log files of a pod. Keeps the containers' folders, which show that there were logs.
fn remove_log_files(logs: &Path) -> std::io::Result<()> {
    let containers = match std::fs::read_dir(logs) {
        // No container has written anything.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        containers => containers?,
    };
    for container in containers {
        for file in std::fs::read_dir(container?.path())? {
            std::fs::remove_file(file?.path())?;
        }
    }
    Ok(())
}

fn active(shared: &Shared) -> Vec<Arc<Pod>> {
    let pods = shared.cluster.pods.list();
    let handles = shared.pods.lock();
    let running = |pod: &Arc<Pod>| {
        let handle = handles.get(pod::uid(pod));
        let failed = handle.is_none_or(|handle| handle.state().failure.is_some());
        !failed && !pod::is_finished(pod) && !pod::is_deleting(pod)
    };
    pods.into_iter().filter(running).collect()
}

async fn starved_resource(shared: &Shared) -> Option<StarvedResource> {
    let pressure = shared.options.pressure.clone();
    let pressure = blocking(move || Ok(pressure())).await.ok()?;
    if pressure.disk { Some(StarvedResource::Storage) } else { pressure.inodes.then_some(StarvedResource::Inodes) }
}

async fn usage_of(
    shared: &Shared,
    pod: &Arc<Pod>,
    known: &mut HashMap<String, Measurement>,
    new: bool,
) -> Option<Usage> {
    let (uid, begin) = (pod::uid(pod), Instant::now());
    if let Some(known) = known.get(uid).filter(|known| begin < known.due && !new) {
        return Some(known.usage.clone());
    }
    let (volumes, logs): (PathBuf, PathBuf) =
        (shared.volumes_dir(uid), shared.logs_dir(pod::namespace(pod), pod::name(pod), uid));
    let measured = pod.clone();
    match blocking(move || measure(&measured, &volumes, &logs)).await {
        Ok(usage) => {
            let due = begin + MEASURE_PAUSE + begin.elapsed() * 50;
            known.insert(uid.to_owned(), Measurement { usage: usage.clone(), due });
            Some(usage)
        }
        Err(error) => {
            tracing::warn!(pod = pod::full_name(pod), %error, "cannot measure what the pod takes of the disk");
            None
        }
    }
}

fn evict(shared: &Shared, pod: &Pod, eviction: Eviction) {
    if is_critical(pod) {
        tracing::warn!(pod = pod::full_name(pod), message = eviction.message, "a critical pod is not evicted");
        return;
    }
    tracing::info!(pod = pod::full_name(pod), message = eviction.message, "evicted");
    shared.event(pod, None, EventType::Warning, EVICTED, &*eviction.message);
    if let Some(handle) = shared.pods.lock().get(pod::uid(pod)) {
        handle.send(Message::Evict(eviction));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a pod")
    }

    fn limited(limits: &[Option<&str>]) -> Pod {
        let container = |(i, limit): (usize, &Option<&str>)| {
            let limits = limit.map_or(json!({}), |l| json!({"ephemeral-storage": l}));
            json!({"name": format!("c{i}"), "resources": {"limits": limits, "requests": limits}})
        };
        let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "free", "emptyDir": {}}]);
        let containers: Vec<_> = limits.iter().enumerate().map(container).collect();
        pod("p", json!({"volumes": volumes, "containers": containers}))
    }

    fn usage(volumes: &[(&str, u64)], logs: &[(&str, u64)]) -> Usage {
        let of = |list: &[(&str, u64)]| list.iter().map(|(n, b)| ((*n).to_owned(), *b)).collect();
        let total = volumes.iter().chain(logs).map(|(_, bytes)| bytes).sum();
        Usage { volumes: of(volumes), containers: of(logs), total, inodes: 0 }
    }

    #[test]
    fn each_limit_is_told_as_upstream_does() {
        const MIB: u64 = 1 << 20;
        let volume = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
        let total = "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ";
        let one = "Container c1 exceeded its local ephemeral storage limit \"1Mi\". ";
        type Case<'a> = (&'a [Option<&'a str>], Usage, Option<&'a str>);
        let cases: [Case<'_>; 7] = [
            (&[None], usage(&[("v", MIB)], &[]), None),
            (&[None], usage(&[("v", MIB + 1)], &[]), Some(volume)),
            (&[None], usage(&[("free", 1 << 40)], &[("c0", 1 << 40)]), None),
            (&[Some("2Mi"), Some("1Mi")], usage(&[("free", 3 * MIB)], &[]), None),
            (&[Some("2Mi"), Some("1Mi")], usage(&[("free", 2 * MIB)], &[("c0", MIB + 1)]), Some(total)),
            (&[Some("2Mi"), Some("1Mi")], usage(&[], &[("c1", MIB + 1)]), Some(one)),
            (&[Some("2Mi"), None], usage(&[], &[("c1", MIB)]), None),
        ];
        for (limits, usage, expected) in cases {
            assert_eq!(exceeded(&limited(limits), &usage).as_deref(), expected, "{limits:?} {usage:?}");
        }
    }

    #[test]
    fn only_pods_with_limits_are_measured() {
        assert!(is_limited(&limited(&[None])));
        let free = |limits: Value| {
            pod(
                "p",
                json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "resources": {"limits": limits}}]}),
            )
        };
        assert!(!is_limited(&free(json!({"memory": "1Gi"}))));
        assert!(is_limited(&free(json!({"ephemeral-storage": "1Gi"}))));
    }

    #[test]
    fn who_takes_more_than_requested_and_matters_less_goes_first() {
        let make = |name: &str, priority: i32, request: &str| {
            let resources = json!({"requests": {"ephemeral-storage": request}});
            pod(name, json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]}))
        };
        let mib = |n: u64| usage(&[("v", n << 20)], &[]);
        let pods = [
            (make("within", 0, "1Gi"), mib(900)),
            (make("important", 1000, "0"), mib(800)),
            (make("large", 0, "0"), mib(100)),
            (make("larger", 0, "50Mi"), mib(200)),
        ];
        let mut order: Vec<_> =
            pods.iter().map(|(pod, usage)| (rank(pod, usage, StarvedResource::Storage), pod::name(pod))).collect();
        order.sort();
        assert_eq!(order.into_iter().map(|(_, n)| n).collect::<Vec<_>>(), ["larger", "large", "important", "within"]);
        let text = reason(&pods[2].0, &usage(&[("v", 1)], &[("c", 12 << 10)]), StarvedResource::Storage);
        assert_eq!(
            text,
            "The node was low on resource: ephemeral-storage. Container c was using 12Ki, request is 0, has larger consumption of \
             ephemeral-storage. "
        );
        let many = |inodes: u64| Usage { inodes, ..usage(&[("v", 1 << 30)], &[]) };
        let (few, most) = (
            rank(&pods[0].0, &many(100), StarvedResource::Inodes),
            rank(&pods[2].0, &many(101), StarvedResource::Inodes),
        );
        assert!(most < few, "of inodes the one with most, whatever was requested");
        assert!(
            !StarvedResource::Inodes.is_worth_reclaiming(&many(99))
                && StarvedResource::Inodes.is_worth_reclaiming(&many(100))
        );
        assert_eq!(reason(&pods[0].0, &many(100), StarvedResource::Inodes), "The node was low on resource: inodes. ");
    }
}
