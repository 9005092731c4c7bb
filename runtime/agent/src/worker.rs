//! One task per pod. It receives messages, asks [`plan`] what to do, starts the actions, saves the state, reports the status, and sleeps.
//!
//! The task never waits for an action. Each action is a future in `ops`, and its outcome triggers the next plan.

mod actions;
mod outcomes;
mod resize;

use crate::{
    admission,
    backoff::Backoff,
    handle::{CopyOnWrite, Eviction, Handle, Mail, Message, ProbeKind},
    hook::Stop,
    kernel::Namespace,
    node,
    plan::{self, EVICTED, LiveContainer, LiveState, Operation, Setup, Waiting, plan},
    pod, probe,
    reporter::Report,
    resize::{self as given, Given, Resize},
    setup::{self, PodSetup},
    shared::Shared,
    start::{StartError, Started},
    state::{Attempt, AttemptState, Failure, PodState},
    status,
    termination::TerminationMessage,
    volumes::SyncedVolume,
};
use client::EventType;
use container::{ContainerState, Prepared, Runtime, net::Attachment};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodStatus};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The exit code of a container that the runtime killed because it did not stop within the grace period (128 + SIGKILL).
const SIGKILL_EXIT_CODE: i32 = 137;
/// Delay before the worker replaces a status that another client wrote. It filters out watch events that are only older than the last
/// report, and it limits how often two writers overwrite each other.
const STATUS_RESEND_DELAY: SignedDuration = SignedDuration::from_secs(1);
/// How long the worker waits for the exit events of containers after their stop calls returned.
const EXIT_REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The result of an action.
enum Outcome {
    SetUp(Result<PodSetup, String>),
    TornDown(Result<(), String>),
    VolumesSynced(Result<BTreeMap<String, SyncedVolume>, String>),
    Start {
        container: String,
        result: Box<Result<Started, StartError>>,
    },
    PostStart {
        container: String,
        id: String,
        result: Result<(), String>,
    },
    Resized {
        container: String,
        id: String,
        given: Box<Given>,
        result: Result<(), String>,
    },
    /// The postStart hook was cancelled, because the container was stopped or exited.
    HookCancelled,
    Stopped {
        container: String,
        id: String,
    },
}

/// A start in progress.
struct Starting {
    id: String,
    token: CancellationToken,
    /// Runtime events of the attempt that arrived before the start returned. They are handled after the start.
    early: Vec<ContainerState>,
}

/// In-memory data of a container. [`LiveState`] holds what the plan needs, and [`PodState`] what survives a restart of the process.
#[derive(Default)]
struct ContainerContext {
    starting: Option<Starting>,
    /// Keeps the prepared image loaded.
    prepared: Option<Arc<dyn Prepared>>,
    /// The file with the container's termination message.
    termination_message: Option<TerminationMessage>,
    /// The back-off of starts that fail before an attempt exists.
    retry: Option<Backoff>,
    /// Cancels the postStart hook.
    hook: CancellationToken,
    /// The error of the postStart hook, until the container that failed for it has exited.
    hook_error: Option<String>,
}

