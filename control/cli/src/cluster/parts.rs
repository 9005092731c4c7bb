//! The parts that a cluster cannot be without: one that ends, ends the process with a reason, so that whoever supervises it can act.
//!
//! Essential are: the store's writer, the API server and its own objects, the informers, the controllers, the scheduler, the pod
//! network, the node agent and its loops. Not essential are what is made anew or only tells: event recorders, one pod's worker, one
//! node port's listener, one connection, warming the Wasm engine.

use api::Clock;
use futures::FutureExt;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What all parts of this process share.
pub(super) struct Process {
    /// The wall clock.
    pub(super) clock: Clock,
    /// Where each part registers what it measures.
    pub(super) metrics: Arc<Mutex<Registry>>,
}

/// Parts that end together. A clone is the same group.
#[derive(Clone)]
pub(super) struct Group {
    /// Ends them.
    pub(super) token: CancellationToken,
    /// Tells when they have ended.
    pub(super) tasks: TaskTracker,
    /// Why the first essential part of the cluster ended.
    failed: watch::Sender<Option<String>>,
}

impl Group {
    /// No part yet. Groups of one cluster share where failures are told.
    pub(super) fn new(failed: watch::Sender<Option<String>>) -> Self {
        Self { token: CancellationToken::new(), tasks: TaskTracker::new(), failed }
    }

    /// Starts a part that ends when the group does, or earlier by itself.
    pub(super) fn spawn(&self, part: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tasks.spawn(async move {
            tokio::select! { () = token.cancelled() => {}, () = part => {} }
        });
    }

    /// Starts a part that sees to its own end. If it ends, whether it says why, says nothing, or panics, the cluster has failed; what happens
    /// after the cluster was told to end is looked at by nobody.
    pub(super) fn essential(
        &self,
        name: &'static str,
        part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let failed = self.failed.clone();
        self.tasks.spawn(async move {
            let why = match AssertUnwindSafe(part).catch_unwind().await {
                Ok(Ok(())) => format!("the {name} ended"),
                Ok(Err(error)) => format!("the {name} ended: {}", crate::exit::causes(error.chain())),
                Err(panic) => format!("the {name} panicked: {}", text(&*panic)),
            };
            failed.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(why);
                is_first
            });
        });
    }

    /// The same for a part that has nothing to say when it ends.
    pub(super) fn essential_silent(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.essential(name, part.map(Ok));
    }

    /// Ends the parts, and waits for them at most so long. Whether all have ended.
    pub(super) async fn end(&self, patience: Duration) -> bool {
        self.tasks.close();
        self.token.cancel();
        tokio::time::timeout(patience, self.tasks.wait()).await.is_ok()
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reason(part: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> String {
        let (failed, mut failure) = watch::channel(None);
        Group::new(failed).essential("scheduler", part);
        failure.wait_for(Option::is_some).await.expect("it is told").clone().expect("some")
    }

    #[tokio::test]
    async fn a_part_that_ends_in_any_way_is_named_with_its_reason() {
        assert_eq!(reason(async { Ok(()) }).await, "the scheduler ended");
        let error = anyhow::anyhow!("no space").context("cannot read the notes");
        assert_eq!(reason(async { Err(error) }).await, "the scheduler ended: cannot read the notes: no space");
        assert_eq!(reason(async { panic!("odd {}", 7) }).await, "the scheduler panicked: odd 7");
    }

    #[tokio::test]
    async fn the_first_reason_stays() {
        let (failed, failure) = watch::channel(None);
        let group = Group::new(failed);
        group.essential("node agent", async { anyhow::bail!("first") });
        group.tasks.close();
        group.tasks.wait().await;
        group.essential_silent("scheduler", async {});
        group.tasks.wait().await;
        assert_eq!(failure.borrow().as_deref(), Some("the node agent ended: first"));
    }
}
