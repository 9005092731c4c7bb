//! Life-cycle hooks, and stopping a container with one.
//!
//! Follows <https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/>.

use crate::{
    check::{self, Outcome},
    pod,
    shared::Shared,
};
use client::EventType;
use container::{Runtime, net::Dialer};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Time for the answer to an HTTP hook, beyond which it counts as failed.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);
/// What a container gets after its hook at least, as upstream.
const MIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a hook. The error is for the user.
pub(crate) async fn run(
    dialer: &dyn Dialer,
    handler: &LifecycleHandler,
    c: &Container,
    address: IpAddr,
) -> Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(action) = &handler.http_get {
        return match check::http_get(dialer, action, c, address, HTTP_TIMEOUT).await {
            Outcome::Passed | Outcome::Warned(_) => Ok(()),
            Outcome::Failed(text) | Outcome::Unsupported(text) => Err(text),
        };
    }
    if handler.exec.is_some() {
        return Err("exec hooks are not supported by this node yet: use httpGet or sleep".into());
    }
    Err("this node supports hooks of the kinds httpGet and sleep".into())
}

/// A container to stop.
pub(crate) struct Stop {
    pub(crate) shared: Arc<Shared>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: String,
    pub(crate) id: String,
    pub(crate) address: Option<IpAddr>,
    pub(crate) grace: Duration,
    /// The text of the event; none is recorded when empty.
    pub(crate) message: String,
    /// A stop with a longer grace period is under way: the hook has its chance already.
    pub(crate) again: bool,
    /// Whether clients have somewhere else to go, and are asked to.
    pub(crate) retire: bool,
}

impl Stop {
    /// preStop, then stop; all of it within the grace period.
    pub(crate) async fn run(self) {
        if !self.message.is_empty() {
            self.shared.event(&self.pod, Some(&self.container), EventType::Normal, "Killing", &*self.message);
        }
        let id: Arc<str> = self.id.as_str().into();
        if self.retire {
            self.runtime.retire(&id);
        }
        let begin = Instant::now();
        let hook = pod::container(&self.pod, &self.container)
            .and_then(|(c, _)| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
        let mut grace = self.grace;
        if let (Some((container, handler)), Some(address), false) = (hook, self.address, self.again) {
            let run = run(self.shared.dialer.as_ref(), handler, container, address);
            match tokio::time::timeout(grace, run).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(text)) => {
                    tracing::warn!(
                        pod = pod::full_name(&self.pod),
                        container = self.container,
                        text,
                        "preStop hook failed"
                    );
                    let message = format!("PreStopHook failed: {text}");
                    self.shared.event(
                        &self.pod,
                        Some(&self.container),
                        EventType::Warning,
                        "FailedPreStopHook",
                        message,
                    );
                }
            }
            grace = grace.saturating_sub(begin.elapsed()).max(MIN_TIMEOUT.min(self.grace));
        }
        if let Err(error) = self.runtime.stop(&id, grace).await
            && !matches!(error, container::Error::NotFound(_))
        {
            let message = format!("error killing container: {error}");
            self.shared.event(&self.pod, Some(&self.container), EventType::Warning, "FailedKillPod", message);
        }
    }
}
