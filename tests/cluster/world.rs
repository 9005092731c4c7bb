//! The cluster under test and what tests ask of it.

use crate::{
    process::{Deciders, Process},
    unsteady::Switch,
};
use agent::{
    Agent, Dependencies, Machine, Pressure, Runtimes,
    images::{Command, Error, Images, Keyring, Listed, Pulled},
};
use api::Object;
use client::{Client, Informers, Recorder, RecorderOptions};
use container::{
    Artifact, Runtime,
    fake::{FakeNetwork, FakeRuntime, Script},
};
use jiff::{SignedDuration, Timestamp};
use kinds::bootstrap::Bootstrap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use server::{
    Objects, Server, User,
    nodes::{self, Nodes, Stream, Unreachable},
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Simulated time within which everything has to happen unless a test says otherwise.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// Simulated time between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Images in memory: any name is in the registry, and a pull takes a moment.
struct AnyImage;

fn pulled(image: &str) -> Pulled {
    Pulled {
        artifact: Artifact::Wasm { path: "/image.wasm".into(), digest: format!("sha256:{image}"), files: None },
        image_id: format!("{image}@sha256:0"),
        size: 1000,
        command: Command { entrypoint: vec!["/image.wasm".into()], ..Command::default() },
        platform: "wasm".into(),
    }
}

#[async_trait::async_trait]
impl Images for AnyImage {
    async fn present(&self, _image: &str, _keyring: &Keyring) -> Result<Option<Pulled>, Error> {
        Ok(None)
    }

    async fn is_linux(&self, _image: &str, _credentials: Option<&Keyring>) -> Result<Option<bool>, Error> {
        Ok(Some(false))
    }

    async fn pull(&self, image: &str, _keyring: &Keyring) -> Result<Pulled, Error> {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(pulled(image))
    }

    async fn folder(&self, _image_id: &str) -> Result<Option<PathBuf>, Error> {
        Ok(None)
    }

    async fn list(&self) -> Vec<Listed> {
        Vec::new()
    }

    async fn collect(&self, _used: &[String]) {}
}

/// The kubelets' paths of the machines whose agents were started.
#[derive(Clone, Default)]
struct Routers(Arc<Mutex<BTreeMap<String, axum::Router>>>);

#[async_trait::async_trait]
impl Nodes for Routers {
    async fn open(&self, node: &str) -> Result<Stream, Unreachable> {
        let router = self.0.lock().get(node).cloned();
        router.map(nodes::piped).ok_or_else(|| nodes::no_way(node))
    }
}

/// A machine: it outlives its agent.
pub struct Machinery {
    pub runtime: FakeRuntime,
    /// Whether its disk is short. Never the disk of the machine that tests.
    pub disk_short: Arc<AtomicBool>,
    dir: tempfile::TempDir,
    running: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

/// A cluster.
pub struct World {
    pub server: Server,
    pub store: store::Store<server::Item>,
    pub clock: api::Clock,
    /// The administrator's client; never cut.
    pub admin: Client,
    /// Cuts the components (not the administrator) from the API.
    pub switch: Switch,
    pub machines: BTreeMap<String, Machinery>,
    pub informers: Informers,
    /// Controllers and scheduler, where they are apart.
    process: Option<Process>,
    /// Simulated time between two looks.
    look: Duration,
    objects: Arc<dyn Objects>,
    /// What the controllers sign with.
    pub keys: Arc<crate::keys::Keys>,
    pub network: FakeNetwork,
    routers: Routers,
    begin: Instant,
    seed: u64,
    token: CancellationToken,
    tasks: TaskTracker,
}

fn wall(begin: Instant) -> Timestamp {
    let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    epoch + SignedDuration::try_from(begin.elapsed()).unwrap()
}

impl World {
    /// One node whose containers run until they are stopped.
    pub async fn start() -> Self {
        let mut world = Self::empty(1).await;
        world.node("n1", 4, |_, _| Script::Run).await;
        world
    }

    /// Several nodes as in [`World::start`].
    pub async fn with_nodes(nodes: usize, seed: u64) -> Self {
        let mut world = Self::empty(seed).await;
        for number in 1..=nodes {
            world.node(&format!("n{number}"), 4, |_, _| Script::Run).await;
        }
        world
    }

    /// A cluster without nodes.
    pub async fn empty(seed: u64) -> Self {
        Self::over(store::Memory::default(), seed, Instant::now()).await
    }

    /// A cluster without nodes over what a log holds. `begin`: when the clock of the first cluster over it began.
    pub async fn over(log: store::Memory, seed: u64, begin: Instant) -> Self {
        // Boxed, since tests keep what is here on their stacks.
        Box::pin(Self::open(log, seed, begin, false, controllers::Selection::default())).await
    }

    /// A cluster without nodes whose controllers and scheduler are a [`Process`] of their own.
    pub async fn apart(seed: u64) -> Self {
        Box::pin(Self::open(store::Memory::default(), seed, Instant::now(), true, controllers::Selection::default()))
            .await
    }

    /// As [`World::start`], with some of the controllers.
    pub async fn with_controllers(selection: &str) -> Self {
        let selection = selection.parse().unwrap();
        let mut world = Box::pin(Self::open(store::Memory::default(), 1, Instant::now(), false, selection)).await;
        world.node("n1", 4, |_, _| Script::Run).await;
        world
    }

    async fn open(
        log: store::Memory,
        seed: u64,
        begin: Instant,
        apart: bool,
        selection: controllers::Selection,
    ) -> Self {
        let clock = api::Clock::new(move || wall(begin));
        let options = store::Options::new(store::Clock::new(move || wall(begin).into()));
        let store = store::Store::open(log, options).await.unwrap();
        let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
        let local_volumes = Some(agent::LOCAL_VOLUMES.to_owned());
        let settings = kinds::Settings { local_volumes, ..harness::settings("cluster") };
        let keys = Arc::new(crate::keys::Keys::new(&settings.tokens, clock.now()));
        let routers = Routers::default();
        let mut options = harness::options(&settings, store.clone(), clock.clone(), seed, token.clone());
        options.nodes = Arc::new(routers.clone());
        let server = Server::new(options, settings.parts());
        let bootstrap = Bootstrap::new(&server, settings, clock.clone());
        bootstrap.ensure().await.unwrap();
        tasks.spawn({
            let token = token.clone();
            async move { bootstrap.run(std::future::ready(()), &token).await }
        });
        let switch = Switch::default();
        let component = |user: &str, groups: &[&str]| component(&server, &switch, user, groups);
        let manager = component("system:kube-controller-manager", &[]);
        let informers = Informers::new(manager.clone(), token.clone(), tasks.clone());
        let deciders = Deciders { clock: clock.clone(), keys: keys.clone(), skew: Arc::default(), seed, selection };
        let process = if apart {
            Some(Process::start(&server, deciders))
        } else {
            let (server, switch) = (server.clone(), switch.clone());
            let accounts: controllers::Accounts =
                Arc::new(move |account: &str| as_user(&server, &switch, crate::process::controller(account)));
            deciders.start(accounts, component("system:kube-scheduler", &[]), &informers, &token, &tasks);
            None
        };
        let user = User::new("admin", &["system:masters", "system:authenticated"]);
        let admin = Client::new(kube::Client::new(server.service_for(user), "default"));
        informers.synced().await;
        let world = Self {
            objects: server.objects(),
            keys,
            server,
            store,
            clock,
            admin,
            switch,
            machines: BTreeMap::new(),
            informers,
            look: if process.is_some() { LOOK * 5 } else { LOOK },
            process,
            network: FakeNetwork::default(),
            routers,
            begin,
            seed,
            token,
            tasks,
        };
        world.network.answer(8080, |_| (200, Vec::new()));
        world.until("the default ServiceAccount", |w| w.find("", "serviceaccounts", "default").is_some()).await;
        world
    }

    /// Adds a machine with so many cores, and waits until its Node is ready.
    pub async fn node(&mut self, name: &str, cpus: u32, scripts: impl Fn(&str, u32) -> Script + Send + Sync + 'static) {
        let begin = self.begin;
        let runtime = FakeRuntime::new("wasmtime", container::Clock::new(move || wall(begin).into()), scripts);
        let machine =
            Machinery { runtime, disk_short: Arc::default(), dir: tempfile::tempdir().unwrap(), running: None };
        self.machines.insert(name.to_owned(), machine);
        self.run_agent(name, cpus);
        let ready = |w: &Self| w.find("", "nodes", name).is_some_and(|n| condition(&n, "Ready") == "True");
        self.until("the Node to be ready", ready).await;
    }

    /// Starts the agent of a machine.
    pub fn run_agent(&mut self, name: &str, cpus: u32) {
        let client = component(&self.server, &self.switch, &format!("system:node:{name}"), &["system:nodes"]);
        let options = RecorderOptions { component: "kubelet".into(), host: Some(name.to_owned()) };
        let (recorder, write) = Recorder::new(client.clone(), self.clock.clone(), options);
        tokio::spawn(write);
        let machine = self.machines.get_mut(name).unwrap();
        let dependencies = Dependencies {
            runtimes: Runtimes::new([Arc::new(machine.runtime.clone()) as Arc<dyn Runtime>]),
            network: Arc::new(self.network.clone()),
            dialer: Arc::new(self.network.clone()),
            images: Arc::new(AnyImage),
            client,
            informers: self.informers.clone(),
            recorder,
        };
        let options = agent::Options {
            node: name.to_owned(),
            addresses: vec!["10.32.0.1".parse().unwrap()],
            machine: Machine {
                operating_system: "linux".into(),
                architecture: "amd64".into(),
                hostname: name.to_owned(),
                cpus,
                memory: 8 << 30,
                storage: 100 << 30,
                ..Machine::default()
            },
            pressure: {
                let short = machine.disk_short.clone();
                Arc::new(move || Pressure { disk: short.load(Ordering::SeqCst), ..Pressure::default() })
            },
            usage: {
                let begin = self.begin;
                Arc::new(move || agent::Usage {
                    cpu_nanos: u64::try_from(begin.elapsed().as_nanos() / 4).ok(),
                    memory_bytes: Some(64 << 20),
                })
            },
            pods: 100,
            reserved: BTreeMap::new(),
            labels: BTreeMap::new(),
            pod_cidr: String::new(),
            dns: Default::default(),
            resolver: Arc::new(String::new),
            private: Default::default(),
            data_dir: machine.dir.path().to_owned(),
            clock: self.clock.clone(),
            seed: self.seed,
            drain: Duration::from_secs(10),
            version: "v1.36.0".into(),
            runtime_version: "wasmtime://48".into(),
            port: None,
        };
        let agent = Agent::new(options, dependencies).unwrap();
        self.routers.0.lock().insert(name.to_owned(), agent.router());
        let token = CancellationToken::new();
        let child = token.clone();
        let task = tokio::spawn(async move { agent.run(child).await.unwrap() });
        machine.running = Some((token, task));
    }

    /// Ends the agent of a machine, as Ctrl-C does. Its Node and its pods stay in the API.
    pub async fn stop_agent(&mut self, name: &str) {
        let (token, task) = self.machines.get_mut(name).unwrap().running.take().unwrap();
        token.cancel();
        task.await.unwrap();
        self.routers.0.lock().remove(name);
    }

    /// Ends the control plane and the agents; what is stored stays in the log.
    pub async fn end(mut self) {
        for name in self.machines.keys().cloned().collect::<Vec<_>>() {
            self.stop_agent(&name).await;
        }
        self.token.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await.unwrap();
    }

    /// The process of controllers and scheduler of a cluster that has them [apart](World::apart).
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("they are apart")
    }

    /// Simulated time since the start.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// An object of namespace `default`, or a cluster-scoped one.
    pub fn find(&self, group: &str, resource: &str, name: &str) -> Option<Value> {
        let of_cluster = [
            "nodes",
            "namespaces",
            "persistentvolumes",
            "storageclasses",
            "certificatesigningrequests",
            "clusterroles",
            "customresourcedefinitions",
            "ipaddresses",
            "servicecidrs",
            "validatingadmissionpolicies",
        ];
        let namespace = if of_cluster.contains(&resource) { "" } else { "default" };
        self.objects.get(group, resource, namespace, name).map(|object| value(&object))
    }

    /// The folder of a machine's agent.
    pub fn dir(&self, machine: &str) -> &std::path::Path {
        self.machines[machine].dir.path()
    }

    /// All objects of namespace `default`.
    pub fn all(&self, group: &str, resource: &str) -> Vec<Value> {
        self.all_in("default", group, resource)
    }

    /// All objects of a namespace.
    pub fn all_in(&self, namespace: &str, group: &str, resource: &str) -> Vec<Value> {
        self.objects.list(group, resource, namespace).iter().map(|object| value(object)).collect()
    }

    /// All pods that are not being deleted.
    pub fn pods(&self) -> Vec<Value> {
        self.all("", "pods").into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect()
    }

    /// Pods in a phase that are not being deleted.
    pub fn in_phase(&self, phase: &str) -> usize {
        self.pods().iter().filter(|pod| pod["status"]["phase"] == phase).count()
    }

    /// Any request by path; the answer must be a success.
    pub async fn call(&self, method: &str, url: &str, body: Value) -> Value {
        self.try_call(method, url, body).await.unwrap_or_else(|error| panic!("{method} {url}: {error}"))
    }

    /// Any request by path.
    pub async fn try_call(&self, method: &str, url: &str, body: Value) -> client::Result<Value> {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { None } else { Some((media, body.to_string().into_bytes())) };
        let bytes = self.admin.raw(method.parse().unwrap(), url, body).await?;
        Ok(serde_json::from_slice(&bytes).unwrap())
    }

    /// Waits until something holds, at most an hour of simulated time.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        self.until_within(TIMEOUT, what, holds).await;
    }

    /// Waits until something holds, at most so long in simulated time.
    pub async fn until_within(&self, patience: Duration, what: &str, holds: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            assert!(begin.elapsed() < patience, "waited in vain for {what}\n{}", self.story());
            tokio::time::sleep(self.look).await;
        }
    }

    /// Lets simulated time pass.
    pub async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Reasons and messages of all events of the namespace, the oldest first.
    pub fn events(&self) -> Vec<String> {
        let mut events = self.all("", "events");
        events.sort_by_key(|e| e["metadata"]["creationTimestamp"].to_string());
        let text = |e: &Value| format!("{} {} {}", e["involvedObject"]["name"], e["reason"], e["message"]);
        events.iter().map(text).collect()
    }

    /// What a failed test wants to know.
    fn story(&self) -> String {
        let mut out = String::new();
        for (group, resource) in [("apps", "deployments"), ("apps", "replicasets"), ("batch", "jobs"), ("", "pods")] {
            for object in self.all(group, resource) {
                let meta = &object["metadata"];
                out += &format!(
                    "{resource} {} deleted {} finalizers {} node {} {}\n",
                    meta["name"],
                    meta["deletionTimestamp"],
                    meta["finalizers"],
                    object["spec"]["nodeName"],
                    object["status"]
                );
            }
        }
        out + &self.events().join("\n")
    }
}

