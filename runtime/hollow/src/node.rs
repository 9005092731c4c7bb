//! The Nodes and their Leases. A Node is registered once and its capacity is nobody's but the API's afterwards, so that
//! `kubectl patch node --subresource=status` gives it another.

use crate::{LABEL, Options, ZONES, addresses, name, number};
use client::{Client, Controller, DeleteOptions, Delta, Informer, Key, Next, Patch, Target, Wakeups, meta};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// How often a Lease is renewed, as by upstream's kubelet.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// How often the status is sent although it did not change.
const RESEND_INTERVAL: SignedDuration = SignedDuration::from_mins(5);
/// The moments of an interval at which Leases are renewed.
const TURNS: u32 = 10;
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;

/// Deletes the Nodes of an earlier run. Those that cannot be deleted now stay until the next start.
pub(crate) async fn remove_leftovers(client: &Client) {
    let target = Target::of::<Node>().labels(LABEL);
    let removed = async {
        for node in client.list_target::<Node>(&target).await?.items {
            client
                .delete::<Node>("", meta::name(&node.metadata), &DeleteOptions::uid(meta::uid(&node.metadata)))
                .await?;
        }
        Ok::<(), client::Error>(())
    };
    if let Err(error) = removed.await {
        tracing::warn!(%error, "cannot remove the hollow nodes of an earlier start");
    }
}

/// Keeps the Nodes; a controller whose keys are their names.
pub(crate) struct Nodes {
    client: Client,
    nodes: Informer<Node>,
    options: Options,
    begin: Instant,
    /// The Leases as last written, by node.
    leases: Mutex<HashMap<u32, Lease>>,
}

impl Nodes {
    pub(crate) fn new(client: Client, nodes: Informer<Node>, options: Options) -> Self {
        Self { client, nodes, options, begin: Instant::now(), leases: Mutex::default() }
    }

    /// Registers a Node, or sends its status if that is due. Returns its uid.
    async fn keep(&self, node: u32) -> client::Result<String> {
        let (name, now) = (name(node), self.options.clock.now());
        let Some(present) = self.nodes.get("", &name) else {
            let body = registered(&self.options, node, now);
            let body: Node = serde_json::from_value(body).map_err(|error| client::Error::Decode(error.to_string()))?;
            return match self.client.create(&body).await {
                Ok(made) => Ok(made.metadata.uid.unwrap_or_default()),
                // the informer is behind
                Err(error) if error.is_already_exists() => {
                    Ok(self.client.get::<Node>("", &name).await?.metadata.uid.unwrap_or_default())
                }
                Err(error) => Err(error),
            };
        };
        if is_due(&present, now) {
            let patch = json!({"status": {"conditions": conditions(now, Some(&present))}});
            self.client.patch_status::<Node>("", &name, Patch::Strategic(patch)).await?;
        }
        Ok(present.metadata.uid.clone().unwrap_or_default())
    }

    /// Renews a Lease. Reads it again if it was deleted (with its Node, by the garbage collector) or changed by another client.
    async fn renew(&self, node: u32, uid: &str) -> client::Result<()> {
        let known = self.leases.lock().remove(&node);
        let now = self.options.clock.now();
        let renewed = match known {
            Some(known) => self.client.update(&lease(&name(node), uid, known.metadata, now)).await.ok(),
            None => None,
        };
        let lease = match renewed {
            Some(lease) => lease,
            None => match self.client.find::<Lease>(LEASE_NAMESPACE, &name(node)).await? {
                Some(present) => self.client.update(&lease(&name(node), uid, present.metadata, now)).await?,
                None => self.client.create(&lease(&name(node), uid, ObjectMeta::default(), now)).await?,
            },
        };
        self.leases.lock().insert(node, lease);
        Ok(())
    }

