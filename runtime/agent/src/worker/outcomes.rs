//! What the worker learns: outcomes of its actions, and what runtimes say of its containers.

use super::{Outcome, Pull, Worker};
use crate::{
    backoff::Backoff,
    hook,
    images::Policy,
    plan::{Busy, LiveContainer, Setup, Waiting},
    pod::{self, Role},
    prober::Target,
    setup,
    start::{Retry, StartError, Started},
    state::{Attempt, AttemptState, Ended, LOST_CODE, LOST_MESSAGE, LOST_REASON},
    termination::LastWords,
    volumes,
};
use client::EventType;
use container::{ContainerState, Exit, ExitReason};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Delay before a container whose configuration is missing is tried again, if nothing changes before.
const CONFIG_DELAY: SignedDuration = SignedDuration::from_secs(10);
/// How long `ErrImagePull` and `PostStartHookError` are shown before the back-off is.
const ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(2);

impl Worker {
    pub(super) async fn on_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::SetUp(Ok(made)) => {
                self.setups = 0;
                self.state.address = made.attachment.addresses.first().copied();
                self.addresses = made.attachment.addresses.clone();
                self.attachment = Some(made.attachment);
                self.volumes = Arc::new(made.volumes);
                self.live.setup = Setup::Ready;
            }
            Outcome::SetUp(Err(_told)) => {
                self.live.setup = Setup::Failed(self.later(setup::delay(self.setups)));
                self.setups += 1;
            }
            Outcome::TornDown(Err(error)) => {
                tracing::warn!(pod = pod::full_name(&self.pod), error, "the pod cannot be undone yet");
                self.live.setup = Setup::Stuck(self.later(setup::delay(self.undone)));
                self.undone += 1;
            }
            Outcome::TornDown(Ok(())) => {
                self.live.setup = Setup::None;
                self.undone = 0;
                self.state.volumes.clear();
                self.attachment = None;
                self.volumes = Arc::default();
                self.containers.clear();
            }
            Outcome::Volumes(result) => {
                self.syncing = false;
                match result {
                    Ok(volumes) => self.volumes = Arc::new(volumes),
                    // told by an event; running containers keep what they have until something changes again
                    Err(_) => self.postpone_sync(),
                }
            }
            Outcome::Start { container, result } => match *result {
                Ok(started) => self.on_started(&container, started).await,
                Err(error) => self.on_start_failed(&container, error),
            },
            Outcome::Hook { container, id, result } => self.on_hook(&container, &id, result),
            Outcome::Unhooked => {}
            Outcome::Stopped { container, id } => {
                // until the runtime tells the end (or a relist finds it gone) it counts as stopping
                let over = self.running(&container).is_none_or(|a| a.id != id);
                let live = self.live(&container);
                if over && matches!(live.busy, Busy::Stopping(_)) {
                    live.busy = Busy::No;
                }
            }
        }
    }

    fn later(&self, delay: Duration) -> Timestamp {
        after(self.shared.now(), SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX))
    }

    fn postpone_sync(&mut self) {
        let soon = after(self.shared.now(), CONFIG_DELAY);
        let mut volumes = self.volumes.as_ref().clone();
        for volume in volumes.values_mut().filter(|v| v.again.is_some()) {
            volume.again = Some(soon);
        }
        self.volumes = Arc::new(volumes);
    }

    async fn on_started(&mut self, container: &str, started: Started) {
        let now = self.shared.now();
        let own = self.own(container);
        let Some(starting) = own.starting.take() else { return };
        own.retry = None;
        own.prepared = Some(started.prepared);
        own.last_words = started.last_words;
        self.pulls.remove(&started.image);
        let log = self.next_log(container);
        let record = self.state.containers.entry(container.to_owned()).or_default();
        if let Some(Attempt { state: AttemptState::Exited(ended), .. }) = record.current.take() {
            // an end that nobody saw (the agent was away), or that came with the agent's, is no crash
            if let Some(finished) = ended.finished_at.filter(|_| !ended.drained) {
                record.backoff = Some(Backoff::next(record.backoff, finished, now));
            }
            // what was stopped with the agent, in good order, goes on where it was: nobody needs to be alarmed
            if !ended.drained {
                record.restarts += 1;
                self.shared.metrics.restarts.inc();
            }
            record.last = Some(ended);
        }
        record.current = Some(Attempt {
            id: starting.id.clone(),
            runtime: started.runtime,
            image: started.image,
            image_id: started.image_id,
            log,
            state: AttemptState::Running { started_at: now },
        });
        self.count_start(container, now);
        self.drop_old_logs(container);
        let fresh = LiveContainer::default();
        *self.live(container) = fresh;
        for state in starting.early {
            self.on_container(&starting.id, state).await;
        }
        if self.running(container).is_none() {
            return;
        }
        if !self.begin_post_start(container) {
            self.launched(container);
        }
    }

    /// Runs the postStart hook, if there is one.
    fn begin_post_start(&mut self, container: &str) -> bool {
        let hooked = pod::container(&self.pod, container)
            .is_some_and(|(c, _)| c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()));
        let Some(attempt) = self.running(container).filter(|_| hooked) else { return false };
        let Some(runtime) = self.shared.runtimes.get(&attempt.runtime).cloned() else { return false };
        let Some(address) = self.addresses.first().copied() else { return false };
        let (id, name, given_up) = (attempt.id.clone(), container.to_owned(), CancellationToken::new());
        let hook =
            hook::post_start(self.shared.clone(), self.pod.clone(), name.clone(), runtime, id.as_str().into(), address);
        self.live(container).busy = Busy::PostStart;
        self.own(container).hook = given_up.clone();
        self.ops.push(Box::pin(async move {
            match given_up.run_until_cancelled(hook).await {
                Some(result) => Outcome::Hook { container: name, id, result },
                None => Outcome::Unhooked,
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

    /// The logs of the present attempt and of the one before it are kept, as upstream, and so are their core dumps.
    fn drop_old_logs(&self, container: &str) {
        let Some(number) = self.running(container).map(|attempt| attempt.log - 2).filter(|n| *n >= 0) else { return };
        let current = self.shared.log_file(&self.pod, container, number);
        self.shared.tasks.spawn_blocking(move || {
            for file in crate::logs::files(&current).into_iter().chain([container::core_dump_file(&current)]) {
                // a container that wrote nothing has no file
                let _ = std::fs::remove_file(file);
            }
        });
    }

    /// A container runs and its hook is done: from now on probes decide.
    pub(super) fn launched(&mut self, container: &str) {
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
        if live.busy != Busy::PostStart {
            return;
        }
        live.busy = Busy::No;
        match result {
            Ok(()) => self.launched(container),
            Err(text) => {
                let pod = pod::full_name(&self.pod);
                tracing::warn!(pod, container, text, "PostStart hook failed");
                let (kind, reason) = (EventType::Warning, "FailedPostStartHook");
                self.shared.event(&self.pod, Some(container), kind, reason, "PostStartHook failed");
                self.own(container).hook_error = Some(text);
                self.live(container).unhealthy = Some((reason.into(), None));
            }
        }
    }

    fn on_start_failed(&mut self, container: &str, error: StartError) {
        let now = self.shared.now();
        self.own(container).starting = None;
        self.live(container).busy = Busy::No;
        self.await_image(container, &error);
        let until = match error.retry {
            Retry::Cancelled => return,
            Retry::Soon => after(now, CONFIG_DELAY),
            Retry::Later => {
                let own = self.own(container);
                let backoff = Backoff::next(own.retry, now, now);
                own.retry = Some(backoff);
                after(now, backoff.delay)
            }
            Retry::Pull => {
                let image = pod::container(&self.pod, container).and_then(|(c, _)| c.image.clone()).unwrap_or_default();
                let backoff = Backoff::next(self.pulls.get(&image).map(|p| p.backoff), now, now);
                self.pulls.insert(image, Pull { backoff, error: format!("{}: {}", error.reason, error.message) });
                after(now, ERROR_SHOWN)
            }
        };
        let waiting = Waiting { reason: error.reason.to_owned(), message: error.message, until: Some(until) };
        self.live(container).waiting = Some(waiting);
    }

    /// An image that is not here and would do, however it comes: one that is always pulled would not.
    fn await_image(&self, container: &str, error: &StartError) {
        let Some((spec, _)) = pod::container(&self.pod, container) else { return };
        let image = spec.image.as_deref().unwrap_or_default();
        let always = Policy::of(image, spec.image_pull_policy.as_deref()) == Policy::Always;
        if !always && (matches!(error.retry, Retry::Pull) || error.reason == "ErrImageNeverPull") {
            self.shared.awaited.add(image, &self.handle);
        }
    }

    pub(super) async fn on_container(&mut self, id: &str, state: ContainerState) {
        let mut starts = self.containers.values_mut().filter_map(|own| own.starting.as_mut());
        if let Some(starting) = starts.find(|starting| starting.id == id) {
            starting.early.push(state);
            return;
        }
        let Some(name) = self.named(id) else { return };
        match state {
            ContainerState::Created => {}
            ContainerState::Running { started_at } => {
                if let (Some(record), Ok(at)) = (self.state.containers.get_mut(&name), Timestamp::try_from(started_at))
                    && let Some(Attempt { state: AttemptState::Running { started_at }, .. }) = &mut record.current
                {
                    *started_at = at;
                }
            }
            ContainerState::Exited(exit) => self.on_exit(&name, exit).await,
        }
    }

    async fn on_exit(&mut self, container: &str, exit: Exit) {
        let Some(log) = self.running(container).map(|attempt| attempt.log) else { return };
        let read = self.last_message(container, log, exit.code, exit.message);
        // a message that cannot be read is none
        let message = volumes::blocking(move || Ok(read())).await.unwrap_or_default();
        let Some(attempt) = self.running(container) else { return };
        let AttemptState::Running { started_at } = attempt.state else { return };
        let ended = Ended {
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

    /// Reads what the container has to say about its end: the runtime's word, and what it wrote itself; the end of its log where it asks for
    /// that. Blocks on the disk.
    fn last_message(
        &self,
        container: &str,
        log: i32,
        code: i32,
        message: String,
    ) -> impl FnOnce() -> String + Send + use<> {
        let words = self.containers.get(container).and_then(|own| own.last_words.clone());
        let wants_log = pod::container(&self.pod, container)
            .is_some_and(|(c, _)| c.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"));
        let log =
            (wants_log && code != 0 && message.is_empty()).then(|| self.shared.log_file(&self.pod, container, log));
        move || {
            let own = words.as_ref().map(LastWords::read).unwrap_or_default();
            let own = log.filter(|_| own.is_empty()).map_or(own, |log| crate::logs::last_words(&log));
            if message.is_empty() || own.is_empty() { message + &own } else { format!("{message}: {own}") }
        }
    }

    pub(super) fn on_lost(&mut self, id: &str) {
        let Some(name) = self.named(id) else { return };
        let Some(attempt) = self.running(&name) else { return };
        let AttemptState::Running { started_at } = attempt.state else { return };
        let ended = Ended {
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

    fn end(&mut self, container: &str, ended: Ended) {
        let Some(attempt) = self.state.containers.get_mut(container).and_then(|r| r.current.as_mut()) else { return };
        let code = ended.code;
        attempt.state = AttemptState::Exited(ended);
        let (id, runtime) = (attempt.id.clone(), self.shared.runtimes.get(&attempt.runtime).cloned());
        self.shared.prober.remove(&id);
        *self.live(container) = LiveContainer::default();
        let own = self.own(container);
        own.hook.cancel();
        if let Some(message) = own.hook_error.take()
            && pod::container(&self.pod, container)
                .is_some_and(|(c, role)| pod::policy(&self.pod, &c, role).restarts(code))
        {
            let until = Some(after(self.shared.now(), ERROR_SHOWN));
            let waiting = Waiting { reason: "PostStartHookError".into(), message, until };
            self.live(container).waiting = Some(waiting);
        }
        if let Some(runtime) = runtime {
            self.shared.tasks.spawn(async move {
                if let Err(error) = runtime.remove(&Arc::from(id.as_str())).await {
                    tracing::warn!(id, %error, "cannot remove an ended container");
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
        ExitReason::AddressInUse => "AddressInUse",
    }
}
