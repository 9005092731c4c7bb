//! Calls to a server on loopback, with a certificate of its own authority.

use super::*;
use crate::{
    dialer::NoDialer,
    outbound::roots,
    pki::{self, Names, Pair, Validity},
};
use api::Object;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use store::Changes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

struct Services;

impl Home for Services {
    fn objects(&self) -> Option<Arc<dyn Objects>> {
        Some(Arc::new(Services))
    }

    fn uid(&self) -> String {
        "u".to_owned()
    }
}

impl Objects for Services {
    fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<Object>> {
        None
    }

    fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<Object>> {
        Vec::new()
    }

    fn changes(&self, _: &str, _: &str) -> Changes {
        Changes::default()
    }
}

fn validity() -> Validity {
    let from: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    Validity { from, until: "2046-01-01T00:00:00Z".parse().expect("a time") }
}

/// Answers each connection with the same bytes. Returns the authority and the port.
async fn serve(answer: &'static str) -> (Pair, u16) {
    let authority = pki::authority("hooks", validity()).expect("an authority");
    let names = Names { addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], dns: vec!["localhost".to_owned()] };
    let pair = pki::server(&authority, "hook", &names, validity()).expect("a certificate");
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM");
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                if answer.is_empty() {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (authority, port)
}

async fn call(endpoint: &Endpoint, timeout: u64) -> Result<Value, String> {
    let resolve: Resolve = |_, namespace, name, port| match (namespace, name) {
        ("n", "hook") => Ok(SocketAddr::from(([10, 96, 0, 7], port))),
        _ => Err(format!("{name:?} not found")),
    };
    let webhooks = Webhooks::new(Arc::new(NoDialer), resolve);
    webhooks.attach(Box::new(Services));
    webhooks.call(endpoint, "", &json!({"a": 1}), Duration::from_millis(timeout)).await
}

fn at(port: u16, authority: &str) -> Endpoint {
    Endpoint { target: Target::Url(format!("https://127.0.0.1:{port}/check")), authorities: authority.into() }
}

#[tokio::test]
async fn an_answer_is_json_or_an_error_of_upstream() {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"b\":2}";
    let (authority, port) = serve(ok).await;
    assert_eq!(call(&at(port, &authority.certificate), 5_000).await, Ok(json!({"b": 2})));
    // The certificate of another authority is not trusted, nor one without any.
    let other = pki::authority("other", validity()).expect("an authority");
    let error = call(&at(port, &other.certificate), 5_000).await.expect_err("not trusted");
    assert!(error.starts_with(&format!("Post \"https://127.0.0.1:{port}/check\": ")), "{error}");
    assert!(error.contains("certificate"), "{error}");
    assert!(call(&at(port, ""), 5_000).await.is_err(), "the system does not know the authority");
    let (authority, port) = serve("HTTP/1.1 500 Oh\r\ncontent-length: 4\r\n\r\nno.\n").await;
    let error = call(&at(port, &authority.certificate), 5_000).await.expect_err("an error");
    assert_eq!(error, "an error on the server (\"no.\") has prevented the request from succeeding");
    let (authority, port) = serve("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{{").await;
    let error = call(&at(port, &authority.certificate), 5_000).await.expect_err("no JSON");
    assert!(error.starts_with("the answer is not JSON: "), "{error}");
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_is_given_up() {
    let (authority, port) = serve("").await;
    let error = call(&at(port, &authority.certificate), 50).await.expect_err("no answer");
    assert_eq!(error, format!("Post \"https://127.0.0.1:{port}/check\": context deadline exceeded"));
}

#[tokio::test]
async fn a_service_is_looked_up_and_dialled() {
    let service = |name: &str, port| {
        Endpoint::parse(&json!({"service": {"namespace": "n", "name": name, "path": "check", "port": port}}))
            .expect("a service")
    };
    for (name, port, expected) in
        [("none", 443, "\"none\" not found"), ("hook", 443, "dial tcp 10.96.0.7:443: no way to 10.96.0.7:443")]
    {
        let error = call(&service(name, port), 1_000).await.expect_err("no network");
        assert_eq!(error, format!("Post \"https://{name}.n.svc:{port}/check\": {expected}"));
    }
}

#[test]
fn a_configuration_names_one_target() {
    assert_eq!(Endpoint::parse(&json!({})), None);
    let url = Endpoint::parse(&json!({"url": "https://a.b/c", "caBundle": "YQ=="})).expect("an address");
    assert_eq!((url.url(), url.authorities), ("https://a.b/c".to_owned(), b"a".to_vec()));
    assert_eq!(
        roots(b"a").map(|_| ()),
        Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned())
    );
}
