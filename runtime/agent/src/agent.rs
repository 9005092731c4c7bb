//! The node agent: one worker per pod, and the loops that are shared by all pods.

use crate::{
    admission::AdmittedPods,
    awaited::{self, AwaitedImages},
    cluster::Cluster,
    eviction,
    handle::{Handle, Message},
    images::Images,
    metrics::Metrics,
    node,
    options::{Options, Runtimes},
    pod,
    prober::Prober,
    readings::Readings,
    reclaim,
    reporter::Reporter,
    resize,
    returning::{RETURNING_PODS, Signs, turns},
    setup,
    shared::Shared,
    state::{PodState, StateDir},
    status, usage,
    volumes::{self, Tokens},
    worker::Worker,
};
use client::{Client, Delta, EventType, Informers, Recorder, fit::resources::Resources};
use container::{
    Runtime,
    net::{Dialer, Network},
};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{broadcast::error::RecvError, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often the containers of all runtimes are listed, to find changes whose event was missed.
const RELIST_INTERVAL: Duration = Duration::from_secs(10);
/// How often unused images are garbage-collected.
const IMAGE_GC_INTERVAL: Duration = Duration::from_secs(300);
/// How much longer than the drain timeout a drain may take, so that the exits of killed containers are still recorded.
const DRAIN_MARGIN: Duration = Duration::from_secs(3);
/// How long none of [`RETURNING_PODS`] returns before others are started too.
const RETURN_TIMEOUT: Duration = Duration::from_millis(500);
/// Delay before a worker that panicked is restarted.
const PANIC_RETRY_DELAY: Duration = Duration::from_secs(10);

/// The interfaces that an agent depends on.
pub struct Dependencies {
    /// The container runtimes by handler.
    pub runtimes: Runtimes,
    /// The pod network.
    pub network: Arc<dyn Network>,
    /// Connects to pods, for probes and hooks.
    pub dialer: Arc<dyn Dialer>,
    /// The images of the node.
    pub images: Arc<dyn Images>,
    /// The client of the API server, with the node's identity.
    pub client: Client,
    /// The informers of the process. The agent's own informers list and watch with `client`.
    pub informers: Informers,
    /// Records events as component `kubelet`.
    pub recorder: Recorder,
}

/// The node agent, which is Sampan's kubelet. Cheap to clone.
#[derive(Clone)]
pub struct Agent {
    pub(crate) shared: Arc<Shared>,
    draining: Arc<AtomicBool>,
    /// The number of workers that did not end within the drain timeout.
    unfinished_workers: Arc<AtomicUsize>,
    workers: TaskTracker,
    pub(crate) token: CancellationToken,
    probing: CancellationToken,
    /// Of the pods whose status in the API shows readiness that an earlier process reported.
    signs: Signs,
}

impl Agent {
    /// Creates an agent and the folders below the data folder. Starts nothing. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// A folder cannot be created or read.
    pub fn new(options: Options, dependencies: Dependencies) -> io::Result<Self> {
        let states = StateDir::open(&options.data_dir.join("state"))?;
        let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
        let Dependencies { runtimes, network, dialer, images, client, informers, recorder } = dependencies;
        let allocatable = Arc::new(node::allocatable(&options));
        let shared = Shared {
            admitted: Mutex::new(AdmittedPods::new(Resources::parse(Some(allocatable.as_ref())), options.pods)),
            room: watch::Sender::default(),
            registered: CancellationToken::new(),
            allocatable,
            runtimes,
            network,
            dialer: dialer.clone(),
            images,
            cluster: Cluster::new(client.clone(), informers.on_behalf(client.clone(), token.clone()), &options.node),
            recorder: recorder.clone(),
            plugins: volumes::plugins(),
            tokens: Arc::new(Tokens::new(client.clone())),
            private: volumes::PrivateDir::new(options.private.clone()),
            states,
            reporter: Reporter::new(client, token.clone(), tasks.clone()),
            prober: Prober::new(dialer, recorder),
            awaited: Arc::new(AwaitedImages::default()),
            rng: Mutex::new(fastrand::Rng::with_seed(options.seed)),
            pods: Mutex::default(),
            tasks,
            metrics: Metrics::default(),
            readings: Readings::default(),
            killed: AtomicUsize::new(0),
            options,
        };
        let probing = token.child_token();
        let (draining, workers, signs) = (Arc::default(), TaskTracker::new(), Signs::default());
        Ok(Self {
            shared: Arc::new(shared),
            draining,
            unfinished_workers: Arc::default(),
            workers,
            token,
            probing,
            signs,
        })
    }

    /// Registers the agent's metrics. Must be called at most once.
    pub fn register(&self, registry: &mut Registry) {
        let shared = Arc::downgrade(&self.shared);
        self.shared.metrics.register(registry, move || shared.upgrade().map_or((0, 0), |shared| shared.running()));
    }

    /// Resolves when the API shows no stale readiness: each pod that an earlier process reported as ready, and that does not run any more,
    /// has been reported as not ready. Also resolves when the agent ends.
    pub async fn statuses_synced(&self) {
        self.signs.reported.cancelled().await;
    }

    /// Resolves as [`Agent::statuses_synced`], and before that as soon as the first 64 pods run again: of thousands the others follow within
    /// seconds.
    pub async fn pods_return(&self) {
        self.signs.first.cancelled().await;
    }

    /// Resolves when the Node is there, with its status and labels. Also resolves when the agent ends.
    pub async fn node_is_registered(&self) {
        self.shared.registered.cancelled().await;
    }

    /// After [`Agent::run`]: how many containers were killed because they did not stop within the drain timeout.
    pub fn killed_containers(&self) -> usize {
        self.shared.killed.load(Ordering::Acquire) + self.unfinished_workers.load(Ordering::Acquire)
    }

    /// Runs until `token` is cancelled. Then stops the containers, within the drain timeout, and
    /// returns. The drain changes no object of the API.
    ///
    /// # Errors
    /// The saved states or the runtimes' containers cannot be listed, or one of the agent's loops ended.
    pub async fn run(&self, token: CancellationToken) -> anyhow::Result<()> {
        let shared = &self.shared;
        let _settled = (self.signs.guard(), shared.registered.clone().drop_guard());
        tokio::select! {
            () = token.cancelled() => {
                self.token.cancel();
                return Ok(());
            }
            () = shared.cluster.synced() => {}
        }
        let known = self.restore_states().await?;
        for runtime in shared.runtimes.iter() {
            shared.tasks.spawn(self.clone().forward_events(runtime.clone()));
        }
        let ended = CancellationToken::new();
        self.spawn_essential(&ended, shared.prober.clone().run(self.probing.clone(), shared.tasks.clone()));
        self.spawn_essential(&ended, node::run(shared.clone(), self.token.clone()));
        self.spawn_essential(&ended, eviction::run(shared.clone(), self.token.clone()));
        self.spawn_essential(&ended, usage::run(shared.clone(), self.token.clone()));
        self.spawn_essential(&ended, reclaim::run(shared.clone(), self.token.clone()));
        self.spawn_essential(&ended, awaited::run(shared.awaited.clone(), shared.images.clone(), self.token.clone()));
        self.subscribe(known);
        let mut relist = tokio::time::interval(RELIST_INTERVAL);
        let mut collect = tokio::time::interval(IMAGE_GC_INTERVAL);
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                () = ended.cancelled() => anyhow::bail!("one of its loops (probes, node status, eviction, usage, awaited images) ended"),
                _ = relist.tick() => self.relist().await,
                _ = collect.tick() => shared.collect_images().await,
            }
        }
        self.drain().await;
        Ok(())
    }

    /// Spawns a loop that the agent cannot run without. Cancels `ended` when the loop ends.
    fn spawn_essential(&self, ended: &CancellationToken, part: impl Future<Output = ()> + Send + 'static) {
        let ended = ended.clone().drop_guard();
        self.shared.tasks.spawn(async move {
            let _ended = ended;
            part.await;
        });
    }

    /// Loads the saved states of pods, marks attempts that do not run any more as lost, and starts the clean-up of orphaned pods and
    /// sandboxes. Returns the states by uid.
    async fn restore_states(&self) -> anyhow::Result<BTreeMap<String, PodState>> {
        let shared = &self.shared;
        let known = shared.states.load().await?;
        let mut alive = HashSet::new();
        let mut sandboxes: HashMap<Arc<str>, Arc<dyn Runtime>> = HashMap::new();
        for runtime in shared.runtimes.iter() {
            for status in runtime.list().await? {
                sandboxes.insert(status.sandbox, runtime.clone());
                alive.insert(status.id);
            }
        }
        let wanted: HashSet<String> = shared.cluster.pods.list().iter().map(|p| pod::uid(p).to_owned()).collect();
        let (mut known, orphans): (BTreeMap<_, _>, BTreeMap<_, _>) =
            known.into_iter().partition(|(uid, _)| wanted.contains(uid));
        sandboxes.retain(|sandbox, _| !wanted.contains(sandbox.as_ref()) && !orphans.contains_key(sandbox.as_ref()));
        for orphan in orphans.into_values() {
            let (shared, token) = (shared.clone(), self.token.clone());
            shared.tasks.clone().spawn(async move { setup::clean_up_orphan(&shared, &orphan, &token).await });
        }
        for (sandbox, runtime) in sandboxes {
            let token = self.token.clone();
            shared.tasks.spawn(async move { setup::remove_sandbox(&*runtime, &sandbox, &token).await });
        }
        known.values_mut().for_each(|state| state.mark_lost(|id| alive.contains(id)));
        Ok(known)
    }

    fn subscribe(&self, mut known: BTreeMap<String, PodState>) {
        // Admits the listed pods before any watch event: first the pods that ran here before, then the new ones in the order of their
        // creation.
        let mut pods = self.shared.cluster.pods.list();
        let is_new = |pod: &Pod| pod::is_new(pod) && !known.contains_key(pod::uid(pod));
        pods.sort_by_cached_key(|pod| {
            (is_new(pod), pod.metadata.creation_timestamp.clone(), pod::name(pod).to_owned())
        });
        let turns = turns(&pods, is_new);
        let stale =
            pods.iter().filter(|pod| status::is_shown_ready(pod) && !has_running_containers(known.get(pod::uid(pod))));
        let stale = stale.map(|pod| pod::uid(pod).to_owned()).collect();
        self.shared.reporter.expect_first_reports(stale, self.signs.clone());
        let admit =
            |(turn, pod): (usize, &Arc<Pod>)| Some((turn, self.admit(pod.clone(), known.remove(pod::uid(pod)))?));
        let mut adopted: Vec<_> = turns.into_iter().zip(&pods).filter_map(admit).collect();
        adopted.sort_by_key(|(turn, _)| *turn);
        self.shared.tasks.spawn(self.clone().start_workers(adopted.into_iter().map(|(_, handle)| handle).collect()));
        let (agent, known) = (self.clone(), Mutex::new(known));
        self.shared.cluster.pods.subscribe(move |delta| agent.on_pod(delta, &known));
        // The subscription reports no pods that were deleted between the list and the subscription.
        for pod in pods {
            let present = self.shared.cluster.pods.get(pod::namespace(&pod), pod::name(&pod));
            if present.is_none_or(|present| present.metadata.uid != pod.metadata.uid) {
                self.on_pod(&Delta::Deleted(pod), &Mutex::default());
            }
        }
    }

    fn on_pod(&self, delta: &Delta<Pod>, known: &Mutex<BTreeMap<String, PodState>>) {
        let pod = delta.object();
        if matches!(delta, Delta::Deleted(_)) || pod::is_finished(pod) {
            self.shared.release(pod::uid(pod));
        } else if delta.old().is_some_and(|old| pod::is_finished(old)) {
            // Another client set a terminal phase, and it was reverted.
            let allocated = self.shared.pods.lock().get(pod::uid(pod)).map(|handle| handle.state());
            let allocated = allocated.map_or_else(|| pod.clone(), |state| resize::apply(pod, &state.allocated));
            self.shared.admitted.lock().add(&allocated);
        }
        let present = self.shared.pods.lock().get(pod::uid(pod)).cloned();
        match (delta, present) {
            (Delta::Deleted(_), Some(handle)) => {
                handle.update(pod.clone());
                handle.gone();
            }
            (Delta::Deleted(_), None) => {}
            (_, Some(handle)) => handle.update(pod.clone()),
            (_, None) => {
                let state = known.lock().remove(pod::uid(pod));
                self.admit(pod.clone(), state).into_iter().for_each(|handle| self.start_worker(handle));
            }
        }
    }

    /// Starts the workers of the pods that were there before. The next ones wait until few of those before them are still on their way back:
    /// thousands at a time would each wait for all others in every step of their start.
    async fn start_workers(self, handles: Vec<Arc<Handle>>) {
        let reporter = &self.shared.reporter;
        // The pods whose workers are not started yet; those on their way that take longer, such as for an image.
        let (mut later, mut waiting) = (reporter.returning(), 0);
        let mut step = RETURNING_PODS;
        for handle in handles {
            if self.draining.load(Ordering::Acquire) {
                return;
            }
            later = later.saturating_sub(usize::from(reporter.returns(&handle.uid)));
            self.start_worker(handle);
            while reporter.returning() > later + waiting + step {
                if tokio::time::timeout(RETURN_TIMEOUT, reporter.one_returned()).await.is_ok() {
                    step = RETURNING_PODS;
                } else {
                    (waiting, step) = (reporter.returning().saturating_sub(later), step * 2);
                }
            }
        }
    }

    /// Adds the handle of a pod. A new pod is admitted or rejected.
    fn admit(&self, pod: Arc<Pod>, state: Option<PodState>) -> Option<Arc<Handle>> {
        if self.draining.load(Ordering::Acquire) {
            return None;
        }
        let uid: Arc<str> = pod::uid(&pod).into();
        let new = state.is_none() && pod::is_new(&pod);
        let (mut state, saved) = match state {
            Some(state) if !state.is_behind(&pod) => (state, true),
            Some(state) => (PodState { volumes: state.volumes, ..PodState::adopt(&pod) }, false),
            None => (PodState::adopt(&pod), false),
        };
        if state.allocated.is_empty() {
            state.allocated = resize::adopt(&pod);
        }
        let allocated = resize::apply(&pod, &state.allocated);
        if new {
            let admitted = self.shared.admitted.lock().admit(&allocated);
            if let Err(rejection) = admitted {
                self.shared.event(&pod, None, EventType::Warning, &rejection.reason, &*rejection.message);
                state.failure = Some(rejection.failure());
            }
        } else if !pod::is_finished(&pod) {
            self.shared.admitted.lock().add(&allocated);
        }
        let handle = Arc::new(Handle::new(uid.clone(), pod.clone(), state, saved));
        if !pod::is_finished(&pod) {
            self.shared.cluster.referenced.add(&handle, &pod);
        }
        self.shared.pods.lock().insert(uid, handle.clone());
        Some(handle)
    }

    fn start_worker(&self, handle: Arc<Handle>) {
        let shared = self.shared.clone();
        self.workers.spawn(async move {
            loop {
                // the task holds no state of the pod: an old one would stay in memory for as long as the pod lives
                let worker = Worker::new(shared.clone(), handle.clone(), handle.newest());
                if AssertUnwindSafe(worker.run()).catch_unwind().await.is_ok() {
                    return;
                }
                let pod = handle.newest();
                tracing::error!(pod = pod::full_name(&pod), "the pod's worker panicked, it is made anew");
                drop(pod);
                tokio::time::sleep(PANIC_RETRY_DELAY).await;
            }
        });
    }

    fn send(&self, uid: &str, message: Message) {
        if let Some(handle) = self.shared.pods.lock().get(uid) {
            handle.send(message);
        }
    }

    /// Forwards a runtime's events to the workers.
    async fn forward_events(self, runtime: Arc<dyn Runtime>) {
        let mut events = runtime.events();
        loop {
            let event = tokio::select! {
                () = self.token.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(event) => self.send(&event.sandbox, Message::ContainerState(event.id, event.state)),
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(runtime = runtime.name(), missed, "missed container events, asking for everything");
                    self.relist().await;
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Compares the attempts that workers consider running with the containers that run.
    async fn relist(&self) {
        // The workers' states are read before the runtimes are listed, so that a container which starts meanwhile is not taken for lost.
        let handles: Vec<_> = self.shared.pods.lock().values().cloned().collect();
        let believed: Vec<_> = handles.into_iter().map(|handle| (handle.state(), handle)).collect();
        let mut all = HashMap::new();
        for runtime in self.shared.runtimes.iter() {
            match runtime.list().await {
                Ok(list) => all.extend(list.into_iter().map(|status| (status.id, status.state))),
                Err(error) => {
                    tracing::warn!(runtime = runtime.name(), %error, "cannot list containers");
                    return;
                }
            }
        }
        for (state, handle) in believed {
            let running = state.containers.values().filter(|record| record.is_running());
            for attempt in running.filter_map(|record| record.current.as_ref()) {
                let id: Arc<str> = attempt.id.as_str().into();
                match all.remove(&id) {
                    Some(state @ container::ContainerState::Exited(_)) => {
                        handle.send(Message::ContainerState(id, state))
                    }
                    Some(_) => {}
                    None => handle.send(Message::ContainerLost(id)),
                }
            }
        }
    }

    async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        // A container that is stopping fails its probes, which must not be reported.
        self.probing.cancel();
        let handles: Vec<_> = self.shared.pods.lock().values().cloned().collect();
        handles.iter().for_each(|handle| handle.drain());
        self.workers.close();
        if tokio::time::timeout(self.shared.options.drain + DRAIN_MARGIN, self.workers.wait()).await.is_err() {
            tracing::warn!("some containers did not stop in time");
            self.unfinished_workers.store(self.workers.len(), Ordering::Release);
        }
        self.token.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

/// Whether a container of the pod kept running while the agent was down.
fn has_running_containers(state: Option<&PodState>) -> bool {
    state.is_some_and(|state| state.containers.values().any(|record| record.is_running()))
}
