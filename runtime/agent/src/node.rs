//! The Node object and its Lease. The node is registered at start, the Lease is renewed every 10 s, and the status is sent when it changes
//! and at least every 5 min.
//!
//! The node life-cycle controller sets taints and handles unreachable nodes. Follows
//! <https://kubernetes.io/docs/concepts/architecture/nodes/>.

use crate::{options::Options, pressure::Pressure, shared::Shared};
use client::{Error, EventType, Patch, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, ObjectReference},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
    },
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const RENEW_INTERVAL: Duration = Duration::from_secs(10);
const RESEND_INTERVAL: SignedDuration = SignedDuration::from_mins(5);
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
/// Upstream's `nodeStatusMaxImages` and `MaxNamesPerImageInNodeStatus`.
const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;

type Amounts = BTreeMap<String, Quantity>;

fn kibi(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes >> 10))
}

/// The node's capacity.
pub fn capacity(options: &Options) -> Amounts {
    let machine = &options.machine;
    [
        ("cpu", Quantity(machine.cpus.to_string())),
        ("memory", kibi(machine.memory)),
        ("ephemeral-storage", kibi(machine.storage)),
        ("pods", Quantity(options.pods.to_string())),
    ]
    .map(|(name, amount)| (name.to_owned(), amount))
    .into()
}

/// The resources that pods may request together: capacity minus reserved.
pub fn allocatable(options: &Options) -> Amounts {
    let reserved = |name: &str| options.reserved.get(name).and_then(crate::resources::quantity);
    let bytes =
        |name: &str, of: u64| of.saturating_sub(reserved(name).map_or(0, |q| u64::try_from(q.value()).unwrap_or(0)));
    let cpu = u64::from(options.machine.cpus) * 1000;
    let cpu = cpu.saturating_sub(reserved("cpu").map_or(0, |q| u64::try_from(q.milli_value()).unwrap_or(0)));
    let cpu = if cpu % 1000 == 0 { (cpu / 1000).to_string() } else { format!("{cpu}m") };
    [
        ("cpu", Quantity(cpu)),
        ("memory", kibi(bytes("memory", options.machine.memory))),
        ("ephemeral-storage", kibi(bytes("ephemeral-storage", options.machine.storage))),
        ("pods", Quantity(options.pods.to_string())),
    ]
    .map(|(name, amount)| (name.to_owned(), amount))
    .into()
}

