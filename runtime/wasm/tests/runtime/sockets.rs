//! wasi:sockets between pods: servers and clients in Wasm on a network in memory.

use crate::support::Node;
use container::{
    ContainerId, ContainerSpec, Limits, Runtime, SandboxSpec,
    fake::FakeNetwork,
    net::{Dialer, Network, PodNetwork},
};
use std::{net::IpAddr, path::Path, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Pods on one network.
struct Pods {
    node: Node,
    network: FakeNetwork,
}

impl Pods {
    async fn new() -> Self {
        Self { node: Node::new().await, network: FakeNetwork::default() }
    }

    /// A pod; it knows `addresses` as the host `friends`.
    async fn pod(&self, id: &str, friends: &[IpAddr]) -> IpAddr {
        let host_aliases = friends.iter().map(|address| (*address, vec!["friends".to_owned()])).collect();
        let pod = PodNetwork {
            id: id.into(),
            name: id.into(),
            namespace: "default".into(),
            hostname: id.into(),
            address: None,
            host_aliases,
            host_ports: Vec::new(),
            kernel: false,
        };
        let attached = self.network.attach(pod).await.unwrap();
        let spec = SandboxSpec {
            id: id.into(),
            hostname: id.into(),
            labels: Default::default(),
            limits: Limits::default(),
            network: Default::default(),
            folders: Vec::new(),
            linux: Default::default(),
        };
        self.node.runtime.sandbox(spec, attached.sockets).await.unwrap();
        attached.addresses[0]
    }

    fn echo(&self, args: &[&str]) -> ContainerSpec {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/echo/echo.wasm");
        let mut spec = self.node.spec(&std::fs::read(path).unwrap());
        spec.args = ["echo"].iter().chain(args).map(ToString::to_string).collect();
        spec
    }

    async fn start(&self, pod: &str, spec: ContainerSpec) -> ContainerId {
        let id = spec.id.clone();
        let _prepared = self.node.runtime.prepare(&spec.artifact, "", &|_| ()).await.unwrap();
        self.node.runtime.create(&pod.into(), spec).await.unwrap();
        self.node.runtime.start(&id).await.unwrap();
        id
    }

    async fn serve(&self, pod: &str) -> ContainerId {
        let id = self.start(pod, self.echo(&[])).await;
        let log = self.node.log(&id, |text| text.contains("listening")).await;
        assert_eq!(log, "stdout F listening on 0.0.0.0:7000\n");
        id
    }

    /// Exit code and log of a run.
    async fn run(&self, pod: &str, spec: ContainerSpec) -> (i32, String) {
        let id = self.start(pod, spec).await;
        let code = self.node.exit(&id).await.code;
        (code, self.node.log(&id, |_| true).await)
    }

    async fn ask(&self, pod: &str, args: &[&str]) -> (i32, String) {
        self.run(pod, self.echo(args)).await
    }
}

#[tokio::test]
async fn a_server_answers_pods_and_the_cluster() {
    let pods = Pods::new().await;
    let server = pods.pod("server", &[]).await;
    let client = pods.pod("client", &[server]).await;
    let id = pods.serve("server").await;
    for scheme in ["tcp", "udp"] {
        for host in [server.to_string(), "friends".into()] {
            let url = format!("{scheme}://{host}:7000");
            let answer = pods.ask("client", &[&url, "a", "boat"]).await;
            assert_eq!(answer, (0, "stdout P a boat\n".into()), "{url}");
        }
        // a guest's localhost is its pod's
        let answer = pods.ask("server", &[&format!("{scheme}://localhost:7000"), "home"]).await;
        assert_eq!(answer, (0, "stdout P home\n".into()));
    }
    let mut stream = Dialer::connect(&pods.network, (server, 7000).into()).await.unwrap();
    stream.write_all(b"from outside").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "from outside", "it answers after the other half is closed");
    let log = pods.node.log(&id, |text| text.matches("connection from").count() == 4).await;
    assert_eq!(log.matches(&format!("connection from {client}:")).count(), 2, "{log}");
    assert_eq!(log.matches("connection from 127.0.0.1:").count(), 1, "{log}");
}

#[tokio::test]
async fn nothing_of_a_long_stream_is_lost() {
    let pods = Pods::new().await;
    let server = pods.pod("server", &[]).await;
    pods.serve("server").await;
    let mut spec = pods.echo(&[&format!("tcp://{server}:7000"), "0123456789abcde\n"]);
    spec.env = vec![("REPEAT".into(), "65536".into())];
    let (code, log) = pods.run("server", spec).await;
    let expected = 65536 * "stdout F 0123456789abcde\n".len();
    assert_eq!((code, log.len()), (0, expected), "{}", &log[..log.len().min(200)]);
}

