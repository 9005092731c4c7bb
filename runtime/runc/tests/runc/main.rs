//! Linux containers by an OCI runtime: the contract of runtimes, and what is special about them. They need root, busybox and an OCI runtime, and are
//! skipped loudly where one is missing.

// Helpers outside `#[test]` functions are not exempt by clippy.toml; tests run on the real clock.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod containers;
mod counts;
mod ends;
mod figures;
mod support;
mod users;

/// Not a test: a node that a test starts and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test as a node of its own"]
async fn node() {
    ends::node_of_its_own().await;
}

mod contract {
    container::runtime_contract!(super::support::Node::new, if super::support::can_run);
}
