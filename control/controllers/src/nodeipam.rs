//! Allocates a pod address range to every node. IPv4 only.
//!
//! Follows `--allocate-node-cidrs` of kube-controller-manager.

use crate::{Context, NodeCidrs, meta};
use client::{Client, Controller, EventType, Informer, Key, Next, Patch, Recorder, Wakeups, reference};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

/// Upstream's `node-ipam-controller`. It runs with one worker, so that no range is allocated twice.
pub(crate) struct NodeIpamController {
    client: Client,
    recorder: Recorder,
    cidrs: Option<NodeCidrs>,
    nodes: Informer<Node>,
    /// Allocated ranges by node, which the informer may not have yet.
    allocated: Mutex<HashMap<String, String>>,
}

impl NodeIpamController {
    /// Creates the controller on the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            recorder: cx.recorder("cidrAllocator"),
            cidrs: cx.options.node_cidrs,
            nodes: cx.informers.of(),
            allocated: Mutex::default(),
        }
    }

    fn allocate(&self, name: &str) -> Option<String> {
        let nodes = self.nodes.list();
        let mut allocated = self.allocated.lock();
        allocated.retain(|name, _| nodes.iter().any(|n| meta::name(&n.metadata) == name));
        if let Some(cidr) = allocated.get(name) {
            return Some(cidr.clone());
        }
        let mut taken: BTreeSet<String> = allocated.values().cloned().collect();
        taken.extend(nodes.iter().filter_map(|n| n.spec.as_ref()?.pod_cidr.clone()));
        let cidr = self.cidrs?.free(&taken)?;
        allocated.insert(name.to_owned(), cidr.clone());
        Some(cidr)
    }
}

#[async_trait::async_trait]
impl Controller for NodeIpamController {
    const NAME: &'static str = "node-ipam-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.nodes);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(node) = self.nodes.find(key) else { return Ok(Next::Done) };
        let has = node.spec.as_ref().and_then(|s| s.pod_cidr.as_deref()).is_some_and(|c| !c.is_empty());
        if has || node.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let Some(cidr) = self.allocate(&key.name) else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.event(&reference(&*node), EventType::Normal, "CIDRNotAvailable", message);
            anyhow::bail!("no range of pod addresses is left for node {}", key.name);
        };
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
        match self.client.patch::<Node>("", &key.name, Patch::Merge(patch)).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(Next::Done),
        }
    }
}