/// The node conditions: upstream's, and RuntimeDegraded for problems that runtimes report. `since` returns the transition time of a
/// condition that had the same status before.
fn conditions(
    pressure: Pressure,
    problem: Option<&str>,
    now: Timestamp,
    since: impl Fn(&str, &str) -> Option<String>,
) -> Vec<Value> {
    let pick = |is: bool, kind: &str, yes: (&str, &str), no: (&str, &str)| {
        let status = if is { "True" } else { "False" };
        let (reason, message) = if is { yes } else { no };
        let now = api::time::rfc3339(now);
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": since(kind, status).unwrap_or_else(|| now.clone()),
        })
    };
    vec![
        pick(
            pressure.memory,
            "MemoryPressure",
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pick(
            pressure.of_disk(),
            "DiskPressure",
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pick(
            false,
            "PIDPressure",
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        pick(
            problem.is_some(),
            "RuntimeDegraded",
            ("RuntimeHasProblem", problem.unwrap_or_default()),
            ("RuntimeHasNoProblem", "all container runtimes work as configured"),
        ),
        pick(
            true,
            "Ready",
            ("KubeletReady", "kubelet is posting ready status"),
            ("KubeletNotReady", "kubelet is not ready"),
        ),
    ]
}

/// What the node can do that others may not, as the API server asks before it lets a pod have it (KEP-5328): it resizes init containers.
const FEATURES: [&str; 1] = ["InPlacePodVerticalScalingInitContainers"];

/// The status of the Node.
fn status(options: &Options, runtimes: Vec<String>, images: Vec<Value>, conditions: Vec<Value>) -> Value {
    let machine = &options.machine;
    let mut addresses: Vec<_> =
        options.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    let hostname = if machine.hostname.is_empty() { &options.node } else { &machine.hostname };
    addresses.push(json!({"type": "Hostname", "address": hostname}));
    let mut handlers = vec![json!({"name": ""})];
    handlers.extend(runtimes.into_iter().map(|name| json!({"name": name})));
    json!({
        "addresses": addresses,
        "allocatable": allocatable(options),
        "capacity": capacity(options),
        "conditions": conditions,
        "declaredFeatures": FEATURES,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": options.port.unwrap_or(0)}},
        "images": images,
        "nodeInfo": {
            "architecture": machine.architecture,
            "bootID": machine.boot_id,
            "containerRuntimeVersion": options.runtime_version,
            "kernelVersion": machine.kernel,
            "kubeProxyVersion": "",
            "kubeletVersion": options.version,
            "machineID": machine.machine_id,
            "operatingSystem": machine.operating_system,
            "osImage": machine.os_image,
            "systemUUID": machine.system_uuid,
        },
        "runtimeHandlers": handlers,
    })
}

fn labels(options: &Options) -> BTreeMap<String, String> {
    let machine = &options.machine;
    let hostname = if machine.hostname.is_empty() { &options.node } else { &machine.hostname };
    let own = [
        ("kubernetes.io/hostname", hostname),
        ("kubernetes.io/os", &machine.operating_system),
        ("kubernetes.io/arch", &machine.architecture),
        ("beta.kubernetes.io/os", &machine.operating_system),
        ("beta.kubernetes.io/arch", &machine.architecture),
    ];
    let mut labels: BTreeMap<_, _> = own.map(|(k, v)| (k.to_owned(), v.clone())).into();
    labels.extend(options.labels.clone());
    labels
}

/// The Node as the agent will register it.
pub(crate) fn unregistered(options: &Options) -> Node {
    let metadata =
        ObjectMeta { name: Some(options.node.clone()), labels: Some(labels(options)), ..ObjectMeta::default() };
    Node { metadata, ..Node::default() }
}

/// Registers and updates the Node and its Lease.
#[derive(Default)]
struct NodeUpdater {
    uid: Option<String>,
    sent: Option<SentStatus>,
    pressure: Pressure,
    /// The last problem that runtimes reported.
    problem: Option<String>,
    transitions: BTreeMap<String, (String, String)>,
    lease: Option<Lease>,
}

/// The last sent status, without heartbeat times.
struct SentStatus {
    status: Value,
    /// The status that the API stored.
    stored: Value,
    at: Timestamp,
}

/// Updates the Node until `token` is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let mut updater = NodeUpdater::default();
    let mut tick = tokio::time::interval(RENEW_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failures = 0u32;
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = tick.tick() => {}
        }
        match updater.sync(&shared).await {
            Ok(()) => failures = 0,
            Err(error) => {
                // The API server may still be starting, so that the first retries come quickly.
                failures += 1;
                tracing::warn!(node = shared.options.node, %error, failures, "cannot keep the Node, will try again");
                tick.reset_after(
                    RENEW_INTERVAL.min(Duration::from_millis(200) * 2u32.saturating_pow(failures.min(10))),
                );
            }
        }
    }
}

impl NodeUpdater {
    async fn sync(&mut self, shared: &Shared) -> Result<()> {
        let node = shared.cluster.client.find::<Node>("", &shared.options.node).await?;
        let uid = node.as_ref().and_then(|node| node.metadata.uid.clone());
        let known = self.uid.is_some() && self.uid == uid;
        if !known {
            // The Node is new, or it was deleted. Upstream registers again only after a restart of the kubelet, which here would be a
            // restart of the whole cluster.
            *self = Self { pressure: self.pressure, problem: self.problem.take(), ..Self::default() };
        }
        // Transition times are those of the API: a condition that another client changed changes back now.
        self.transitions.clear();
        for condition in node.iter().filter_map(|node| node.status.as_ref()?.conditions.as_ref()).flatten() {
            if let Some(at) = &condition.last_transition_time {
                let entry = (condition.status.clone(), api::time::rfc3339(at.0));
                self.transitions.insert(condition.type_.clone(), entry);
            }
        }
        let status = self.observe(shared).await;
        if let Some(node) = node.as_ref().filter(|_| known) {
            self.send_status(shared, status, Some(node)).await?;
            return self.renew(shared).await;
        }
        self.register(shared, node.is_some(), &status).await?;
        self.send_status(shared, status, None).await?;
        self.renew(shared).await
    }