/// A failed image pull.
struct FailedPull {
    backoff: Backoff,
    error: String,
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    /// The pod with the resources that it was given.
    pod: Arc<Pod>,
    /// The pod as the API has it.
    wanted: Arc<Pod>,
    /// While a resize waits for room: tells when other pods leave some.
    room: Option<watch::Receiver<()>>,
    state: CopyOnWrite<PodState>,
    live: LiveState,
    attachment: Option<Attachment>,
    namespace: Namespace,
    addresses: Vec<IpAddr>,
    volumes: Arc<BTreeMap<String, SyncedVolume>>,
    /// A source of the volumes changed, so that they must be synced.
    volumes_stale: bool,
    volumes_syncing: bool,
    containers: HashMap<String, Box<ContainerContext>>,
    /// Failed pulls by image.
    pulls: HashMap<String, FailedPull>,
    setup_failures: u32,
    /// Consecutive failures of the teardown.
    teardown_failures: u32,
    reported: Option<Arc<PodStatus>>,
    /// The published state is saved in the state file.
    state_saved: bool,
    /// When to send the status again, because another client overwrote the reported one.
    resend_at: Option<Timestamp>,
    final_report_sent: bool,
    ops: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, handle: Arc<Handle>, pod: Arc<Pod>) -> Self {
        let (mut state, state_saved) = (CopyOnWrite::from(handle.state()), handle.is_saved());
        if state.started.is_none() {
            state.started = Some(shared.now());
        }
        let live = LiveState { resize: Resize::of(&pod), ..LiveState::default() };
        Self {
            shared,
            handle,
            pod: given::apply(&pod, &state.allocated),
            wanted: pod,
            room: None,
            state,
            live,
            attachment: None,
            namespace: Namespace::default(),
            addresses: Vec::new(),
            volumes: Arc::default(),
            volumes_stale: false,
            volumes_syncing: false,
            containers: HashMap::new(),
            pulls: HashMap::new(),
            setup_failures: 0,
            teardown_failures: 0,
            reported: None,
            state_saved,
            resend_at: None,
            final_report_sent: false,
            ops: FuturesUnordered::new(),
        }
    }

    /// Runs until the pod is deleted from the API and cleaned up on the node, or until the process ends.
    ///
    /// What an idle pod seldom does is boxed: each pod's task has room for the largest of its steps, for as long as the pod lives.
    pub(crate) async fn run(mut self) {
        Box::pin(self.check_admission()).await;
        self.resume_probes();
        loop {
            let mail = self.handle.receive();
            let drain = mail.drain;
            self.handle_mail(mail).await;
            if drain {
                return Box::pin(self.drain()).await;
            }
            self.allocate();
            let now = self.shared.now();
            let plan = plan(&self.pod, &self.state, &self.live, now);
            let mut again = false;
            for action in plan.actions {
                again |= self.execute(action, now).await;
            }
            let due = self.refresh_volumes(now);
            self.settle();
            self.save().await;
            self.report();
            let wake = [plan.wake, due, self.resend_at].into_iter().flatten().min();
            if self.final_report_sent && self.live.gone {
                return Box::pin(self.forget()).await;
            }
            if !again {
                self.wait(now, wake).await;
            }
        }
    }

    /// Rejects a new pod whose node selector or affinity does not match the node. The informer's Node may be stale, so that a mismatch is
    /// checked against the API.
    async fn check_admission(&mut self) {
        if self.handle.state().started.is_some() || self.state.failure.is_some() || !pod::is_new(&self.pod) {
            return;
        }
        let (cluster, name) = (&self.shared.cluster, &self.shared.options.node);
        if cluster.nodes.get("", name).is_some_and(|node| admission::check_node_affinity(&self.pod, &node).is_ok()) {
            return;
        }
        // If the Node is not registered yet or cannot be read, uses the Node that the agent will register.
        let node = cluster.client.find::<Node>("", name).await.ok().flatten();
        let node = node.unwrap_or_else(|| node::unregistered(&self.shared.options));
        if let Err(rejection) = admission::check_node_affinity(&self.pod, &node) {
            self.shared.release(pod::uid(&self.pod));
            self.shared.event(&self.pod, None, EventType::Warning, &rejection.reason, &*rejection.message);
            self.state.failure = Some(rejection.failure());
        }
    }

    async fn wait(&mut self, now: Timestamp, wake: Option<Timestamp>) {
        let pause = async {
            match wake {
                Some(at) => tokio::time::sleep(at.duration_since(now).try_into().unwrap_or(Duration::ZERO)).await,
                None => std::future::pending().await,
            }
        };
        let waiting = &mut self.room;
        let room = async {
            let changed = match waiting {
                Some(room) => room.changed().await.is_ok(),
                None => false,
            };
            // An error is the end of the agent.
            if !changed {
                std::future::pending::<()>().await;
            }
        };
        let outcome = tokio::select! {
            () = self.handle.notified() => None,
            () = room => None,
            outcome = self.ops.next(), if !self.ops.is_empty() => outcome,
            () = pause => None,
        };
        if let Some(outcome) = outcome {
            Box::pin(self.on_outcome(outcome)).await;
        }
    }

    /// Starts the probes of containers that kept running while the agent was down.
    fn resume_probes(&mut self) {
        let names: Vec<_> =
            self.state.containers.iter().filter(|(_, r)| r.is_running()).map(|(n, _)| n.clone()).collect();
        self.addresses = self.state.address.into_iter().collect();
        for name in names {
            self.begin_probes(&name);
        }
    }

    async fn handle_mail(&mut self, mail: Mail) {
        if let Some(pod) = mail.pod {
            let (old, new) = (&self.pod.metadata, &pod.metadata);
            self.volumes_stale |= old.labels != new.labels || old.annotations != new.annotations;
            let ending = pod::is_deleting(&pod) && !pod::is_deleting(&self.pod);
            self.wanted = self.with_reported_status(pod);
            self.pod = given::apply(&self.wanted, &self.state.allocated);
            if ending {
                let running = self.state.containers.values().filter_map(|r| r.current.as_ref());
                running.for_each(|attempt| self.shared.prober.keep_only_readiness(&attempt.id));
            }
        }
        self.live.gone |= mail.gone;
        for message in mail.messages {
            match message {
                Message::ContainerState(id, state) => Box::pin(self.on_container(&id, state)).await,
                Message::ContainerLost(id) => self.on_lost(&id),
                Message::ProbeResult { container, id, kind, passed } => self.on_probe(&container, &id, kind, passed),
                Message::StartProgress { container, message } => self.on_progress(&container, message),
                Message::ImagePresent(image) => self.on_image_present(&image),
                Message::ConfigChanged => self.on_config_changed(),
                Message::Evict(eviction) => self.on_eviction(eviction),
            }
        }
    }

    /// Returns the pod from the API, but with the status that this node reported: like the kubelet, the node trusts its own status.
    fn with_reported_status(&mut self, pod: Arc<Pod>) -> Arc<Pod> {
        match self.reported.as_ref().filter(|own| status::is_overwritten(&pod, own)) {
            Some(own) => {
                let at = self.shared.now().saturating_add(STATUS_RESEND_DELAY).unwrap_or(Timestamp::MAX);
                self.resend_at.get_or_insert(at);
                Arc::new(status::with_reported_status(&pod, own))
            }
            None => {
                self.resend_at = None;
                pod
            }
        }
    }

    fn live(&mut self, container: &str) -> &mut LiveContainer {
        if !self.live.containers.contains_key(container) {
            self.live.containers.insert(container.to_owned(), Box::default());
        }
        self.live.containers.get_mut(container).expect("inserted above")
    }

    fn context(&mut self, container: &str) -> &mut ContainerContext {
        self.containers.entry(container.to_owned()).or_default()
    }

    fn running(&self, container: &str) -> Option<&Attempt> {
        let attempt = self.state.containers.get(container)?.current.as_ref()?;
        matches!(attempt.state, AttemptState::Running { .. }).then_some(attempt)
    }

    fn container_by_id(&self, id: &str) -> Option<String> {
        let mut all = self.state.containers.iter();
        all.find(|(_, r)| r.current.as_ref().is_some_and(|a| a.id == id)).map(|(name, _)| name.clone())
    }

    fn on_config_changed(&mut self) {
        self.volumes_stale = true;
        let now = self.shared.now();
        if let Setup::Failed(until) = &mut self.live.setup {
            *until = now;
        }
        for waiting in self.live.containers.values_mut().filter_map(|c| c.waiting.as_mut()) {
            if waiting.reason == "CreateContainerConfigError" {
                waiting.until = None;
            }
        }
    }

    /// Lets the containers that wait for this image start at once.
    fn on_image_present(&mut self, image: &str) {
        self.pulls.remove(image);
        let needs = |container: &Container| pod::images(&self.pod, container).any(|(needed, _)| needed == image);
        for (container, _) in pod::all_containers(&self.pod).filter(|(container, _)| needs(container)) {
            if let Some(waiting) = self.live.containers.get_mut(&container.name).and_then(|c| c.waiting.as_mut())
                && waiting.reason != "CrashLoopBackOff"
            {
                waiting.until = None;
            }
        }
    }

    /// Marks the pod as failed. The next plan stops its containers.
    fn on_eviction(&mut self, Eviction { message, pressure }: Eviction) {
        if self.state.failure.is_none() && plan::terminal_phase(&self.pod, &self.state).is_none() {
            self.state.failure = Some(Failure { reason: EVICTED.into(), message, rejected: false, pressure });
        }
    }

    fn on_progress(&mut self, container: &str, message: String) {
        let reason = status::default_reason(&self.pod).to_owned();
        let live = self.live(container);
        if live.operation == Operation::Starting {
            live.waiting = Some(Waiting { reason, message, until: None });
        }
    }

    fn on_probe(&mut self, container: &str, id: &str, kind: ProbeKind, passed: bool) {
        if self.running(container).is_none_or(|a| a.id != id) {
            return;
        }
        let spec = pod::container(&self.pod, container);
        let grace = spec.and_then(|(c, _)| probe::of(&c, kind).and_then(probe::grace));
        let live = self.live(container);
        match (kind, passed) {
            (ProbeKind::Readiness, passed) => live.ready = passed,
            (ProbeKind::Startup, true) => live.started = true,
            (ProbeKind::Liveness, true) => {}
            (kind, false) => {
                let name = kind.name().to_lowercase();
                live.unhealthy = Some((format!("Container {container} failed {name} probe, will be restarted"), grace));
            }
        }
    }

    /// The number of the next attempt's log file.
    fn next_log(&self, container: &str) -> i32 {
        let current = self.state.containers.get(container).and_then(|r| r.current.as_ref());
        current.map_or(0, |attempt| attempt.log + 1)
    }

    /// Starts a sync of the volumes if it is due. Returns when the next sync is due.
    fn refresh_volumes(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.live.setup != Setup::Ready || self.volumes_syncing {
            return None;
        }
        let due = setup::next_sync(&self.volumes);
        if !self.volumes_stale && due.is_none_or(|due| now < due) {
            return due;
        }
        self.volumes_stale = false;
        self.volumes_syncing = true;
        let (shared, pod, addresses) = (self.shared.clone(), self.pod.clone(), self.addresses.clone());
        let kernel = self.state.kernel;
        self.ops.push(Box::pin(async move {
            Outcome::VolumesSynced(setup::sync_volumes(&shared, &pod, &addresses, kernel, false).await)
        }));
        None
    }

    /// Saves the state if it has changed. Returns whether the state file is up to date. Callers publish the state only after the save.
    async fn save(&mut self) -> bool {
        if self.state_saved && *self.handle.state() == *self.state {
            return true;
        }
        let saved = self.shared.states.save(&self.state).await;
        self.state_saved = saved.is_ok();
        if let Err(error) = saved {
            tracing::error!(pod = pod::full_name(&self.pod), %error, "cannot remember the pod: a restart will not know it");
        }
        self.handle.publish(self.state.share(), self.state_saved);
        self.state_saved
    }

    fn report(&mut self) {
        if self.live.gone || self.final_report_sent {
            self.resend_at = None;
            return;
        }
        let ending = pod::is_deleting(&self.pod) || plan::terminal_phase(&self.pod, &self.state).is_some();
        let quiet = self.live.containers.values().all(|c| c.operation == Operation::None)
            && self.state.containers.values().all(|r| !r.is_running());
        let over = matches!(self.live.setup, Setup::None | Setup::Failed(_) | Setup::TeardownFailed(_));
        self.report_as(ending && quiet && over, false);
    }

    fn report_as(&mut self, last: bool, delete: bool) {
        let now = self.shared.now();
        let input = status::Input {
            state: &self.state,
            live: &self.live,
            host: &self.shared.options.addresses,
            addresses: &self.addresses,
            reported: self.reported.as_deref(),
            is_final: last,
            now,
        };
        let status = status::generate(&self.pod, &input);
        let again = self.resend_at.take_if(|at| *at <= now).is_some();
        if !delete && !again && self.reported.as_deref() == Some(&status) {
            return;
        }
        let status = Arc::new(status);
        self.reported = Some(status.clone());
        let starting = self.live.setup == Setup::InProgress
            || self.live.containers.values().any(|live| live.operation == Operation::Starting);
        self.shared.reporter.report(Report { pod: self.pod.clone(), status, starting, delete });
    }

    /// Stops the containers, also those that could outlive the process: who stops a node expects that nothing stays. Saves their exits. Changes nothing in the API. The next
    /// process treats attempts that are still recorded as running as lost, and restarts them.
    async fn drain(mut self) {
        for starting in self.containers.values().filter_map(|own| own.starting.as_ref()) {
            starting.token.cancel();
        }
        let grace = pod::grace(&self.pod).min(self.shared.options.drain);
        let running = self.state.containers.iter().filter_map(|(name, record)| {
            let attempt = record.current.as_ref().filter(|_| record.is_running())?;
            let runtime = self.shared.runtimes.get(&attempt.runtime)?;
            let stop = self.stop_request(name, attempt, runtime.clone(), grace, String::new(), false);
            let stop = Stop { retire: false, ..stop };
            Some((name.clone(), stop.run()))
        });
        let (names, stops): (Vec<_>, Vec<_>) = running.unzip();
        futures::future::join_all(stops).await;
        if tokio::time::timeout(EXIT_REPORT_TIMEOUT, self.wait_for_exits(&names)).await.is_err() {
            tracing::warn!(pod = pod::full_name(&self.pod), "the runtime has not told how containers ended");
        }
        self.save_drained_exits(&names).await;
        for runtime in self.shared.runtimes.iter() {
            if let Err(error) = runtime.remove_sandbox(&self.handle.uid).await {
                tracing::warn!(pod = pod::full_name(&self.pod), %error, "cannot remove the sandbox");
            }
        }
    }

    /// Waits for the exit events of these containers. The events arrive independently of the results of the stop calls.
    async fn wait_for_exits(&mut self, names: &[String]) {
        loop {
            let mail = self.handle.receive();
            self.handle_mail(mail).await;
            if names.iter().all(|name| self.running(name).is_none()) {
                return;
            }
            self.handle.notified().await;
        }
    }

    /// Saves the exits of containers that were stopped because the process ends; the next process restarts them. A container that exited
    /// with 0 and has no restart for that code was interrupted, and counts as lost.
    async fn save_drained_exits(&mut self, names: &[String]) {
        for name in names {
            let record = self.state.containers.get_mut(name);
            let Some(AttemptState::Exited(ended)) = record.and_then(|r| r.current.as_mut()).map(|a| &mut a.state)
            else {
                continue;
            };
            ended.drained = true;
            if ended.code == SIGKILL_EXIT_CODE {
                self.shared.killed.fetch_add(1, Ordering::AcqRel);
            }
            let restarts =
                pod::container(&self.pod, name).is_some_and(|(c, role)| pod::policy(&self.pod, &c, role).restarts(0));
            if ended.code == 0 && !restarts {
                ended.mark_lost();
            }
        }
        if let Err(error) = self.shared.states.save(&self.state).await {
            tracing::warn!(pod = pod::full_name(&self.pod), %error, "cannot remember how the pod's containers ended");
        }
    }

    fn stop_request(
        &self,
        name: &str,
        attempt: &Attempt,
        runtime: Arc<dyn Runtime>,
        grace: Duration,
        message: String,
        again: bool,
    ) -> Stop {
        Stop {
            shared: self.shared.clone(),
            runtime,
            pod: self.pod.clone(),
            container: name.to_owned(),
            id: attempt.id.as_str().into(),
            address: self.addresses.first().copied(),
            grace,
            message,
            again,
            retire: true,
        }
    }

    /// Cleans up a pod that is deleted from the API.
    async fn forget(self) {
        let shared = &self.shared;
        let uid = pod::uid(&self.pod);
        if let Err(error) = setup::clean_up(shared, &self.state).await {
            tracing::warn!(pod = pod::full_name(&self.pod), error, "the pod's remains stay until the next start");
        }
        shared.reporter.forget(uid);
        shared.cluster.referenced.remove(uid, &self.pod);
        shared.pods.lock().remove(&self.handle.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// Each pod has one, for as long as it lives.
    #[test]
    fn the_task_of_a_pod_is_small() {
        let (task, worker) = (size(Worker::run), size_of::<Worker>());
        assert!(task <= 3 << 10, "{task} bytes, of which the worker is {worker}");
    }
}
