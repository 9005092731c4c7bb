//! Decides what to do next for one pod, from the desired state, the known state and the time. Pure and level-driven: after a restart, the
//! same input gives the same plan.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>, and KEP-753 for sidecars.

use crate::{
    backoff::Backoff,
    pod::{self, Policy, Role},
    resize::{self, Change, Resize},
    state::{PodState, Record, Terminated},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::{collections::BTreeMap, time::Duration};

/// `status.reason` of an evicted pod.
pub(crate) const EVICTED: &str = "Evicted";
/// The longest grace period of an evicted pod, as upstream's.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// The in-memory state of a pod's worker. It is lost with the process.
#[derive(Clone, Debug, Default)]
pub struct LiveState {
    /// The progress of the pod's volumes, network and sandbox.
    pub setup: Setup,
    /// The state of containers by name.
    /// Boxed: a map has room for eleven, and most pods have one.
    pub containers: BTreeMap<String, Box<LiveContainer>>,
    /// The progress of a resize.
    pub resize: Resize,
    /// The pod is deleted from the API.
    pub gone: bool,
}

/// The progress of a pod's volumes, network and sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Setup {
    /// Not set up by this process, or completely torn down. An earlier process may have left the volumes of [`PodState::volumes`].
    #[default]
    None,
    /// The setup is in progress.
    InProgress,
    /// The setup failed. It is retried at this time.
    Failed(Timestamp),
    /// The setup is complete: containers may run.
    Ready,
    /// The teardown is in progress.
    TearingDown,
    /// The teardown failed. It is retried at this time.
    TeardownFailed(Timestamp),
}

/// The in-memory state of a container.
#[derive(Clone, Debug, Default)]
pub struct LiveContainer {
    /// The operation in progress.
    pub operation: Operation,
    /// Why the container waits, and until when it is not started.
    pub waiting: Option<Waiting>,
    /// The startup probe succeeded, or there is none, and the postStart hook is done.
    pub started: bool,
    /// The readiness probe succeeded, or there is none.
    pub ready: bool,
    /// The liveness or startup probe failed: the event message, and the probe's own grace period.
    pub unhealthy: Option<(String, Option<Duration>)>,
    /// The change of its resources while it runs.
    pub resizing: Resizing,
}

/// The change of a running container's resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resizing {
    /// None.
    #[default]
    No,
    /// It is being made.
    InProgress,
    /// It failed, and is tried again at this time.
    Failed(Timestamp),
}

/// The operation in progress on a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Operation {
    /// None.
    #[default]
    None,
    /// It is starting: pull, prepare, create, start.
    Starting,
    /// It runs, and so does its postStart hook.
    PostStart,
    /// It is stopping, with this grace period: preStop hook and stop.
    Stopping(Duration),
}

/// `state.waiting` of the status, and the time of the next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Such as `ContainerCreating` or `ImagePullBackOff`.
    pub reason: String,
    /// The message of the status.
    pub message: String,
    /// The container is not started before this time.
    pub until: Option<Timestamp>,
}

/// An action of the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set up volumes, network and sandbox.
    SetUp,
    /// Start the next attempt of a container.
    Start(String),
    /// Cancel a start in progress.
    Cancel(String),
    /// Report that a container waits for its restart back-off.
    BackOff {
        /// The container's name.
        container: String,
        /// The end of the back-off.
        until: Timestamp,
        /// The full delay, for the message.
        delay: Duration,
    },
    /// Stop a container.
    Stop {
        /// The container's name.
        container: String,
        /// The grace period.
        grace: Duration,
        /// The message of the event.
        message: String,
    },
    /// Change the resources of a running container.
    Resize(String),
    /// Mark the pod as failed.
    Fail {
        /// Such as `DeadlineExceeded`.
        reason: &'static str,
        /// The message of the status.
        message: &'static str,
    },
    /// Tear down sandbox, network and volumes. No container runs.
    TearDown,
    /// Report the final status, delete the pod from the API and end the worker. Everything is torn down.
    Finish,
}

/// The actions to start now, and when to plan again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Actions in order. None waits for another.
    pub actions: Vec<Action>,
    /// When to plan again at the latest.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// The terminal phase of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalPhase {
    /// All app containers exited with 0, and none is restarted.
    Succeeded,
    /// An app container failed, or the pod failed as a whole.
    Failed,
}

/// The terminal phase of the pod, if its containers are done.
pub fn terminal_phase(pod: &Pod, state: &PodState) -> Option<TerminalPhase> {
    if state.failure.is_some() {
        return Some(TerminalPhase::Failed);
    }
    match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => return Some(TerminalPhase::Succeeded),
        Some("Failed") => return Some(TerminalPhase::Failed),
        _ => {}
    }
    if !was_initialized(pod, state) {
        for init in pod::init_containers(pod).iter().filter(|c| pod::init_role(c) == Role::Init) {
            let failed = state.containers.get(&init.name).and_then(Record::terminated).is_some_and(|e| e.code != 0);
            if failed && pod::policy(pod, init, Role::Init) == Policy::Never {
                return Some(TerminalPhase::Failed);
            }
        }
    }
    let mut all_zero = true;
    for app in &pod::spec(pod).containers {
        let ended = state.containers.get(&app.name).and_then(Record::terminated)?;
        if pod::policy(pod, app, Role::App).restarts(ended.code) {
            return None;
        }
        all_zero &= ended.code == 0;
    }
    Some(if all_zero { TerminalPhase::Succeeded } else { TerminalPhase::Failed })
}

