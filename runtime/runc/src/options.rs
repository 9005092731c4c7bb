//! The options of the runtime, set by the node's composition root.

use crate::protocol::Tool;
use container::{Clock, log};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where programs are looked for.
const PROGRAMS: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Options of [`crate::Runc`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The program of the shims, which is this one; it must call [`crate::shim_main`].
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The folder of the pods: their sockets, states, and what containers write that is not counted elsewhere. It outlives this process.
    pub folder: PathBuf,
    /// The OCI runtime: a path, or a name that is looked for where programs are.
    pub oci_runtime: PathBuf,
    /// How long one call of it may take.
    pub call_timeout: Duration,
    /// The cgroup below which those of pods are, such as `/sampan`; no other node of the machine may have it. Without root there are none.
    pub cgroup: String,
    /// Limits of each container's log.
    pub log: log::Options,
    /// Wall-clock time for states.
    pub clock: Clock,
}

impl Options {
    /// The OCI runtime that is installed.
    ///
    /// # Errors
    /// As [`find`].
    pub(crate) fn tool(&self) -> Result<Tool, String> {
        Ok(Tool { path: find(&self.oci_runtime)?, within: self.call_timeout })
    }
}

/// The path of an OCI runtime, which is given as a path or by its name.
///
/// # Errors
/// It is not there: the text says what to install.
pub fn find(oci_runtime: &Path) -> Result<PathBuf, String> {
    let found = match oci_runtime.components().count() {
        1 => PROGRAMS.iter().map(|folder| Path::new(folder).join(oci_runtime)).find(|path| path.is_file()),
        _ => Some(oci_runtime.to_owned()).filter(|path| path.is_file()),
    };
    found.ok_or_else(|| {
        format!(
            "this node has no OCI runtime, which Linux containers need: {} was not found; install the package runc or crun, or name one by \
             --oci-runtime",
            oci_runtime.display()
        )
    })
}
