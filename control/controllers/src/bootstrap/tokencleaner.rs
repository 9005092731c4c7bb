//! Deletes bootstrap tokens when their time has come.

use super::{secrets, time_left};
use crate::{Context, meta};
use api::Clock;
use client::{Client, Controller, DeleteOptions, Informer, Key, Next, Wakeups};
use k8s_openapi::api::core::v1::Secret;

/// Deletes tokens. Upstream's `token-cleaner-controller`.
pub(crate) struct TokenCleanerController {
    client: Client,
    clock: Clock,
    secrets: Informer<Secret>,
}

impl TokenCleanerController {
    /// Over an informer of its own, which watches only tokens.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { client: cx.client.clone(), clock: cx.options.clock.clone(), secrets: secrets(&cx.informers) }
    }
}

#[async_trait::async_trait]
impl Controller for TokenCleanerController {
    const NAME: &'static str = "token-cleaner-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.secrets);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(secret) = self.secrets.find(key) else { return Ok(Next::Done) };
        let Some(left) = time_left(&secret, self.clock.now()) else { return Ok(Next::Done) };
        if left.is_positive() {
            return Ok(Next::After(meta::non_negative(left)));
        }
        let options = DeleteOptions::uid(meta::uid(&secret.metadata));
        match self.client.delete::<Secret>(&key.namespace, &key.name, &options).await {
            Err(error) if !error.is_conflict() => Err(error.into()),
            _ => Ok(Next::Done),
        }
    }
}
