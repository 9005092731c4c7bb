//! What the tests share: a node whose shims are this very test program, and images of one static busybox.

use container::{
    Artifact, Clock, ContainerId, ContainerSpec, ContainerState, Exit, HttpPolicy, Limits, RootFolder, Runtime,
    SandboxSpec, Stdin,
    contract::{Fixture, Program},
    fake::FakeNetwork,
    log,
    net::{Attachment, Network, PodNetwork, Sockets},
};
use runc::{Options, Runc};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

pub const TIMEOUT: Duration = Duration::from_secs(60);

static NODES: AtomicU32 = AtomicU32::new(0);

/// One node.
pub struct Node {
    pub folder: tempfile::TempDir,
    pub runtime: Runc,
    pub options: Options,
    /// A pod that runs nothing, for those who need sockets.
    pub unused: Attachment,
    pub layer: PathBuf,
    pub logs: PathBuf,
    count: AtomicU32,
}

/// The program of shims: beside the tests where they were copied, or else where it was built.
pub fn shim() -> PathBuf {
    let beside = std::env::current_exe().unwrap().with_file_name("runc-shim");
    if beside.exists() { beside } else { env!("CARGO_BIN_EXE_runc-shim").into() }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this machine can run the tests; says what is missing otherwise.
pub fn can_run() -> bool {
    has(&[(!Path::new("/bin/busybox").exists(), "busybox-static"), (oci_runtime("runc").is_none(), "runc")])
}

/// The same for tests of what only root can do.
pub fn can_run_as_root() -> bool {
    has(&[(!is_root(), "root")]) && can_run()
}

fn has(missing: &[(bool, &str)]) -> bool {
    let missing: Vec<_> = missing.iter().filter(|(missing, _)| *missing).map(|(_, what)| *what).collect();
    if !missing.is_empty() {
        let text = format!("SKIPPED: it needs {}", missing.join(" and "));
        assert!(std::env::var("SAMPAN_TEST_REQUIRE").as_deref() != Ok("all"), "{text}");
        eprintln!("{text}");
    }
    missing.is_empty()
}

pub fn oci_runtime(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin"].iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

impl Node {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let number = NODES.fetch_add(1, Ordering::SeqCst);
        let cgroup = format!("/sampan-test-{}-{number}", std::process::id());
        Self::made(tempfile::tempdir().unwrap(), cgroup, change).await
    }

    /// The node of a folder, which another process may have made.
    pub async fn at(folder: &Path) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        let own = tempfile::tempdir_in(folder).unwrap();
        let mut node = Self::made(own, format!("/sampan-test-{name}"), |options| {
            options.folder = folder.join("pods");
        })
        .await;
        node.logs = folder.join("logs");
        node
    }

    async fn made(folder: tempfile::TempDir, cgroup: String, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            program: shim(),
            args: vec![],
            folder: folder.path().join("pods"),
            oci_runtime: "runc".into(),
            call_timeout: Duration::from_secs(30),
            cgroup,
            log: log::Options::default(),
            clock: Clock::new(SystemTime::now),
        };
        change(&mut options);
        let layer = folder.path().join("layer");
        for name in ["bin", "etc", "tmp"] {
            fs::create_dir_all(layer.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
        for name in
            ["sh", "cat", "echo", "sleep", "id", "ls", "mount", "touch", "hostname", "true", "wc", "head", "stty", "tr"]
        {
            symlink("busybox", layer.join("bin").join(name)).unwrap();
        }
        let args = layer.join("bin/args");
        fs::write(&args, "#!/bin/sh\nfor it in \"$0\" \"$@\"; do echo \"$it\"; done\n").unwrap();
        fs::set_permissions(args, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n").unwrap();
        fs::write(layer.join("etc/group"), "root:x:0:\nweb:x:33:\naudio:x:29:web\n").unwrap();
        let unused = attach("unused").await;
        let runtime = Runc::new(options.clone());
        let logs = folder.path().join("logs");
        Self { folder, runtime, options, unused, layer, logs, count: AtomicU32::new(0) }
    }

    /// The same node after its process ended.
    pub fn again(&self) -> Runc {
        Runc::new(self.options.clone())
    }

    pub fn sandbox_spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: id.into(),
            hostname: id.into(),
            labels: Default::default(),
            limits: Limits::default(),
            network: Default::default(),
            folders: vec![],
            linux: Default::default(),
        }
    }

    pub async fn pod(&self, id: &str) {
        self.runtime.sandbox(self.sandbox_spec(id), self.unused.sockets.clone()).await.unwrap();
    }

    pub fn artifact(&self) -> Artifact {
        Artifact::Linux { layers: vec![self.layer.clone()], digest: "sha256:0".into() }
    }

    pub fn spec(&self, args: &[&str]) -> ContainerSpec {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        ContainerSpec {
            id: format!("container-{number}").into(),
            name: "main".into(),
            artifact: self.artifact(),
            args: args.iter().map(ToString::to_string).collect(),
            env: vec![],
            cwd: None,
            root: RootFolder::Absent,
            mounts: vec![],
            ports: vec![],
            limits: Limits::default(),
            log: self.logs.join(format!("container-{number}/0.log")),
            core_dump: false,
            http: HttpPolicy::default(),
            stdin: Stdin::Empty,
            tty: false,
            linux: None,
        }
    }

    pub fn sh(&self, script: &str) -> ContainerSpec {
        self.spec(&["/bin/sh", "-c", script])
    }

    pub async fn start(&self, pod: &str, spec: ContainerSpec) -> ContainerId {
        let id = spec.id.clone();
        self.runtime.create(&pod.into(), spec).await.unwrap();
        self.runtime.start(&id).await.unwrap();
        id
    }

    /// Runs a container to its end, and returns how it ended and what it said.
    pub async fn run(&self, pod: &str, spec: ContainerSpec) -> (Exit, String) {
        let id = self.start(pod, spec).await;
        let exit = self.exit(&id).await;
        (exit, self.log(&id))
    }

    pub async fn state(&self, id: &ContainerId) -> ContainerState {
        state(&self.runtime, id).await.unwrap()
    }

    pub async fn exit(&self, id: &ContainerId) -> Exit {
        exit(&self.runtime, id).await
    }

    /// The texts of a container's log.
    pub fn log(&self, id: &ContainerId) -> String {
        let path = self.logs.join(format!("{id}/0.log"));
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| Some(format!("{}\n", line.splitn(4, ' ').nth(3)?))).collect()
    }

    /// Waits until a container's log says something.
    pub async fn said(&self, id: &ContainerId, what: &str) -> String {
        wait(&format!("{id} says {what:?}"), || Some(self.log(id)).filter(|text| text.contains(what))).await
    }
}

