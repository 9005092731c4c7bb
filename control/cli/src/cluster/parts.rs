//! The parts that a cluster cannot be without: one that ends, ends the process with a reason, so that whoever supervises it can act.
//!
//! Essential are: the store's writer, the API server and its own objects, the informers, the controllers, the scheduler, the pod
//! network, the node agent and its loops. Not essential are what is made anew or only tells: event recorders, one pod's worker, one
//! node port's listener, one connection, warming the Wasm engine.

use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Starts parts that must not end before they are told to.
pub(super) struct Spawner<'a> {
    pub(super) tasks: &'a TaskTracker,
    /// Why the first part ended.
    pub(super) failed: &'a watch::Sender<Option<String>>,
}

impl Spawner<'_> {
    /// Starts a part. If it ends, whether it says why, says nothing, or panics, the cluster has failed.
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
}

fn text(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reason(part: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> String {
        let (tasks, (failed, mut failure)) = (TaskTracker::new(), watch::channel(None));
        Spawner { tasks: &tasks, failed: &failed }.essential("scheduler", part);
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
        let (tasks, (failed, failure)) = (TaskTracker::new(), watch::channel(None));
        let spawn = Spawner { tasks: &tasks, failed: &failed };
        spawn.essential("node agent", async { anyhow::bail!("first") });
        tasks.close();
        tasks.wait().await;
        spawn.essential_silent("scheduler", async {});
        tasks.wait().await;
        assert_eq!(failure.borrow().as_deref(), Some("the node agent ended: first"));
    }
}
