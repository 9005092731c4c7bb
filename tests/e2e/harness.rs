//! A cluster per test: the binary, copied where an unprivileged user may run it, in a process group of its own, reaped at the end.

pub use crate::bounded::{Bounded, CLIENT_TIMEOUT, ended};
use serde_json::Value;
use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// Far above what anything here takes: a bound on liveness, not a measurement.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// The user that clusters run as when the tests are run by root: Debian's `nobody`.
const NOBODY: u32 = 65534;

/// Whether a missing tool is an error.
fn required() -> bool {
    env::var("SAMPAN_TEST_REQUIRE").is_ok_and(|v| v == "all")
}

/// Says loudly that a test cannot run here, which is an error where everything is required.
pub fn skipped(why: &str) {
    assert!(!required(), "{why}");
    eprintln!("SKIPPED: {why}");
}

/// A tool by the variable that names it, or by its name; `None` (said loudly) if it is missing and not required.
pub fn tool(variable: &str, name: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).map_or_else(|| PathBuf::from(name), PathBuf::from);
    let found =
        Command::new("sh").arg("-c").arg("command -v \"$0\"").arg(&named).output().is_ok_and(|o| o.status.success());
    if !found {
        assert!(!required(), "{name} is missing; install it or name it by {variable}");
        eprintln!("SKIPPED: {name} is missing (name it by {variable})");
        return None;
    }
    Some(named)
}

/// kubectl 1.32 or newer; an older one counts as missing.
pub fn kubectl() -> Option<PathBuf> {
    kubectl_and_version().map(|(path, _)| path)
}

/// Whether [`kubectl`] is 1.N or newer.
pub fn kubectl_is(minor: u32) -> bool {
    kubectl_and_version().is_some_and(|(_, found)| found >= minor)
}

fn kubectl_and_version() -> Option<(PathBuf, u32)> {
    static FOUND: OnceLock<Option<(PathBuf, u32)>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let path = tool("KUBECTL", "kubectl")?;
            let output = Command::new(&path).args(["version", "--client", "-o", "json"]).bounded();
            let version: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let minor =
                version["clientVersion"]["minor"].as_str().unwrap_or("0").trim_end_matches('+').parse().unwrap_or(0);
            if minor < 32 {
                assert!(!required(), "kubectl 1.{minor} is too old; 1.32 is needed");
                eprintln!("SKIPPED: kubectl 1.{minor} is too old");
                return None;
            }
            Some((path, minor))
        })
        .clone()
}

/// Whether the test runs in a mount namespace of its own. If not, it is run once more there, as root, so that what it mounts is nobody else's
/// and goes with it; or skipped (said loudly) where that cannot be and is not required. `test` is its whole name.
pub fn alone(test: &str) -> bool {
    const INSIDE: &str = "SAMPAN_TEST_INSIDE";
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshared = |program: &Path| {
        let mut command = Command::new("unshare");
        command.arg("--mount").arg(program);
        command
    };
    if !is_root() || !unshared(Path::new("true")).status().is_ok_and(|status| status.success()) {
        skipped(&format!("{test} needs root and a mount namespace"));
        return false;
    }
    let mut command = unshared(&env::current_exe().expect("this test"));
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    assert!(command.status().expect("it runs").success(), "{test} failed in its mount namespace");
    false
}

/// A file system of a size in a folder, for the unprivileged user, until it is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(folder: PathBuf, mebibytes: u32) -> Self {
        fs::create_dir_all(&folder).expect("a folder");
        let options = format!("size={mebibytes}m,mode=0700,uid={NOBODY},gid={NOBODY}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&folder).status();
        assert!(status.is_ok_and(|status| status.success()), "mount");
        Self(folder)
    }

    /// Takes all that is free, until the file is dropped.
    pub fn fill(&self) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new_in(&self.0).expect("a file");
        let error = std::io::copy(&mut std::io::repeat(1), &mut file).expect_err("it is not endless");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
        // What is left of the last page's worth.
        while file.write(&[1]).is_ok_and(|written| written == 1) {}
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Copies of the binary that earlier runs left: hundreds of MiB each.
fn remove_old_copies() {
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|n| n.strip_prefix("sampan-e2e-")?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The binary under test: `SAMPAN_BIN`, else the release build of this checkout.
pub fn binary() -> PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let built = env::var_os("SAMPAN_BIN")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/sampan"), PathBuf::from);
        assert!(built.exists(), "{} does not exist: cargo build --release, or name one by SAMPAN_BIN", built.display());
        remove_old_copies();
        let folder = env::temp_dir().join(format!("sampan-e2e-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("opened");
        let copy = folder.join("sampan");
        fs::copy(&built, &copy).expect("copied");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("runnable");
        copy
    })
    .clone()
}

/// The folder of a sample, copied where the unprivileged user may read it.
pub fn sample(name: &str, into: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(name);
    let to = into.join(name);
    fs::create_dir_all(&to).expect("a folder");
    for entry in fs::read_dir(from).expect("the sample") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
    open(&to);
    to
}

/// Gives a folder to the unprivileged user.
fn open(path: &Path) {
    if is_root() {
        let status = Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(path).status();
        assert!(status.is_ok_and(|s| s.success()), "chown");
    }
}

/// One test's machine: a home, a data directory and a loopback address.
pub struct Machine {
    pub home: tempfile::TempDir,
    pub address: String,
    /// Environment variables that the binary gets besides its own.
    pub environment: Vec<(String, String)>,
}

