//! `pods/proxy`, `services/proxy` and `nodes/proxy`, before HTTP servers that answer with what they were asked.

use crate::{connections::Network, *};
use axum::{Router, extract::Request as AxumRequest, response::IntoResponse};
use hyper::{service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use server::dialer::{Dialer, Stream};
use std::{io, net::SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// The pods: whoever listens on port 1 is not there, on 443 it is TLS, on 9 it is no HTTP.
#[derive(Default)]
struct Pods;

#[async_trait::async_trait]
impl Dialer for Pods {
    async fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        let (near, far) = tokio::io::duplex(4096);
        match to.port() {
            1 => return Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("{to}: connection refused"))),
            9 => drop(far),
            443 => drop(tokio::spawn(async move {
                let stream = acceptor().accept(far).await.expect("a handshake");
                serve(to, Box::new(stream)).await;
            })),
            _ => drop(tokio::spawn(serve(to, Box::new(far)))),
        }
        Ok(Box::new(near))
    }
}

fn acceptor() -> tokio_rustls::TlsAcceptor {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let hour = jiff::SignedDuration::from_hours(1);
    let now = Timestamp::from_second(NOW).unwrap();
    let validity = server::pki::Validity { from: now - hour, until: now + hour };
    let pair = server::pki::authority("nobody knows it", validity).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
        )
        .unwrap();
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

