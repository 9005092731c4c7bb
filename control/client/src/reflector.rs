//! Feeds an informer: lists, watches, resumes the watch where it ended, and lists again when the server has forgotten the revision.

use crate::{Cached, Client, Error, List, Result, Target, informer::Cache};
use futures::StreamExt;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// A watch that lasts less ended for a reason that a new one would meet as well.
const SHORT: Duration = Duration::from_secs(1);

/// The feeder of one informer. It does not keep the informer: the informer's holders do.
pub(crate) struct Reflector<K: Cached> {
    pub(crate) cache: Weak<Cache<K>>,
    pub(crate) client: Client,
    pub(crate) target: Arc<Target>,
}

impl<K: Cached> Reflector<K> {
    /// Runs until dropped, or until nobody holds the informer.
    pub(crate) async fn run(self) {
        let mut failures = 0u32;
        let mut at: Option<String> = None;
        while self.cache.strong_count() > 0 {
            let began = Instant::now();
            // A watch that ends as soon as it begins, as those of a store that is closed do, is a failure too.
            let followed = match self.follow(&mut at).await {
                Ok(()) if began.elapsed() < SHORT => Err(Error::Transport("the watch ended at once".into())),
                followed => followed,
            };
            let Err(error) = followed else {
                failures = 0;
                continue;
            };
            if error.is_expired() {
                at = None;
            }
            failures += 1;
            tracing::debug!(kind = self.target.kind(), %error, failures, "watch ended");
            if let Some(cache) = self.cache.upgrade() {
                cache.trouble(Some(error.to_string()));
            }
            let delay = Duration::from_millis(50).saturating_mul(1 << failures.min(9)).min(Duration::from_secs(10));
            tokio::time::sleep(delay).await;
        }
    }

    async fn follow(&self, at: &mut Option<String>) -> Result<()> {
        // Requests are boxed: a watch that waits, and there are thousands, does not pay for their state.
        let from = match at.take() {
            Some(revision) => revision,
            None => {
                let list: List<K> = Box::pin(self.client.list_target(&self.target)).await?;
                let revision = list.resource_version.parse().map_err(|_| {
                    Error::Decode(format!("resourceVersion {:?} of a list is not a number", list.resource_version))
                })?;
                let Some(cache) = self.cache.upgrade() else { return Ok(()) };
                cache.replace(list.items, &list.undecodable, revision);
                list.resource_version
            }
        };
        *at = Some(from.clone());
        let mut events = Box::pin(Box::pin(self.client.watch_target::<K>(&self.target, from)).await?);
        if let Some(cache) = self.cache.upgrade() {
            cache.trouble(None);
        }
        while let Some(event) = events.next().await {
            let Some(cache) = self.cache.upgrade() else { return Ok(()) };
            cache.apply(event?);
            *at = Some(cache.revision().to_string());
        }
        Ok(())
    }
}
