//! Runs all probes of the node from one task, with a heap of due times and a small task per check in flight.
//!
//! A worker adds the probes of an attempt when it starts and removes them when it ends. Results are sent to the worker as messages.

use crate::{
    check::{self, Access, Outcome},
    handle::{Handle, Message, ProbeKind},
    pod,
    probe::{self, ThresholdCounter},
};
use client::{EventType, Recorder};
use container::{ContainerId, Runtime, net::Dialer};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// All checks but the first of a probe are due at multiples of this time, so that many probes wake the process rarely.
const GRID: Duration = Duration::from_millis(25);
/// Most checks in flight.
const MAX_PARALLEL: usize = 256;

/// An attempt with probes.
pub(crate) struct Target {
    pub(crate) handle: Arc<Handle>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: String,
    pub(crate) id: ContainerId,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) address: IpAddr,
}

impl Target {
    fn access<'a>(&'a self, dialer: &'a dyn Dialer) -> Access<'a> {
        Access { dialer, runtime: self.runtime.as_ref(), id: &self.id, address: self.address }
    }
}

struct ScheduledProbe {
    target: Arc<Target>,
    kind: ProbeKind,
    counter: ThresholdCounter,
    first: Instant,
    running: bool,
    /// No further checks: the startup probe succeeded, or the container is being restarted.
    finished: bool,
    /// The startup probe of the attempt has not succeeded yet.
    awaits_startup: bool,
}

#[derive(Default)]
struct Table {
    probes: HashMap<u64, ScheduledProbe>,
    by_attempt: HashMap<ContainerId, Vec<u64>>,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    next: u64,
}

/// The prober. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Prober {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Arc<dyn Dialer>,
    recorder: Recorder,
    table: Mutex<Table>,
    changed: Notify,
    permits: Semaphore,
    created: Instant,
}

impl Prober {
    pub(crate) fn new(dialer: Arc<dyn Dialer>, recorder: Recorder) -> Self {
        let inner = Inner {
            dialer,
            recorder,
            table: Mutex::default(),
            changed: Notify::new(),
            permits: Semaphore::new(MAX_PARALLEL),
            created: Instant::now(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds the probes of an attempt. `jitter` (0 to 1) spreads the first checks of many attempts over their period.
    pub(crate) fn add(&self, target: Target, jitter: f64) {
        let target = Arc::new(target);
        let Some((container, _)) = pod::container(&target.pod, &target.container) else { return };
        let starting = container.startup_probe.is_some();
        let now = Instant::now();
        let mut table = self.inner.table.lock();
        for kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
            let Some(spec) = probe::of(&container, kind) else { continue };
            let first = now
                + probe::initial_delay(spec)
                + probe::period(spec).min(Duration::from_secs(1)).mul_f64(jitter * 0.2);
            let awaits_startup = starting && kind != ProbeKind::Startup;
            let (number, target) = (table.next, target.clone());
            table.next += 1;
            table.by_attempt.entry(target.id.clone()).or_default().push(number);
            let probe = ScheduledProbe {
                target,
                kind,
                counter: ThresholdCounter::new(kind),
                first,
                running: false,
                finished: false,
                awaits_startup,
            };
            table.probes.insert(number, probe);
            if !awaits_startup {
                table.due.push(Reverse((first, number)));
            }
        }
        drop(table);
        self.inner.changed.notify_one();
    }

    /// Removes the probes of an attempt.
    pub(crate) fn remove(&self, id: &str) {
        let mut table = self.inner.table.lock();
        for number in table.by_attempt.remove(id).into_iter().flatten() {
            table.probes.remove(&number);
        }
    }

    /// Stops the liveness and startup probes of a terminating pod, which is not restarted. The readiness probe continues.
    pub(crate) fn keep_only_readiness(&self, id: &str) {
        let mut table = self.inner.table.lock();
        for number in table.by_attempt.get(id).cloned().into_iter().flatten() {
            if let Some(probe) = table.probes.get_mut(&number).filter(|probe| probe.kind != ProbeKind::Readiness) {
                probe.finished = true;
            }
        }
    }

    /// Runs until `token` is cancelled.
    pub(crate) async fn run(self, token: CancellationToken, tasks: TaskTracker) {
        loop {
            let next = self.start_due(&token, &tasks);
            let wait = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = self.inner.changed.notified() => {}
                () = wait => {}
            }
        }
    }

    /// Starts all due checks. Returns the next due time.
    fn start_due(&self, token: &CancellationToken, tasks: &TaskTracker) -> Option<Instant> {
        let mut table = self.inner.table.lock();
        let now = Instant::now();
        while let Some(Reverse((at, number))) = table.due.peek().copied() {
            if at > now {
                return Some(at);
            }
            table.due.pop();
            let Some(probe) = table.probes.get_mut(&number) else { continue };
            if probe.finished || probe.running {
                continue;
            }
            probe.running = true;
            let (inner, target, kind) = (self.inner.clone(), probe.target.clone(), probe.kind);
            let token = token.clone();
            // A check in flight when the drain begins says nothing about the container.
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = token.cancelled() => {}
                    () = inner.run_probe(number, at, &target, kind) => {}
                }
            });
        }
        None
    }
}