    /// Deletes a Node of an earlier run that had more of them. Its pods are deleted by the garbage collector of pods.
    async fn remove(&self, name: &str) -> client::Result<()> {
        let Some(node) = self.nodes.get("", name).filter(|node| is_hollow(node)) else { return Ok(()) };
        let uid = node.metadata.uid.clone().unwrap_or_default();
        match self.client.delete::<Node>("", name, &DeleteOptions::uid(&uid)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Controller for Nodes {
    const NAME: &'static str = "hollow-nodes";

    fn wire(&self, wakeups: &mut Wakeups) {
        for node in 0..self.options.nodes {
            wakeups.queue().add(Key::new("", name(node)));
        }
        wakeups.on(&self.nodes, |delta| {
            let node = delta.object();
            let mine = is_hollow(node) && !matches!(delta, Delta::Modified { .. });
            if mine { vec![Key::of(&**node)] } else { Vec::new() }
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(node) = number(&key.name).filter(|node| *node < self.options.nodes) else {
            self.remove(&key.name).await?;
            return Ok(Next::Done);
        };
        let uid = self.keep(node).await?;
        self.renew(node, &uid).await?;
        Ok(Next::After(until_next(node, self.begin.elapsed())))
    }
}

/// How long a node waits for its next renewal, so long after the start. A tenth of the nodes renew together each second: the store commits
/// their writes at once, where one after the other each would cost a commit of its own.
fn until_next(node: u32, elapsed: Duration) -> Duration {
    let interval = RENEW_INTERVAL.as_millis();
    let turn = u128::from(node % TURNS) * interval / u128::from(TURNS);
    let late = (elapsed.as_millis() + interval - turn) % interval;
    Duration::from_millis(u64::try_from(interval - late).unwrap_or_default())
}

fn is_hollow(node: &Node) -> bool {
    node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL))
}

/// Whether the status has to be sent: the node is not shown as ready, or was told of too long ago.
fn is_due(node: &Node, now: Timestamp) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.is_none_or(|ready| {
        let last = ready.last_heartbeat_time.as_ref();
        ready.status != "True" || last.is_none_or(|last| now.duration_since(last.0) >= RESEND_INTERVAL)
    })
}

/// A Node at its registration. Its size is that of the nodes of upstream's scheduler benchmarks.
fn registered(options: &Options, node: u32, now: Timestamp) -> Value {
    let (name, address) = (name(node), addresses::of_node(&options.cidr, node).to_string());
    let range = addresses::node_range(&options.cidr, node).to_string();
    let zone = format!("zone-{}", node % ZONES + 1);
    let amounts = json!({"cpu": "4", "memory": "32Gi", "ephemeral-storage": "100Gi", "pods": "110"});
    json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/region": "hollow", "topology.kubernetes.io/zone": zone, LABEL: "true",
        }},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "allocatable": amounts, "capacity": amounts, "conditions": conditions(now, None),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
            "nodeInfo": {
                "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "hollow://1", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": options.version, "machineID": "", "operatingSystem": "linux",
                "osImage": "hollow", "systemUUID": "",
            },
        },
    })
}

/// The conditions of a node that has enough of everything.
fn conditions(now: Timestamp, present: Option<&Node>) -> Vec<Value> {
    let before = present.and_then(|node| node.status.as_ref()?.conditions.as_ref());
    let all = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let condition = |(kind, status, reason, message): (&str, &str, &str, &str)| {
        let same = before.into_iter().flatten().find(|condition| condition.type_ == kind && condition.status == status);
        let since = same.and_then(|condition| Some(condition.last_transition_time.as_ref()?.0)).unwrap_or(now);
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": api::time::rfc3339(now), "lastTransitionTime": api::time::rfc3339(since),
        })
    };
    all.into_iter().map(condition).collect()
}

fn lease(name: &str, uid: &str, metadata: ObjectMeta, now: Timestamp) -> Lease {
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(LEASE_NAMESPACE.into()),
        owner_references: Some(vec![owner]),
        ..metadata
    };
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    };
    Lease { metadata, spec: Some(spec) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(status: &str, heartbeat: &str) -> Node {
        let value = json!({"status": {"conditions": [
            {"type": "Ready", "status": status, "lastHeartbeatTime": heartbeat, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_status_is_sent_in_time_and_when_the_node_was_lost() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        assert!(!is_due(&node("True", "2026-01-01T00:56:00Z"), now));
        assert!(is_due(&node("True", "2026-01-01T00:55:00Z"), now), "five minutes");
        assert!(is_due(&node("Unknown", "2026-01-01T00:59:59Z"), now), "the life-cycle controller has lost it");
        assert!(is_due(&Node::default(), now));
    }

    #[test]
    fn a_tenth_of_the_nodes_renews_each_second() {
        let wait = |node, millis| until_next(node, Duration::from_millis(millis)).as_millis();
        assert_eq!((wait(0, 0), wait(0, 1), wait(0, 9_999), wait(0, 10_030)), (10_000, 9_999, 1, 9_970));
        assert_eq!((wait(3, 0), wait(3, 3_000), wait(13, 3_040), wait(9, 10_000)), (3_000, 10_000, 9_960, 9_000));
    }

    #[test]
    fn conditions_keep_their_transition_time_until_they_turn() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let since = |status: &str| {
            conditions(now, Some(&node(status, "2026-01-01T00:30:00Z")))[3]["lastTransitionTime"].clone()
        };
        assert_eq!((since("True"), since("Unknown")), (json!("2026-01-01T00:00:00Z"), json!("2026-01-01T01:00:00Z")));
    }
}
