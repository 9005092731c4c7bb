//! `sampan logs`: shows what containers print.

use super::{
    connect, explain,
    finder::{Finder, Found},
    get::escape,
    pods,
};
use crate::{args::LogsArgs, exit::usage, out};
use anyhow::bail;
use futures::stream::{FuturesUnordered, StreamExt};
use http_body_util::BodyExt;
use serde_json::Value;

/// The maximum number of followed logs, as kubectl's --max-log-requests.
const MAX_FOLLOWED: usize = 5;
/// The number of lines per pod with a selector, as kubectl's.
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
        _ => Logs { args, finder: Finder::new(connect(&args.target).await?) },
    };
    match &args.pod {
        Some(pod) => logs.print(&logs.pod(pod).await?, args.tail).await,
        None => logs.selected().await,
    }
}

/// One run of the command.
struct Logs<'a> {
    args: &'a LogsArgs,
    finder: Finder,
}

impl Logs<'_> {
    /// The pod of `NAME` or `TYPE/NAME`.
    async fn pod(&self, what: &str) -> anyhow::Result<Value> {
        let Found { mut pods, .. } = self.finder.find(what, "get the logs from").await?;
        if pods.len() > 1 {
            eprintln!("Found {} pods, using pod/{}", pods.len(), pods::name(&pods[0]));
        }
        Ok(pods.swap_remove(0))
    }

    /// Prints the logs of all pods of a selector.
    async fn selected(&self) -> anyhow::Result<()> {
        let found = self.finder.list(&self.args.selector).await?;
        if found.is_empty() {
            eprintln!("No resources found in {} namespace.", self.finder.namespace);
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

    /// Prints the log of a pod as it arrives. Prints whole lines, because several logs may be followed.
    async fn print(&self, pod: &Value, tail: Option<u64>) -> anyhow::Result<()> {
        let (container, told) = pods::container(pod, self.args.container.as_deref()).map_err(anyhow::Error::msg)?;
        if let Some(told) = told {
            eprintln!("{told}");
        }
        let path = format!("/api/v1/namespaces/{}/pods/{}/log", self.finder.namespace, pods::name(pod));
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
        let body = super::stream(&self.finder.client, &url, "*/*").await.map_err(explain);
        let mut body = body.map_err(|error| match pods::why_waiting(pod, &container) {
            Some(why) => anyhow::anyhow!("{error}\n{container}: {why}"),
            None => error,
        })?;
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| explain(super::transport(&error)))?;
            if let Ok(data) = frame.into_data() {
                rest.extend_from_slice(&data);
                // A very long line is not held back until its end.
                let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                let ready = if rest.len() - whole > MAX_LINE { rest.len() } else { whole };
                out::print(&rest[..ready])?;
                rest.drain(..ready);
            }
        }
        out::print(&rest)
    }
}

/// The maximum number of bytes of an incomplete line that are held back.
const MAX_LINE: usize = 64 << 10;
