//! What guests of isolated pods have beyond files and sockets: TLS by the host, and the state that an initialiser left.

use crate::support::{Node, attach, component};
use container::{Folder, Mount, Runtime, net::Dialer};
use http_body_util::{BodyExt, Empty};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server with a certificate for `server.test`.
fn server(authority: &CertifiedIssuer<'static, KeyPair>) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let names = vec!["server.test".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_speaks_tls_and_trusts_the_authority_in_its_volume() {
    let node = Node::new().await;
    let far = attach(&node.network, "server", &[]).await;
    let listener = far.sockets.bind("0.0.0.0:443".parse().unwrap()).await.unwrap().listen().await.unwrap();
    let IpAddr::V4(address) = far.addresses[0] else { panic!("an IPv4 address") };
    let address = address.octets().map(|octet| format!("(i32.const {octet})")).join(" ");
    let volume = node.folder.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let near = attach(&node.network, "client", &[]).await;
    let mut sandbox = node.sandbox_spec("client");
    sandbox.folders.push(Folder { path: volume.clone(), read_only: true, links: false });
    node.runtime.sandbox(sandbox, near.sockets).await.unwrap();
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let server = server(&ours);
    for (world, text) in [
        ("tls", include_str!("../../../wasm/tests/guests/tls.wat")),
        ("asynchronous-tls", include_str!("../../../wasm/tests/guests/async-tls.wat")),
    ] {
        let text = text.replace("ADDRESS", &address).replace("NAME", "server.test").replace("BODY", "");
        let guest = component(world, &text.replace("LENGTH", "11"));
        for (trusted, code, said) in [(&ours, 0, "an answer to a question"), (&theirs, 1, "UnknownIssuer")] {
            std::fs::write(volume.join("ca.crt"), trusted.pem()).unwrap();
            let mut spec = node.spec(&guest, &["client"]);
            spec.mounts = vec![Mount::new(&volume, "", "/ca", true).unwrap()];
            spec.env = vec![("SSL_CERT_FILE".into(), "/ca/ca.crt".into())];
            let id = node.start("client", spec).await;
            let serve = async {
                let (stream, _) = listener.accept().await.unwrap();
                // a client that refuses the certificate ends the handshake
                if let Ok(mut stream) = server.accept(stream).await {
                    let mut asked = String::new();
                    stream.read_to_string(&mut asked).await.unwrap();
                    stream.write_all(format!("an answer to {asked}").as_bytes()).await.unwrap();
                    stream.shutdown().await.unwrap();
                }
            };
            tokio::time::timeout(Duration::from_secs(60), serve).await.expect("it does not ask");
            assert_eq!(node.exit(&id).await.code, code, "{world}");
            node.log(&id, |log| log.contains(said)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_begin_as_the_initialiser_left_them() {
    let node = Node::new().await;
    let address = SocketAddr::new(node.pod("pod", &[]).await, 80);
    let text = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (global $state (mut i32) (i32.const 7))
        (func (export "_start") (call $exit (global.get $state)))
        (func (export "wizer-initialize") (global.set $state (i32.const 9))))"#;
    let id = node.start("pod", node.spec(&wat::parse_str(text).unwrap(), &["main"])).await;
    assert_eq!(node.exit(&id).await.code, 9);

    // It counts its requests, each of which has a new instance.
    let text = include_str!("../../../wasm/tests/guests/http.wat").trim_end().strip_suffix(')').unwrap();
    let initialised = format!(r#"{text} (func (export "wizer-initialize") (global.set $count (i32.const 4))))"#);
    node.start("pod", node.spec(&component("initialised-http", &initialised), &[])).await;
    for _ in 0..2 {
        let body = Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
        let request = http::Request::get("http://pod/i").body(body).unwrap();
        let response = Dialer::http(&node.network, address, request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "5");
    }
}
