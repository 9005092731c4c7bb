//! How many pods a second the whole control plane schedules over hollow nodes: API server, store on a disk, scheduler and clients in one
//! process, as in a cluster; the workloads are those of upstream's `scheduler_perf` at 5,000 nodes. Nothing asserts on the figures.
//!
//! `cargo bench -p tests --bench scheduling` (all), or with names of workloads as arguments. `SAMPAN_BENCH_NODES` is the number of nodes.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench reads the clock and prints"
)]
#![allow(clippy::cast_precision_loss, reason = "figures are rounded")]

use client::{Client, Informer, Informers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kinds::bootstrap::Bootstrap;
use serde_json::{Value, json};
use server::{Server, User};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
/// Clients that create pods at the same time.
const CREATORS: usize = 16;

/// A workload: pods that are there before, and those that are measured.
struct Workload {
    name: &'static str,
    /// Upstream's own regression threshold, pods a second; and ours.
    thresholds: (u32, u32),
    nodes: usize,
    before: (usize, fn(usize) -> Value),
    measured: (usize, fn(usize) -> Value),
}

const WORKLOADS: [Workload; 6] = [
    Workload { name: "plain", thresholds: (270, 5000), nodes: 5000, before: (1000, plain), measured: (10_000, plain) },
    Workload {
        name: "spreading",
        thresholds: (85, 2000),
        nodes: 5000,
        before: (5000, plain),
        measured: (5000, spreading),
    },
    Workload {
        name: "anti-affinity",
        thresholds: (60, 1000),
        nodes: 5000,
        before: (1000, apart),
        measured: (1000, apart),
    },
    Workload {
        name: "affinity",
        thresholds: (35, 1000),
        nodes: 5000,
        before: (5000, together),
        measured: (5000, together),
    },
    Workload {
        name: "preemption",
        thresholds: (160, 1000),
        nodes: 5000,
        before: (20_000, low),
        measured: (5000, high),
    },
    Workload {
        name: "daemonset",
        thresholds: (390, 5000),
        nodes: 15_000,
        before: (0, plain),
        measured: (30_000, pinned),
    },
];

fn pod(name: String, labels: Value, requests: Value, more: Value) -> Value {
    let mut spec = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "pause", "image": "pause:1",
        "ports": [{"containerPort": 80}], "resources": {"requests": requests}}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "bench", "labels": labels}, "spec": spec})
}

fn small() -> Value {
    json!({"cpu": "100m", "memory": "500Mi"})
}

fn plain(number: usize) -> Value {
    pod(format!("plain-{number}"), json!({}), small(), json!({}))
}

fn spreading(number: usize) -> Value {
    let constraint = json!({"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"color": "blue"}}});
    pod(
        format!("spread-{number}"),
        json!({"color": "blue"}),
        small(),
        json!({"topologySpreadConstraints": [constraint]}),
    )
}

fn term(kind: &str, key: &str, color: &str) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": key, "labelSelector": {"matchLabels": {"color": color}}}]}}})
}

fn apart(number: usize) -> Value {
    pod(format!("apart-{number}"), json!({"color": "green"}), small(), term("podAntiAffinity", HOST, "green"))
}

fn together(number: usize) -> Value {
    pod(format!("together-{number}"), json!({"color": "blue"}), small(), term("podAffinity", ZONE, "blue"))
}

fn low(number: usize) -> Value {
    pod(format!("low-{number}"), json!({}), json!({"cpu": "900m", "memory": "500Mi"}), json!({}))
}

fn high(number: usize) -> Value {
    let requests = json!({"cpu": "3000m", "memory": "500Mi"});
    pod(format!("high-{number}"), json!({}), requests, json!({"priorityClassName": "high"}))
}

fn pinned(number: usize) -> Value {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [format!("hollow-{}", number % 15_000)]});
    let required = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
    pod(format!("daemon-{number}"), json!({}), small(), json!({"affinity": affinity}))
}

/// A control plane on a disk.
struct Plane {
    server: Server,
    admin: Client,
    informers: Informers,
    token: CancellationToken,
    tasks: TaskTracker,
    clock: api::Clock,
    bound: Arc<AtomicUsize>,
    /// Counts into `bound` as long as it lives.
    _pods: Informer<Pod>,
}

