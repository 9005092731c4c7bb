//! `sampan down` and `up --detach`: a cluster in the background is this program again, in a process group of its own.

use crate::{data_dir::DataDir, exit::io, out};
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// The line of standard output by which a cluster in the background says that its manifests could not be applied.
pub(crate) const NOT_APPLIED: &str = "not applied";
/// The line by which it says that not everything that it applied is there.
pub(crate) const NOT_READY: &str = "not ready";

/// How long `down` waits beyond the drain before it gives up.
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
    let patience = PATIENCE + Duration::from_secs(holder.drain.into());
    let mut waited = Duration::ZERO;
    while dir.holder()?.is_some() {
        if waited >= patience {
            bail!("process {} has not ended within {patience:?}; look at its log, or kill it", holder.pid);
        }
        thread::sleep(STEP);
        waited += STEP;
    }
    eprintln!("stopped process {}", holder.pid);
    Ok(())
}

/// Starts `up` again in the background and returns when it is ready. Its standard error goes to DIR/sampan.log, and is shown
/// here meanwhile: progress as in the foreground.
pub(crate) fn detach(dir: &DataDir, mut arguments: Vec<OsString>) -> anyhow::Result<()> {
    if let Some(holder) = dir.holder()? {
        return Err(dir.in_use(&holder));
    }
    arguments.retain(|argument| argument != "--detach");
    let log_path: PathBuf = dir.join("sampan.log");
    let unusable = |error: std::io::Error| anyhow::anyhow!("cannot write {}: {}", log_path.display(), io(&error));
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path).map_err(unusable)?;
    let shown = Shown::start(&log_path).map_err(unusable)?;
    let mut child = Command::new(std::env::current_exe().context("cannot find this program")?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the cluster in the background")?;
    let stdout = child.stdout.take().expect("piped above");
    let mut lacking = None;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        match line.as_str() {
            NOT_APPLIED => lacking = Some("not all of the manifests were applied"),
            NOT_READY => lacking = Some("not everything in it is ready"),
            _ => out::say(&line),
        }
        if line.contains("export KUBECONFIG=") {
            shown.end();
            return lacking.map_or(Ok(()), |what| {
                bail!("the cluster runs in the background, but {what}; stop it with `sampan down`")
            });
        }
    }
    let status = child.wait()?;
    shown.end();
    // The child has said why and its code says of what kind: both are as they would be in the foreground.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1);
    let what = format!("the cluster did not start; its log is {}", log_path.display());
    Err(crate::exit::with_code(code, what))
}

/// What comes to a log, shown on standard error as it comes.
struct Shown {
    over: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Shown {
    /// From the present end of the log.
    fn start(path: &Path) -> std::io::Result<Self> {
        let mut log = File::open(path)?;
        log.seek(SeekFrom::End(0))?;
        let (over, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            loop {
                let last = ended.recv_timeout(STEP) != Err(mpsc::RecvTimeoutError::Timeout);
                // A reader that went away does not stop the start.
                let _ = std::io::copy(&mut log, &mut std::io::stderr());
                if last {
                    return;
                }
            }
        });
        Ok(Self { over, thread })
    }

    /// After everything that is there now.
    fn end(self) {
        drop(self.over);
        let _ = self.thread.join();
    }
}