/// Whether an app container was ever started. If so, init containers are not run again.
pub fn was_initialized(pod: &Pod, state: &PodState) -> bool {
    pod::spec(pod).containers.iter().any(|c| state.containers.get(&c.name).is_some_and(|r| r.current.is_some()))
}

/// Computes the plan. `now` is compared with back-offs and deadlines.
pub fn plan(pod: &Pod, state: &PodState, live: &LiveState, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let ending = live.gone || pod::is_deleting(pod);
    let over = terminal_phase(pod, state).is_some();
    if let Some(deadline) = deadline(pod, state).filter(|_| !ending && !over) {
        if deadline <= now {
            let message = "Pod was active on the node longer than the specified deadline";
            plan.actions.push(Action::Fail { reason: "DeadlineExceeded", message });
            return plan;
        }
        plan.wake_at(deadline);
    }
    if ending || over {
        terminate(pod, state, live, ending, now, &mut plan);
        return plan;
    }
    match live.setup {
        Setup::None | Setup::TeardownFailed(_) => plan.actions.push(Action::SetUp),
        Setup::Failed(until) if until <= now => plan.actions.push(Action::SetUp),
        Setup::Failed(until) => plan.wake_at(until),
        Setup::InProgress | Setup::TearingDown => {}
        Setup::Ready => run_containers(pod, state, live, now, &mut plan),
    }
    plan
}

fn deadline(pod: &Pod, state: &PodState) -> Option<Timestamp> {
    let seconds = pod::spec(pod).active_deadline_seconds?;
    state.started?.saturating_add(SignedDuration::from_secs(seconds)).ok()
}

/// Stops app, init and ephemeral containers together, and then the sidecars in reverse start order. Then tears down the pod's resources.
fn terminate(pod: &Pod, state: &PodState, live: &LiveState, delete: bool, now: Timestamp, plan: &mut Plan) {
    let evicted = state.failure.as_ref().is_some_and(|failure| failure.reason == EVICTED);
    let grace = if evicted { pod::grace(pod).min(EVICTION_GRACE) } else { pod::grace(pod) };
    let mut others_alive = false;
    let stop = |name: &String, plan: &mut Plan| -> bool {
        let operation = live.containers.get(name).map_or(&Operation::None, |c| &c.operation);
        let running = state.containers.get(name).is_some_and(Record::is_running);
        match operation {
            Operation::Starting => plan.actions.push(Action::Cancel(name.clone())),
            Operation::Stopping(present) if *present <= grace => {}
            Operation::None | Operation::PostStart | Operation::Stopping(_) if running => plan
                .actions
                .push(Action::Stop { container: name.clone(), grace, message: format!("Stopping container {name}") }),
            _ => {}
        }
        running || *operation != Operation::None
    };
    for (container, role) in pod::containers(pod) {
        if role != Role::Sidecar {
            others_alive |= stop(&container.name, plan);
        }
    }
    for container in pod::ephemeral(pod) {
        others_alive |= stop(&container.name, plan);
    }
    if others_alive {
        return;
    }
    for sidecar in pod::init_containers(pod).iter().rev().filter(|c| pod::init_role(c) == Role::Sidecar) {
        if stop(&sidecar.name, plan) {
            return;
        }
    }
    match live.setup {
        Setup::InProgress | Setup::TearingDown => {}
        Setup::TeardownFailed(until) if until > now => plan.wake_at(until),
        Setup::None | Setup::Failed(_) if state.volumes.is_empty() => {
            if delete {
                plan.actions.push(Action::Finish);
            }
        }
        Setup::None | Setup::Failed(_) | Setup::Ready | Setup::TeardownFailed(_) => plan.actions.push(Action::TearDown),
    }
}

