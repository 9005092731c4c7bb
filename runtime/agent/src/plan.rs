//! The decision about one pod: what to do next, given the wish, what is known and the time. Pure and level-driven: the same
//! question after a restart gives the same answer.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>, sidecars as of KEP-753.

use crate::{
    backoff::Backoff,
    pod::{self, Policy, Role},
    state::{PodState, Record, Terminated},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::{collections::BTreeMap, time::Duration};

/// `status.reason` of a pod that was evicted.
pub(crate) const EVICTED: &str = "Evicted";
/// How long its containers may take to stop.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// What the worker knows and does at this moment; lost with the process, and rightly so.
#[derive(Clone, Debug, Default)]
pub struct LiveState {
    /// Network, volumes and sandbox.
    pub setup: Setup,
    /// By container name.
    pub containers: BTreeMap<String, LiveContainer>,
    /// The pod is gone from the API.
    pub gone: bool,
}

/// The pod's own part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Setup {
    /// Nothing made by this process, or all undone. What an earlier one left, [`PodState::volumes`] says.
    #[default]
    None,
    /// Being made.
    InProgress,
    /// Failed; not before the given time again.
    Failed(Timestamp),
    /// Containers may run.
    Ready,
    /// Being undone.
    TearingDown,
    /// Could not be undone; not before the given time again.
    TeardownFailed(Timestamp),
}

/// One container's part.
#[derive(Clone, Debug, Default)]
pub struct LiveContainer {
    /// What is under way.
    pub operation: Operation,
    /// Why it waits, and until when it is not tried again.
    pub waiting: Option<Waiting>,
    /// The startup probe (and the postStart hook) passed.
    pub started: bool,
    /// The readiness probe passed (or there is none).
    pub ready: bool,
    /// A liveness or startup probe gave up on it: the message and the probe's own grace period.
    pub unhealthy: Option<(String, Option<Duration>)>,
}

/// What is under way for a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Operation {
    /// None.
    #[default]
    None,
    /// Pull, prepare, create, start.
    Starting,
    /// It runs, and its postStart hook as well.
    PostStart,
    /// Hook and stop, with this grace.
    Stopping(Duration),
}

/// `state.waiting`, with a time before which a new try makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `ContainerCreating`, `ImagePullBackOff`, …
    pub reason: String,
    /// For people.
    pub message: String,
    /// Not before.
    pub until: Option<Timestamp>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make volumes, network and sandbox.
    SetUp,
    /// Start a container's next attempt.
    Start(String),
    /// Give up a start that is under way.
    Cancel(String),
    /// Hold a container back after it ended.
    BackOff {
        /// Which.
        container: String,
        /// Until when.
        until: Timestamp,
        /// The whole delay, for the message.
        delay: Duration,
    },
    /// Stop a container.
    Stop {
        /// Which.
        container: String,
        /// How long it may take.
        grace: Duration,
        /// Why: the text of the event.
        message: String,
    },
    /// The node fails the pod.
    Fail {
        /// `DeadlineExceeded`.
        reason: &'static str,
        /// For people.
        message: &'static str,
    },
    /// Undo sandbox, network and volumes; nothing runs any more.
    TearDown,
    /// All is undone and the pod is to be deleted: report and delete it, forget it.
    Finish,
}

/// What to do now, and when to ask again at the latest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order; none waits for another.
    pub actions: Vec<Action>,
    /// Ask again then.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// How a pod's work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalPhase {
    /// All app containers ended with 0 and none is restarted.
    Succeeded,
    /// One did not.
    Failed,
}

/// Whether the pod's work is over by what its containers did.
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

/// Whether any app container was ever started: then init containers are not run again.
pub fn was_initialized(pod: &Pod, state: &PodState) -> bool {
    pod::spec(pod).containers.iter().any(|c| state.containers.get(&c.name).is_some_and(|r| r.current.is_some()))
}

/// Decides.
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

/// App, init and ephemeral containers are stopped together; sidecars after them, the last started first.
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
        stop_if_unhealthy_or_changed(pod, container, state, live, plan);
    }
    // before all others, so that they help where an init container does not start
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
                // what came after it once it was up does not wait for it again, unless all begins anew with the process
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

/// Whether those after it wait for a container's postStart hook: upstream starts one after the other, and a start ends with its hook.
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

/// The place of the last init container that was ever started. Upstream's `computeInitContainerActions` goes on from there.
fn last_started(pod: &Pod, state: &PodState) -> usize {
    let started = |c: &Container| state.containers.get(&c.name).is_some_and(|r| r.current.is_some());
    pod::init_containers(pod).iter().rposition(started).unwrap_or(0)
}

/// Stops a running container that a probe gave up on, or whose image was changed in the spec.
fn stop_if_unhealthy_or_changed(pod: &Pod, container: &Container, state: &PodState, live: &LiveState, plan: &mut Plan) {
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
    }
}

/// Starts a container if it should run and does not, now or when its back-off is over.
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
