//! The client of every component of sampan: it does what any client could do, with no back door.
//!
//! * [`Client`]: typed verbs over a `kube::Client`, which itself is any tower service: the in-process router or TLS.
//! * [`Informers`] and [`Informer`]: one list-and-watch per [`Target`] and identity, shared and indexed; typed, or
//!   [`PartialObjectMetadata`] alone; see [`Informer`] for the guarantees. [`discovery`]: what is served.
//! * [`Controller`] and [`run`]: the reconcile loop with queue, read-your-writes gate, back-off, span and panic guard outside.
//! * [`Elector`]: leadership by Lease. [`Recorder`]: Events with upstream's correlation. [`fit`]: what a pod requires of its node.
//! * [`pod`] and [`meta`]: questions about Pods and metadata; each has one answer in the workspace.
//!
//! Why not kube-runtime: its shared streams lose deletes, have no indexes, and decode once per controller.
#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod cached;
mod client;
mod controller;
mod decode;
mod discovered;
pub mod discovery;
mod error;
pub mod fit;
mod gate;
mod informer;
mod informers;
mod kind;
mod leader;
pub mod meta;
pub mod metrics;
mod options;
mod paths;
pub mod pod;
mod pool;
mod queue;
mod recorder;
mod reflector;
mod shrink;
mod target;
mod watch;

pub use cached::{Cached, PartialObjectMetadata};
pub use client::{Client, List};
pub use controller::{Controller, Next, RunOptions, Wakeups, run};
pub use decode::Undecodable;
pub use error::{Error, Result};
pub use informer::{Delta, Informer};
pub use informers::Informers;
pub use kind::Kind;
pub use leader::{Elector, ElectorOptions};
pub use metrics::QueueMetrics;
pub use options::{DeleteOptions, ListOptions, Patch, Preconditions, Propagation};
pub use paths::escape;
pub use queue::{Backoff, WorkQueue};
pub use recorder::{EventType, Recorder, RecorderOptions, reference};
pub use target::Target;
pub use watch::WatchEvent;

use std::fmt;

/// Namespace and name of an object; the namespace of a cluster-scoped object is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of<K: Cached>(object: &K) -> Self {
        object.key()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}