impl Inner {
    async fn run_probe(&self, number: u64, at: Instant, target: &Arc<Target>, kind: ProbeKind) {
        let Some((container, role)) = pod::container(&target.pod, &target.container) else { return };
        let Some(spec) = probe::of(&container, kind) else { return };
        let Ok(_permit) = self.permits.acquire().await else { return };
        let access = target.access(self.dialer.as_ref());
        let outcome = check::check(access, spec, &container, probe::timeout(spec)).await;
        if self.table.lock().probes.get(&number).is_none_or(|probe| probe.finished) {
            return;
        }
        let about = pod::reference(&target.pod, Some((&target.container, role)));
        let name = kind.name();
        match &outcome {
            Outcome::Passed => {}
            Outcome::Warned(text) => {
                self.recorder.event(
                    &about,
                    EventType::Warning,
                    "ProbeWarning",
                    format!("{name} probe warning: {text}"),
                );
            }
            Outcome::Failed(text) => {
                self.recorder.event(&about, EventType::Warning, "Unhealthy", format!("{name} probe failed: {text}"));
            }
            Outcome::Errored(text) => {
                let text = format!("{name} probe errored and resulted in unknown state: {text}");
                self.recorder.event(&about, EventType::Warning, "Unhealthy", text);
            }
        }
        // Like upstream, a check that could not be made has no result.
        let passed = match outcome {
            Outcome::Passed | Outcome::Warned(_) => Some(true),
            Outcome::Failed(_) => Some(false),
            Outcome::Errored(_) => None,
        };
        self.record_result(number, at, spec, passed);
        self.changed.notify_one();
    }

    /// The first time of the grid that is not before `at`.
    fn on_grid(&self, at: Instant) -> Instant {
        let over = (at - self.created).as_nanos() % GRID.as_nanos();
        let rest = (GRID.as_nanos() - over) % GRID.as_nanos();
        at + Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
    }

    /// Counts a result and schedules the next check.
    fn record_result(&self, number: u64, at: Instant, spec: &k8s_openapi::api::core::v1::Probe, passed: Option<bool>) {
        let mut table = self.table.lock();
        let Some(probe) = table.probes.get_mut(&number) else { return };
        probe.running = false;
        let verdict = passed.and_then(|passed| probe.counter.add(spec, passed));
        let (kind, target) = (probe.kind, probe.target.clone());
        let ended = matches!((kind, verdict), (ProbeKind::Startup, Some(_)) | (ProbeKind::Liveness, Some(false)));
        probe.finished = ended;
        if !ended {
            // Checks keep their period. Those missed during a long check are skipped.
            let (now, period) = (Instant::now(), probe::period(spec));
            let mut next = self.on_grid(at + period);
            while next <= now {
                next += period;
            }
            table.due.push(Reverse((next, number)));
        }
        if kind == ProbeKind::Startup && verdict == Some(true) {
            release_after_startup(&mut table, &target.id);
        }
        drop(table);
        if let Some(passed) = verdict {
            let (container, id) = (target.container.clone(), target.id.to_string());
            target.handle.send(Message::ProbeResult { container, id, kind, passed });
        }
    }
}

