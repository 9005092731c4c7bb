//! Follows the objects of one kind: a list, then a watch, again when it ends. Full objects are read, since the server has their bytes ready;
//! only their metadata are decoded. An object that cannot be decoded is told of and skipped: it must not hide the others of its kind.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use client::Client;
use http::Method;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Shared, graph::Meta};
use crate::discovery::Resource;

/// The longest event that is read.
const MAX_EVENT: usize = 16 << 20;

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMeta,
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
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
struct Event<'a> {
    #[serde(rename = "type")]
    type_: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The metadata of an object, unless they cannot be read.
fn decode(resource: &Resource, object: &RawValue) -> Option<Meta> {
    match serde_json::from_str::<Object>(object.get()) {
        Ok(object) => Some(object.metadata),
        Err(error) => {
            tracing::warn!(resource = resource.resource, %error, "an object cannot be read: it is not collected");
            None
        }
    }
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
    let body = shared.client.raw(Method::GET, &path, None).await?;
    let list: List = serde_json::from_slice(&body)?;
    let items: Vec<Meta> = list.items.iter().flatten().filter_map(|o| decode(resource, o)).collect();
    let there: HashSet<&str> = items.iter().map(|m| m.uid.as_str()).collect();
    let gone: Vec<String> = {
        let graph = shared.graph.lock();
        graph.of(resource).into_iter().filter(|uid| !there.contains(uid.as_str())).collect()
    };
    gone.iter().for_each(|uid| shared.removed(uid));
    let mut revision = list.metadata.resource_version;
    items.into_iter().for_each(|meta| shared.changed(resource, meta));
    drop(body);
    listed();
    loop {
        let url = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}");
        watch(&shared.client, &url, |event| {
            anyhow::ensure!(event.type_ != "ERROR", "the watch must begin anew");
            let Some(meta) = decode(resource, event.object) else { return Ok(()) };
            revision.clone_from(&meta.resource_version);
            match event.type_.as_str() {
                "BOOKMARK" => {}
                "DELETED" => shared.removed(&meta.uid),
                _ => shared.changed(resource, meta),
            }
            Ok(())
        })
        .await?;
    }
}

async fn watch(
    client: &Client,
    url: &str,
    mut each: impl FnMut(Event<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
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
