//! Feeds an informer: lists, watches, resumes the watch where it ended, and lists again when the server has forgotten the revision.

use crate::{Client, Error, Result, Target};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// A watch that lasts less ended for a reason that a new one would meet as well.
const SHORT: Duration = Duration::from_secs(1);

/// The cache that a reflector feeds. Each decodes for itself: the machine that feeds them is compiled once, not once a kind.
pub(crate) trait Fed: Send + Sync {
    /// The media type to ask for, of a watch and of a list.
    fn accept(&self) -> (&'static str, &'static str);
    /// Takes the body of a complete list.
    fn list(&self, body: &[u8]) -> Result<()>;
    /// Takes a line of a watch.
    fn event(&self, line: &[u8]) -> Result<()>;
    /// Takes why there is no list or watch at the moment.
    fn trouble(&self, why: Option<String>);
    /// The revision up to which everything was taken.
    fn revision(&self) -> u64;
}

/// The feeder of one informer. It does not keep the informer: the informer's holders do.
pub(crate) struct Reflector {
    pub(crate) cache: Weak<dyn Fed>,
    pub(crate) client: Client,
    pub(crate) target: Arc<Target>,
}

impl Reflector {
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
        let Some((watched, listed)) = self.cache.upgrade().map(|cache| cache.accept()) else { return Ok(()) };
        // Requests are boxed: a watch that waits, and there are thousands, does not pay for their state.
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
            cache.trouble(None);
        }
        while let Some(line) = lines.next().await? {
            let Some(cache) = self.cache.upgrade() else { return Ok(()) };
            cache.event(&line)?;
            *at = Some(cache.revision().to_string());
        }
        Ok(())
    }
}
