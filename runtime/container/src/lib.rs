//! The interface between the agent, which decides what runs, and the runtimes (`wasm`, `runc`).
//!
//! It consists of plain types and two families of traits, which do not depend on Kubernetes:
//! * [`Runtime`]: prepares artifacts, creates sandboxes, and runs containers in them.
//! * [`net`]: the network of pods ([`net::Sockets`]), and connections of the cluster to pods ([`net::Dialer`]).
//!
//! # Life cycle
//! ```text
//! prepare(artifact) ─► Prepared            once per digest, may compile; shared by all containers of the image
//! sandbox(spec, sockets)                   once per pod
//!   create(sandbox, spec) ─► start ─► (events: Exited) ─► remove      per container and attempt
//!                            exec, attach                             while it runs
//! remove_sandbox                           after all its containers are removed
//! ```
//! Removals are idempotent: removing something that does not exist is `Ok`.

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod clock;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod descriptors;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod frame;
mod linux;
pub mod log;
mod mount;
pub mod net;
mod policy;
mod runtime;
pub mod tree;

pub use clock::Clock;
pub use linux::{Capabilities, Device, LinuxContainer, LinuxResources, LinuxSandbox, Processes, Seccomp, User};
pub use mount::{FileId, Mount, MountError, Propagation};
pub use net::Protocol;
pub use policy::{HttpPolicy, InstancePolicy, Reuse};
pub use runtime::{
    Artifact, ContainerId, ContainerSpec, ContainerState, DEFAULT_HTTP_PORT, Error, Event, Exec, Exit, ExitReason,
    Folder, Limits, Port, Prepared, Progress, Result, RootFolder, Runtime, SandboxId, SandboxSpec, Stats, Status,
    Stdin, Streams, core_dump_file,
};
