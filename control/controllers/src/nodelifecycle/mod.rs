//! Nodes without heartbeats: their conditions become Unknown, their pods unready, and they get taints.
//!
//! Follows <https://kubernetes.io/docs/concepts/architecture/nodes/#node-heartbeats>. A heartbeat is a change of the node's Lease or of its
//! status; its age is measured by this process's clock, so that clocks need not agree. `tainteviction` evicts the pods.
//!
//! Not here: zones and their eviction rates (one cluster is one zone).

mod plan;

pub(crate) use plan::{Heartbeat, taints, unknown_conditions};

use crate::{Context, claim, meta, pods};
use client::{Client, Controller, Delta, EventType, Informer, Key, Next, Patch, Recorder, Wakeups, reference};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, ObjectReference, Pod},
};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

const LEASES: &str = "kube-node-lease";
/// The index of pods by node.
pub(crate) const BY_NODE: &str = "spec.nodeName";

/// Indexes pods by the node they are bound to.
pub(crate) fn index_nodes(pods: &Informer<Pod>) {
    pods.index(BY_NODE, |pod| Some(pods::node_name(pod).to_owned()).filter(|n| !n.is_empty()).into_iter().collect());
}

/// Watches heartbeats. Upstream's `node-lifecycle-controller`.
pub(crate) struct NodeLifecycleController {
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    grace: Duration,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    /// The last heartbeat of each node, and when it was first seen.
    seen: Mutex<HashMap<String, (Heartbeat, Instant)>>,
    registered: Mutex<HashSet<String>>,
}

impl NodeLifecycleController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let pods = cx.informers.of::<Pod>();
        index_nodes(&pods);
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder("node-controller"),
            grace: cx.options.node_grace,
            nodes: cx.informers.of(),
            leases: cx.informers.of(),
            pods,
            seen: Mutex::default(),
            registered: Mutex::default(),
        }
    }

    /// The age of the node's last heartbeat.
    fn time_since_heartbeat(&self, node: &Node) -> Duration {
        let name = meta::name(&node.metadata);
        let beat = Heartbeat::of(node, self.leases.get(LEASES, name).as_deref());
        let now = Instant::now();
        let mut seen = self.seen.lock();
        let (last, since) = seen.entry(name.to_owned()).or_insert_with(|| (beat.clone(), now));
        if *last != beat {
            (*last, *since) = (beat, now);
        }
        now.duration_since(*since)
    }

    /// Sets the conditions that the node no longer updates to Unknown; returns the updated node.
    async fn mark_unknown(&self, node: Arc<Node>) -> anyhow::Result<Arc<Node>> {
        let Some(conditions) = unknown_conditions(&node, self.clock.now()) else { return Ok(node) };
        let name = meta::name(&node.metadata).to_owned();
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": conditions}});
        let node: Node = self.client.patch_status("", &name, Patch::Strategic(patch)).await?;
        let message = format!("Node {name} status is now: NodeNotReady");
        self.recorder.event(&about(&node), EventType::Normal, "NodeNotReady", message);
        Ok(Arc::new(node))
    }

    async fn taint(&self, node: &Node) -> anyhow::Result<()> {
        let Some(wanted) = taints(node, self.clock.now()) else { return Ok(()) };
        let taints = if wanted.is_empty() { json!(null) } else { json!(wanted) };
        // other clients write taints too: the resourceVersion guards their changes
        let patch =
            json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
        self.client.patch::<Node>("", meta::name(&node.metadata), Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn mark_pods_unready(&self, node: &str) -> anyhow::Result<()> {
        for pod in self.pods.by_index(BY_NODE, node).iter().filter(|p| pods::is_ready(p)) {
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.clock.now());
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": now}]}});
            let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
            match self.client.patch_status::<Pod>(namespace, name, Patch::Strategic(patch)).await {
                Ok(_) => {
                    self.recorder.event(&reference(&**pod), EventType::Warning, "NodeNotReady", "Node is not ready")
                }
                Err(error) => claim::ignore_not_found(&self.client, &**pod, error).await?,
            }
        }
        Ok(())
    }
}

/// Events about a node go by its name, which the node agent's do too.
fn about(node: &Node) -> ObjectReference {
    ObjectReference { uid: node.metadata.uid.clone(), namespace: None, ..reference(node) }
}

#[async_trait::async_trait]
impl Controller for NodeLifecycleController {
    const NAME: &'static str = "node-lifecycle-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.nodes);
        wakeups.reads(&self.pods);
        wakeups.on(&self.leases, |delta: &Delta<Lease>| {
            let meta = &delta.object().metadata;
            let ours = meta.namespace.as_deref() == Some(LEASES);
            ours.then(|| Key::new("", meta.name.clone().unwrap_or_default())).into_iter().collect()
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(node) = self.nodes.find(key) else {
            self.seen.lock().remove(&key.name);
            if self.registered.lock().remove(&key.name) {
                let message = format!("Node {0} event: Removing Node {0} from Controller", key.name);
                let about = ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Node".to_owned()),
                    name: Some(key.name.clone()),
                    uid: Some(key.name.clone()),
                    ..ObjectReference::default()
                };
                self.recorder.event(&about, EventType::Normal, "RemovingNode", message);
            }
            return Ok(Next::Done);
        };
        if self.registered.lock().insert(key.name.clone()) {
            let message = format!("Node {0} event: Registered Node {0} in Controller", key.name);
            self.recorder.event(&about(&node), EventType::Normal, "RegisteredNode", message);
        }
        let silent = self.time_since_heartbeat(&node);
        let node = if silent >= self.grace { self.mark_unknown(node).await? } else { node };
        self.taint(&node).await?;
        let ready = plan::condition(&node, "Ready");
        if ready.is_some_and(|c| c.status != "True") {
            self.mark_pods_unready(&key.name).await?;
        }
        Ok(if silent < self.grace { Next::After(self.grace - silent) } else { Next::Done })
    }
}
