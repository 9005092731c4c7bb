//! Life-cycle hooks, and the stop of a container with a preStop hook.
//!
//! Follows <https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/>.

use crate::{
    check::{self, Access},
    command, pod,
    shared::Shared,
};
use client::EventType;
use container::{ContainerId, Runtime};
use k8s_openapi::api::core::v1::{Container, ExecAction, LifecycleHandler, Pod};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::time::Instant;

/// The shortest grace period after a preStop hook, as upstream's.
const MIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a hook. The error is upstream's text for the status and the agent's log. Events must not contain it, because it may contain
/// secrets.
pub(crate) async fn run(
    access: Access<'_>,
    pod: &Pod,
    container: &Container,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    let of = || format!("for Container {:?} in Pod {:?} failed - error:", container.name, pod::full_name(pod));
    if let Some(action) = &handler.exec {
        let command = action.command.as_deref().unwrap_or_default().join(" ");
        let describe = |text| format!("Exec lifecycle hook ([{command}]) {} {text}", of());
        return exec(access, action).await.map_err(describe);
    }
    if let Some(action) = &handler.http_get {
        let path = action.path.as_deref().unwrap_or("/");
        let describe = |text| format!("HTTP lifecycle hook ({path}) {} {text}", of());
        return check::http_hook(access, action, container).await.map_err(describe);
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    // The API accepts it for compatibility, and no kubelet runs it.
    Err("Cannot run handler: invalid handler: tcpSocket".into())
}

async fn exec(access: Access<'_>, action: &ExecAction) -> Result<(), String> {
    let command = action.command.clone().unwrap_or_default();
    let line = command.join(" ");
    match command::run(access.runtime, access.id, command).await {
        Ok(ended) if ended.code == 0 => Ok(()),
        Ok(command::CommandResult { code, output, errors }) => {
            Err(format!("command '{line}' exited with {code}: {errors}, message: {output:?}"))
        }
        Err(error) => Err(format!("{error}, message: \"\"")),
    }
}

/// Runs the postStart hook of an attempt. The error is that of [`run`].
pub(crate) async fn post_start(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    name: String,
    runtime: Arc<dyn Runtime>,
    id: ContainerId,
    address: IpAddr,
) -> Result<(), String> {
    let Some((container, _)) = pod::container(&pod, &name) else { return Ok(()) };
    let access = Access { dialer: shared.dialer.as_ref(), runtime: runtime.as_ref(), id: &id, address };
    match container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) {
        Some(handler) => run(access, &pod, &container, handler).await,
        None => Ok(()),
    }
}

/// The stop of a container.
pub(crate) struct Stop {
    pub(crate) shared: Arc<Shared>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: String,
    pub(crate) id: ContainerId,
    pub(crate) address: Option<IpAddr>,
    pub(crate) grace: Duration,
    /// The message of the event. No event is recorded if it is empty.
    pub(crate) message: String,
    /// A stop with a longer grace period is in progress, so that the preStop hook is not run again.
    pub(crate) again: bool,
    /// Whether HTTP clients are asked to disconnect, because other endpoints serve them.
    pub(crate) retire: bool,
}

impl Stop {
    /// Runs the preStop hook and stops the container, both within the grace period.
    pub(crate) async fn run(self) {
        if !self.message.is_empty() {
            self.shared.event(&self.pod, Some(&self.container), EventType::Normal, "Killing", &*self.message);
        }
        if self.retire {
            self.runtime.retire(&self.id);
        }
        let mut grace = self.grace;
        if !self.again
            && let Some(took) = self.pre_stop().await
        {
            grace = grace.saturating_sub(took).max(MIN_TIMEOUT.min(self.grace));
        }
        if let Err(error) = self.runtime.stop(&self.id, grace).await
            && !matches!(error, container::Error::NotFound(_))
        {
            let message = format!("error killing container: {error}");
            self.shared.event(&self.pod, Some(&self.container), EventType::Warning, "FailedKillPod", message);
        }
    }

    /// Runs the hook within the grace period. Returns how long it took, or `None` if there is no hook.
    async fn pre_stop(&self) -> Option<Duration> {
        let (container, _) = pod::container(&self.pod, &self.container)?;
        let handler = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
        let address = self.address?;
        let begin = Instant::now();
        let access =
            Access { dialer: self.shared.dialer.as_ref(), runtime: self.runtime.as_ref(), id: &self.id, address };
        match tokio::time::timeout(self.grace, run(access, &self.pod, &container, handler)).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(text)) => {
                let (pod, name) = (pod::full_name(&self.pod), &self.container);
                tracing::warn!(pod, container = name, text, "PreStop hook failed");
                self.shared.event(&self.pod, Some(name), EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
        }
        Some(begin.elapsed())
    }
}
