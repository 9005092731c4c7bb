//! wasi:tls of both drafts: guests that speak TLS over the sockets of their pods to a server of the test.

use crate::support::{Node, component};
use container::{
    ContainerSpec, ExitReason, Limits, Mount, RootFolder, Runtime, SandboxSpec,
    fake::FakeNetwork,
    net::{Listener, Network, PodNetwork, Sockets},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{fs, net::IpAddr, path::PathBuf, sync::Arc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

const NAME: &str = "server.test";

/// The same program of both versions.
const VERSIONS: [(&str, &str); 2] =
    [("tls", include_str!("../guests/tls.wat")), ("asynchronous-tls", include_str!("../guests/async-tls.wat"))];

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// What a server needs, whose certificate this one signs.
    fn server(&self, names: &[&str]) -> TlsAcceptor {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A pod for the guests, and one with the server.
struct Pods {
    node: Node,
    server: IpAddr,
    listener: Box<dyn Listener>,
    _network: FakeNetwork,
    _sockets: Arc<dyn Sockets>,
}

impl Pods {
    async fn new() -> Self {
        let (node, network) = (Node::new().await, FakeNetwork::default());
        let attach = async |id: &str| {
            let pod = PodNetwork {
                id: id.into(),
                name: id.into(),
                namespace: "default".into(),
                hostname: id.into(),
                address: None,
                host_aliases: Vec::new(),
                host_ports: Vec::new(),
                kernel: false,
            };
            network.attach(pod).await.unwrap()
        };
        let (server, client) = (attach("server").await, attach("client").await);
        let spec = SandboxSpec {
            id: "client".into(),
            hostname: "client".into(),
            labels: Default::default(),
            limits: Limits::default(),
            network: Default::default(),
            folders: Vec::new(),
            linux: Default::default(),
        };
        node.runtime.sandbox(spec, client.sockets).await.unwrap();
        let port = server.sockets.bind("0.0.0.0:443".parse().unwrap()).await.unwrap();
        let listener = port.listen().await.unwrap();
        Self { node, server: server.addresses[0], listener, _network: network, _sockets: server.sockets }
    }

    fn guest(&self, (world, text): (&str, &str), name: &str, body: &str) -> Vec<u8> {
        let IpAddr::V4(server) = self.server else { panic!("an IPv4 address") };
        let address = server.octets().map(|octet| format!("(i32.const {octet})")).join(" ");
        let text = text.replace("ADDRESS", &address).replace("NAME", name).replace("BODY", body);
        component(world, &text.replace("LENGTH", &name.len().to_string()))
    }

    /// The guest's program, with a volume in which `ca.crt` is this.
    fn spec(&self, guest: &[u8], authorities: &str) -> ContainerSpec {
        let mut spec = self.node.spec(guest);
        fs::create_dir_all(self.volume()).unwrap();
        fs::write(self.volume().join("ca.crt"), authorities).unwrap();
        spec.mounts = vec![Mount::new(self.volume(), "", "/ca", true).unwrap()];
        spec.env = vec![("SSL_CERT_FILE".into(), "/ca/ca.crt".into())];
        spec
    }

    fn volume(&self) -> PathBuf {
        self.node.folder.path().join("volume")
    }

    /// Runs a guest, whose connection the server answers. Exit code, and what it printed.
    async fn run(&self, spec: ContainerSpec, server: &TlsAcceptor) -> (i32, String) {
        let id = spec.id.clone();
        let _prepared = self.node.runtime.prepare(&spec.artifact, "", &|_| ()).await.unwrap();
        self.node.runtime.create(&"client".into(), spec).await.unwrap();
        self.node.runtime.start(&id).await.unwrap();
        let serve = async {
            let (stream, _) = self.listener.accept().await.unwrap();
            // a client that refuses the certificate ends the handshake
            if let Ok(mut stream) = server.accept(stream).await {
                let mut asked = String::new();
                stream.read_to_string(&mut asked).await.unwrap();
                stream.write_all(format!("an answer to {asked}").as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), serve).await.expect("it does not ask");
        let code = self.node.exit(&id).await.code;
        (code, self.node.log(&id, |_| true).await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_trusts_the_authority_in_its_volume_and_no_other() {
    let (pods, ours, theirs) = (Pods::new().await, Authority::new("ours"), Authority::new("theirs"));
    let server = ours.server(&[NAME]);
    for version in VERSIONS {
        let guest = pods.guest(version, NAME, "");
        let answer = (0, "stdout P an answer to a question\n".to_owned());
        assert_eq!(pods.run(pods.spec(&guest, &ours.pem()), &server).await, answer);
        let (code, log) = pods.run(pods.spec(&guest, &theirs.pem()), &server).await;
        assert_eq!(code, 1, "{log}");
        let refused =
            "TLS with server.test: invalid peer certificate: UnknownIssuer (trusted are the authorities of /ca/ca.crt)";
        assert!(log.contains(refused), "{log}");
        // the authorities are replaced while the container is there, as a ConfigMap's are
        let both = ours.pem() + &theirs.pem();
        assert_eq!(pods.run(pods.spec(&guest, &both), &server).await, answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_for_the_name_that_was_asked_for() {
    let (pods, ours) = (Pods::new().await, Authority::new("ours"));
    for version in VERSIONS {
        let guest = pods.guest(version, NAME, "");
        let (code, log) = pods.run(pods.spec(&guest, &ours.pem()), &ours.server(&["other.test"])).await;
        assert!(code == 1 && log.contains("certificate not valid for name \"server.test\""), "{log}");
        let long = "n".repeat(100_000);
        let (code, log) =
            pods.run(pods.spec(&pods.guest(version, &long, ""), &ours.pem()), &ours.server(&[NAME])).await;
        assert!(code == 1 && log.contains("bytes is too long") && log.len() < 1_000, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_that_cannot_be_used_are_told() {
    let (pods, ours) = (Pods::new().await, Authority::new("ours"));
    let (server, guest) = (ours.server(&[NAME]), pods.guest(VERSIONS[0], NAME, ""));
    for (authorities, file, told) in [
        (ours.pem(), "/ca/other.crt", "SSL_CERT_FILE is /ca/other.crt: No such file"),
        ("nothing".into(), "/ca/ca.crt", "SSL_CERT_FILE is /ca/ca.crt: it has no certificate in PEM form"),
        ("#".repeat(2 << 20), "/ca/ca.crt", "SSL_CERT_FILE is /ca/ca.crt: it is longer than 1024 KiB"),
        (ours.pem(), "/ca", "SSL_CERT_FILE is /ca: Is a directory"),
    ] {
        let mut spec = pods.spec(&guest, &authorities);
        spec.env = vec![("SSL_CERT_FILE".into(), file.into())];
        let (code, log) = pods.run(spec, &server).await;
        assert!(code == 1 && log.contains(told), "{told}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_images_own_authorities_are_trusted() {
    let (pods, ours) = (Pods::new().await, Authority::new("ours"));
    let image = pods.node.folder.path().join("image");
    fs::create_dir_all(image.join("etc/ssl/certs")).unwrap();
    fs::write(image.join("etc/ssl/certs/ca-certificates.crt"), ours.pem()).unwrap();
    let own = pods.node.folder.path().join("own");
    for version in VERSIONS {
        let mut spec = pods.spec(&pods.guest(version, NAME, ""), "");
        spec.env = Vec::new();
        if let container::Artifact::Wasm { files, .. } = &mut spec.artifact {
            *files = Some(image.clone());
        }
        spec.root = RootFolder::Writable(own.clone());
        let (code, log) = pods.run(spec, &ours.server(&[NAME])).await;
        assert_eq!((code, log.as_str()), (0, "stdout P an answer to a question\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connectors_that_never_connect_are_bounded() {
    let pods = Pods::new().await;
    let body = "(loop $again (call $drop_connector (call $connector)) (br $again))";
    let spec = pods.spec(&pods.guest(VERSIONS[1], NAME, body), "");
    let id = spec.id.clone();
    let _prepared = pods.node.runtime.prepare(&spec.artifact, "", &|_| ()).await.unwrap();
    pods.node.runtime.create(&"client".into(), spec).await.unwrap();
    pods.node.runtime.start(&id).await.unwrap();
    let exit = pods.node.exit(&id).await;
    assert_eq!(exit.reason, ExitReason::Error);
    assert!(exit.message.contains("4096 connectors of this instance never connected"), "{}", exit.message);
}
