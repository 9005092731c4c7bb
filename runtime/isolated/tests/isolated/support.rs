//! What the tests share: a node whose compiler and children are this very test program, and pods on a network in memory.

use container::{
    Artifact, Clock, ContainerId, ContainerSpec, ContainerState, Exit, Folder, HttpPolicy, Limits, Port, Protocol,
    RootFolder, Runtime, SandboxSpec, Stdin,
    fake::FakeNetwork,
    log,
    net::{Attachment, Network, PodNetwork},
};
use isolated::{Isolated, Options};
use sha2::{Digest, Sha256};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};
use wasm::{Compiler, Wasmtime};

const TIMEOUT: Duration = Duration::from_secs(60);

pub fn core_guest() -> Vec<u8> {
    wat::parse_str(include_str!("../../../wasm/tests/guests/core.wat")).unwrap()
}

/// A component of `world` around a core module in text.
pub fn component(world: &str, text: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = wit_parser::Resolve::new();
    let package = resolve.push_source("wasi.wit", include_str!("../../../wasm/tests/guests/wasi.wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    wit_component::ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

/// A guest of the samples.
pub fn sample(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples").join(path)).unwrap()
}

/// One node.
pub struct Node {
    pub folder: tempfile::TempDir,
    pub runtime: Isolated,
    pub network: FakeNetwork,
    /// A pod that runs nothing, for those who need sockets.
    pub unused: Attachment,
    count: AtomicU32,
}

/// This test program again, as the test of that name.
fn again(test: &str) -> (PathBuf, Vec<std::ffi::OsString>) {
    let args = ["--ignored", "--exact", test, "--nocapture"].map(Into::into).to_vec();
    (std::env::current_exe().unwrap(), args)
}

impl Node {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::new(SystemTime::now);
        let (program, args) = again("compile_child");
        let compiler = Compiler::new(program, args);
        let mut options = wasm::Options::new(folder.path().join("cache"), [1; 32], compiler, 1, clock.clone());
        options.pool.pooled = 0;
        let wasm = Arc::new(Wasmtime::new(options));
        let (program, args) = again("isolated_child");
        let options = Options {
            program,
            args,
            memory: 1 << 30,
            threads: 2,
            files: 64,
            connections: 64,
            streams: 256,
            log: log::Options::default(),
            clock,
            random: Arc::new(|| [7; 32]),
        };
        let network = FakeNetwork::default();
        let unused = attach(&network, "unused", &[]).await;
        Self { folder, runtime: Isolated::new(options, wasm), network, unused, count: AtomicU32::new(0) }
    }

    /// A pod; it knows `friends` by that name.
    pub async fn pod(&self, id: &str, friends: &[IpAddr]) -> IpAddr {
        let attached = attach(&self.network, id, friends).await;
        let spec = self.sandbox_spec(id);
        self.runtime.sandbox(spec, attached.sockets).await.unwrap();
        attached.addresses[0]
    }

    pub fn sandbox_spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: id.into(),
            hostname: id.into(),
            labels: Default::default(),
            limits: Limits::default(),
            network: Default::default(),
            folders: vec![Folder { path: self.folder.path().join("logs"), read_only: false, links: false }],
            linux: Default::default(),
        }
    }

    pub fn artifact(&self, wasm: &[u8]) -> Artifact {
        let hash = hex::encode(Sha256::digest(wasm));
        let path = self.folder.path().join(&hash);
        std::fs::write(&path, wasm).unwrap();
        Artifact::Wasm { path, digest: format!("sha256:{hash}"), files: None }
    }

    pub fn spec(&self, wasm: &[u8], args: &[&str]) -> ContainerSpec {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        ContainerSpec {
            id: format!("container-{number}").into(),
            name: "main".into(),
            artifact: self.artifact(wasm),
            args: args.iter().map(ToString::to_string).collect(),
            env: vec![("GREETING".into(), "Hello".into())],
            cwd: None,
            root: RootFolder::Absent,
            mounts: vec![],
            ports: vec![Port { name: "http".into(), number: 80, protocol: Protocol::Tcp }],
            limits: Limits::default(),
            log: self.folder.path().join(format!("logs/container-{number}/0.log")),
            core_dump: false,
            http: HttpPolicy::default(),
            stdin: Stdin::Empty,
            tty: false,
            linux: None,
        }
    }

    /// Prepares, creates and starts.
    pub async fn start(&self, pod: &str, spec: ContainerSpec) -> ContainerId {
        let id = spec.id.clone();
        let _prepared = self.runtime.prepare(&spec.artifact, "", &|_| ()).await.unwrap();
        self.runtime.create(&pod.into(), spec).await.unwrap();
        self.runtime.start(&id).await.unwrap();
        id
    }

    pub async fn state(&self, id: &ContainerId) -> ContainerState {
        self.runtime.list().await.unwrap().into_iter().find(|status| status.id == *id).unwrap().state
    }

    /// Waits for the end.
    pub async fn exit(&self, id: &ContainerId) -> Exit {
        let mut events = self.runtime.events();
        let wait = async {
            loop {
                if let ContainerState::Exited(exit) = self.state(id).await {
                    return exit;
                }
                events.recv().await.unwrap();
            }
        };
        tokio::time::timeout(TIMEOUT, wait).await.expect("it does not end")
    }

    /// The texts of a container's log, without time stamps, once `done` holds for them.
    pub async fn log(&self, id: &ContainerId, done: impl Fn(&str) -> bool) -> String {
        let path = self.folder.path().join(format!("logs/{id}/0.log"));
        let read = async {
            loop {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                // The last line may be half written.
                let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
                let text: String = whole.filter_map(|line| Some(line.split_once(' ')?.1)).collect();
                if done(&text) {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, read).await.expect("the log does not say that")
    }

    /// The processes of pods that this test program started for this node's folder are told apart by nothing: all of them, by id.
    pub fn children() -> Vec<u32> {
        let own = std::process::id();
        let children = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let mut after = stat.rsplit_once(')')?.1.split_whitespace();
            let (state, parent) = (after.next()?, after.next()?.parse::<u32>().ok()?);
            let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            (parent == own && state != "Z" && command.contains("isolated_child")).then_some(pid)
        });
        children.collect()
    }
}

pub async fn attach(network: &FakeNetwork, id: &str, friends: &[IpAddr]) -> Attachment {
    let host_aliases = friends.iter().map(|address| (*address, vec!["friends".to_owned()])).collect();
    let pod = PodNetwork {
        id: id.into(),
        name: id.into(),
        namespace: "default".into(),
        hostname: id.into(),
        address: None,
        host_aliases,
        host_ports: Vec::new(),
        kernel: false,
    };
    network.attach(pod).await.unwrap()
}
