//! Finds the pods of `POD` or `TYPE/NAME`, like kubectl's `polymorphichelpers`.

use super::{Reached, Resources, explain, get::escape, names, pods};
use crate::exit::usage;
use anyhow::{Context, bail};
use client::Client;
use http::Method;
use serde_json::Value;
use std::time::Duration;

/// How long to wait for the first pod, as kubectl's --pod-running-timeout.
const FIRST_POD_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Finds pods in one namespace.
pub(super) struct Finder {
    pub(super) client: Client,
    pub(super) namespace: String,
}

/// The named object and its pods, ordered by preference for logs.
pub(super) struct Found {
    /// The kind, such as `Pod` or `Service`.
    pub(super) kind: String,
    pub(super) object: Value,
    /// At least one.
    pub(super) pods: Vec<Value>,
}

impl Finder {
    pub(super) fn new(reached: Reached) -> Self {
        Self { client: reached.client, namespace: reached.namespace }
    }

    /// Finds the pods of `NAME` or `TYPE/NAME`. `purpose` completes "cannot …" in the error for a type without pods.
    ///
    /// # Errors
    /// The object does not exist, or has no pods within [`FIRST_POD_TIMEOUT`].
    pub(super) async fn find(&self, what: &str, purpose: &str) -> anyhow::Result<Found> {
        let asked = match what.contains('/') {
            true => names::parse(&[what.to_owned()]).map_err(usage)?.swap_remove(0),
            false => names::NamedObjects { kind: "pods".to_owned(), name: Some(what.to_owned()) },
        };
        let resources = Resources::discover(&self.client).await?;
        let resource = resources.by_name(&asked.kind)?;
        let name = asked.name.as_deref().unwrap_or_default();
        let object = self.get(&resource.path(&self.namespace, &escape(name))).await?;
        let kind = resource.kind.clone();
        if kind == "Pod" {
            return Ok(Found { kind, pods: vec![object.clone()], object });
        }
        let go = format!("*{}.{kind}", resource.version);
        let selector = pods::selector(&kind, &go, &object);
        let selector = selector.map_err(|why| anyhow::anyhow!("cannot {purpose} {go}: {why}"))?;
        let label = resource.label(name);
        let first = async {
            loop {
                let mut found = self.list(&selector).await?;
                if !found.is_empty() {
                    found.sort_by(pods::by_logging);
                    return anyhow::Ok(found);
                }
                if let Some(why) = pods::why_none(&kind, &object) {
                    bail!("{label} has no pods: {why}");
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let pods = tokio::time::timeout(FIRST_POD_TIMEOUT, first).await;
        let pods = pods.with_context(|| format!("{label} has no pods after {} s", FIRST_POD_TIMEOUT.as_secs()))??;
        Ok(Found { kind, object, pods })
    }

    /// The pods with these labels.
    pub(super) async fn list(&self, selector: &str) -> anyhow::Result<Vec<Value>> {
        let path = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let mut list = self.get(&format!("{path}?labelSelector={}", escape(selector))).await?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// Reads an object.
    pub(super) async fn get(&self, url: &str) -> anyhow::Result<Value> {
        let answer = super::request(&self.client, Method::GET, url, None, "application/json").await;
        super::decode(&answer.map_err(explain)?.1)
    }
}