impl Plane {
    async fn start(dir: &Path) -> Self {
        let clock = api::Clock::new(Timestamp::now);
        let log = store::Redb::open(dir.join("store.redb")).unwrap();
        let store = store::Store::open(log, store::Options::new(store::Clock::new(SystemTime::now))).await.unwrap();
        let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
        let settings = harness::settings("bench");
        let options = harness::options(&settings, store, clock.clone(), 1, token.clone());
        let server = Server::new(options, settings.parts());
        Bootstrap::new(&server, settings, clock.clone()).ensure().await.unwrap();
        let admin = client(&server, "admin");
        let informers = Informers::new(client(&server, "manager"), token.clone(), tasks.clone());
        let bound = Arc::new(AtomicUsize::new(0));
        let (pods, count) = (informers.of::<Pod>(), bound.clone());
        pods.subscribe(move |delta| {
            let at = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            if at(delta.object()) && !delta.old().is_some_and(|pod| at(pod)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        pods.synced().await;
        Self { server, admin, informers, token, tasks, clock, bound, _pods: pods }
    }

    async fn call(&self, path: &str, body: &Value) {
        let body = Some(("application/json", body.to_string().into_bytes()));
        self.admin.raw("POST".parse().unwrap(), path, body).await.unwrap();
    }

    /// Creates pods, as fast as the server takes them.
    async fn create(&self, pods: impl Iterator<Item = Value>) {
        let mut creators = JoinSet::new();
        for pod in pods {
            if creators.len() >= CREATORS {
                creators.join_next().await;
            }
            let admin = self.admin.clone();
            creators.spawn(async move {
                let body = Some(("application/json", pod.to_string().into_bytes()));
                admin.raw("POST".parse().unwrap(), "/api/v1/namespaces/bench/pods", body).await.unwrap();
            });
        }
        while creators.join_next().await.is_some() {}
    }

    /// Registers the nodes, and ends what keeps them and takes their first taint when all are there.
    async fn register(&self, nodes: usize) {
        let options = hollow::Options {
            nodes: u32::try_from(nodes).unwrap(),
            cidr: hollow::default_cidr(),
            version: "v1.36.0".to_owned(),
            clock: self.clock.clone(),
        };
        let (token, tasks, informer) = (CancellationToken::new(), TaskTracker::new(), self.informers.of::<Node>());
        let mut manager = controllers::Options::new(self.clock.clone(), "certificate".to_owned());
        manager.selection = "node-lifecycle-controller".parse().unwrap();
        let admin = self.admin.clone();
        let cx = controllers::Context::new(
            Arc::new(move |_: &str| admin.clone()),
            self.informers.clone(),
            manager,
            tasks.clone(),
        );
        controllers::start(&cx, &token, &tasks);
        let (client, informers, stop) = (self.admin.clone(), self.informers.clone(), token.clone());
        let hollow = tokio::spawn(async move { hollow::run(client, &informers, options, stop).await });
        let is_free = |node: &Node| node.spec.as_ref().is_none_or(|spec| spec.taints.iter().flatten().count() == 0);
        while informer.list().iter().filter(|node| is_free(node)).count() < nodes {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        token.cancel();
        hollow.await.unwrap();
        drop(cx);
        tasks.close();
        tasks.wait().await;
    }

    /// Runs a scheduler until so many pods are bound. Returns how long that took, and the CPU time of the process meanwhile.
    async fn schedule(&self, until: usize, meanwhile: impl Future<Output = ()>) -> (Duration, Duration) {
        let options = scheduler::Options::new(self.clock.clone(), 1);
        let scheduler = scheduler::Scheduler::new(client(&self.server, "scheduler"), self.informers.clone(), options);
        let token = CancellationToken::new();
        let (begin, used) = (Instant::now(), cpu());
        let running = tokio::spawn({
            let token = token.clone();
            async move { scheduler.run(token).await }
        });
        meanwhile.await;
        while self.bound.load(Ordering::Relaxed) < until {
            assert!(begin.elapsed() < Duration::from_secs(300), "{} of {until}", self.bound.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = (begin.elapsed(), cpu() - used);
        token.cancel();
        running.await.unwrap();
        took
    }

    async fn stop(self) {
        self.token.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn client(server: &Server, user: &str) -> Client {
    let user = User::new(user, &["system:masters", "system:authenticated"]);
    Client::new(kube::Client::new(server.service_for(user), "default"))
}

/// The CPU time of this process.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn run(workload: &Workload, nodes: usize) {
    let mut figures = Vec::new();
    for inside in [false, true] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let plane = Plane::start(dir.path()).await;
        plane
            .call(
                "/api/v1/namespaces",
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}}),
            )
            .await;
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 10});
        plane.call("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        plane.call("/api/v1/namespaces/bench/serviceaccounts", &account).await;
        plane.register(nodes).await;
        let ((before, first), (measured, make)) = (workload.before, workload.measured);
        plane.create((0..before).map(first)).await;
        plane.schedule(before, async {}).await;
        let pods = (before..before + measured).map(make);
        let (took, used) = match inside {
            true => plane.schedule(before + measured, plane.create(pods)).await,
            false => {
                plane.create(pods).await;
                plane.schedule(before + measured, async {}).await
            }
        };
        figures.push((measured as f64 / took.as_secs_f64(), used.as_secs_f64() / measured as f64 * 1e6));
        plane.stop().await;
    }
    let ((upstream, ours), [stored, inside]) = (workload.thresholds, figures.as_slice()) else { return };
    println!(
        "| {} | {nodes} | {upstream} | {ours} | {:.0} ({:.0} µs CPU) | {:.0} ({:.0} µs CPU) |",
        workload.name, stored.0, stored.1, inside.0, inside.1
    );
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let nodes = std::env::var("SAMPAN_BENCH_NODES").ok().map(|text| text.parse().unwrap());
    println!("| workload | nodes | upstream's threshold | goal | pods/s, stored before | pods/s, creation inside |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for workload in WORKLOADS.iter().filter(|w| wanted.is_empty() || wanted.iter().any(|name| name == w.name)) {
        runtime.block_on(run(workload, nodes.unwrap_or(workload.nodes)));
    }
}