fn component(server: &Server, switch: &Switch, user: &str, groups: &[&str]) -> Client {
    let groups: Vec<&str> = groups.iter().copied().chain(["system:authenticated"]).collect();
    as_user(server, switch, User::new(user, &groups))
}

fn as_user(server: &Server, switch: &Switch, user: User) -> Client {
    Client::new(kube::Client::new(switch.over(server.service_for(user)), "default"))
}

fn value(object: &Object) -> Value {
    object.clone().into_value()
}

/// The status of a condition, or nothing.
pub fn condition(object: &Value, kind: &str) -> String {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let one = all.into_iter().find(|c| c["type"] == kind).unwrap_or_default();
    one["status"].as_str().unwrap_or_default().to_owned()
}

pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// A Deployment whose pods are ready a little after they start.
pub fn deployment(name: &str, replicas: i64, image: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 5, "containers": [{
            "name": "c", "image": image, "ports": [{"containerPort": 8080}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "initialDelaySeconds": 1, "periodSeconds": 1}}]}}}})
}

/// Whether a Deployment is where it wants to be.
pub fn complete(world: &World, name: &str) -> bool {
    let Some(deployment) = world.find("apps", "deployments", name) else { return false };
    let (meta, spec, status) = (&deployment["metadata"], &deployment["spec"], &deployment["status"]);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let wanted = spec["replicas"].as_i64().unwrap();
    status["observedGeneration"] == meta["generation"]
        && ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"].iter().all(|f| number(f) == wanted)
}
