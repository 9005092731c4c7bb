//! Starts a child process for a job, and reads its report.

use crate::{
    Compiler,
    dwarf::{Frame, SourceCall},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// Most bytes that are kept of the child's standard error.
const MAX_STDERR: u64 = 16 << 10;

/// Most bytes of a child's report.
const MAX_REPORT: u64 = 1 << 20;

/// What a child does.
#[derive(Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) input: PathBuf,
    pub(crate) task: Task,
    /// The file that the child writes its [`Report`] to.
    pub(crate) report: PathBuf,
    /// Most bytes of address space.
    pub(crate) memory: u64,
    /// Most seconds of CPU time.
    pub(crate) cpu: u64,
    pub(crate) threads: usize,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Task {
    Compile {
        /// Hexadecimal SHA-256 that the input must have.
        digest: String,
        output: PathBuf,
        functions: Option<FunctionFiles>,
    },
    /// Finds where in the source the code of these frames comes from.
    Locate { frames: Vec<Frame> },
}

/// The files of compiled functions ([`crate::functions`]).
#[derive(Serialize, Deserialize)]
pub(crate) struct FunctionFiles {
    /// Those of the last artifact of the same scope.
    pub(crate) last: Option<PathBuf>,
    /// Those of the present artifact, to be written.
    pub(crate) present: PathBuf,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Report {
    Compiled {
        compatibility: String,
        /// Functions that were taken from the scope's last artifact.
        functions_cached: u64,
        functions_compiled: u64,
    },
    /// For each offset the calls that are there, the innermost first.
    Located(Vec<Vec<SourceCall>>),
    Invalid(String),
    /// Not compiled, because the node cannot run its exports or imports, or its initialiser fails.
    NeverRuns(String),
    /// The input could not be read, or does not match its digest.
    Unreadable(String),
}

/// Runs a child to its end. Returns its status and the beginning of its standard error. Cancel-safe: dropping the future kills the child.
pub(crate) async fn run(options: &Compiler, job: &Job) -> io::Result<(ExitStatus, String)> {
    let mut child = Command::new(&options.program)
        .args(&options.args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut job = serde_json::to_vec(job)?;
    job.push(b'\n');
    if let Some(mut stdin) = child.stdin.take() {
        // if the child died before it read its job, its status is the error
        let _ = stdin.write_all(&job).await;
    }
    let mut stderr_text = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        (&mut stderr).take(MAX_STDERR).read_to_end(&mut stderr_text).await?;
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
    }
    let status = child.wait().await?;
    Ok((status, String::from_utf8_lossy(&stderr_text).into_owned()))
}

/// Reads what a child found. It is as hostile as the child's input.
pub(crate) fn read_report(path: &Path) -> io::Result<Report> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_REPORT).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
