//! Runs each pod's WebAssembly in a child process of its own: [`Isolated`] is a [`container::Runtime`] with the behaviour of [`wasm`], for pods
//! whose guests shall not reach the node even if they break out of wasmtime.
//!
//! ```text
//! node                                                       child, one for each pod
//! Isolated ── calls, states, descriptors ── one socket ────► an ordinary Wasmtime with one sandbox
//!   │  wasm: compiles once for all pods ── sealed code ────►   maps it
//!   └─ Host: the pod's Sockets ◄── calls, a socket for each stream ── PodSockets
//! ```
//!
//! The child is this program again. Before it sees anything of a guest it gives up new privileges, capabilities, all files but the folders of
//! its pod (Landlock), and all system calls that a Wasm runtime does not need (seccomp). Where the kernel cannot do that, pods are refused.
//! Where the node is root, the child becomes a user of its own; where the node may make a cgroup, it gets one.
//! It dies with the node; when it dies, its containers have ended with exit code 137.
//!
//! The node treats the child as hostile: frames, calls in progress, held ports and streams are bounded, what it says of containers concerns its
//! own only, and the node waits for it nowhere without a limit. Connections of node ports go to the child whole; other streams are copied
//! between a socket and the network, and requests go over HTTP/2 on a socket of their handler.
//!
//! What is different from `wasm`: a trap tells its functions, but not its lines, since the child can start no process that reads debug
//! information; the metrics of the engine are those of other pods; instances are allocated on demand, without a pool; all containers of a pod
//! whose images have files beside the module are of one image, since a confined process is allowed no other folder later.

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod cgroup;
mod child;
mod frame;
mod host;
mod link;
mod options;
mod pipes;
mod process;
mod protocol;
mod requests;
mod runtime;
mod streams;

pub use child::child_main;
pub use options::Options;
pub use runtime::Isolated;

/// The name of the runtime, by which a RuntimeClass chooses it.
pub const NAME: &str = "wasmtime-isolated";
