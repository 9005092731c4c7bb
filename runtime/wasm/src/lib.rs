//! Runs WebAssembly as containers: [`Wasmtime`] is a [`container::Runtime`].
//!
//! The exports of an image determine how it runs:
//!
//! | exports | target | life cycle |
//! | --- | --- | --- |
//! | component with `wasi:http/incoming-handler` (WASI 0.2) or `wasi:http/handler` (0.3) | `http` | an instance per request, none while idle, unless the policy reuses instances: one request after the other, or (0.3) many at the same time |
//! | component with `wasi:cli/run` | `command` | one instance until it returns |
//! | core module with `_start` or a function without a name (WASI preview 1, or its first form `wasi_unstable`) | `core` | one instance until it returns |
//!
//! This crate knows neither Kubernetes nor image formats nor addresses: the child process of [`compile`] produces the code, and the network
//! is [`container::net::Sockets`].
//!
//! # Isolation and limits of guests
//! * Guest code runs on separate threads (`pool`), yields every millisecond (epoch), and is throttled to its CPU limit (`quota`).
//! * The limit of a container applies to the memory and tables of all its instances together (`memory`). An allocation above it ends the
//!   container as OOMKilled, exit code 137. This includes HTTP handlers: their instances share the limit as threads of a Linux server do, so
//!   that an allocation above it ends the container with all its requests, and the restart is visible. An instance whose *initial* memory
//!   exceeds the rest of the limit waits for others to end: load alone does not kill a container.
//! * Memory that the host holds for an instance (headers, bodies, listings) counts as its memory (`host`). The node's account follows the
//!   memory that is available on the machine, so that a guest is OOMKilled and not the cluster.
//! * The node limits the number of instances by slots (`slots`), in a preallocated pool or outside of it. A container takes at most a quarter
//!   of the slots, some slots are reserved for first requests and for HTTP, and the node reports a problem before they run out. An instance
//!   that does not fit the pool's limits (large tables, several memories) runs outside of it.
//! * A trap in an HTTP handler ends one request, with response 500 and the backtrace in the container's log, but not the container. A trap in a
//!   command ends the container with exit code 134 and the backtrace in its log and in the termination message. Where the guest has debug
//!   information, the backtrace has the lines of the source (`source`). On request, the first trap leaves a core dump (`core_dump`).
//! * A guest that computes, or whose next instruction may take long, does not keep the thread of others (`long_polls`, `priority`). Containers
//!   that use more than their share of the CPU time take turns, by what they request (`shares`, `turns`).
//! * WASI has no signals. A stop acts on a command as SIGTERM does on a process without a handler: the command ends immediately with exit
//!   code 143. An HTTP handler closes its port, finishes its requests within the grace period and ends with exit code 0, or with 137 if the
//!   grace period cut off some of them.
//!
//! # wasi:sockets
//! This crate implements TCP, UDP and name lookup on [`container::net::Sockets`]. A guest's listener belongs to the pod's network and is
//! not a socket of the host.
//!
//! # wasi:tls
//! Component guests speak TLS as clients over any streams (`tls`). The container chooses whom it trusts: by `SSL_CERT_FILE` in its
//! environment, by the bundle in its files, or else as the machine does ([`MachineRoots`]).

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod access;
mod async_handler;
mod attach;
mod body;
mod cache;
mod clients;
mod command;
pub mod compile;
mod concurrent;
mod config;
mod connection;
mod core_dump;
mod delivery;
pub mod descriptors;
mod dwarf;
mod exec;
mod exit;
mod files;
mod functions;
mod grpc;
mod guest;
mod host;
mod http;
mod image;
pub mod inspect;
mod instances;
pub mod key;
mod keyvalue;
mod limits;
mod load;
mod long_polls;
mod memory;
mod metrics;
mod options;
mod outgoing;
mod pairs;
mod pool;
mod prepared;
mod preview;
pub mod priority;
mod queue;
mod quota;
mod randomness;
mod run_limit;
mod runtime;
mod served;
mod shares;
mod slots;
mod sockets;
mod source;
mod stdio;
mod terminal;
mod ticker;
mod tls;
mod tools;
mod trace;
mod turns;
mod unstable;
mod view;

pub use clients::ClientOptions;
pub use options::{Compiler, FileOptions, HttpOptions, MemoryProbe, Options, PoolOptions};
pub use runtime::Wasmtime;
pub use tls::machine::MachineRoots;

/// The name of the runtime, by which a RuntimeClass chooses it.
pub const NAME: &str = "wasmtime";

/// The version of the linked wasmtime, which the node reports as its runtime version.
pub const VERSION: &str = "48.0.8";

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_that_of_the_library() {
        let lock = include_str!("../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"wasmtime\"\nversion = \"{}\"\n", super::VERSION)));
    }
}
