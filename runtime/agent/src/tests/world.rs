//! A node in memory.

use super::fake_api::FakeApi;
use crate::{
    Agent, Dependencies, Machine, Options, Runtimes,
    images::{Command, Error, Images, Keyring, Listed, Pulled},
    resolver::ClusterDns,
};
use client::{Informers, Recorder, RecorderOptions};
use container::{
    Artifact, Runtime,
    fake::{FakeNetwork, FakeRuntime, Script},
};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

thread_local! {
    static BEGIN: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
}

pub(crate) fn epoch() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

/// The paused time since the test began.
pub(super) fn elapsed() -> Duration {
    let now = tokio::time::Instant::now();
    let begin = BEGIN.get().unwrap_or_else(|| {
        BEGIN.set(Some(now));
        now
    });
    now - begin
}

pub(super) fn now() -> Timestamp {
    epoch() + SignedDuration::try_from(elapsed()).expect("in range")
}

/// Images in memory. The registry has every name, except those that fail.
#[derive(Default)]
pub(super) struct FakeImages {
    pub(super) present: Mutex<BTreeMap<String, Pulled>>,
    pub(super) broken: Mutex<BTreeMap<String, Error>>,
    /// Images on the node that require these credentials.
    pub(super) private: Mutex<BTreeMap<String, Keyring>>,
    pub(super) pulls: Mutex<Vec<(String, Keyring)>>,
    /// Folders with files, by the ids of images.
    pub(super) folders: Mutex<BTreeMap<String, PathBuf>>,
}

fn pulled(image: &str) -> Pulled {
    let digest = format!("sha256:{image}");
    let artifact = if image.contains("linux") {
        Artifact::Linux { layers: Vec::new(), digest }
    } else {
        Artifact::Wasm { path: "/image.wasm".into(), digest, files: None }
    };
    let command = Command { entrypoint: vec!["/image.wasm".into()], ..Command::default() };
    let platform = if image.contains("linux") { "linux/amd64" } else { "wasm" };
    Pulled { artifact, image_id: format!("{image}@sha256:0"), size: 1000, command, platform: platform.into() }
}

#[async_trait::async_trait]
impl Images for FakeImages {
    async fn present(&self, image: &str, keyring: &Keyring) -> Result<Option<Pulled>, Error> {
        if self.private.lock().get(image).is_some_and(|private| private != keyring) {
            return Ok(None);
        }
        if image.contains("INVALID") {
            return Err(Error::InvalidImageName { image: image.into(), cause: "invalid reference format".into() });
        }
        Ok(self.present.lock().get(image).cloned())
    }

    async fn is_linux(&self, image: &str, credentials: Option<&Keyring>) -> Result<Option<bool>, Error> {
        let known = credentials.is_some() || self.present.lock().contains_key(image);
        // the manifest of some is not to be had
        Ok((known && !image.contains("unclear")).then(|| image.contains("linux")))
    }

    async fn pull(&self, image: &str, keyring: &Keyring) -> Result<Pulled, Error> {
        self.pulls.lock().push((image.to_owned(), keyring.clone()));
        tokio::time::sleep(Duration::from_millis(if image.starts_with("slow") { 3_000 } else { 100 })).await;
        if let Some(error) = self.broken.lock().get(image) {
            return Err(error.clone());
        }
        self.present.lock().insert(image.to_owned(), pulled(image));
        Ok(pulled(image))
    }

    async fn folder(&self, image_id: &str) -> Result<Option<PathBuf>, Error> {
        Ok(self.folders.lock().get(image_id).cloned())
    }

    async fn list(&self) -> Vec<Listed> {
        self.present.lock().keys().map(|name| Listed { names: vec![name.clone()], size: 1000 }).collect()
    }

    async fn collect(&self, _used: &[String]) {}
}

impl FakeImages {
    /// Adds an image to the node without a pull.
    pub(super) fn load(&self, image: &str) {
        self.present.lock().insert(image.to_owned(), pulled(image));
    }
}

/// The error of a failed pull.
pub(super) fn failure(image: &str) -> Error {
    Error::ErrImagePull { image: image.into(), cause: "no such tag".into(), hint: String::new() }
}

