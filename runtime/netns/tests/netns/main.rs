//! Network namespaces of the kernel: pods, Services, what leaves the node, and deaths of each process. All traffic is inside namespaces that
//! the tests make; the whole is run by root and by a user without any right.

// Helpers outside `#[test]` functions are not exempt by clippy.toml; tests run on the real clock.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod deaths;
mod egress;
mod figures;
mod pods;
mod services;
mod support;
mod users;
