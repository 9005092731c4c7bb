//! Pods with a network namespace beside virtual ones. All traffic is in namespaces that the tests make, and on the loopback addresses of the host.

// Helpers outside `#[test]` functions are not exempt by clippy.toml; tests run on the real clock.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod dns;
mod mixed;

use container::net::{Attachment, Network, PodNetwork, Sockets};
use network::{Config, KernelMode, VirtualNetwork};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Whether the machine can do what is tested. Where it cannot, the test is left out, loudly.
fn can() -> bool {
    let nft = ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft"].iter().any(|path| Path::new(path).exists());
    let namespaces = Command::new("unshare").args(["-Urn", "true"]).status().is_ok_and(|status| status.success());
    if !nft || !namespaces {
        let text = format!("SKIPPED: nft is there: {nft}, namespaces are allowed: {namespaces}");
        assert!(std::env::var("SAMPAN_TEST_REQUIRE").as_deref() != Ok("all"), "{text}");
        eprintln!("{text}");
    }
    nft && namespaces
}

/// The helper's program: beside the tests where they were copied, or else where it was built.
fn helper() -> PathBuf {
    let copied = std::env::current_exe().unwrap().with_file_name("network-helper");
    if copied.exists() { copied } else { env!("CARGO_BIN_EXE_network-helper").into() }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn network(api: SocketAddr, change: impl FnOnce(&mut Config)) -> VirtualNetwork {
    let mut config = Config::new(api);
    config.kernel = Some(KernelMode { program: helper(), args: Vec::new(), folder: None });
    change(&mut config);
    VirtualNetwork::new(config, CancellationToken::new(), TaskTracker::new()).unwrap()
}

fn spec(id: &str) -> PodNetwork {
    PodNetwork {
        id: id.into(),
        name: id.into(),
        namespace: "default".into(),
        hostname: id.into(),
        address: None,
        host_aliases: Vec::new(),
        host_ports: Vec::new(),
        kernel: false,
    }
}

/// A virtual pod.
async fn guest(network: &VirtualNetwork, id: &str) -> (Arc<dyn Sockets>, IpAddr) {
    let attached = network.attach(spec(id)).await.unwrap();
    (attached.sockets, attached.addresses[0])
}

/// A pod with a network namespace.
async fn process(network: &VirtualNetwork, id: &str) -> (Arc<dyn Sockets>, IpAddr) {
    let attached = network.attach(PodNetwork { kernel: true, ..spec(id) }).await.unwrap();
    (attached.sockets, attached.addresses[0])
}

/// A network all of whose pods have a namespace.
struct Namespaces(VirtualNetwork);

#[async_trait::async_trait]
impl Network for Namespaces {
    async fn attach(&self, pod: PodNetwork) -> container::net::Result<Attachment> {
        self.0.attach(PodNetwork { kernel: true, ..pod }).await
    }

    async fn detach(&self, id: &str) {
        self.0.detach(id).await;
    }

    fn view(&self, id: &str) -> Option<Arc<dyn Sockets>> {
        self.0.view(id)
    }

    fn list(&self) -> Vec<(Arc<str>, IpAddr)> {
        self.0.list()
    }
}

async fn node() -> container::contract::network::Node {
    let network = network(at("127.0.0.1:1"), |_| ());
    let pods: Arc<dyn Network> = if can() { Arc::new(Namespaces(network.clone())) } else { Arc::new(network.clone()) };
    container::contract::network::Node { network: pods, dialer: Arc::new(network) }
}

mod contract {
    container::network_contract!(super::node);
}

/// The whole suite as uid 65534, which has no right on this machine.
#[test]
fn everything_works_for_nobody() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return eprintln!("SKIPPED: only root can become nobody");
    }
    if !can() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::copy(helper(), folder.path().join("network-helper")).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(&program);
    let output = command.args(["--skip", "everything_works_for_nobody"]).current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("as nobody: {}", text.lines().rfind(|line| line.starts_with("test result")).unwrap());
}