/// Schedules the other probes of an attempt after its startup probe succeeded.
fn release_after_startup(table: &mut Table, id: &str) {
    let now = Instant::now();
    for number in table.by_attempt.get(id).cloned().into_iter().flatten() {
        if let Some(probe) = table.probes.get_mut(&number).filter(|probe| probe.awaits_startup) {
            probe.awaits_startup = false;
            let first = probe.first.max(now);
            table.due.push(Reverse((first, number)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{state::PodState, tests::FakeApi};
    use client::RecorderOptions;
    use container::{
        fake::{FakeRuntime, Script},
        net::{self, Connection, Peer, Stream},
    };
    use serde_json::json;
    use std::net::SocketAddr;

    /// Answers nothing until it is told that nobody listens any more.
    #[derive(Default)]
    struct Slow {
        asked: Notify,
        gone: Notify,
    }

    #[async_trait::async_trait]
    impl Dialer for Slow {
        async fn connect(&self, to: SocketAddr) -> net::Result<Stream> {
            Err(net::Error::Refused(to.to_string()))
        }
        async fn reachable(&self, to: SocketAddr) -> net::Result<()> {
            self.asked.notify_one();
            self.gone.notified().await;
            Err(net::Error::Refused(to.to_string()))
        }
        async fn http(&self, to: SocketAddr, _request: net::Request) -> net::Result<net::Response> {
            Err(net::Error::Refused(to.to_string()))
        }
        async fn hand_over(&self, _connection: Connection, _peer: Peer, to: SocketAddr) -> net::Result<()> {
            Err(net::Error::Refused(to.to_string()))
        }
    }

    /// What came of a check that was under way when containers began to stop, with the prober told of it or not.
    async fn events(told: bool) -> Vec<String> {
        let (api, slow, token, tasks) =
            (FakeApi::new(), Arc::new(Slow::default()), CancellationToken::new(), TaskTracker::new());
        let options = RecorderOptions { component: "kubelet".into(), host: None };
        let (recorder, write) = Recorder::new(api.client(), api::Clock::new(|| jiff::Timestamp::UNIX_EPOCH), options);
        tokio::spawn(write);
        let prober = Prober::new(slow.clone(), recorder);
        tasks.spawn(prober.clone().run(token.clone(), tasks.clone()));
        let probe = json!({"tcpSocket": {"port": 80}, "timeoutSeconds": 1, "periodSeconds": 1000});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"containers": [{"name": "c", "readinessProbe": probe}]}}))
        .unwrap();
        let handle = Arc::new(Handle::new("u".into(), Arc::new(pod.clone()), PodState::adopt(&pod), false));
        let address = std::net::Ipv4Addr::new(10, 32, 0, 2).into();
        let clock = container::Clock::new(|| std::time::SystemTime::UNIX_EPOCH);
        let runtime = Arc::new(FakeRuntime::new("wasmtime", clock, |_, _| Script::Run));
        let pod = Arc::new(pod);
        prober.add(Target { handle, pod, container: "c".into(), id: "a".into(), runtime, address }, 0.0);
        slow.asked.notified().await;
        if told {
            token.cancel();
        }
        slow.gone.notify_one();
        tokio::time::sleep(Duration::from_secs(10)).await;
        token.cancel();
        tasks.close();
        tasks.wait().await;
        api.events()
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_under_way_at_the_end_says_nothing() {
        let refused = "Unhealthy: Readiness probe failed: dial tcp 10.32.0.2:80: connect: connection refused";
        assert_eq!(events(false).await, [refused]);
        assert_eq!(events(true).await, [""; 0]);
    }
}