    /// Registers the Node together with its status: a Node without allocatable resources would not fit the pods that wait for it.
    async fn register(&mut self, shared: &Shared, present: bool, status: &Value) -> Result<()> {
        let options = &shared.options;
        let node: Node = match present {
            true => {
                let patch = json!({"metadata": {"labels": labels(options)}});
                shared.cluster.client.patch("", &options.node, Patch::Merge(patch)).await?
            }
            false => {
                let spec = if options.pod_cidr.is_empty() {
                    json!({})
                } else {
                    json!({"podCIDR": options.pod_cidr, "podCIDRs": [options.pod_cidr]})
                };
                let body = json!({
                    "apiVersion": "v1", "kind": "Node",
                    "metadata": {"name": options.node, "labels": labels(options)},
                    "spec": spec, "status": status,
                });
                let node: Node = serde_json::from_value(body).map_err(|e| Error::Decode(e.to_string()))?;
                shared.cluster.client.create(&node).await?
            }
        };
        self.uid = Some(node.metadata.uid.unwrap_or_default());
        shared.registered.cancel();
        shared.recorder.event(&reference(options), EventType::Normal, "Starting", "Starting kubelet.");
        tracing::info!(node = options.node, "registered the Node");
        Ok(())
    }

    /// The current status.
    async fn observe(&mut self, shared: &Shared) -> Value {
        let (now, pressure) = (shared.now(), shared.options.pressure.clone());
        let pressure = tokio::task::spawn_blocking(move || pressure()).await.unwrap_or_default();
        if pressure != self.pressure {
            self.record_pressure_change(shared, pressure);
            self.pressure = pressure;
            if pressure == Pressure::default() {
                tracing::info!("memory and disk suffice again");
            } else {
                tracing::warn!(
                    memory = pressure.memory,
                    disk = pressure.disk,
                    "the machine is short of memory or disk: the node takes no new pods until some is free"
                );
            }
        }
        let mut images = shared.images.list().await;
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let images = images.into_iter().take(MAX_IMAGES);
        let images: Vec<_> = images
            .map(|i| json!({"names": i.names.iter().take(MAX_IMAGE_NAMES).collect::<Vec<_>>(), "sizeBytes": i.size}))
            .collect();
        let problems: Vec<_> =
            shared.runtimes.iter().filter_map(|r| Some(format!("{}: {}", r.name(), r.health()?))).collect();
        let problem = Some(problems.join("; ")).filter(|text| !text.is_empty());
        self.record_runtime_health(shared, problem.clone());
        let since = |kind: &str, status: &str| {
            self.transitions.get(kind).filter(|(before, _)| before == status).map(|(_, at)| at.clone())
        };
        let conditions = conditions(pressure, problem.as_deref(), now, since);
        let runtimes = shared.runtimes.iter().map(|r| r.name().to_owned()).collect();
        status(&shared.options, runtimes, images, conditions)
    }

