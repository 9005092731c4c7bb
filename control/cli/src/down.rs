//! `sampan down` and `up --detach`. A cluster in the background is this program, started again in a session of its own.

use crate::{
    args::{BACKGROUND, DownArgs},
    credentials,
    data_dir::DataDir,
    exit::io,
    known::{Clusters, Known},
    kubeconfig, out,
};
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// The line of standard output with which a background cluster reports that its manifests failed or are not ready.
pub(crate) const LACKING: &str = "lacking";
/// The prefix of the line with which it reports why it did not start, as a JSON string. Its log may be on a full disk.
const FAILED: &str = "failed ";
/// The line after which it reports nothing more.
pub(crate) const REPORTED: &str = "reported";

/// The log file of a background cluster, in its directory.
const LOG: &str = "sampan.log";

/// How long `down` waits in addition to the drain.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The exit code after Ctrl-C, as shells define it: 128 plus the signal.
const EXIT_INTERRUPTED: i32 = 130;

/// `sampan down`.
pub(crate) fn run(args: &DownArgs) -> anyhow::Result<()> {
    let dir = DataDir::locate(args.data.data_dir.as_deref())?;
    if args.purge && !dir.path().exists() {
        let what = match forget(&dir, named(&dir))? {
            0 => format!("there is no data directory {}: nothing was removed", dir.path().display()),
            _ => format!("the data directory {} was gone already", dir.path().display()),
        };
        note(&what);
        return Ok(());
    }
    if args.purge {
        dir.refuse_foreign()?;
    }
    let stopped = down(&dir)?;
    if args.purge {
        return purge(&dir);
    }
    if stopped {
        still_current(&dir).iter().for_each(|told| note(told));
    }
    Ok(())
}

/// The kubeconfigs, other than its own, that may have entries of a cluster, and the names of these entries. Name and authority are not
/// taken from a kubeconfig, which anybody may have written.
fn named(dir: &DataDir) -> Option<(Known, Vec<PathBuf>)> {
    let known = Clusters::of_user().get(dir);
    let own = credentials::authority_in(dir).map(|authority| Known {
        dir: dir.path().to_owned(),
        name: dir.name(),
        authority,
        copies: Vec::new(),
    });
    let copies = known.iter().flat_map(|known| known.copies.clone()).chain(kubeconfig::personal_path().ok());
    let copies: BTreeSet<PathBuf> = copies.filter(|path| !path.starts_with(dir.path())).collect();
    Some((own.or(known)?, copies.into_iter().collect()))
}

/// Reports which kubeconfigs still have a stopped cluster as their current context.
fn still_current(dir: &DataDir) -> Vec<String> {
    let Some((known, files)) = named(dir) else { return Vec::new() };
    let current = files.into_iter().filter(|file| kubeconfig::is_current(file, &known.name, &known.authority));
    let told = |file: PathBuf| {
        format!(
            "{:?} stays the current context of {}: kubectl has no answer until `{}`",
            known.name,
            file.display(),
            dir.command("up")
        )
    };
    current.map(told).collect()
}

/// Removes the entries of a cluster from the user's kubeconfigs. Returns how many had some.
fn forget(dir: &DataDir, named: Option<(Known, Vec<PathBuf>)>) -> anyhow::Result<usize> {
    let mut count = 0;
    if let Some((known, files)) = named {
        for file in files {
            if let Some(told) = kubeconfig::forget(&file, &known.name, &known.authority)? {
                note(&told);
                count += 1;
            }
        }
    }
    Clusters::of_user().forget(dir);
    Ok(count)
}

/// Stops the cluster of a data directory and returns when its lock is free. Succeeds if there is no cluster. Returns whether one ran.
fn down(dir: &DataDir) -> anyhow::Result<bool> {
    let Some(holder) = dir.holder()? else {
        eprintln!("no cluster is running in {}", dir.path().display());
        return Ok(false);
    };
    let pid = i32::try_from(holder.pid).ok().and_then(Pid::from_raw);
    let pid = pid.context("the lock does not say which process holds it; stop it by hand")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop process {}", holder.pid))?;
    let patience = STOP_TIMEOUT + Duration::from_secs(holder.drain.into());
    let mut waited = Duration::ZERO;
    while dir.holder()?.is_some() {
        if waited >= patience {
            bail!(
                "process {} has not ended within {patience:?}; look at {} or kill it",
                holder.pid,
                dir.join(LOG).display()
            );
        }
        thread::sleep(POLL_INTERVAL);
        waited += POLL_INTERVAL;
    }
    note(&format!("stopped process {}", holder.pid));
    Ok(true)
}

fn note(text: &str) {
    if !out::is_quiet() {
        eprintln!("{text}");
    }
}