#[tokio::test]
async fn all_addresses_of_a_name_are_told() {
    let pods = Pods::new().await;
    let friends = ["10.1.2.3", "10.1.2.4"].map(|text| text.parse().unwrap());
    pods.pod("client", &friends).await;
    let told = pods.ask("client", &["names://friends:80"]).await;
    assert_eq!(told, (0, "stdout F 10.1.2.3:80\nstdout F 10.1.2.4:80\n".into()));
}

#[tokio::test]
async fn what_is_refused_is_told_as_the_standard_names_it() {
    let pods = Pods::new().await;
    let own = pods.pod("one", &[]).await;
    pods.serve("one").await;
    for (url, code) in [
        (format!("tcp://{own}:7001"), "connection-refused"),
        ("tcp://10.99.99.99:7000".into(), "remote-unreachable"),
        ("tcp://unheard.of:7000".into(), "name-unresolvable"),
        ("tcp://224.0.0.1:7000".into(), "invalid-argument"),
        ("tcp://0.0.0.0:7000".into(), "invalid-argument"),
        ("udp://10.99.99.99:7000".into(), "remote-unreachable"),
        ("tcp://:7000".into(), "invalid-argument"),
    ] {
        assert_eq!(pods.ask("one", &[&url, "x"]).await, (1, format!("stdout F {url}: {code}\n")));
    }
    let second = pods.ask("one", &[]).await;
    assert_eq!(second, (1, "stdout F address-in-use\n".into()), "the port is taken in this pod");
    pods.pod("other", &[]).await;
    pods.serve("other").await;
}

#[tokio::test]
async fn a_stopped_server_frees_its_port_and_ends_its_connections() {
    let pods = Pods::new().await;
    let server = pods.pod("server", &[]).await;
    let id = pods.serve("server").await;
    let mut stream = Dialer::connect(&pods.network, (server, 7000).into()).await.unwrap();
    pods.node.log(&id, |text| text.contains("connection from")).await;
    pods.node.runtime.stop(&id, Duration::from_secs(5)).await.unwrap();
    assert_eq!(pods.node.exit(&id).await.code, 143);
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).await.unwrap_or_default(), 0);
    assert!(pods.network.reachable((server, 7000).into()).await.is_err());
    pods.serve("server").await;
}

/// The guest of WASI 0.3, as [`Pods::echo`] is the one of 0.2.
fn asynchronous(pods: &Pods, args: &[&str]) -> ContainerSpec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/async-echo/async-echo.wasm");
    let args = ["async-echo"].iter().chain(args).map(ToString::to_string).collect();
    ContainerSpec { args, ..pods.node.spec(&std::fs::read(path).unwrap()) }
}

#[tokio::test]
async fn servers_and_clients_of_both_versions_understand_each_other() {
    let pods = Pods::new().await;
    let old = pods.pod("old", &[]).await;
    let new = pods.pod("new", &[]).await;
    pods.serve("old").await;
    let server = pods.start("new", asynchronous(&pods, &[])).await;
    pods.node.log(&server, |text| text.contains("listening")).await;
    for scheme in ["tcp", "udp"] {
        for (to, server) in [(old, "old"), (new, "new"), ("127.0.0.1".parse().unwrap(), "itself")] {
            let url = format!("{scheme}://{to}:7000");
            let answer = pods.run("new", asynchronous(&pods, &[&url, "a", "boat"])).await;
            assert_eq!(answer, (0, "stdout P a boat\n".into()), "{url}: {server}");
        }
        assert_eq!(pods.ask("old", &[&format!("{scheme}://{new}:7000"), "x"]).await, (0, "stdout P x\n".into()));
    }
    let mut long = pods.echo(&[&format!("tcp://{new}:7000"), "0123456789abcde\n"]);
    long.env = vec![("REPEAT".into(), "16384".into())];
    let (code, log) = pods.run("old", long).await;
    assert_eq!((code, log.len()), (0, 16384 * "stdout F 0123456789abcde\n".len()));
    for (url, code) in [
        (format!("tcp://{new}:7001"), "ErrorCode::ConnectionRefused"),
        ("tcp://10.99.99.99:7000".into(), "ErrorCode::RemoteUnreachable"),
        ("tcp://unheard.of:7000".into(), "ErrorCode::NameUnresolvable"),
        ("tcp://224.0.0.1:7000".into(), "ErrorCode::InvalidArgument"),
    ] {
        assert_eq!(
            pods.run("new", asynchronous(&pods, &[&url, "x"])).await,
            (1, format!("stdout F {url}: {code}\n")),
            "{url}"
        );
    }
    pods.node.runtime.stop(&server, Duration::from_secs(5)).await.unwrap();
    assert_eq!(pods.node.exit(&server).await.code, 143);
    assert!(pods.network.reachable((new, 7000).into()).await.is_err());
}
