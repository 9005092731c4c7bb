//! Follows the objects of one kind: a list, then a watch, again when it ends. Full objects are read, since the server has their bytes ready;
//! only their metadata are decoded.

use std::{borrow::Cow, collections::HashSet, sync::Arc, time::Duration};

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
    items: Vec<&'a RawValue>,
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

/// What is read of an object whose metadata cannot be.
#[derive(Deserialize)]
struct Bare {
    metadata: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    uid: String,
    resource_version: String,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    type_: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The metadata of an object, or who it is: nothing is concluded from an object that cannot be read, and it stops nothing.
fn read(resource: &Resource, object: &RawValue) -> Result<Meta, Option<Identity>> {
    serde_json::from_str::<Object>(object.get()).map(|object| object.metadata).map_err(|error| {
        tracing::warn!(resource = resource.resource, %error, "the metadata of an object cannot be read");
        serde_json::from_str::<Bare>(object.get()).ok().map(|bare| bare.metadata)
    })
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
    let list: List<'_> = serde_json::from_slice(&body)?;
    let (mut there, mut found) = (HashSet::new(), Vec::with_capacity(list.items.len()));
    for object in list.items {
        match read(resource, object) {
            Ok(meta) => {
                there.insert(meta.uid.clone());
                found.push(meta);
            }
            Err(known) => there.extend(known.map(|known| known.uid)),
        }
    }
    let gone: Vec<String> = {
        let graph = shared.graph.lock();
        graph.of(resource).into_iter().filter(|uid| !there.contains(uid)).collect()
    };
    gone.iter().for_each(|uid| shared.removed(uid));
    let mut revision = list.metadata.resource_version;
    found.into_iter().for_each(|meta| shared.changed(resource, meta));
    listed();
    loop {
        let url = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}");
        watch(&shared.client, &url, |event| {
            if event.type_ == "ERROR" {
                anyhow::bail!("the watch must begin anew");
            }
            let meta = match read(resource, event.object) {
                Ok(meta) => meta,
                Err(known) => {
                    if let Some(known) = known {
                        revision = known.resource_version;
                        if event.type_ == "DELETED" {
                            shared.removed(&known.uid);
                        }
                    }
                    return Ok(());
                }
            };
            match &*event.type_ {
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
