//! Gives every node its range of pod addresses. IPv4.
//!
//! Follows `--allocate-node-cidrs` of kube-controller-manager.

use crate::{Context, NodeCidrs, meta};
use client::{Client, Controller, EventType, Informer, Key, Next, Patch, Recorder, Wakeups, reference};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

/// Allocates ranges. Upstream's `node-ipam-controller`. Run by one worker, so that no range is given twice.
pub(crate) struct NodeIpamController {
    client: Client,
    recorder: Recorder,
    cidrs: Option<NodeCidrs>,
    nodes: Informer<Node>,
    /// What was given before the cache shows it.
    given: Mutex<HashMap<String, String>>,
}

impl NodeIpamController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            recorder: cx.recorder("cidrAllocator"),
            cidrs: cx.options.node_cidrs,
            nodes: cx.informers.of(),
            given: Mutex::default(),
        }
    }

    fn choose(&self, name: &str) -> Option<String> {
        let nodes = self.nodes.list();
        let mut given = self.given.lock();
        given.retain(|name, _| nodes.iter().any(|n| meta::name(&n.metadata) == name));
        if let Some(cidr) = given.get(name) {
            return Some(cidr.clone());
        }
        let mut taken: BTreeSet<String> = given.values().cloned().collect();
        taken.extend(nodes.iter().filter_map(|n| n.spec.as_ref()?.pod_cidr.clone()));
        let cidr = self.cidrs?.free(&taken)?;
        given.insert(name.to_owned(), cidr.clone());
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
        let Some(cidr) = self.choose(&key.name) else {
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
