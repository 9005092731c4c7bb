//! Follows the objects of one kind: a list, then a watch, again when it ends. Full objects are read, since the server has their bytes ready;
//! only their metadata are decoded.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use client::Client;
use http::Method;
use http_body_util::BodyExt;
use serde::Deserialize;

use super::{Shared, graph::Meta};
use crate::discovery::Resource;

/// The longest event that is read.
const MAX_EVENT: usize = 16 << 20;

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Object>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    type_: String,
    object: Object,
}

/// Feeds the graph with one kind until dropped. `listed` is called after the first complete list.
pub(super) async fn follow(shared: Arc<Shared>, resource: Arc<Resource>, listed: impl Fn()) {
    let mut failures = 0u32;
    loop {
        match once(&shared, &resource, &listed).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                tracing::debug!(resource = resource.resource, error = format!("{error:#}"), failures, "watch ended");
            }
        }
        let delay = Duration::from_millis(50).saturating_mul(1 << failures.min(9));
        tokio::time::sleep(delay.min(Duration::from_secs(10))).await;
    }
}

async fn once(shared: &Shared, resource: &Arc<Resource>, listed: &impl Fn()) -> anyhow::Result<()> {
    let path = resource.path("", "");
    let list: List = serde_json::from_slice(&shared.client.raw(Method::GET, &path, None).await?)?;
    let there: HashSet<&str> = list.items.iter().map(|o| o.metadata.uid.as_str()).collect();
    let gone: Vec<String> = {
        let graph = shared.graph.lock();
        graph.of(resource).into_iter().filter(|uid| !there.contains(uid.as_str())).collect()
    };
    gone.iter().for_each(|uid| shared.removed(uid));
    let mut revision = list.metadata.resource_version;
    list.items.into_iter().for_each(|o| shared.changed(resource, o.metadata));
    listed();
    loop {
        let url = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}");
        watch(&shared.client, &url, |event| {
            let meta = event.object.metadata;
            match event.type_.as_str() {
                "ERROR" => anyhow::bail!("the watch must begin anew"),
                "BOOKMARK" => revision = meta.resource_version,
                "DELETED" => {
                    revision.clone_from(&meta.resource_version);
                    shared.removed(&meta.uid);
                }
                _ => {
                    revision.clone_from(&meta.resource_version);
                    shared.changed(resource, meta);
                }
            }
            Ok(())
        })
        .await?;
    }
}

async fn watch(client: &Client, url: &str, mut each: impl FnMut(Event) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut body = client.raw_stream(Method::GET, url).await?.into_body();
    let mut buffer = BytesMut::new();
    let mut searched = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| anyhow::anyhow!("the watch broke: {e}"))?;
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(at) = buffer[searched..].iter().position(|b| *b == b'\n') {
            let line = buffer.split_to(searched + at);
            buffer.advance(1);
            searched = 0;
            if !line.is_empty() {
                each(serde_json::from_slice(&line)?)?;
            }
        }
        searched = buffer.len();
        anyhow::ensure!(buffer.len() <= MAX_EVENT, "an event is longer than {MAX_EVENT} bytes");
    }
    Ok(())
}
