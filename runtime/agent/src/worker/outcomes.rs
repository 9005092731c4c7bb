//! Handles the outcomes of the worker's actions and the runtime's events.

use super::{FailedPull, Outcome, Worker};
use crate::{
    backoff::Backoff,
    hook,
    images::Policy,
    kernel::Namespace,
    plan::{LiveContainer, Operation, Setup, Waiting},
    pod::{self, Role},
    prober::Target,
    setup,
    start::{Retry, StartError, Started},
    state::{Attempt, AttemptState, LOST_CODE, LOST_MESSAGE, LOST_REASON, Terminated},
    termination::TerminationMessage,
    volumes::{self, tree},
};
use client::EventType;
use container::{ContainerState, Exit, ExitReason};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Delay before a container with missing configuration is retried, unless the configuration changes before.
const CONFIG_RETRY_DELAY: SignedDuration = SignedDuration::from_secs(10);
/// How long the status shows `ErrImagePull` and `PostStartHookError` before it shows the back-off.
const ERROR_DISPLAY_TIME: SignedDuration = SignedDuration::from_secs(2);

impl Worker {
    pub(super) async fn on_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::SetUp(Ok(made)) => {
                self.setup_failures = 0;
                self.state.address = made.attachment.addresses.first().copied();
                self.addresses = made.attachment.addresses.clone();
                self.namespace = made.namespace;
                self.state.kernel = made.namespace != Namespace::NotNeeded;
                self.attachment = Some(made.attachment);
                self.volumes = Arc::new(made.volumes);
                self.live.setup = Setup::Ready;
            }
            Outcome::SetUp(Err(_told)) => {
                self.live.setup = Setup::Failed(self.deadline_after(setup::retry_delay(self.setup_failures)));
                self.setup_failures += 1;
            }
            Outcome::TornDown(Err(error)) => {
                tracing::warn!(pod = pod::full_name(&self.pod), error, "the pod cannot be undone yet");
                self.live.setup =
                    Setup::TeardownFailed(self.deadline_after(setup::retry_delay(self.teardown_failures)));
                self.teardown_failures += 1;
            }
            Outcome::TornDown(Ok(())) => {
                self.live.setup = Setup::None;
                self.teardown_failures = 0;
                self.state.volumes.clear();
                self.attachment = None;
                self.volumes = Arc::default();
                self.containers.clear();
            }
            Outcome::VolumesSynced(result) => {
                self.volumes_syncing = false;
                match result {
                    Ok(volumes) => self.volumes = Arc::new(volumes),
                    // The error was recorded as an event. Running containers keep their volumes until the next change.
                    Err(_) => self.postpone_sync(),
                }
            }
            Outcome::Start { container, result } => match *result {
                Ok(started) => self.on_started(&container, started).await,
                Err(error) => self.on_start_failed(&container, error),
            },
            Outcome::PostStart { container, id, result } => self.on_hook(&container, &id, result),
            Outcome::HookCancelled => {}
            Outcome::Resized { container, id, given, result } => self.on_resized(&container, &id, *given, result),
            Outcome::Stopped { container, id } => {
                // The container counts as stopping until the runtime reports its exit, or a relist does not find it.
                let over = self.running(&container).is_none_or(|a| a.id != id);
                let live = self.live(&container);
                if over && matches!(live.operation, Operation::Stopping(_)) {
                    live.operation = Operation::None;
                }
            }
        }
    }

    fn deadline_after(&self, delay: Duration) -> Timestamp {
        after(self.shared.now(), SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX))
    }

    fn postpone_sync(&mut self) {
        let soon = after(self.shared.now(), CONFIG_RETRY_DELAY);
        let mut volumes = self.volumes.as_ref().clone();
        for volume in volumes.values_mut().filter(|v| v.resync_at.is_some()) {
            volume.resync_at = Some(soon);
        }
        self.volumes = Arc::new(volumes);
    }

    async fn on_started(&mut self, container: &str, started: Started) {
        let now = self.shared.now();
        let own = self.context(container);
        let Some(starting) = own.starting.take() else { return };
        own.retry = None;
        own.prepared = Some(started.prepared);
        own.termination_message = started.termination_message;
        self.pulls.remove(&started.image);
        if let Some((spec, _)) = pod::container(&self.pod, container) {
            pod::images(&self.pod, &spec).for_each(|(image, _)| drop(self.pulls.remove(image)));
        }
        let log = self.next_log(container);
        let record = self.state.containers.entry(container.to_owned()).or_default();
        if let Some(AttemptState::Exited(ended)) = record.current.take().map(|attempt| attempt.state) {
            // An unobserved exit (the agent was down) and a drained container are no crashes.
            if let Some(finished) = ended.finished_at.filter(|_| !ended.drained) {
                record.backoff = Some(Backoff::next(record.backoff, finished, now));
            }
            // A drained container continues after the restart of the agent, which is no restart of the container.
            if !ended.drained {
                record.restarts += 1;
                self.shared.metrics.restarts.inc();
            }
            record.last = Some(Box::new(ended));
        }
        record.current = Some(Box::new(Attempt {
            id: starting.id.clone(),
            runtime: started.runtime,
            image: started.image,
            image_id: started.image_id,
            volume_images: started.volume_images,
            log,
            state: AttemptState::Running { started_at: now },
            given: Some(Box::new(started.given)),
        }));
        self.count_start(container, now);
        self.remove_old_logs(container);
        let fresh = LiveContainer::default();
        *self.live(container) = fresh;
        for state in starting.early {
            self.on_container(&starting.id, state).await;
        }
        if self.running(container).is_none() {
            return;
        }
        if !self.begin_post_start(container) {
            self.begin_probes(container);
        }
    }

    /// Runs the postStart hook. Returns false if there is none.
    fn begin_post_start(&mut self, container: &str) -> bool {
        let hooked = pod::container(&self.pod, container)
            .is_some_and(|(c, _)| c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()));
        let Some(attempt) = self.running(container).filter(|_| hooked) else { return false };
        let Some(runtime) = self.shared.runtimes.get(&attempt.runtime).cloned() else { return false };
        let Some(address) = self.addresses.first().copied() else { return false };
        let (id, name, cancelled) = (attempt.id.clone(), container.to_owned(), CancellationToken::new());
        let hook =
            hook::post_start(self.shared.clone(), self.pod.clone(), name.clone(), runtime, id.as_str().into(), address);
        self.live(container).operation = Operation::PostStart;
        self.context(container).hook = cancelled.clone();
        self.ops.push(Box::pin(async move {
            match cancelled.run_until_cancelled(hook).await {
                Some(result) => Outcome::PostStart { container: name, id, result },
                None => Outcome::HookCancelled,
            }
        }));
        true
    }

    fn count_start(&self, container: &str, now: Timestamp) {
        let metrics = &self.shared.metrics;
        let Some((this, role)) = pod::container(&self.pod, container) else { return };
        metrics.started(role);
        let first = |c: &Container| {
            let record = self.state.containers.get(&c.name);
            record.and_then(|record| record.current.as_ref()).is_some_and(|attempt| attempt.log == 0)
        };
        if role != Role::App || !first(&this) || !pod::spec(&self.pod).containers.iter().all(first) {
            return;
        }
        let begin = self.state.started;
        if let Some(took) = begin.and_then(|begin| Duration::try_from(now.duration_since(begin)).ok()) {
            metrics.pod_start.observe(took.as_secs_f64());
        }
    }

    /// Removes old log files and core dumps. Like upstream, it keeps the logs of the current and the previous attempt.
    fn remove_old_logs(&self, container: &str) {
        let Some(number) = self.running(container).map(|attempt| attempt.log - 2).filter(|n| *n >= 0) else { return };
        let current = self.shared.log_file(&self.pod, container, number);
        self.shared.tasks.spawn_blocking(move || {
            for file in crate::logs::files(&current).into_iter().chain([container::core_dump_file(&current)]) {
                // A container without output has no file.
                let _ = std::fs::remove_file(file);
            }
        });
    }

    /// Starts the probes of a container that runs and whose postStart hook is done.
    pub(super) fn begin_probes(&mut self, container: &str) {
        let Some((spec, _)) = pod::container(&self.pod, container) else { return };
        let (startup, readiness) = (spec.startup_probe.is_some(), spec.readiness_probe.is_some());
        let probed = startup || readiness || spec.liveness_probe.is_some();
        let live = self.live(container);
        live.started = !startup;
        live.ready = !readiness;
        let Some(attempt) = self.running(container).filter(|_| probed) else { return };
        if let (Some(runtime), Some(address)) = (self.shared.runtimes.get(&attempt.runtime), self.addresses.first()) {
            let target = Target {
                handle: self.handle.clone(),
                pod: self.pod.clone(),
                container: container.to_owned(),
                id: attempt.id.as_str().into(),
                runtime: runtime.clone(),
                address: *address,
            };
            self.shared.prober.add(target, self.shared.jitter());
        }
    }

    fn on_hook(&mut self, container: &str, id: &str, result: Result<(), String>) {
        if self.running(container).is_none_or(|a| a.id != id) {
            return;
        }
        let live = self.live(container);
        if live.operation != Operation::PostStart {
            return;
        }
        live.operation = Operation::None;
        match result {
            Ok(()) => self.begin_probes(container),
            Err(text) => {
                let pod = pod::full_name(&self.pod);
                tracing::warn!(pod, container, text, "PostStart hook failed");
                let (kind, reason) = (EventType::Warning, "FailedPostStartHook");
                self.shared.event(&self.pod, Some(container), kind, reason, "PostStartHook failed");
                self.context(container).hook_error = Some(text);
                self.live(container).unhealthy = Some((reason.into(), None));
            }
        }
    }

    /// Has the pod set up again, with a network namespace, unless one of its containers runs or starts.
    fn attach_again(&mut self) -> bool {
        let is_busy = |live: &LiveContainer| live.operation != Operation::None;
        let idle = !self.live.containers.values().any(|live| is_busy(live))
            && !self.state.containers.values().any(|record| record.is_running());
        if idle && self.live.setup == Setup::Ready {
            self.state.kernel = true;
            self.live.setup = Setup::None;
        }
        idle
    }

    fn on_start_failed(&mut self, container: &str, error: StartError) {
        let now = self.shared.now();
        self.context(container).starting = None;
        self.live(container).operation = Operation::None;
        self.await_image(container, &error);
        let until = match error.retry {
            Retry::Cancelled => return,
            Retry::Attach if self.attach_again() => return,
            Retry::Soon | Retry::Attach => after(now, CONFIG_RETRY_DELAY),
            Retry::Later => {
                let own = self.context(container);
                let backoff = Backoff::next(own.retry, now, now);
                own.retry = Some(backoff);
                after(now, backoff.delay)
            }
            Retry::Pull => {
                let own = || pod::container(&self.pod, container).and_then(|(c, _)| c.image.clone());
                let image = error.image.clone().or_else(own).unwrap_or_default();
                let backoff = Backoff::next(self.pulls.get(&image).map(|p| p.backoff), now, now);
                self.pulls.insert(image, FailedPull { backoff, error: format!("{}: {}", error.reason, error.message) });
                after(now, ERROR_DISPLAY_TIME)
            }
        };
        let waiting = Waiting { reason: error.reason.to_owned(), message: error.message, until: Some(until) };
        self.live(container).waiting = Some(waiting);
    }

    /// Waits for an image that is missing on the node. With the pull policy Always, an image on the node does not help.
    fn await_image(&self, container: &str, error: &StartError) {
        let Some((spec, _)) = pod::container(&self.pod, container) else { return };
        let which = error.image.as_deref().or(spec.image.as_deref()).unwrap_or_default();
        let Some((image, policy)) = pod::images(&self.pod, &spec).find(|(image, _)| *image == which) else { return };
        if policy != Policy::Always && (matches!(error.retry, Retry::Pull) || error.reason == "ErrImageNeverPull") {
            self.shared.awaited.add(image, &self.handle);
        }
    }

    pub(super) async fn on_container(&mut self, id: &str, state: ContainerState) {
        let mut starts = self.containers.values_mut().filter_map(|own| own.starting.as_mut());
        if let Some(starting) = starts.find(|starting| starting.id == id) {
            starting.early.push(state);
            return;
        }
        let Some(name) = self.container_by_id(id) else { return };
        match state {
            ContainerState::Created => {}
            ContainerState::Running { started_at } => {
                if let (Some(record), Ok(at)) = (self.state.containers.get_mut(&name), Timestamp::try_from(started_at))
                    && let Some(AttemptState::Running { started_at }) =
                        record.current.as_mut().map(|attempt| &mut attempt.state)
                {
                    *started_at = at;
                }
            }
            ContainerState::Exited(exit) => self.on_exit(&name, exit).await,
        }
    }

    async fn on_exit(&mut self, container: &str, exit: Exit) {
        let Some(log) = self.running(container).map(|attempt| attempt.log) else { return };
        let read = self.read_termination_message(container, log, exit.code, exit.message);
        // An unreadable message counts as none.
        let message = volumes::blocking(move || Ok(read())).await.unwrap_or_default();
        let Some(attempt) = self.running(container) else { return };
        let AttemptState::Running { started_at } = attempt.state else { return };
        let ended = Terminated {
            container_id: attempt.container_id(),
            code: exit.code,
            reason: reason(exit.reason).to_owned(),
            message,
            started_at: exit.started_at.and_then(|t| t.try_into().ok()).or(Some(started_at)),
            finished_at: Some(exit.finished_at.try_into().unwrap_or_else(|_| self.shared.now())),
            drained: false,
        };
        self.end(container, ended);
    }

    /// Returns a function that reads the termination message: the runtime's message and the container's own. With `FallbackToLogsOnError`,
    /// an empty message is replaced by the end of the log. The function blocks on the disk.
    fn read_termination_message(
        &self,
        container: &str,
        log: i32,
        code: i32,
        message: String,
    ) -> impl FnOnce() -> String + Send + use<> {
        let words = self.containers.get(container).and_then(|own| own.termination_message.clone());
        let wants_log = pod::container(&self.pod, container)
            .is_some_and(|(c, _)| c.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"));
        let log =
            (wants_log && code != 0 && message.is_empty()).then(|| self.shared.log_file(&self.pod, container, log));
        move || {
            let own = words.as_ref().map(TerminationMessage::read).unwrap_or_default();
            let own = log.filter(|_| own.is_empty()).map_or(own, |log| crate::logs::termination_message(&log));
            if message.is_empty() || own.is_empty() { message + &own } else { format!("{message}: {own}") }
        }
    }

    pub(super) fn on_lost(&mut self, id: &str) {
        let Some(name) = self.container_by_id(id) else { return };
        let Some(attempt) = self.running(&name) else { return };
        let AttemptState::Running { started_at } = attempt.state else { return };
        let ended = Terminated {
            container_id: attempt.container_id(),
            code: LOST_CODE,
            reason: LOST_REASON.into(),
            message: LOST_MESSAGE.into(),
            started_at: Some(started_at),
            finished_at: None,
            drained: false,
        };
        self.end(&name, ended);
    }

    fn end(&mut self, container: &str, ended: Terminated) {
        let Some(attempt) = self.state.containers.get_mut(container).and_then(|r| r.current.as_mut()) else { return };
        let code = ended.code;
        attempt.state = AttemptState::Exited(ended);
        let (id, runtime) = (attempt.id.clone(), self.shared.runtimes.get(&attempt.runtime).cloned());
        let written = volumes::roots_dir(&self.shared.volumes_dir(&self.handle.uid)).join(container);
        let written = written.join(attempt.log.to_string());
        self.shared.prober.remove(&id);
        *self.live(container) = LiveContainer::default();
        let own = self.context(container);
        own.hook.cancel();
        let hook_error = own.hook_error.take();
        let restarts = pod::container(&self.pod, container)
            .is_some_and(|(c, role)| pod::policy(&self.pod, &c, role).restarts(code));
        if let Some(message) = hook_error
            && restarts
        {
            let until = Some(after(self.shared.now(), ERROR_DISPLAY_TIME));
            let waiting = Waiting { reason: "PostStartHookError".into(), message, until };
            self.live(container).waiting = Some(waiting);
        }
        if let Some(runtime) = runtime {
            self.shared.tasks.spawn(async move {
                if let Err(error) = runtime.remove(&Arc::from(id.as_str())).await {
                    tracing::warn!(id, %error, "cannot remove an ended container");
                }
                // The next attempt removes it before it begins.
                let removed = volumes::blocking(move || if restarts { Ok(()) } else { tree::remove(&written) });
                if let Err(error) = removed.await {
                    tracing::warn!(id, %error, "cannot remove what an ended container has written");
                }
            });
        }
    }
}

fn after(now: Timestamp, delay: SignedDuration) -> Timestamp {
    now.saturating_add(delay).unwrap_or(Timestamp::MAX)
}

fn reason(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Completed => "Completed",
        ExitReason::Error => "Error",
        ExitReason::OomKilled => "OOMKilled",
        ExitReason::ContainerCannotRun => "ContainerCannotRun",
        ExitReason::StartError => "StartError",
        ExitReason::AddressInUse => "AddressInUse",
    }
}
