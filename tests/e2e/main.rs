//! End to end: the real binary, started as an unprivileged user, and the real clients (kubectl, curl's protocol, a registry).
//! Each test has its own cluster, data directory and loopback address; nothing is shared, so they run in parallel.
#![allow(clippy::disallowed_methods, reason = "tests read the environment and the clock")]

mod apply;
mod bounded;
mod cli;
mod clusters;
mod disk;
mod essential;
mod first;
mod guests;
mod harness;
mod hostile;
#[path = "../hostile/mod.rs"]
mod hostile_guests;
mod idle;
mod images;
mod isolated;
mod kubectl;
mod life;
mod linux;
mod linux_network;
mod network;
mod probes;
mod restart;
mod rollout;
mod samples;
mod volumes;
mod wasm;