/// Removes what a cluster has left: its entries in kubeconfigs and its directory. Foreign files stay.
fn purge(dir: &DataDir) -> anyhow::Result<()> {
    // Read before its keys are removed, and forgotten afterwards.
    let named = named(dir);
    let left = dir.remove()?;
    let path = dir.path().display();
    match left.as_slice() {
        [] => note(&format!("removed {path}")),
        left => {
            note(&format!("removed the cluster's files from {path}; left what is not sampan's: {}", left.join(", ")))
        }
    }
    forget(dir, named)?;
    Ok(())
}

/// The first step of a background cluster: it closes the caller's descriptors, because the caller may wait for a lock or pipe to be free,
/// and leaves the caller's session and terminal. It also leaves the caller's working directory, after it has read the given files.
pub(crate) fn detach_from_caller() {
    // If a step fails, the cluster runs as in the foreground.
    let _ = wasm::descriptors::close_inherited();
    let _ = rustix::process::setsid();
}

/// Reports to the starting process why a background cluster did not start.
pub(crate) fn report_failure(error: &anyhow::Error) {
    out::say_always(&format!("{FAILED}{}", serde_json::Value::from(crate::exit::text(error))));
}

/// Starts `up` again in the background and returns when it is ready. Its standard error goes to DIR/sampan.log, which is printed meanwhile:
/// progress as in the foreground.
pub(crate) fn detach(dir: &DataDir, mut arguments: Vec<OsString>) -> anyhow::Result<()> {
    if let Some(holder) = dir.holder()? {
        return Err(dir.in_use(&holder));
    }
    arguments.retain(|argument| argument != "--detach");
    let log_path: PathBuf = dir.join(LOG);
    let unusable = |error: std::io::Error| anyhow::anyhow!("cannot write {}: {}", log_path.display(), io(&error));
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path).map_err(unusable)?;
    // Serializes starts: the log is printed, and another start would write to it too.
    let turn = File::open(&log_path).map_err(unusable)?;
    if let Err(TryLockError::WouldBlock) = turn.try_lock() {
        bail!("another `sampan up --detach` is starting a cluster in {}", dir.path().display());
    }
    let begin = turn.metadata().map_or(0, |log| log.len());
    let shown = LogFollower::start(&log_path).map_err(unusable)?;
    let mut child = Command::new(std::env::current_exe().context("cannot find this program")?)
        .arg(BACKGROUND)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the cluster in the background")?;
    when_interrupted(format!("the cluster goes on in the background; stop it with `{}`", dir.client_command("down")));
    let stdout = child.stdout.take().expect("piped above");
    let (mut lacking, mut failure) = (false, None);
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        match line.as_str() {
            LACKING => lacking = true,
            REPORTED => {
                shown.end();
                note(&format!("the cluster runs in the background; stop it with `{}`", dir.client_command("down")));
                // The child reported the reason in its one line.
                return if lacking { Err(crate::exit::silent(1)) } else { Ok(()) };
            }
            json if json.starts_with('{') => out::say_always(json),
            told if told.starts_with(FAILED) => failure = serde_json::from_str::<String>(&told[FAILED.len()..]).ok(),
            _ => out::say(&line),
        }
    }
    let status = child.wait()?;
    shown.end();
    if let Some(failure) = failure.filter(|failure| !has_since(&log_path, begin, failure)) {
        eprintln!("{failure}");
    }
    // The child has printed the reason, and its exit code tells the kind: both are as in the foreground.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1);
    eprintln!("the cluster did not start; its log is {}", log_path.display());
    Err(crate::exit::silent(code))
}

/// Whether a log contains a text after this length.
fn has_since(path: &Path, begin: u64, text: &str) -> bool {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut log = File::open(path)?;
        log.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes).map(|_| bytes)
    };
    read().is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
}

/// Ends this process with a message on Ctrl-C. A background cluster has its own session and does not receive it.
fn when_interrupted(word: String) {
    thread::spawn(move || {
        crate::block(async move {
            signal(SignalKind::interrupt())?.recv().await;
            eprintln!("{word}");
            std::process::exit(EXIT_INTERRUPTED)
        })
    });
}

/// Prints what is appended to a log to standard error.
struct LogFollower {
    over: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl LogFollower {
    /// Starts at the current end of the log.
    fn start(path: &Path) -> std::io::Result<Self> {
        let mut log = File::open(path)?;
        log.seek(SeekFrom::End(0))?;
        let (over, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            loop {
                let last = ended.recv_timeout(POLL_INTERVAL) != Err(mpsc::RecvTimeoutError::Timeout);
                // A closed reader does not end the start.
                let _ = std::io::copy(&mut log, &mut std::io::stderr());
                if last {
                    return;
                }
            }
        });
        Ok(Self { over, thread })
    }

    /// Prints everything written so far and stops.
    fn end(self) {
        drop(self.over);
        let _ = self.thread.join();
    }
}
