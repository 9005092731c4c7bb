//! The scheduling loop: updates from the informers go in, bindings and reports go out.
//!
//! One task owns the [`State`] that decisions need, and makes them one after another. Informer handlers and binding cycles only add to the
//! [`Inbox`]. So a decision holds no lock, however long it takes, and no event is lost between a rejection and the wait that follows.

use crate::{
    binding::{self, Slot},
    config::Configuration,
    cycle::{Decision, Nomination},
    cycle_state::CycleState,
    handle::{Cycle, Handle},
    inbox::{Inbox, Outcome, Rejection},
    listers::Listers,
    metrics::Metrics,
    plugin::Plugins,
    plugins::DefaultPreemption,
    pod::PodInfo,
    profile::Profiles,
    queue::Pending,
    report::{Report, report},
    state::State,
    status::Failure,
    waiting::WaitingPods,
};
use api::Clock;
use client::{Client, EventType, Informers, Recorder, RecorderOptions, reference};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the composition root decides.
#[derive(Clone)]
pub struct Options {
    /// Wall-clock time, for conditions and events.
    pub clock: Clock,
    /// The profiles: which pods are scheduled, and how.
    pub configuration: Configuration,
    /// What plugins read besides nodes and pods; filled while the scheduler runs.
    pub listers: Listers,
    /// Seed of the choice among nodes with equal scores.
    pub seed: u64,
    /// Concurrent bindings and reports; at this limit the next decision waits.
    pub in_flight: usize,
}

impl Options {
    /// Upstream's defaults.
    pub fn new(clock: Clock, seed: u64) -> Self {
        let (configuration, listers) = (Configuration::default(), Listers::default());
        Self { clock, configuration, listers, seed, in_flight: 64 }
    }
}

/// Schedules pods until cancelled. Cheap to clone.
#[derive(Clone)]
pub struct Scheduler {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    informers: Informers,
    options: Options,
    profiles: Profiles,
    metrics: Metrics,
    /// The counts as of the last turn of the loop.
    pending: Mutex<Pending>,
}

impl Scheduler {
    /// With the configured profiles over the shared informers; `client` carries the scheduler's identity.
    pub fn new(client: Client, informers: Informers, options: Options) -> Self {
        let profiles = options.configuration.profiles(&options.listers);
        Self::with_plugins(client, informers, options, profiles)
    }

    /// With other plugins; in each profile one of them must bind.
    pub fn with_plugins(client: Client, informers: Informers, options: Options, profiles: impl Into<Profiles>) -> Self {
        let (profiles, metrics, pending) = (profiles.into(), Metrics::default(), Mutex::default());
        Self { inner: Arc::new(Inner { client, informers, options, profiles, metrics, pending }) }
    }

    /// The number of pending pods by queue.
    pub fn pending(&self) -> Pending {
        *self.inner.pending.lock()
    }

    /// Registers the metrics. To be called once.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
        let this = Arc::downgrade(&self.inner);
        client::metrics::gauge(registry, ("scheduler_pending_pods", "Pods that wait, by queue"), "queue", move || {
            let Some(this) = this.upgrade() else { return Vec::new() };
            let Pending { active, backoff, unschedulable, gated } = *this.pending.lock();
            let all = [("active", active), ("backoff", backoff), ("unschedulable", unschedulable), ("gated", gated)];
            all.map(|(queue, pods)| (queue, i64::try_from(pods).unwrap_or(i64::MAX))).into()
        });
    }

    /// Runs until cancelled; returns when nothing is in flight any more. It starts without the state of an earlier run.
    pub async fn run(&self, token: CancellationToken) {
        let inner = &self.inner;
        let (nodes, pods) = (inner.informers.of::<Node>(), inner.informers.of::<Pod>());
        let namespaces = inner.informers.of::<Namespace>();
        let inbox = Arc::new(Inbox::default());
        inbox.subscribe(&namespaces, &nodes, &pods);
        let component = RecorderOptions { component: inner.options.configuration.name().to_owned(), host: None };
        let (recorder, write) = Recorder::new(inner.client.clone(), inner.options.clock.clone(), component);
        let tasks = TaskTracker::new();
        let writer = tasks.spawn(write);
        let handle = Handle {
            client: inner.client.clone(),
            informers: inner.informers.clone(),
            recorder,
            clock: inner.options.clock.clone(),
            waiting_pods: WaitingPods::default(),
            metrics: inner.metrics.clone(),
        };
        let run = Run { inner: inner.clone(), inbox, handle, stop: token.clone(), tasks: tasks.clone() };
        let work = async {
            tokio::join!(namespaces.synced(), nodes.synced(), pods.synced());
            inner.options.listers.start(&inner.client, &inner.informers).await;
            run.inbox.subscribe_volumes(&inner.options.listers);
            Arc::new(run).decide().await;
        };
        tokio::select! { () = token.cancelled() => {}, () = work => {} }
        tasks.close();
        drop(writer);
        tasks.wait().await;
        inner.options.listers.stop();
        *inner.pending.lock() = Pending::default();
    }
}