fn run_containers(pod: &Pod, state: &PodState, live: &LiveState, now: Timestamp, plan: &mut Plan) {
    for (container, _) in pod::containers(pod) {
        stop_if_unhealthy_or_changed(pod, container, state, live, now, plan);
    }
    // Ephemeral containers come first, so that they can debug an init container that does not start.
    for container in pod::ephemeral(pod) {
        start_if_needed(pod, &pod::as_container(container), Role::Ephemeral, state, live, now, plan);
    }
    let initialized = was_initialized(pod, state);
    let last_started = last_started(pod, state);
    for (place, (container, role)) in pod::containers(pod).enumerate() {
        let record = state.containers.get(&container.name);
        let started = live.containers.get(&container.name).is_some_and(|c| c.started);
        let running = record.is_some_and(Record::is_running);
        match role {
            Role::Init if initialized => continue,
            Role::Init => match record.and_then(Record::terminated) {
                Some(ended) if ended.code == 0 => continue,
                _ => return start_if_needed(pod, container, role, state, live, now, plan),
            },
            Role::Sidecar => {
                start_if_needed(pod, container, role, state, live, now, plan);
                // A sidecar that restarts does not block the containers after it, unless all containers restart because the agent did.
                let passed = place < last_started
                    && !record.and_then(Record::terminated).is_some_and(Terminated::ended_with_agent);
                let up = running && started;
                if !(initialized || passed || up) {
                    return;
                }
            }
            Role::App | Role::Ephemeral => start_if_needed(pod, container, role, state, live, now, plan),
        }
        if blocks_next(container, live, plan) {
            return;
        }
    }
}

/// Whether the next containers wait for the postStart hook of this one. Like upstream, containers start one after the other, and a start
/// includes the hook.
fn blocks_next(container: &Container, live: &LiveState, plan: &Plan) -> bool {
    let name = &container.name;
    let hooked = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
    let starts = || {
        let operation = live.containers.get(name).map_or(&Operation::None, |c| &c.operation);
        matches!(operation, Operation::Starting | Operation::PostStart)
            || plan.actions.last().is_some_and(|last| matches!(last, Action::Start(started) if started == name))
    };
    hooked && starts()
}

/// The index of the last init container that was ever started. Upstream's `computeInitContainerActions` continues from there.
fn last_started(pod: &Pod, state: &PodState) -> usize {
    let started = |c: &Container| state.containers.get(&c.name).is_some_and(|r| r.current.is_some());
    pod::init_containers(pod).iter().rposition(started).unwrap_or(0)
}

/// Stops a running container that failed a probe, whose image changed in the spec, or which must restart for its new resources. Others get them
/// while they run.
fn stop_if_unhealthy_or_changed(
    pod: &Pod,
    container: &Container,
    state: &PodState,
    live: &LiveState,
    now: Timestamp,
    plan: &mut Plan,
) {
    let Some(record) = state.containers.get(&container.name).filter(|r| r.is_running()) else { return };
    let Some(live) = live.containers.get(&container.name) else { return };
    if live.operation != Operation::None {
        return;
    }
    let own = pod::grace(pod);
    let stop = |grace, message| Action::Stop { container: container.name.clone(), grace, message };
    if let Some((message, grace)) = &live.unhealthy {
        plan.actions.push(stop(grace.unwrap_or(own), message.clone()));
    } else if record.current.as_ref().is_some_and(|a| Some(&a.image) != container.image.as_ref()) {
        let message = format!("Container {} definition changed, will be restarted", container.name);
        plan.actions.push(stop(own, message));
    } else if let Some(has) = record.current.as_ref().and_then(|a| a.given.as_ref()) {
        match (resize::change(container, has), live.resizing) {
            (None, _) | (Some(Change::InPlace), Resizing::InProgress) => {}
            (Some(Change::Restart), _) => {
                plan.actions.push(stop(own, format!("Container {} resize requires restart", container.name)));
            }
            (Some(Change::InPlace), Resizing::Failed(until)) if now < until => plan.wake_at(until),
            (Some(Change::InPlace), _) => plan.actions.push(Action::Resize(container.name.clone())),
        }
    }
}

/// Starts a container that should run, unless it must wait for a back-off.
fn start_if_needed(
    pod: &Pod,
    c: &Container,
    role: Role,
    state: &PodState,
    live: &LiveState,
    now: Timestamp,
    plan: &mut Plan,
) {
    let mine = live.containers.get(&c.name);
    if mine.is_some_and(|l| l.operation != Operation::None) {
        return;
    }
    let record = state.containers.get(&c.name);
    if record.is_some_and(Record::is_running) {
        return;
    }
    if let Some(until) = mine.and_then(|l| l.waiting.as_ref()).and_then(|w| w.until).filter(|until| *until > now) {
        return plan.wake_at(until);
    }
    if let Some(ended) = record.and_then(Record::terminated) {
        if !pod::policy(pod, c, role).restarts(ended.code) {
            return;
        }
        if let Some((until, delay)) = backoff_deadline(record.and_then(|r| r.backoff), ended, now) {
            plan.actions.push(Action::BackOff { container: c.name.clone(), until, delay });
            return plan.wake_at(until);
        }
    }
    plan.actions.push(Action::Start(c.name.clone()));
}

fn backoff_deadline(backoff: Option<Backoff>, ended: &Terminated, now: Timestamp) -> Option<(Timestamp, Duration)> {
    let finished = ended.finished_at.filter(|_| !ended.drained)?;
    let until = Backoff::until(backoff, finished, now)?;
    Some((until, backoff?.delay.unsigned_abs()))
}

#[cfg(test)]
mod tests;
