//! Keeps the cache of an informer up to date: lists, watches, resumes the watch where it ended, and lists again when the revision has expired.

use crate::{Client, Error, Result, Target};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// A watch that lasts less counts as a failure, because a new one would probably end in the same way.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// The cache that a reflector updates (client-go's `ReflectorStore`). It decodes bodies itself, so that the reflector is not generic and is
/// compiled once.
pub(crate) trait ReflectorStore: Send + Sync {
    /// The `Accept` headers of a watch and of a list.
    fn accept(&self) -> (&'static str, &'static str);
    /// Applies the body of a complete list.
    fn list(&self, body: &[u8]) -> Result<()>;
    /// Applies a line of a watch.
    fn event(&self, line: &[u8]) -> Result<()>;
    /// Records why there is no list or watch at the moment.
    fn last_error(&self, why: Option<String>);
    /// The revision up to which everything has been applied.
    fn revision(&self) -> u64;
}

/// The list-and-watch loop of one informer. It does not keep the informer alive.
pub(crate) struct Reflector {
    pub(crate) cache: Weak<dyn ReflectorStore>,
    pub(crate) client: Client,
    pub(crate) target: Arc<Target>,
}

impl Reflector {
    /// Runs until dropped, or until the informer is no longer in use.
    pub(crate) async fn run(self) {
        let mut failures = 0u32;
        let mut at: Option<String> = None;
        while self.cache.strong_count() > 0 {
            let began = Instant::now();
            // A watch that ends as soon as it begins (the store is closed, say) is a failure too.
            let followed = match self.follow(&mut at).await {
                Ok(()) if began.elapsed() < SHORT_WATCH => Err(Error::Transport("the watch ended at once".into())),
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
                cache.last_error(Some(error.to_string()));
            }
            let delay = Duration::from_millis(50).saturating_mul(1 << failures.min(9)).min(Duration::from_secs(10));
            tokio::time::sleep(delay).await;
        }
    }

    async fn follow(&self, at: &mut Option<String>) -> Result<()> {
        let Some((watched, listed)) = self.cache.upgrade().map(|cache| cache.accept()) else { return Ok(()) };
        // Requests are boxed, so that their state takes no memory in thousands of idle watches.
        let from = match at.take() {
            Some(revision) => revision,
            None => {
                let body = Box::pin(self.client.list_body(&self.target, listed)).await?;
                let Some(cache) = self.cache.upgrade() else { return Ok(()) };
                cache.list(&body)?;
                cache.revision().to_string()
            }
        };
        *at = Some(from.clone());
        let mut lines = Box::pin(self.client.watch_lines(&self.target, watched, from)).await?;
        if let Some(cache) = self.cache.upgrade() {
            cache.last_error(None);
        }
        while let Some(line) = lines.next().await? {
            let Some(cache) = self.cache.upgrade() else { return Ok(()) };
            cache.event(&line)?;
            *at = Some(cache.revision().to_string());
        }
        Ok(())
    }
}