/// A node and its API server.
pub(super) struct World {
    pub(super) api: FakeApi,
    pub(super) runtime: FakeRuntime,
    pub(super) network: FakeNetwork,
    pub(super) images: Arc<FakeImages>,
    /// Whether the disk has pressure.
    pub(super) short: Arc<std::sync::atomic::AtomicBool>,
    pub(super) dir: tempfile::TempDir,
    pub(super) agent: Option<Agent>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl World {
    /// A node whose containers run until they are stopped.
    pub(super) async fn new() -> Self {
        Self::scripted(|_, _| Script::Run).await
    }

    pub(super) async fn scripted(scripts: impl Fn(&str, u32) -> Script + Send + Sync + 'static) -> Self {
        Self::of("wasmtime", scripts).await
    }

    /// A node with a runtime of that name.
    pub(super) async fn of(
        runtime: &'static str,
        scripts: impl Fn(&str, u32) -> Script + Send + Sync + 'static,
    ) -> Self {
        elapsed();
        let mut world = Self {
            api: FakeApi::new(),
            runtime: FakeRuntime::new(runtime, container::Clock::new(|| now().into()), scripts),
            network: FakeNetwork::default(),
            images: Arc::default(),
            short: Arc::default(),
            dir: tempfile::tempdir().expect("a folder"),
            agent: None,
            running: None,
        };
        world.start().await;
        world
    }

    pub(super) async fn start(&mut self) {
        let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
        let client = self.api.client();
        let clock = api::Clock::new(now);
        let options = RecorderOptions { component: "kubelet".into(), host: Some("node".into()) };
        let (recorder, write) = Recorder::new(client.clone(), clock.clone(), options);
        tokio::spawn(write);
        let informers = Informers::new(client.clone(), token.clone(), tasks);
        let runtime: Arc<dyn Runtime> = Arc::new(self.runtime.clone());
        let parts = Dependencies {
            runtimes: Runtimes::new([runtime]),
            network: Arc::new(self.network.clone()),
            dialer: Arc::new(self.network.clone()),
            images: self.images.clone(),
            client,
            informers,
            recorder,
        };
        let mut options = node_options(self.dir.path(), clock);
        let short = self.short.clone();
        options.pressure = Arc::new(move || crate::Pressure {
            disk: short.load(std::sync::atomic::Ordering::SeqCst),
            ..crate::Pressure::default()
        });
        let agent = Agent::new(options, parts).expect("an agent");
        self.agent = Some(agent.clone());
        let child = token.clone();
        let task = tokio::spawn(async move { agent.run(child).await.expect("the agent runs") });
        self.running = Some((token, task));
    }

    /// Ends the agent like Ctrl-C.
    pub(super) async fn stop(&mut self) {
        let (token, task) = self.running.take().expect("a running agent");
        token.cancel();
        task.await.expect("the agent ends");
    }

    /// Creates a pod that is bound to the node. `spec` has no node name.
    pub(super) fn pod(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = "node".into();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
            "spec": spec, "status": {"phase": "Pending", "qosClass": "BestEffort"}
        });
        self.api.put(&path(name), pod);
    }

    pub(super) fn status(&self, name: &str) -> Value {
        self.api.get(&path(name)).map(|pod| pod["status"].clone()).unwrap_or_default()
    }

    /// Marks a pod as deleted, like the API server.
    pub(super) fn delete(&self, name: &str, grace: i64) {
        self.api.edit(&path(name), |pod| {
            pod["metadata"]["deletionTimestamp"] = api::time::rfc3339(now()).into();
            pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        });
    }

    /// Waits until a pod's status fulfils a condition, at most an hour of paused time.
    pub(super) async fn until(&self, name: &str, what: impl Fn(&Value) -> bool) -> Value {
        let begin = elapsed();
        loop {
            let status = self.status(name);
            if what(&status) {
                return status;
            }
            let text = || serde_json::to_string_pretty(&status).expect("JSON");
            assert!(elapsed() - begin < Duration::from_secs(3600), "{}\n{:#?}", text(), self.api.events());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn phase(&self, name: &str, phase: &str) -> Value {
        self.until(name, |status| status["phase"] == phase).await
    }

    pub(super) async fn gone(&self, name: &str) {
        self.until(name, Value::is_null).await;
    }
}

pub(super) fn path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

pub(crate) fn node_options(dir: &Path, clock: api::Clock) -> Options {
    Options {
        node: "node".into(),
        addresses: vec!["192.0.2.7".parse().expect("an address")],
        machine: Machine {
            operating_system: "linux".into(),
            architecture: "amd64".into(),
            hostname: "host".into(),
            cpus: 4,
            memory: 8 << 30,
            storage: 100 << 30,
            ..Machine::default()
        },
        pressure: Arc::new(crate::Pressure::default),
        usage: Arc::new(|| crate::Usage {
            cpu_nanos: u64::try_from(elapsed().as_nanos() / 4).ok(),
            memory_bytes: Some(64 << 20),
        }),
        pods: 10_000,
        reserved: BTreeMap::new(),
        labels: BTreeMap::new(),
        pod_cidr: String::new(),
        dns: ClusterDns { servers: vec!["10.96.0.10".parse().expect("an address")], domain: "cluster.local".into() },
        resolver: Arc::new(String::new),
        data_dir: dir.to_owned(),
        private: dir.to_owned(),
        clock,
        seed: 7,
        drain: Duration::from_secs(10),
        version: "v1.36.0".into(),
        runtime_version: "wasmtime://48".into(),
        port: None,
    }
}

/// The waiting reason of the first container.
pub(super) fn waiting(status: &Value) -> &str {
    status["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or_default()
}

/// Status, reason and message of a condition.
pub(super) fn condition(status: &Value, kind: &str) -> (String, String, String) {
    let all = status["conditions"].as_array().cloned().unwrap_or_default();
    let one = all.into_iter().find(|c| c["type"] == kind).unwrap_or_default();
    let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}
