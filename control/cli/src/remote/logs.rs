//! `sampan logs`: shows what containers print.

use super::{Reached, Resources, connect, explain, get::escape, names, pods};
use crate::{args::LogsArgs, exit::usage, out};
use anyhow::{Context, bail};
use client::Client;
use futures::stream::{FuturesUnordered, StreamExt};
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;
use std::time::Duration;

/// How long to wait for a first pod: kubectl's --pod-running-timeout.
const FIRST_POD_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How many logs are followed at once: kubectl's --max-log-requests.
const MAX_FOLLOWED: usize = 5;
/// Lines of each pod by a selector: kubectl's.
const SELECTED_TAIL: u64 = 10;

/// `sampan logs`.
pub(crate) async fn run(args: &LogsArgs) -> anyhow::Result<()> {
    let logs = match (&args.pod, args.selector.as_str()) {
        (None, "") => {
            return Err(usage(
                "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command",
            ));
        }
        (Some(_), selector) if !selector.is_empty() => {
            return Err(usage("only a selector (-l) or a POD name is allowed"));
        }
        _ => {
            let Reached { client, namespace, .. } = connect(&args.target).await?;
            Logs { args, client, namespace }
        }
    };
    match &args.pod {
        Some(pod) => logs.print(&logs.pod(pod).await?, args.tail).await,
        None => logs.selected().await,
    }
}

/// One run of the command.
struct Logs<'a> {
    args: &'a LogsArgs,
    client: Client,
    namespace: String,
}

impl Logs<'_> {
    /// The pod that is meant by `NAME` or `TYPE/NAME`.
    async fn pod(&self, what: &str) -> anyhow::Result<Value> {
        let asked = match what.contains('/') {
            true => names::parse(&[what.to_owned()]).map_err(usage)?.swap_remove(0),
            false => names::Asked { kind: "pods".to_owned(), name: Some(what.to_owned()) },
        };
        let resources = Resources::discover(&self.client).await?;
        let resource = resources.by_name(&asked.kind)?;
        let name = escape(asked.name.as_deref().unwrap_or_default());
        let object = self.get(&resource.path(&self.namespace, &name)).await?;
        if resource.kind == "Pod" {
            return Ok(object);
        }
        let go = format!("*{}.{}", resource.version, resource.kind);
        let selector = pods::selector(&resource.kind, &go, &object);
        let selector = selector.map_err(|why| anyhow::anyhow!("cannot get the logs from {go}: {why}"))?;
        let label = resource.label(asked.name.as_deref().unwrap_or_default());
        let first = async {
            loop {
                let mut found = self.list(&selector).await?;
                if !found.is_empty() {
                    found.sort_by(pods::by_logging);
                    return anyhow::Ok(found);
                }
                if let Some(why) = pods::why_none(&resource.kind, &object) {
                    bail!("{label} has no pods: {why}");
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let found = tokio::time::timeout(FIRST_POD_TIMEOUT, first).await;
        let found = found.with_context(|| format!("{label} has no pods after {} s", FIRST_POD_TIMEOUT.as_secs()))??;
        if found.len() > 1 {
            eprintln!("Found {} pods, using pod/{}", found.len(), pods::name(&found[0]));
        }
        Ok(found[0].clone())
    }

    /// The logs of every pod that a selector finds.
    async fn selected(&self) -> anyhow::Result<()> {
        let found = self.list(&self.args.selector).await?;
        if found.is_empty() {
            eprintln!("No resources found in {} namespace.", self.namespace);
            return Ok(());
        }
        if self.args.follow && found.len() > MAX_FOLLOWED {
            bail!(
                "you are attempting to follow {} log streams, but maximum allowed concurrency is {MAX_FOLLOWED}; name one pod, or a narrower selector",
                found.len()
            );
        }
        let tail = self.args.tail.or(Some(SELECTED_TAIL));
        if !self.args.follow {
            for pod in &found {
                self.print(pod, tail).await?;
            }
            return Ok(());
        }
        let mut all: FuturesUnordered<_> = found.iter().map(|pod| self.print(pod, tail)).collect();
        while let Some(one) = all.next().await {
            one?;
        }
        Ok(())
    }

    /// The log of one pod, as it comes; whole lines, since several may be followed.
    async fn print(&self, pod: &Value, tail: Option<u64>) -> anyhow::Result<()> {
        let (container, told) = pods::container(pod, self.args.container.as_deref()).map_err(anyhow::Error::msg)?;
        if let Some(told) = told {
            eprintln!("{told}");
        }
        let path = format!("/api/v1/namespaces/{}/pods/{}/log", self.namespace, pods::name(pod));
        let mut url = format!("{path}?follow={}&container={}", self.args.follow, escape(&container));
        if self.args.previous {
            url.push_str("&previous=true");
        }
        if let Some(tail) = tail {
            url = format!("{url}&tailLines={tail}");
        }
        if let Some(since) = self.args.since {
            url = format!("{url}&sinceSeconds={}", since.as_secs());
        }
        if self.args.timestamps {
            url.push_str("&timestamps=true");
        }
        let body = super::stream(&self.client, &url, "*/*").await.map_err(explain);
        let mut body = body.map_err(|error| match pods::why_waiting(pod, &container) {
            Some(why) => anyhow::anyhow!("{error}\n{container}: {why}"),
            None => error,
        })?;
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| explain(super::transport(&error)))?;
            if let Ok(data) = frame.into_data() {
                rest.extend_from_slice(&data);
                // A line without an end is not held back for ever.
                let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                let ready = if rest.len() - whole > MAX_LINE { rest.len() } else { whole };
                out::print(&rest[..ready])?;
                rest.drain(..ready);
            }
        }
        out::print(&rest)
    }

    async fn list(&self, selector: &str) -> anyhow::Result<Vec<Value>> {
        let path = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let mut list = self.get(&format!("{path}?labelSelector={}", escape(selector))).await?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    async fn get(&self, url: &str) -> anyhow::Result<Value> {
        let answer = super::request(&self.client, Method::GET, url, None, "application/json").await;
        super::decode(&answer.map_err(explain)?.1)
    }
}

/// Bytes of a line without an end that are held back.
const MAX_LINE: usize = 64 << 10;