async fn serve(to: SocketAddr, stream: Stream) {
    let router = Router::new().fallback(move |request: AxumRequest| answer(to, request));
    let service = service_fn(move |request: Request<hyper::body::Incoming>| router.clone().oneshot(request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = connection.with_upgrades().await;
}

async fn answer(to: SocketAddr, mut request: AxumRequest) -> axum::response::Response {
    let path = request.uri().path().to_owned();
    if path == "/moved" {
        let place = request.uri().query().unwrap_or_default().to_owned();
        return (StatusCode::FOUND, [("location", place), ("keep-alive", "5".into())]).into_response();
    }
    if path == "/echo" {
        let upgrade = request.extensions_mut().remove::<OnUpgrade>().expect("an upgrade");
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() && byte != *b"." {
                stream.write_all(&byte.to_ascii_uppercase()).await.unwrap();
            }
        });
        let headers = [("connection", "upgrade"), ("upgrade", "echo")];
        return (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
    }
    let (parts, body) = request.into_parts();
    let headers: Vec<_> = parts.headers.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
    let body = body.collect().await.unwrap().to_bytes();
    let said = json!({"to": to.to_string(), "line": format!("{} {}", parts.method, parts.uri), "headers": headers,
        "body": String::from_utf8_lossy(&body)});
    ([("x-said", "yes"), ("content-type", "application/json")], said.to_string()).into_response()
}

/// Pod `p` at 10.32.0.7 with ports, pod `q` without, behind Service `s`.
async fn cluster() -> Cluster {
    let cluster = Cluster::with(|options, _| options.dialer = Arc::new(Pods)).await;
    fill(&cluster).await;
    cluster
}

async fn fill(cluster: &Cluster) {
    for (name, ip) in [("p", "10.32.0.7"), ("q", "10.32.0.8"), ("local", "127.0.0.1")] {
        pod(cluster, name).await;
        let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running"}});
        cluster.patch(&format!("{PODS}/{name}/status"), "merge-patch+json", status).await.ok();
    }
    let ports =
        json!([{"name": "web", "port": 80, "targetPort": 8080}, {"name": "tls", "port": 8443, "targetPort": 443}]);
    cluster.post(SERVICES, json!({"metadata": {"name": "s"}, "spec": {"ports": ports}})).await.ok();
    cluster.post(SERVICES, json!({"metadata": {"name": "empty"}, "spec": {"ports": ports}})).await.ok();
    let to = |name: &str| json!({"kind": "Pod", "namespace": "default", "name": name});
    let addresses = json!([{"ip": "10.32.0.7", "targetRef": to("p")}, {"ip": "10.9.9.9", "targetRef": to("q")},
        {"ip": "10.32.0.8"}]);
    let ports = json!([{"name": "web", "port": 8080}, {"name": "tls", "port": 443}]);
    let subsets = json!([{"addresses": addresses, "ports": ports}]);
    let endpoints = "/api/v1/namespaces/default/endpoints";
    cluster.post(endpoints, json!({"metadata": {"name": "s"}, "subsets": subsets})).await.ok();
    cluster.post(endpoints, json!({"metadata": {"name": "empty"}})).await.ok();
    let addresses = json!([{"type": "InternalIP", "address": "10.1.2.3"}]);
    let endpoint = json!({"kubeletEndpoint": {"Port": 10250}});
    for name in ["n", "gone"] {
        cluster.post("/api/v1/nodes", json!({"metadata": {"name": name}})).await.ok();
        let status = json!({"status": {"addresses": addresses, "daemonEndpoints": endpoint}});
        cluster.patch(&format!("/api/v1/nodes/{name}/status"), "merge-patch+json", status).await.ok();
    }
}

#[tokio::test]
async fn a_request_reaches_the_server_that_its_name_means() {
    let cluster = cluster().await;
    for (target, to, line) in [
        (format!("{PODS}/p:8080/proxy/a/b?c=d"), "10.32.0.7:8080", "GET /a/b?c=d"),
        (format!("{PODS}/p/proxy/"), "10.32.0.7:80", "GET /"),
        (format!("{PODS}/http:p:81/proxy/a%20b//c/"), "10.32.0.7:81", "GET /a%20b//c/"),
        (format!("{PODS}/https:q:443/proxy/x"), "10.32.0.8:443", "GET /x"),
        (format!("{SERVICES}/s:web/proxy/x"), "10.32.0.7:8080", "GET /x"),
        (format!("{SERVICES}/s:80/proxy/x/"), "10.32.0.7:8080", "GET /x/"),
        (format!("{SERVICES}/https:s:tls/proxy/x"), "10.32.0.7:443", "GET /x"),
        (format!("{SERVICES}/https:s:8443/proxy/x"), "10.32.0.7:443", "GET /x"),
        ("/api/v1/nodes/n:8080/proxy/x".to_owned(), "10.1.2.3:8080", "GET /x"),
    ] {
        let said = cluster.get(&target).await.ok();
        assert_eq!((said["to"].as_str(), said["line"].as_str()), (Some(to), Some(line)), "{target}");
    }
    for (target, said) in [
        ("/api/v1/nodes/n/proxy/stats/summary?only=cpu", "n /stats/summary?only=cpu"),
        ("/api/v1/nodes/n:10250/proxy/healthz", "n /healthz"),
    ] {
        assert_eq!(cluster.get(target).await.text(), said, "{target}");
    }
}

#[tokio::test]
async fn every_method_with_its_body_and_headers_passes_and_credentials_do_not() {
    let cluster = cluster().await;
    let headers = [
        ("host", "api.example:6443"),
        ("authorization", "Bearer secret"),
        ("connection", "keep-alive, X-Mine"),
        ("x-mine", "1"),
        ("te", "trailers"),
        ("x-own", "2"),
    ];
    let target = format!("{PODS}/p:8080/proxy/a");
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let answer = cluster.send(&cluster.admin, method, &target, &headers, "words").await;
        assert_eq!(answer.header("x-said"), "yes");
        let said = answer.ok();
        assert_eq!((said["line"].as_str(), said["body"].as_str()), (Some(&*format!("{method} /a")), Some("words")));
        let passed: Vec<_> = said["headers"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
        for header in ["host: api.example:6443", "x-own: 2", "te: trailers"] {
            assert!(passed.contains(&header), "{passed:?}");
        }
        assert!(passed.contains(&&*format!("x-forwarded-uri: {target}")), "{passed:?}");
        assert!(!passed.iter().any(|h| h.starts_with("authorization") || h.starts_with("x-mine")), "{passed:?}");
    }
    let head = cluster.send(&cluster.admin, "HEAD", &target, &[], Body::empty()).await;
    assert_eq!((head.code, head.header("x-said"), head.text().as_str()), (200, "yes", ""));
}

#[tokio::test]
async fn redirects_lead_back_through_the_proxy() {
    let cluster = cluster().await;
    let root = cluster.get(&format!("{PODS}/p:8080/proxy?a=b")).await;
    assert_eq!((root.code, root.header("location")), (301, &*format!("{PODS}/p:8080/proxy/?a=b")));
    let prefix = format!("{PODS}/p:8080/proxy");
    for (place, location) in [
        ("/x?y=z", format!("{prefix}/x?y=z")),
        ("http://10.32.0.7:8080/x", format!("{prefix}/x")),
        ("http://else.where/x", "http://else.where/x".to_owned()),
    ] {
        let answer = cluster.get(&format!("{prefix}/moved?{place}")).await;
        assert_eq!((answer.code, answer.header("keep-alive")), (302, ""), "{place}");
        assert_eq!(answer.header("location"), location, "{place}");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_says_so_in_upstreams_words() {
    let cluster = cluster().await;
    for (target, code, said) in [
        (format!("{PODS}/a:b:c:d/proxy/"), 400, "invalid pod request \"a:b:c:d\""),
        (format!("{PODS}/ftp:p:1/proxy/"), 400, "invalid pod request \"ftp:p:1\""),
        (format!("{SERVICES}/:1/proxy/"), 400, "invalid service request \":1\""),
        (format!("{PODS}/none/proxy/"), 404, "pods \"none\" not found"),
        (format!("{PODS}/local/proxy/"), 400, "address not allowed"),
        (format!("{PODS}/p:1/proxy/"), 503, "error trying to reach service: 10.32.0.7:1: connection refused"),
        (format!("{SERVICES}/none:80/proxy/"), 404, "services \"none\" not found"),
        (format!("{SERVICES}/none/proxy/"), 404, "endpoints \"none\" not found"),
        (format!("{SERVICES}/s:81/proxy/"), 503, "no service port 81 found for service \"s\""),
        (format!("{SERVICES}/s/proxy/"), 503, "no endpoints available for service \"s\""),
        (format!("{SERVICES}/empty:80/proxy/"), 503, "no endpoints available for service \"empty:80\""),
        ("/api/v1/nodes/none/proxy/x".to_owned(), 404, "nodes \"none\" not found"),
        ("/api/v1/nodes/gone/proxy/x".to_owned(), 503, "error trying to reach service: connection refused"),
    ] {
        cluster.get(&target).await.fails(code, said);
    }
    let odd = cluster.get(&format!("{PODS}/p:9/proxy/")).await.status();
    assert!(odd.0 == 503 && odd.2.starts_with("error trying to reach service: "), "{odd:?}");
    let asked = cluster.get(&format!("{PODS}/p:8080/proxy/echo")).await;
    assert_eq!(asked.code, 503, "an upgrade that nobody asked for: {}", asked.text());
}

#[tokio::test]
async fn a_service_that_sleeps_is_asked_at_its_own_address_which_holds_and_wakes() {
    let cluster = cluster().await;
    let ports = json!([{"name": "web", "port": 81, "targetPort": 8080}, {"name": "tls", "port": 443}]);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let put = async |name: &str, cluster_ip: &str, asleep: bool| {
        let spec = json!({"clusterIP": cluster_ip, "ports": ports});
        cluster.post(SERVICES, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
        cluster.post("/api/v1/namespaces/default/endpoints", json!({"metadata": {"name": name}})).await.ok();
        let annotations = if asleep { json!({"sampan.dev/scaled-to-zero": "web"}) } else { json!({}) };
        let metadata =
            json!({"name": name, "labels": {"kubernetes.io/service-name": name}, "annotations": annotations});
        cluster.post(slices, json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []})).await.ok();
    };
    put("asleep", "10.96.0.77", true).await;
    put("headless", "None", true).await;
    put("awake", "10.96.0.78", false).await;
    for (target, to) in
        [("asleep:web", "10.96.0.77:81"), ("asleep:81", "10.96.0.77:81"), ("https:asleep:tls", "10.96.0.77:443")]
    {
        let said = cluster.get(&format!("{SERVICES}/{target}/proxy/x")).await.ok();
        assert_eq!((said["to"].as_str(), said["line"].as_str()), (Some(to), Some("GET /x")), "{target}");
    }
    for target in ["asleep", "asleep:other", "headless:web", "awake:web"] {
        let said = format!("no endpoints available for service \"{target}\"");
        cluster.get(&format!("{SERVICES}/{target}/proxy/")).await.fails(503, &said);
    }
}

#[tokio::test]
async fn a_proxy_is_a_right_of_its_own() {
    let cluster = cluster().await;
    let nobody = cluster.server.service_for(User::new("jane", &["system:authenticated"]));
    let target = format!("{PODS}/p:8080/proxy/a");
    let answer = cluster.send(&nobody, "GET", &target, &[], Body::empty()).await;
    answer.fails(403, "pods \"p:8080\" is forbidden: User \"jane\" cannot get resource \"pods/proxy\" in API group \"\" in the namespace \"default\"");
}

#[tokio::test]
async fn an_upgraded_connection_keeps_its_place_and_ends_with_either_side() {
    let network = Network::with(1, |options, _| options.dialer = Arc::new(Pods)).await;
    fill(&network.cluster).await;
    let target = format!("{PODS}/p:8080/proxy/echo");
    for end in ["client", "backend"] {
        let mut stream = network.connect(Some(&network.admin()), "http/1.1").await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: echo"), "{head}");
        stream.write_all(b"abc").await.unwrap();
        let mut said = [0; 3];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"ABC");
        // The only place is taken: a stranger is turned away at once.
        assert!(network.get(None, "http/1.1", "/livez").await.is_err(), "the upgraded connection keeps its place");
        if end == "backend" {
            stream.write_all(b".").await.unwrap();
            assert_eq!(stream.read(&mut said).await.unwrap_or(0), 0, "the backend's end is the client's");
        }
        drop(stream);
        tokio::time::timeout(std::time::Duration::from_secs(20), async {
            while network.get(None, "http/1.1", "/livez").await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the place is free again");
    }
    network.end().await;
}
