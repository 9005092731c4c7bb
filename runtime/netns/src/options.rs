//! How a node's namespace is made.

use crate::Layout;
use std::{ffi::OsString, path::PathBuf};

/// How a [`crate::Node`] is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program whose main function calls [`crate::helper::main`] with these arguments.
    pub program: PathBuf,
    /// See `program`.
    pub args: Vec<OsString>,
    /// The environment of the program, which is empty otherwise but for a path.
    pub env: Vec<(OsString, OsString)>,
    /// A private folder, which is made if it is not there, in which a helper is found that outlived another process. Without one, the helper ends with this process. One process at a
    /// time may use it.
    pub folder: Option<PathBuf>,
    /// The addresses.
    pub layout: Layout,
}
