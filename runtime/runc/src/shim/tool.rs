//! Calls of the OCI runtime.

use super::reap::{Reaper, code};
use crate::protocol::Tool;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    rc::Rc,
};

/// What the OCI runtime finds its helpers by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most bytes that are read of its log.
const MAX_LOG: usize = 64 << 10;
/// Most bytes of a message.
const MAX_MESSAGE: usize = 2 << 10;

/// A call of the OCI runtime, without its arguments.
pub(crate) fn command(tool: &Tool, state: &Path, log: &Path) -> Command {
    let mut command = Command::new(&tool.path);
    command.env_clear().env("PATH", PATH);
    command.arg("--root").arg(state).arg("--log").arg(log).args(["--log-format", "json"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// What a call that failed says: the last error of its log, or how it ended.
pub(crate) fn failure(log: &Path, otherwise: String) -> String {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        msg: String,
    }
    let bytes = fs::read(log).unwrap_or_default();
    let end = String::from_utf8_lossy(bytes.get(bytes.len().saturating_sub(MAX_LOG)..).unwrap_or_default());
    let lines = end.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut errors = lines.filter(|line| ["error", "fatal", "panic", ""].contains(&&*line.level));
    let mut message = errors.next().map_or(otherwise, |line| line.msg.trim().to_owned());
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    message
}

/// Runs the OCI runtime for one pod.
pub(crate) struct Runner {
    pub(crate) tool: Tool,
    /// The folder of its state.
    pub(crate) state: PathBuf,
    pub(crate) reaper: Rc<Reaper>,
}

impl Runner {
    /// A call that is logged to a file in the container's folder.
    pub(crate) fn command(&self, folder: &Path) -> Command {
        command(&self.tool, &self.state, &folder.join("runtime.log"))
    }

    /// Runs a call to its end. One that takes too long is killed.
    ///
    /// # Errors
    /// What the OCI runtime says.
    pub(crate) async fn run(&self, mut command: Command, folder: &Path) -> Result<(), String> {
        let log = folder.join("runtime.log");
        let _ = fs::remove_file(&log);
        let (name, within) = (self.tool.path.display(), self.tool.within);
        command.process_group(0);
        let child = command.spawn().map_err(|error| not_started(&self.tool.path, &error))?;
        // its streams are the container's: they are held no longer than needed
        drop(command);
        let pid = Pid::from_raw(child.id().cast_signed()).ok_or("a process without a number")?;
        let mut ended = self.reaper.started(pid);
        let status = match tokio::time::timeout(within, &mut ended).await {
            Ok(status) => status,
            Err(_) => {
                end_group(pid);
                let _ = ended.await;
                return Err(format!("{name} did not end within {within:?}, and was killed"));
            }
        };
        let status = status.map(code);
        if status != Ok(0) {
            // what it started may wait for it
            end_group(pid);
        }
        match status {
            Ok(0) => Ok(()),
            Ok(code @ 129..) => Err(failure(&log, format!("{name} was killed by signal {}", code - 128))),
            Ok(code) => Err(failure(&log, format!("{name} ended with exit code {code}"))),
            Err(_) => Err(format!("nobody knows how {name} ended")),
        }
    }
}

/// Kills a call with what it started; the processes of containers are in sessions of their own.
fn end_group(leader: Pid) {
    let _ = kill_process_group(leader, Signal::KILL);
}

/// Why a program could not be started.
pub(crate) fn not_started(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("{} does not exist: install the package runc or crun", path.display()),
        _ => format!("{} cannot be started: {error}", path.display()),
    }
}
