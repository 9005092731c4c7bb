//! The kubelet's `/stats/summary`, as far as metrics.k8s.io needs it.

use axum::body::{Body, to_bytes};
use futures::{StreamExt, stream};
use http::Request;
use jiff::Timestamp;
use serde::Deserialize;
use server::Api;
use std::time::Duration;

/// How long a node may take, as metrics-server's scrapes.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Nodes that are asked at a time.
const PARALLEL: usize = 16;
/// Most bytes of a summary: about 100,000 pods.
const MOST: usize = 64 << 20;

/// What a node and its pods use.
#[derive(Debug, Deserialize)]
pub(super) struct Summary {
    pub(super) node: Node,
    #[serde(default)]
    pub(super) pods: Vec<Pod>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) node_name: String,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pod {
    pub(super) pod_ref: PodRef,
    #[serde(default)]
    pub(super) containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PodRef {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Container {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) figures: Figures,
    /// Of one that serves HTTP.
    pub(super) http: Option<Http>,
}

/// What is served.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Http {
    /// When it was read.
    pub(super) time: Timestamp,
    pub(super) milli_requests_per_second: Option<u64>,
    /// The time that the rate is the mean of.
    pub(super) window_nano_seconds: Option<u64>,
}

/// CPU and memory of one of them.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Figures {
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Timestamp,
    usage_nano_cores: Option<u64>,
    window_nano_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: Option<u64>,
}

impl Figures {
    pub(super) fn nano_cores(&self) -> Option<u64> {
        self.cpu.as_ref()?.usage_nano_cores
    }

    pub(super) fn working_set(&self) -> Option<u64> {
        self.memory.as_ref()?.working_set_bytes
    }

    /// When it was read, and the time that the rate is the mean of.
    pub(super) fn read(&self) -> Option<(Timestamp, Duration)> {
        let cpu = self.cpu.as_ref()?;
        Some((cpu.time, Duration::from_nanos(cpu.window_nano_seconds?)))
    }
}

/// The summaries of these nodes. One that does not answer is left out: the others' figures are true without it.
pub(super) async fn all(api: &dyn Api, nodes: Vec<String>) -> Vec<Summary> {
    let asked: Vec<_> = nodes.into_iter().map(|node| in_time(api, node)).collect();
    stream::iter(asked).buffered(PARALLEL).filter_map(std::future::ready).collect().await
}

async fn in_time(api: &dyn Api, node: String) -> Option<Summary> {
    match tokio::time::timeout(TIMEOUT, one(api, &node)).await {
        Ok(Ok(summary)) => return Some(summary),
        Ok(Err(error)) => tracing::warn!(node, %error, "the node does not tell what it uses"),
        Err(_) => tracing::warn!(node, "the node does not tell in time what it uses"),
    }
    None
}

async fn one(api: &dyn Api, node: &str) -> anyhow::Result<Summary> {
    let request = Request::get("/stats/summary").body(Body::empty())?;
    let answer = api.kubelet(node).send(request).await?;
    anyhow::ensure!(answer.status().is_success(), "it answers {}", answer.status());
    let body = to_bytes(answer.into_body(), MOST).await?;
    Ok(serde_json::from_slice(&body)?)
}
