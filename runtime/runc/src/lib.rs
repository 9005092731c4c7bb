//! Runs Linux containers by an OCI runtime with the command line of `runc`.

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod config;
mod oci;
mod users;
