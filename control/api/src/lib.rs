//! The vocabulary of the Kubernetes API. Pure: no clock, no randomness, no async; every function here is a table test.
//!
//! The server uses JSON objects and schemas; typed structs (k8s-openapi) are used at the edges only, because typed decoding drops unknown fields
//! and changes defaults.
#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

pub mod annotations;
pub mod apply;
mod clock;
pub mod cron;
pub mod csr;
#[cfg(test)]
mod hostile_tests;
pub mod json;
pub mod jsonpath;
pub mod legacytoken;
pub mod names;
mod object;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod regexp;
pub mod schema;
pub mod selector;
pub mod semantic;
mod show;
mod status;
pub mod time;
mod tree;
pub mod version;
pub mod yaml;

pub use clock::Clock;
pub use object::{GroupVersionKind, GroupVersionResource, Object};
pub use show::go_type;
pub use status::{Cause, CauseKind, FieldPath, Reason, Status, StatusDetails, invalid};
pub use tree::{MAX_DEPTH, nests_deeper};
