//! What follows when a pod is assumed on a node: reserve and permit at once, then in the binding cycle the wait for permit, preBind and bind.
//! After a failure of any of them the caller unreserves.

use crate::{
    handle::{Cycle, Handle},
    inbox::Rejection,
    plugin::{Permit, Plugins, catch},
    status::Failure,
};
use futures::FutureExt;
use std::{collections::BTreeMap, future::Future, panic::AssertUnwindSafe, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// One of the slots for binding cycles in flight. A pod that waits for permit gives its slot back, so that the pods it waits for can be bound.
pub(crate) struct Slot {
    all: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Slot {
    /// Waits for a slot.
    pub(crate) async fn new(all: &Arc<Semaphore>) -> Self {
        let mut slot = Self { all: all.clone(), held: None };
        slot.take().await;
        slot
    }

    /// Waits for a slot, unless it is held already.
    pub(crate) async fn take(&mut self) {
        if self.held.is_none() {
            self.held = Some(self.all.clone().acquire_owned().await.expect("the semaphore is never closed"));
        }
    }

    fn release(&mut self) {
        self.held = None;
    }
}

/// Runs reserve and permit. The pod waits ([`crate::WaitingPods`]) if a plugin wants it to.
pub(crate) fn reserve(plugins: &Plugins, handle: &Handle, cycle: &mut Cycle) -> Result<(), Rejection> {
    for plugin in plugins.iter() {
        let work = || plugin.reserve(&mut cycle.state, &cycle.pod, &cycle.node);
        let result = catch(work).unwrap_or_else(|| Err(panicked()));
        result.map_err(|failure| rejection("Reserve", plugin.name(), failure))?;
    }
    let mut waits = BTreeMap::new();
    for plugin in plugins.iter() {
        let failure = match catch(|| plugin.permit(handle, cycle)) {
            Some(Permit::Allow) => continue,
            Some(Permit::Wait(wait)) => {
                waits.insert(plugin.name(), wait);
                continue;
            }
            Some(Permit::Reject(why)) => Failure::Unschedulable(why),
            None => panicked(),
        };
        return Err(rejection("Permit", plugin.name(), failure));
    }
    if !waits.is_empty() {
        handle.waiting_pods.add(cycle.pod.uid(), waits);
    }
    Ok(())
}

/// Runs the binding cycle up to bind. It holds `slot` when it returns, also after a failure.
pub(crate) async fn bind(
    plugins: &Plugins,
    handle: &Handle,
    cycle: &Cycle,
    slot: &mut Slot,
    stop: &CancellationToken,
) -> Result<(), Rejection> {
    let ready = before_bind(plugins, handle, cycle, slot, stop).await;
    slot.take().await;
    ready?;
    for plugin in plugins.iter() {
        let work = async {
            match plugin.bind(handle, cycle) {
                Some(task) => task.await.map(|()| true),
                None => Ok(false),
            }
        };
        if guarded(work).await.map_err(|failure| rejection("Bind", plugin.name(), failure))? {
            return Ok(());
        }
    }
    Err(Rejection { plugin: "", failure: Failure::Error("no plugin binds the pod".to_owned()) })
}

async fn before_bind(
    plugins: &Plugins,
    handle: &Handle,
    cycle: &Cycle,
    slot: &mut Slot,
    stop: &CancellationToken,
) -> Result<(), Rejection> {
    if handle.waiting_pods.contains(cycle.pod.uid()) {
        slot.release();
        let wait = async {
            let result = handle.waiting_pods.wait(cycle.pod.uid()).await;
            result.map_err(|(plugin, failure)| Rejection { plugin, failure })
        };
        unless_stopped(stop, wait).await?;
    }
    for plugin in plugins.iter() {
        let work = guarded(async {
            let Some(task) = plugin.pre_bind(handle, cycle) else { return Ok(()) };
            slot.release();
            task.await
        });
        let work = async { work.await.map_err(|failure| rejection("PreBind", plugin.name(), failure)) };
        unless_stopped(stop, work).await?;
    }
    Ok(())
}

/// Runs unreserve of all plugins, in the reverse order.
pub(crate) fn unreserve(plugins: &Plugins, handle: &Handle, cycle: &Cycle) {
    for plugin in plugins.iter().rev() {
        if catch(|| plugin.unreserve(handle, cycle)).is_none() {
            tracing::error!(plugin = plugin.name(), "unreserve panicked");
        }
    }
}

/// Runs postBind of all plugins.
pub(crate) fn post_bind(plugins: &Plugins, handle: &Handle, cycle: &Cycle) {
    for plugin in plugins.iter() {
        if catch(|| plugin.post_bind(handle, cycle)).is_none() {
            tracing::error!(plugin = plugin.name(), "postBind panicked");
        }
    }
}

fn panicked() -> Failure {
    Failure::Error("the plugin panicked".to_owned())
}

/// Runs a task of a plugin; a panic becomes a failure.
pub(crate) async fn guarded<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(panicked()))
}

async fn unless_stopped(
    stop: &CancellationToken,
    work: impl Future<Output = Result<(), Rejection>>,
) -> Result<(), Rejection> {
    tokio::select! {
        () = stop.cancelled() => Err(Rejection { plugin: "", failure: Failure::Canceled }),
        result = work => result,
    }
}

/// The rejection for a failure; its message names the extension point and the plugin, as upstream's.
fn rejection(point: &str, plugin: &'static str, failure: Failure) -> Rejection {
    let failure = match failure {
        Failure::Error(error) => Failure::Error(format!("running {point} plugin \"{plugin}\": {error}")),
        other => other,
    };
    Rejection { plugin, failure }
}