impl Machine {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let address = format!("127.{}.{}.{}", 1 + process % 250, 1 + (process / 250) % 250, 2 + number % 250);
        let home = tempfile::Builder::new().prefix("sampan-e2e-home-").tempdir().expect("a home");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("opened");
        let machine = Self { home, address, environment: Vec::new() };
        fs::create_dir_all(machine.path("work")).expect("a folder");
        open(machine.home.path());
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("kubeconfig")
    }

    /// The binary with arguments, as the unprivileged user, with only its own HOME and XDG.
    pub fn sampan(&self, args: &[&str]) -> Command {
        self.command(&binary(), args)
    }

    /// Any program as that user, with that environment.
    pub fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            let id = NOBODY.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(args).current_dir(self.path("work")).env_clear();
        command.env("HOME", self.home.path()).env("XDG_DATA_HOME", self.path("xdg")).env("PATH", "/usr/bin:/bin");
        command.env("SAMPAN_DATA_DIR", self.data()).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.sampan(args).bounded()
    }

    /// Starts `up` on this machine's address and any port, and waits until it is ready.
    pub fn up(&self, args: &[&str]) -> Cluster<'_> {
        self.up_at(&format!("{}:0", self.address), args)
    }

    /// As [`Machine::up`], with an API that listens at an address.
    pub fn up_at(&self, listen: &str, args: &[&str]) -> Cluster<'_> {
        let mut all = vec!["up", "--listen", listen, "--node-address", &self.address];
        all.extend(args);
        let mut child =
            self.sampan(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let (lines, received) = mpsc::channel();
        for (name, stream) in [
            ("out", Box::new(child.stdout.take().expect("piped")) as Box<dyn Read + Send>),
            ("err", Box::new(child.stderr.take().expect("piped"))),
        ] {
            let lines = lines.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    eprintln!("[{name}] {line}");
                    if lines.send((name, line)).is_err() {
                        // The test has ended; go on draining so that the child does not block.
                    }
                }
            });
        }
        let mut cluster =
            Cluster { machine: self, child, lines: received, endpoint: String::new(), output: Vec::new() };
        let ready = cluster.wait_for_line("ready ");
        cluster.endpoint = ready.split_whitespace().nth(1).expect("an address").to_owned();
        cluster
    }
}

/// A running cluster; killed with its whole process group when dropped.
pub struct Cluster<'m> {
    pub machine: &'m Machine,
    child: Child,
    lines: mpsc::Receiver<(&'static str, String)>,
    pub endpoint: String,
    pub output: Vec<String>,
}

impl Cluster<'_> {
    /// The next line of standard output that begins so.
    pub fn wait_for_line(&mut self, start: &str) -> String {
        self.wait_for("out", start)
    }

    /// The next line of standard error that begins so.
    pub fn wait_for_error(&mut self, start: &str) -> String {
        self.wait_for("err", start)
    }

    fn wait_for(&mut self, stream: &str, start: &str) -> String {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((from, line)) => {
                    self.output.push(line.clone());
                    if from == stream && line.trim_start().starts_with(start) {
                        return line;
                    }
                }
                Err(_) => panic!("no line {start:?}; so far: {:#?}", self.output),
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds of processor time that it has taken.
    pub fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let fields: Vec<_> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Sends a signal to the cluster's process.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -{name}");
    }

    /// Ctrl-C, and the exit code.
    pub fn interrupt(self) -> i32 {
        self.signal("INT");
        self.ended()
    }

    /// The exit code, once it has ended.
    pub fn ended(mut self) -> i32 {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "still running");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// kill -9, and gone.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// kubectl against this cluster; panics unless it succeeds.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = self.kubectl_output(args, "");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "kubectl {args:?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// kubectl with a manifest on standard input.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> String {
        let output = self.kubectl_output(args, input);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "kubectl {args:?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// kubectl that must fail: what it said.
    pub fn kubectl_fails(&self, args: &[&str], input: &str) -> String {
        let output = self.kubectl_output(args, input);
        assert!(!output.status.success(), "kubectl {args:?} succeeded: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(kubectl().expect("checked by the test"));
        command.args(args).env("KUBECONFIG", self.machine.kubeconfig()).env("HOME", self.machine.path("work"));
        command.current_dir(self.machine.path("work"));
        command
    }

    pub fn kubectl_output(&self, args: &[&str], input: &str) -> Output {
        self.kubectl_command(args).bounded_with(input, CLIENT_TIMEOUT)
    }

    /// A jsonpath of an object.
    pub fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={path}")])
    }

    /// Waits until a check holds.
    pub fn eventually<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(value) = check() {
                return value;
            }
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.describe());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn describe(&self) -> String {
        let show = |args: &[&str]| String::from_utf8_lossy(&self.kubectl_output(args, "").stdout).into_owned();
        format!("{}\n{}", show(&["get", "pods", "-A", "-o", "yaml"]), show(&["get", "events", "-A"]))
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", "--", &format!("-{}", self.pid())]).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A plain HTTP GET: status code and body.
pub fn get(url: &str) -> std::io::Result<(u16, String)> {
    let rest = url.strip_prefix("http://").expect("http");
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let address: SocketAddr = authority.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("no answer"))?;
    let code = head
        .split_whitespace()
        .nth(1)
        .and_then(|c| c.parse().ok())
        .ok_or_else(|| std::io::Error::other("no status"))?;
    let body = if head.to_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
    Ok((code, body))
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        out.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    out
}
