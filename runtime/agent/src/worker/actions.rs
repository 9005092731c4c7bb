//! Turns planned actions into futures.

use super::{Outcome, Starting, Worker};
use crate::{
    backoff::Backoff,
    kernel::Namespace,
    plan::{Action, Operation, Setup, Waiting},
    pod, setup,
    start::Start,
    state::Failure,
    volumes,
};
use client::EventType;
use jiff::Timestamp;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

impl Worker {
    /// Starts an action. Returns true if the state changed at once, so that the plan must be computed again.
    pub(super) async fn execute(&mut self, action: Action, now: Timestamp) -> bool {
        match action {
            Action::SetUp => return self.set_up().await,
            Action::Start(container) => return self.start(container, now),
            Action::Cancel(container) => {
                if let Some(starting) = self.containers.get(&container).and_then(|own| own.starting.as_ref()) {
                    starting.token.cancel();
                }
            }
            Action::BackOff { container, until, delay } => self.back_off(&container, until, delay),
            Action::Stop { container, grace, message } => return self.begin_stop(&container, grace, message),
            Action::Resize(container) => self.resize(&container),
            Action::Fail { reason, message } => {
                self.shared.event(&self.pod, None, EventType::Normal, reason, message);
                let (reason, message) = (reason.to_owned(), message.to_owned());
                self.state.failure = Some(Failure { reason, message, rejected: false, pressure: false });
                return true;
            }
            // A sync in progress would recreate the removed folders. Its end triggers the next plan.
            Action::TearDown if self.volumes_syncing => {}
            Action::TearDown => {
                self.live.setup = Setup::TearingDown;
                let (shared, pod, made) = (self.shared.clone(), self.pod.clone(), self.state.volumes.clone());
                self.ops.push(Box::pin(async move {
                    shared.cluster.referenced.remove(pod::uid(&pod), &pod);
                    Outcome::TornDown(setup::tear_down(&shared, pod::uid(&pod), &made).await)
                }));
            }
            Action::Finish => {
                if !self.final_report_sent && !self.live.gone {
                    self.report_as(true, true);
                }
                self.final_report_sent = true;
            }
        }
        false
    }

    async fn set_up(&mut self) -> bool {
        self.live.setup = Setup::InProgress;
        self.state.volumes = volumes::record(&self.shared.plugins, &self.pod);
        let recorded = self.save().await || self.state.volumes.is_empty();
        let (shared, pod, address) = (self.shared.clone(), self.pod.clone(), self.state.address);
        if !recorded {
            let message = "MountVolume.SetUp failed: the node cannot record which volumes it makes";
            shared.event(&pod, None, EventType::Warning, "FailedMount", message);
            Box::pin(self.on_outcome(Outcome::SetUp(Err(message.into())))).await;
            return true;
        }
        let kernel = self.state.kernel;
        // of a pod that was attached without, and needs it
        let again = kernel && self.namespace == Namespace::NotNeeded && self.attachment.take().is_some();
        self.ops.push(Box::pin(async move {
            Outcome::SetUp(match again {
                true => setup::set_up_again(&shared, &pod).await,
                false => setup::set_up(&shared, &pod, address, kernel).await,
            })
        }));
        false
    }

    fn back_off(&mut self, container: &str, until: Timestamp, delay: Duration) {
        let pod = pod::full_name(&self.pod);
        let delay = crate::backoff::go_duration(delay);
        let message = format!("back-off {delay} restarting failed container={container} pod={pod}");
        let waiting = Waiting { reason: "CrashLoopBackOff".into(), message, until: Some(until) };
        if self.live(container).waiting.replace(waiting.clone()).as_ref() != Some(&waiting) {
            let message = format!("Back-off restarting failed container {container} in pod {pod}");
            self.shared.event(&self.pod, Some(container), EventType::Warning, "BackOff", message);
        }
    }

    fn start(&mut self, container: String, now: Timestamp) -> bool {
        let Some((spec, _)) = pod::container(&self.pod, &container) else { return false };
        let failed = pod::images(&self.pod, &spec).find_map(|(image, _)| {
            let pull = self.pulls.get(image)?;
            Some((image, pull, Backoff::since_update(Some(pull.backoff), now)?))
        });
        if let Some((image, pull, until)) = failed {
            let text = format!("Back-off pulling image {image:?}");
            let message = format!("{text}: {}", pull.error);
            self.shared.event(&self.pod, Some(&container), EventType::Normal, "BackOff", text);
            self.shared.event(&self.pod, Some(&container), EventType::Warning, "Failed", "Error: ImagePullBackOff");
            let waiting = Waiting { reason: "ImagePullBackOff".into(), message, until: Some(until) };
            self.live(&container).waiting = Some(waiting);
            return true;
        }
        let Some(attachment) = self.attachment.clone() else { return false };
        let start = Start {
            shared: self.shared.clone(),
            handle: self.handle.clone(),
            pod: self.pod.clone(),
            container: container.clone(),
            id: self.shared.new_id(),
            log: self.next_log(&container),
            addresses: self.addresses.clone(),
            attachment,
            namespace: self.namespace,
            volumes: self.volumes.clone(),
            token: CancellationToken::new(),
        };
        let starting = Starting { id: start.id.clone(), token: start.token.clone(), early: Vec::new() };
        self.context(&container).starting = Some(starting);
        let live = self.live(&container);
        live.operation = Operation::Starting;
        if let Some(waiting) = &mut live.waiting {
            waiting.until = None;
        }
        self.ops.push(Box::pin(async move {
            let result = Box::new(start.run().await);
            Outcome::Start { container, result }
        }));
        false
    }

    fn begin_stop(&mut self, container: &str, grace: Duration, message: String) -> bool {
        let Some(attempt) = self.running(container) else { return false };
        let id = attempt.id.clone();
        let Some(runtime) = self.shared.runtimes.get(&attempt.runtime).cloned() else {
            self.on_lost(&id);
            return true;
        };
        let again = self.live.containers.get(container).is_some_and(|l| matches!(l.operation, Operation::Stopping(_)));
        let message = if again { String::new() } else { message };
        let stop = self.stop_request(container, attempt, runtime, grace, message, again);
        self.context(container).hook.cancel();
        self.live(container).operation = Operation::Stopping(grace);
        let container = container.to_owned();
        self.ops.push(Box::pin(async move {
            stop.run().await;
            Outcome::Stopped { container, id }
        }));
        false
    }
}
