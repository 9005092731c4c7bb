//! `sampan down` and `up --detach`: a cluster in the background is this program again, in a session of its own.

use crate::{
    args::{BACKGROUND, DownArgs},
    data_dir::DataDir,
    exit::io,
    kubeconfig, out,
};
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{BufRead, BufReader, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
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
/// The line after which it has nothing more to report.
pub(crate) const REPORTED: &str = "reported";

/// What a cluster in the background prints, in its directory.
const LOG: &str = "sampan.log";

/// How long `down` waits beyond the drain before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// `sampan down`.
pub(crate) fn run(args: &DownArgs) -> anyhow::Result<()> {
    let dir = DataDir::locate(args.data.data_dir.as_deref())?;
    down(&dir)?;
    if args.purge { purge(&dir) } else { Ok(()) }
}

/// Stops the cluster of a data directory and returns when its lock is free. No cluster is success: the wish is fulfilled.
fn down(dir: &DataDir) -> anyhow::Result<()> {
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
            bail!(
                "process {} has not ended within {patience:?}; look at {} or kill it",
                holder.pid,
                dir.join(LOG).display()
            );
        }
        thread::sleep(STEP);
        waited += STEP;
    }
    note(&format!("stopped process {}", holder.pid));
    Ok(())
}

fn note(text: &str) {
    if !out::is_quiet() {
        eprintln!("{text}");
    }
}

/// Removes what the cluster has left: its entries in the user's kubeconfig and its directory. Files that are not ours stay.
fn purge(dir: &DataDir) -> anyhow::Result<()> {
    if let (Ok(personal), Ok(ours)) = (kubeconfig::personal_path(), fs::read(dir.join("kubeconfig")))
        && !personal.starts_with(dir.path())
        && let Some(told) = kubeconfig::forget(&personal, &ours)?
    {
        note(&told);
    }
    let path = dir.path().display();
    match dir.remove()?.as_slice() {
        [] => note(&format!("removed {path}")),
        left => {
            note(&format!("removed the cluster's files from {path}; left what is not sampan's: {}", left.join(", ")))
        }
    }
    Ok(())
}

/// First of all in a cluster in the background: it holds no descriptor of the caller, who may wait for a lock or a pipe to be free, and
/// has neither its session nor its terminal. It leaves the caller's folder too, once it has read the files that it was given.
pub(crate) fn leave_the_caller() {
    // What fails here leaves the cluster as it would be in the foreground.
    let _ = wasm::descriptors::close_inherited();
    let _ = rustix::process::setsid();
}

/// Starts `up` again in the background and returns when it is ready. Its standard error goes to DIR/sampan.log, and is shown
/// here meanwhile: progress as in the foreground.
pub(crate) fn detach(dir: &DataDir, mut arguments: Vec<OsString>) -> anyhow::Result<()> {
    if let Some(holder) = dir.holder()? {
        return Err(dir.in_use(&holder));
    }
    arguments.retain(|argument| argument != "--detach");
    let log_path: PathBuf = dir.join(LOG);
    let unusable = |error: std::io::Error| anyhow::anyhow!("cannot write {}: {}", log_path.display(), io(&error));
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path).map_err(unusable)?;
    // One start at a time: the log is shown, and another start would write there too.
    let turn = File::open(&log_path).map_err(unusable)?;
    if let Err(TryLockError::WouldBlock) = turn.try_lock() {
        bail!("another `sampan up --detach` is starting a cluster in {}", dir.path().display());
    }
    let shown = Shown::start(&log_path).map_err(unusable)?;
    let mut child = Command::new(std::env::current_exe().context("cannot find this program")?)
        .arg(BACKGROUND)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the cluster in the background")?;
    let stdout = child.stdout.take().expect("piped above");
    let mut lacking = None;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        match line.as_str() {
            NOT_APPLIED => lacking = Some("not all of the manifests were applied"),
            NOT_READY => lacking = Some("not everything in it is ready"),
            REPORTED => {
                shown.end();
                if let Some(what) = lacking {
                    bail!("the cluster runs in the background, but {what}; stop it with `{}`", dir.command("down"));
                }
                note(&format!("the cluster runs in the background; stop it with `{}`", dir.command("down")));
                return Ok(());
            }
            json if json.starts_with('{') => out::tell(json),
            _ => out::say(&line),
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