/// One run of a scheduler: the state that its loop and its binding cycles share.
struct Run {
    inner: Arc<Inner>,
    inbox: Arc<Inbox>,
    handle: Handle,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Run {
    async fn decide(self: Arc<Self>) {
        let Options { seed, in_flight, .. } = &self.inner.options;
        let slots = Arc::new(Semaphore::new(*in_flight));
        let waiting = self.handle.waiting_pods.clone();
        let mut state = State::new(self.inner.profiles.clone(), *seed, waiting);
        loop {
            self.ready(&mut state).await;
            let slot = self.slot(&mut state, &slots).await;
            self.catch_up(&mut state);
            let begin = Instant::now();
            let Some((pod, decision, memory)) = state.decide() else { continue };
            match decision {
                Decision::Bind(node) => {
                    self.inner.metrics.decided(begin.elapsed());
                    self.assumed(&mut state, Cycle { pod, node, state: memory }, begin, slot);
                }
                Decision::Error(message) => {
                    self.tried(&pod, "error", begin);
                    let told = Report { reason: "SchedulerError", message, nominated: Some(String::new()) };
                    self.tasks.spawn(self.clone().report(pod, Some(told), slot));
                }
                Decision::Refuse { message, nomination, .. } => {
                    if self.plugins(&pod).iter().any(|plugin| plugin.name() == DefaultPreemption::NAME) {
                        self.inner.metrics.preempts();
                    }
                    self.tried(&pod, "unschedulable", begin);
                    self.tasks.spawn(self.clone().refused(pod, message, nomination, memory, slot));
                }
            }
        }
    }

    /// Empties the inbox into the state.
    fn catch_up(&self, state: &mut State) {
        state.take(self.inbox.take());
        *self.inner.pending.lock() = state.queue.pending();
    }

    /// Waits for a pod that is ready for a scheduling cycle.
    async fn ready(&self, state: &mut State) {
        loop {
            let changed = self.inbox.changed.notified();
            self.catch_up(state);
            if state.queue.is_ready(Instant::now()) {
                return;
            }
            match state.queue.next_due() {
                Some(at) => tokio::select! { () = changed => {}, () = tokio::time::sleep_until(at) => {} },
                None => changed.await,
            }
        }
    }

    /// Waits for a slot, and meanwhile empties the inbox.
    async fn slot(&self, state: &mut State, slots: &Arc<Semaphore>) -> Slot {
        let mut slot = std::pin::pin!(Slot::new(slots));
        loop {
            tokio::select! {
                biased;
                slot = &mut slot => return slot,
                () = self.inbox.changed.notified() => self.catch_up(state),
            }
        }
    }

    fn tried(&self, pod: &PodInfo, result: &'static str, begin: Instant) {
        let profiles = &self.inner.profiles;
        let profile = &profiles.all()[profiles.index(&pod.pod).unwrap_or(0)];
        self.inner.metrics.tried(&profile.name, result, begin.elapsed());
    }

    /// The plugins of a pod's profile.
    fn plugins(&self, pod: &PodInfo) -> &Plugins {
        self.inner.profiles.plugins(&pod.pod)
    }

    /// Continues with an assumed pod: reserves, and starts its binding cycle.
    fn assumed(self: &Arc<Self>, state: &mut State, mut cycle: Cycle, begin: Instant, slot: Slot) {
        match binding::reserve(self.plugins(&cycle.pod), &self.handle, &mut cycle) {
            Ok(()) => drop(self.tasks.spawn(self.clone().bind(cycle, begin, slot))),
            Err(rejection) => {
                let told = self.rejected(&cycle, &rejection, begin);
                state.failed(&cycle.pod, rejection);
                self.tasks.spawn(self.clone().report(cycle.pod, told, slot));
            }
        }
    }

    /// The binding cycle.
    async fn bind(self: Arc<Self>, cycle: Cycle, begin: Instant, mut slot: Slot) {
        let plugins = self.plugins(&cycle.pod);
        match binding::bind(plugins, &self.handle, &cycle, &mut slot, &self.stop).await {
            Ok(()) => {
                self.tried(&cycle.pod, "scheduled", begin);
                let (namespace, name) = cycle.key();
                let message = format!("Successfully assigned {namespace}/{name} to {}", cycle.node);
                self.handle.recorder.event(&reference(&*cycle.pod.pod), EventType::Normal, "Scheduled", message);
                self.inbox.ended(Outcome::Bound(cycle.pod.uid().to_owned()));
                binding::post_bind(plugins, &self.handle, &cycle);
            }
            Err(rejection) => {
                let told = self.rejected(&cycle, &rejection, begin);
                self.inbox.ended(Outcome::Failed(cycle.pod.clone(), rejection));
                self.report(cycle.pod, told, slot).await;
            }
        }
    }

    /// Handles a rejected pod: unreserves, and returns the report. There is none for a pod that is gone or that another scheduler has bound.
    fn rejected(&self, cycle: &Cycle, rejection: &Rejection, begin: Instant) -> Option<Report> {
        binding::unreserve(self.plugins(&cycle.pod), &self.handle, cycle);
        let (reason, message) = match &rejection.failure {
            Failure::Unschedulable(why) => ("Unschedulable", format!("0/1 nodes are available: 1 {why}.")),
            failure => ("SchedulerError", failure.to_string()),
        };
        self.tried(&cycle.pod, if reason == "Unschedulable" { "unschedulable" } else { "error" }, begin);
        let silent = matches!(rejection.failure, Failure::Taken | Failure::Canceled);
        (!silent).then_some(Report { reason, message, nominated: Some(String::new()) })
    }

    async fn report(self: Arc<Self>, pod: Arc<PodInfo>, told: Option<Report>, slot: Slot) {
        if let Some(told) = told {
            report(&self.handle, &pod, told).await;
        }
        drop(slot);
    }

    /// Handles a pod that fits on no node: reports why, and preempts on the nominated node.
    async fn refused(
        self: Arc<Self>,
        pod: Arc<PodInfo>,
        message: String,
        nomination: Nomination,
        state: CycleState,
        slot: Slot,
    ) {
        let (plugin, nominated) = match nomination {
            Nomination::Kept => (None, None),
            Nomination::Cleared => (None, Some(String::new())),
            Nomination::To { plugin, node } => (Some(plugin), Some(node)),
        };
        let told = Report { reason: "Unschedulable", message, nominated: nominated.clone() };
        report(&self.handle, &pod, told).await;
        let plugin = self.plugins(&pod).iter().find(|p| Some(p.name()) == plugin);
        if let (Some(plugin), Some(node)) = (plugin, nominated) {
            let cycle = Cycle { pod, node, state };
            let work = async {
                match plugin.preempt(&self.handle, &cycle) {
                    Some(task) => task.await,
                    None => Ok(()),
                }
            };
            let result = tokio::select! {
                () = self.stop.cancelled() => Ok(()),
                result = binding::guarded(work) => result,
            };
            let (uid, failed) = (cycle.pod.uid().to_owned(), result.is_err());
            self.inbox.ended(Outcome::Preempted { uid, failed });
            if let Err(error) = result {
                let (namespace, name) = cycle.key();
                let (plugin, node) = (plugin.name(), &cycle.node);
                tracing::warn!(pod = format!("{namespace}/{name}"), plugin, node, %error, "no room could be made for the pod");
            }
        }
        drop(slot);
    }
}