    /// Records upstream's events about changed pressure conditions, before the disk is too full for the store to accept events.
    fn record_pressure_change(&self, shared: &Shared, now: Pressure) {
        let conditions = [
            (self.pressure.memory, now.memory, "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
            (self.pressure.of_disk(), now.of_disk(), "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ];
        for (before, now, yes, no) in conditions {
            if before != now {
                let reason = if now { yes } else { no };
                let text = format!("Node {} status is now: {reason}", shared.options.node);
                shared.recorder.event(&reference(&shared.options), EventType::Normal, reason, text);
            }
        }
    }

    /// Records an event when the runtimes' problem appears, changes or disappears.
    fn record_runtime_health(&mut self, shared: &Shared, problem: Option<String>) {
        if problem == self.problem {
            return;
        }
        let (kind, reason, text) = match &problem {
            Some(text) => (EventType::Warning, "RuntimeHasProblem", text.as_str()),
            None => (EventType::Normal, "RuntimeHasNoProblem", "all container runtimes work as configured"),
        };
        shared.recorder.event(&reference(&shared.options), kind, reason, text);
        self.problem = problem;
    }

    /// Sends the status if it changed, if another client changed the stored status, or if the last one is older than [`RESEND_INTERVAL`].
    /// `present` is the Node of the API.
    async fn send_status(&mut self, shared: &Shared, status: Value, present: Option<&Node>) -> Result<()> {
        let now = shared.now();
        let comparable = without_heartbeats(status.clone());
        let fresh = self.sent.as_ref().is_some_and(|sent| {
            sent.status == comparable
                && present.is_none_or(|node| stored(node) == sent.stored)
                && now.duration_since(sent.at) < RESEND_INTERVAL
        });
        if fresh {
            return Ok(());
        }
        let mut body = json!({"status": status});
        if let Some(addresses) = body["status"]["addresses"].as_array_mut() {
            // Addresses merge by type, so that without this directive addresses of other clients would stay.
            addresses.insert(0, json!({"$patch": "replace"}));
        }
        let patch = Patch::Strategic(body);
        let node = shared.cluster.client.patch_status::<Node>("", &shared.options.node, patch).await?;
        self.sent = Some(SentStatus { status: comparable, stored: stored(&node), at: now });
        Ok(())
    }

    /// Renews the Lease. Reads it again if it was deleted (with its Node, by the garbage collector) or changed by another client.
    async fn renew(&mut self, shared: &Shared) -> Result<()> {
        let client = &shared.cluster.client;
        if let Some(known) = self.lease.take()
            && let Ok(renewed) = client.update(&self.renewed(shared, known.metadata)).await
        {
            self.lease = Some(renewed);
            return Ok(());
        }
        let lease = match client.find::<Lease>(LEASE_NAMESPACE, &shared.options.node).await? {
            Some(present) => client.update(&self.renewed(shared, present.metadata)).await?,
            None => client.create(&self.renewed(shared, ObjectMeta::default())).await?,
        };
        self.lease = Some(lease);
        Ok(())
    }

    fn renewed(&self, shared: &Shared, metadata: ObjectMeta) -> Lease {
        let node = &shared.options.node;
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.clone(),
            uid: self.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        };
        let spec = LeaseSpec {
            holder_identity: Some(node.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(shared.now())),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta {
            name: Some(node.clone()),
            namespace: Some(LEASE_NAMESPACE.into()),
            owner_references: Some(vec![owner]),
            ..metadata
        };
        Lease { metadata, spec: Some(spec) }
    }
}

fn without_heartbeats(mut status: Value) -> Value {
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastHeartbeatTime"] = Value::Null;
    }
    status
}

fn stored(node: &Node) -> Value {
    without_heartbeats(serde_json::to_value(&node.status).unwrap_or_default())
}

pub(crate) fn reference(options: &Options) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(options.node.clone()),
        uid: Some(options.node.clone()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn reserved_amounts_are_taken_off() {
        let dir = Path::new("/");
        let mut options = crate::tests::node_options(dir, api::Clock::new(|| Timestamp::UNIX_EPOCH));
        options.reserved =
            [("cpu", "500m"), ("memory", "1Gi")].map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into();
        let text = |amounts: &Amounts, name: &str| amounts[name].0.clone();
        let (all, free) = (capacity(&options), allocatable(&options));
        assert_eq!((text(&all, "cpu"), text(&free, "cpu")), ("4".into(), "3500m".into()));
        assert_eq!((text(&all, "memory"), text(&free, "memory")), ("8388608Ki".into(), "7340032Ki".into()));
        assert_eq!((text(&all, "pods"), text(&free, "pods")), ("10000".into(), "10000".into()));
    }

    #[test]
    fn conditions_keep_their_transition_time_until_they_turn() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let since =
            |kind: &str, status: &str| (kind == "DiskPressure" && status == "True").then(|| "before".to_owned());
        let all = conditions(
            Pressure { disk: true, ..Pressure::default() },
            Some("wasmtime: address space is short"),
            now,
            since,
        );
        let runtime = all.iter().find(|c| c["type"] == "RuntimeDegraded").unwrap();
        assert_eq!((&runtime["status"], &runtime["reason"]), (&json!("True"), &json!("RuntimeHasProblem")));
        assert_eq!(runtime["message"], "wasmtime: address space is short");
        let disk = all.iter().find(|c| c["type"] == "DiskPressure").unwrap();
        assert_eq!((&disk["status"], &disk["reason"]), (&json!("True"), &json!("KubeletHasDiskPressure")));
        assert_eq!(disk["lastTransitionTime"], "before");
        let ready = all.iter().find(|c| c["type"] == "Ready").unwrap();
        assert_eq!(ready["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }
}
