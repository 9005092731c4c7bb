//! What the suites share: the API server with all built-in kinds over a memory log and a fixed clock.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read the environment and the clock")]

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use jiff::Timestamp;
use kinds::{Settings, Tokens, bootstrap::Bootstrap};
use server::{
    FrontProxy, Ids, Options, Parts, Server,
    dialer::{Dialer, NoDialer},
    nodes::{NoNodes, Nodes, Stream},
    pki::Validity,
};
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
    /// The server.
    pub server: Server,
    /// What it stores.
    pub store: store::Store<server::Item>,
    /// Ends its watches.
    pub shutdown: CancellationToken,
    /// Its clock, seconds.
    pub seconds: Arc<AtomicI64>,
}

impl Harness {
    /// A fresh server whose clock stands at `now` (seconds) until somebody moves it.
    pub async fn new(now: i64, nodes: Arc<dyn Nodes>) -> Self {
        Self::with(now, nodes, |_, _| {}).await
    }

    /// As [`Harness::new`], with something changed before it starts.
    pub async fn with(now: i64, nodes: Arc<dyn Nodes>, change: impl FnOnce(&mut Options, &mut Parts)) -> Self {
        Self::reaching(now, nodes, Arc::new(NoDialer), change).await
    }

    /// As [`Harness::with`], with a way to pods and Services.
    pub async fn reaching(
        now: i64,
        nodes: Arc<dyn Nodes>,
        dialer: Arc<dyn Dialer>,
        change: impl FnOnce(&mut Options, &mut Parts),
    ) -> Self {
        let seconds = Arc::new(AtomicI64::new(now));
        let read = seconds.clone();
        let clock = api::Clock::new(move || Timestamp::from_second(read.load(Ordering::SeqCst)).unwrap());
        let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(now.unsigned_abs());
        let options = store::Options::new(store::Clock::new(move || begun));
        let store = store::Store::open(store::Memory::default(), options).await.unwrap();
        let shutdown = CancellationToken::new();
        let settings = Settings { webhooks: kinds::webhooks_by(dialer.clone()), ..settings("test") };
        let mut options = self::options(&settings, store.clone(), clock.clone(), 1, shutdown.clone());
        options.nodes = nodes;
        options.dialer = dialer;
        let mut parts = settings.parts();
        change(&mut options, &mut parts);
        let server = Server::new(options, parts);
        Bootstrap::new(&server, settings, clock).ensure().await.unwrap();
        Self { server, store, shutdown, seconds }
    }
}

/// The options of a server over a store: it reaches no node and no pod.
pub fn options(
    settings: &Settings,
    store: store::Store<server::Item>,
    clock: api::Clock,
    seed: u64,
    shutdown: CancellationToken,
) -> Options {
    Options {
        store,
        clock,
        ids: Arc::new(Ids::new(fastrand::Rng::with_seed(seed))),
        nodes: Arc::new(NoNodes),
        dialer: Arc::new(NoDialer),
        advertise: settings.advertise,
        shutdown,
        audit: None,
        metrics: Arc::default(),
    }
}

/// The kinds as a cluster of tests has them.
pub fn settings(identity: &str) -> Settings {
    Settings {
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        node_ports: 30000..=32767,
        tokens: Tokens::new(&server::pki::key().unwrap(), "https://kubernetes.default.svc.cluster.local").unwrap(),
        advertise: "10.32.0.1:6443".parse().unwrap(),
        identity: identity.to_owned(),
        image_advice: None,
        runtimes: Vec::new(),
        local_volumes: None,
        dns: None,
        capabilities: kinds::Capabilities::new([
            "pod.spec.volumes.configMap",
            "pod.spec.volumes.downwardAPI",
            "pod.spec.volumes.emptyDir",
            "pod.spec.volumes.hostPath",
            "pod.spec.volumes.projected",
            "pod.spec.volumes.secret",
        ]),
        rbac: kinds::Rbac::default(),
        front_proxy: front_proxy(),
        client_authority: String::new(),
        webhooks: kinds::webhooks_by(Arc::new(NoDialer)),
    }
}

/// A front proxy with an authority of its own, valid around the clocks of tests and of the machine.
fn front_proxy() -> FrontProxy {
    let time = |text: &str| text.parse().unwrap();
    let validity = Validity { from: time("2020-01-01T00:00:00Z"), until: time("2120-01-01T00:00:00Z") };
    let authority = server::pki::authority("front proxy", validity).unwrap();
    let pair = server::pki::client(&authority, kinds::FRONT_PROXY, &[], validity).unwrap();
    FrontProxy::new(&authority.certificate, pair)
}

/// A stream to a node that answers every request with this.
pub fn node(answer: impl Fn(&Request<Incoming>) -> Response<Body> + Clone + Send + 'static) -> Stream {
    server::nodes::piped(tower::service_fn(move |request| std::future::ready(Ok(answer(&request)))))
}
