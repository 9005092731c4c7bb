//! Hollow nodes: Nodes that hold pods without running them. They register, renew their Leases and report the status of their pods as real
//! nodes do, so that a scheduler, a controller or a plan for a cluster meets thousands of nodes on one machine (upstream's kubemark).
//!
//! Pods are ready as soon as they are bound, those of Jobs succeed at once, and no container, probe or hook ever runs. Nodes and pods have
//! addresses of a range of their own ([`Options::cidr`]), which nobody dials.
#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod addresses;
mod node;
mod pod;

use crate::addresses::Addresses;
use api::Clock;
use client::{Client, Informers, RunOptions};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, Pod};
use std::{net::Ipv4Addr, sync::Arc};
use tokio_util::sync::CancellationToken;

/// The label of hollow nodes; its value is `true`.
pub const LABEL: &str = "sampan.dev/hollow";
/// The zones over which the nodes are spread.
const ZONES: u32 = 3;
/// The prefix of the names of hollow nodes, which their numbers follow, from 0.
const PREFIX: &str = "hollow-";
/// Nodes that register or renew their Leases concurrently: what comes together is committed together.
const NODE_WORKERS: usize = 64;
/// Pods whose status is sent concurrently.
const POD_WORKERS: usize = 16;

/// What the composition root decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes there are. Nodes of an earlier run beyond them are deleted.
    pub nodes: u32,
    /// The addresses of the nodes and their pods: each node has a range of 256 of them.
    pub cidr: Ipv4Net,
    /// The version that the nodes report, such as `v1.36.0`.
    pub version: String,
    /// Wall-clock time, for statuses and Leases.
    pub clock: Clock,
}

/// The default of [`Options::cidr`]: addresses that the Internet reserves (RFC 1112), and that no host routes.
pub fn default_cidr() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 8)
}

/// The most nodes that a range has addresses for.
pub fn most_nodes(cidr: &Ipv4Net) -> u32 {
    addresses::most_nodes(cidr)
}

/// Keeps the nodes and their pods until cancelled. `client` carries the nodes' identity.
pub async fn run(client: Client, informers: &Informers, options: Options, token: CancellationToken) {
    if options.nodes == 0 {
        return node::remove_leftovers(&client).await;
    }
    let (nodes, pods) = (informers.of::<Node>(), informers.of::<Pod>());
    let addresses = Arc::new(Addresses::new(options.cidr));
    let nodes = Arc::new(node::Nodes::new(client.clone(), nodes, options.clone()));
    let pods = Arc::new(pod::Pods::new(client, pods, addresses, options));
    let workers = |workers| RunOptions { workers, ..RunOptions::default() };
    let keep_nodes = client::run(nodes, workers(NODE_WORKERS), token.clone());
    let keep_pods = client::run(pods, workers(POD_WORKERS), token);
    futures::join!(keep_nodes, keep_pods);
}

/// The name of a node.
fn name(number: u32) -> String {
    format!("{PREFIX}{number}")
}

/// The number of the node of this name.
fn number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(PREFIX)?;
    let number = digits.parse().ok()?;
    (crate::name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_made_here_have_numbers() {
        for (name, expected) in [("hollow-0", Some(0)), ("hollow-17", Some(17)), ("hollow-017", None), ("n1", None)] {
            assert_eq!(number(name), expected, "{name}");
        }
        assert_eq!((number("hollow-"), number("hollow-+1"), number("hollow-4294967296")), (None, None, None));
    }
}
