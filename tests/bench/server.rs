//! A cluster to measure: the release binary, its CPU time and memory, and the disk below it.

use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The address that measured clusters use.
pub const ADDRESS: &str = "127.77.0.1";

pub fn binary() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("SAMPAN_BIN").map_or_else(|| root.join("target/release/sampan"), PathBuf::from);
    assert!(path.exists(), "{}: cargo build --release first, or name a binary by SAMPAN_BIN", path.display());
    path
}

/// A running cluster; killed when dropped.
pub struct Server {
    child: Child,
    pub endpoint: String,
    pub ready: Duration,
    pub folder: PathBuf,
    out: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// Starts `up` in a folder and waits for its `ready` line.
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        let started = Instant::now();
        let mut child = Command::new(binary())
            .args(["up", "--listen", &format!("{ADDRESS}:0"), "--node-address", ADDRESS, "--data-dir"])
            .arg(folder)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("the binary starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        assert!(line.starts_with("ready "), "{line:?}");
        let endpoint = line.split_whitespace().nth(1).expect("an address").trim_start_matches("https://").to_owned();
        Self { child, endpoint, ready: started.elapsed(), folder: folder.to_owned(), out }
    }

    /// The next line of standard output that begins so.
    pub fn line(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.out.read_line(&mut line).expect("a line") > 0, "the cluster ended");
            if line.starts_with(start) {
                return line;
            }
        }
    }

    /// User and system CPU time so far, of all threads.
    pub fn cpu(&self) -> Duration {
        process_cpu(&self.child.id().to_string())
    }

    /// As [`Server::cpu`], and of the processes that it started and that ended: its compilers.
    pub fn all_cpu(&self) -> Duration {
        ticks(&self.child.id().to_string(), &[11, 12, 13, 14])
    }

    /// Resident memory in MiB.
    pub fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("running");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
        line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).expect("KiB") / 1024.0
    }

    /// Resident memory, threads and open files.
    pub fn resources(&self) -> String {
        let count =
            |folder: &str| fs::read_dir(format!("/proc/{}/{folder}", self.child.id())).expect("running").count();
        format!("{:.0} MiB, {} threads, {} files", self.memory(), count("task"), count("fd"))
    }

    /// CA, client certificate and key of the administrator.
    pub fn credentials(&self) -> [Vec<u8>; 3] {
        let text = fs::read_to_string(self.folder.join("kubeconfig")).expect("a kubeconfig");
        ["certificate-authority-data", "client-certificate-data", "client-key-data"].map(|name| {
            let value = text.split(&format!("{name}:")).nth(1).expect(name).split_whitespace().next().expect("a value");
            STANDARD.decode(value.trim_matches('"')).expect("base64")
        })
    }

    /// kill -9, and gone.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// Ctrl-C, and gone.
    pub fn stop(mut self) {
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        self.child.wait().expect("reaped");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system CPU time of this process so far.
pub fn own_cpu() -> Duration {
    process_cpu("self")
}

/// User and system CPU time of a process so far.
pub fn process_cpu(process: &str) -> Duration {
    ticks(process, &[11, 12])
}

/// Sums fields of a process's `stat` that are ticks of 10 ms.
fn ticks(process: &str, of: &[usize]) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("running");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a tail").split_whitespace().collect();
    let ticks: u64 = of.iter().map(|i| fields[*i].parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// p50 of appending 2 KiB and fdatasync, in the folder's file system, with a pause before each: a disk that was idle takes longer.
pub fn fsync(folder: &Path, pause: Duration) -> Duration {
    let path = folder.join("fsync-probe");
    let mut file = fs::File::create(&path).expect("a file");
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            std::thread::sleep(pause);
            let start = Instant::now();
            file.write_all(&[7; 2048]).expect("written");
            file.sync_data().expect("synced");
            start.elapsed()
        })
        .collect();
    times.sort();
    fs::remove_file(&path).expect("removed");
    times[50]
}