pub async fn state(runtime: &Runc, id: &ContainerId) -> Option<ContainerState> {
    runtime.list().await.unwrap().into_iter().find(|status| status.id == *id).map(|status| status.state)
}

pub async fn exit(runtime: &Runc, id: &ContainerId) -> Exit {
    let mut events = runtime.events();
    let wait = async {
        loop {
            if let Some(ContainerState::Exited(exit)) = state(runtime, id).await {
                return exit;
            }
            let _ = events.recv().await;
        }
    };
    tokio::time::timeout(TIMEOUT, wait).await.expect("it does not end")
}

/// Waits for something that is asked again and again.
pub async fn wait<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ends the pods, which outlive the runtime.
impl Drop for Node {
    fn drop(&mut self) {
        let runtime = self.again();
        let pods = fs::read_dir(&self.options.folder).into_iter().flatten().flatten();
        let ids: Vec<String> = pods.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let end = async {
            for id in ids {
                if let Err(error) = runtime.remove_sandbox(&id.into()).await {
                    eprintln!("a pod is left: {error}");
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(end));
        });
    }
}

pub async fn attach(id: &str) -> Attachment {
    let pod = PodNetwork {
        id: id.into(),
        name: id.into(),
        namespace: "default".into(),
        hostname: id.into(),
        address: None,
        host_aliases: vec![],
        host_ports: Vec::new(),
        kernel: false,
    };
    FakeNetwork::default().attach(pod).await.unwrap()
}

impl Fixture for Node {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.runtime.clone())
    }

    fn sockets(&self) -> Arc<dyn Sockets> {
        self.unused.sockets.clone()
    }

    fn program(&self, program: Program) -> (Artifact, Vec<String>) {
        let sh = |script: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let args = match program {
            Program::Exit(code) => sh(&format!("exit {code}")),
            Program::PrintArguments => ["/bin/args", "first", "second"].map(ToOwned::to_owned).to_vec(),
            // the first process of a namespace ignores signals that it does not handle
            Program::Wait => vec!["/bin/cat".to_owned()],
            Program::Spin => sh("while :; do :; done"),
            Program::Grow => sh("x=0123456789abcdef; while :; do x=$x$x; done"),
        };
        (self.artifact(), args)
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn copy_command(&self, code: i32) -> Option<Vec<String>> {
        Some(vec!["/bin/sh".into(), "-c".into(), format!("cat; exit {code}")])
    }

    fn supports_attach(&self) -> bool {
        true
    }
}
