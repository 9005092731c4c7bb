//! `sampan down` and `up --detach`: a cluster in the background is this program again, in a process group of its own.

use crate::data_dir::DataDir;
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// The line of standard output by which a cluster in the background says that its manifests could not be applied.
pub(crate) const NOT_APPLIED: &str = "not applied";

/// How long `down` waits for a drain before it gives up: the drain takes at most 10 s.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// Stops the cluster of a data directory and returns when its lock is free. No cluster is success: the wish is fulfilled.
pub(crate) fn down(dir: &DataDir) -> anyhow::Result<()> {
    let Some(holder) = dir.holder()? else {
        eprintln!("no cluster is running in {}", dir.path().display());
        return Ok(());
    };
    let pid = i32::try_from(holder.pid).ok().and_then(Pid::from_raw);
    let pid = pid.context("the lock does not say which process holds it; stop it by hand")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop process {}", holder.pid))?;
    let mut waited = Duration::ZERO;
    while dir.holder()?.is_some() {
        if waited >= PATIENCE {
            bail!("process {} has not ended within {PATIENCE:?}; look at its log, or kill it", holder.pid);
        }
        thread::sleep(STEP);
        waited += STEP;
    }
    eprintln!("stopped process {}", holder.pid);
    Ok(())
}

/// Starts `up` again in the background and returns when it is ready. Its output goes to DIR/sampan.log.
pub(crate) fn detach(dir: &DataDir, mut arguments: Vec<std::ffi::OsString>) -> anyhow::Result<()> {
    if let Some(holder) = dir.holder()? {
        bail!("a cluster is already running in {} (process {})", dir.path().display(), holder.pid);
    }
    arguments.retain(|argument| argument != "--detach");
    let log_path: PathBuf = dir.join("sampan.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path)?;
    let written = log.metadata()?.len();
    let mut child = Command::new(std::env::current_exe().context("cannot find this program")?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the cluster in the background")?;
    let stdout = child.stdout.take().expect("piped above");
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line == NOT_APPLIED {
            eprint!("{}", since(&log_path, written));
            bail!(
                "the cluster runs in the background, but not all of the manifests were applied; stop it with `sampan down`"
            );
        }
        println!("{line}");
        if line.contains("export KUBECONFIG=") {
            return Ok(());
        }
    }
    let status = child.wait()?;
    eprint!("{}", since(&log_path, written));
    // The child has said why and its code says of what kind: both are as they would be in the foreground.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1);
    let what = format!("the cluster did not start; its log is {}", log_path.display());
    Err(crate::exit::with_code(code, what))
}

/// What was written to a log after its first `start` bytes; at most the last 16 KiB.
fn since(path: &std::path::Path, start: u64) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let from = usize::try_from(start).unwrap_or(0).max(bytes.len().saturating_sub(16 << 10)).min(bytes.len());
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}
