//! The server under test over a memory log and a fixed clock; shared by this crate's suites and the wire suite of the workspace.

#![allow(dead_code, reason = "each suite uses what it needs")]

use jiff::Timestamp;
use server::{Ids, Options, Server, Settings, nodes::Nodes, tokens::Tokens};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

/// A server, what it stores, and what ends its watches.
pub struct Harness {
    pub server: Server,
    pub store: store::Store<server::Item>,
    pub shutdown: CancellationToken,
    /// Its clock, seconds.
    pub seconds: Arc<AtomicI64>,
}

impl Harness {
    /// A fresh server whose clock stands at `now` (seconds) until somebody moves it.
    pub async fn new(now: i64, nodes: Arc<dyn Nodes>) -> Self {
        let seconds = Arc::new(AtomicI64::new(now));
        let read = seconds.clone();
        let clock = api::Clock::new(move || Timestamp::from_second(read.load(Ordering::SeqCst)).unwrap());
        let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(now.unsigned_abs());
        let options = store::Options::new(store::Clock::new(move || begun));
        let store = store::Store::open(store::Memory::default(), options).await.unwrap();
        let shutdown = CancellationToken::new();
        let server = Server::new(Options {
            store: store.clone(),
            clock,
            ids: Ids::new(fastrand::Rng::with_seed(1)),
            settings: Settings { service_cidr: "10.96.0.0/16".parse().unwrap(), node_ports: 30000..=32767 },
            tokens: Tokens::new(&server::pki::key().unwrap(), "https://kubernetes.default.svc.cluster.local").unwrap(),
            nodes,
            advertise: "10.32.0.1:6443".parse().unwrap(),
            shutdown: shutdown.clone(),
            identity: "test".into(),
            image_advice: None,
            metrics: Arc::default(),
        })
        .await
        .unwrap();
        Self { server, store, shutdown, seconds }
    }
}
