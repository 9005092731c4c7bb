//! The essential parts of a cluster: if one ends, the process ends with a reason, so that a supervisor can react.
//!
//! Essential are the store's writer, the API server and its own objects, the informers, the controllers, the scheduler, the pod network,
//! and the node agent with its loops. Not essential are parts that are restarted or only report: event recorders, a pod's worker, a node
//! port's listener, a connection, warming up the Wasm engine.

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
    /// The registry of metrics.
    pub(super) metrics: Arc<Mutex<Registry>>,
}

/// Parts that stop together. Clones are the same group.
#[derive(Clone)]
pub(super) struct Group {
    /// Stops them.
    pub(super) token: CancellationToken,
    /// Tracks whether they have ended.
    pub(super) tasks: TaskTracker,
    /// Why the first essential part of the cluster ended.
    failed: watch::Sender<Option<String>>,
}

impl Group {
    /// An empty group. The groups of a cluster share `failure`.
    pub(super) fn new(failed: watch::Sender<Option<String>>) -> Self {
        Self { token: CancellationToken::new(), tasks: TaskTracker::new(), failed }
    }

    /// Spawns a part that stops with the group, and may end earlier.
    pub(super) fn spawn(&self, part: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tasks.spawn(async move {
            tokio::select! { () = token.cancelled() => {}, () = part => {} }
        });
    }

    /// Spawns an essential part, which watches the token itself. If it ends, with or without an error or by a panic, the cluster has
    /// failed. A failure while the cluster stops is ignored.
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

    /// Like [`Group::essential`], for a part without a result.
    pub(super) fn essential_silent(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.essential(name, part.map(Ok));
    }

    /// Stops the parts and waits for them, at most for `timeout`. Returns whether all have ended.
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
