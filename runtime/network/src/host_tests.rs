//! Where the virtual network meets the host: node ports, the API server, TLS, and the informers that feed it.

use crate::{
    Protocol,
    table_tests::{name, service, slice},
    tests::*,
    *,
};
use api::annotations::CROSS_SITE;
use client::{Informer, WatchEvent};
use container::net::*;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::json;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn the_api_is_reached_by_service_kubernetes_as_bytes() {
    let api = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = api.local_addr().expect("bound");
    let network = network_with(|c| c.api = Api { port: 6443, address });
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]});
    put_service(&network, "kubernetes", spec, json!([{"name": "https", "port": 6443}]), &[network.node_internal()]);
    let (a, _) = pod(&network, "a").await;
    let addresses = a.resolve("kubernetes.default.svc").await.expect("resolved");
    let (mut stream, _) = a.connect(SocketAddr::new(addresses[0], 443)).await.expect("connected");
    let (mut server, _) = api.accept().await.expect("accepted");
    stream.write_all(b"tls bytes").await.expect("written");
    let mut got = [0; 9];
    server.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"tls bytes");
    let denied = a.connect(SocketAddr::new(network.node_internal(), 22)).await.map(drop);
    assert!(matches!(denied, Err(Error::Refused(_))), "{denied:?}");
}

async fn ask(mut stream: TcpStream) -> String {
    stream.write_all(b"GET /n HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.expect("written");
    let mut got = String::new();
    timeout(LIVENESS, stream.read_to_string(&mut got)).await.expect("in time").expect("read");
    got
}

#[tokio::test]
async fn pods_reach_node_ports_at_the_address_that_the_node_tells_and_nothing_else_there() {
    let network = network_with(|c| c.node_address = at("192.0.2.9:0").ip());
    let ((h, h_ip), (a, _)) = (pod(&network, "h").await, pod(&network, "a").await);
    let _serving = h.serve_http(8080, Arc::new(Echo::new("h"))).await.expect("bound");
    let spec = json!({"clusterIP": "10.96.0.7", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    put_service(&network, "np", spec, json!([{"port": 8080}]), &[h_ip]);
    for node in [at("192.0.2.9:0").ip(), network.node_internal()] {
        a.connect(SocketAddr::new(node, 30080)).await.expect("a node port answers at every address of the node");
    }
    let local = network_with(|c| c.node_address = at("127.0.0.1:0").ip());
    let (b, _) = pod(&local, "b").await;
    let own = b.connect(at("127.0.0.1:30080")).await.map(drop);
    assert!(matches!(own, Err(Error::Refused(_))), "a guest's localhost is its own pod's: {own:?}");
}

#[tokio::test]
async fn node_ports_hand_connections_to_handlers_and_relay_to_listeners() {
    let network = network();
    let ((h, h_ip), (l, l_ip)) = (pod(&network, "h").await, pod(&network, "l").await);
    let echo = Echo::new("h");
    let _serving = h.serve_http(8080, Arc::new(echo.clone())).await.expect("bound");
    let listener = l.listen(at("0.0.0.0:8080")).await.expect("bound");
    let number = free_port();
    let spec = json!({"clusterIP": "10.96.0.7", "type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
    put_service(&network, "np", spec.clone(), json!([{"port": 8080}]), &[h_ip]);
    let mut ports = NodePorts::new(network.clone(), Arc::new(|port, error| panic!("{port:?}: {error}")));
    ports.sync(&network.table().read().node_ports());
    let to = SocketAddr::new(at("127.0.0.1:0").ip(), number);
    let got = ask(connect_when_open(to).await).await;
    assert!(got.ends_with("h GET /n h"), "{got}");
    assert_eq!(echo.peers.lock()[0].ip(), network.node_internal());
    // To a listener: byte by byte.
    put_service(&network, "np", spec.clone(), json!([{"port": 8080}]), &[l_ip]);
    let mut client = connect_when_open(to).await;
    let (mut server, peer) = timeout(LIVENESS, listener.accept()).await.expect("in time").expect("accepted");
    assert_eq!(peer.ip(), network.node_internal());
    client.write_all(b"ping").await.expect("written");
    let mut got = [0; 4];
    server.read_exact(&mut got).await.expect("read");
    server.write_all(&got).await.expect("written");
    drop(server);
    let mut back = String::new();
    timeout(LIVENESS, client.read_to_string(&mut back)).await.expect("in time").expect("read");
    assert_eq!(back, "ping");
    // One that has stopped and is still in the table, and one that has left: each is passed over.
    drop(listener);
    network.detach("l").await;
    let (_, idle_ip) = pod(&network, "idle").await;
    put_service(&network, "np", spec.clone(), json!([{"port": 8080}]), &[idle_ip, h_ip, at("10.32.9.9:0").ip()]);
    for _ in 0..6 {
        let got = ask(connect_when_open(to).await).await;
        assert!(got.ends_with("h GET /n h"), "{got}");
    }
    // Nobody ready, and the port has not heard of it: reset.
    put_service(&network, "np", spec, json!([{"port": 8080}]), &[]);
    let mut client = connect_when_open(to).await;
    assert!(timeout(LIVENESS, client.read_to_string(&mut back)).await.expect("in time").is_err(), "reset");
    ports.sync(&[]);
    refused_soon(to).await;
}

async fn refused_soon(to: SocketAddr) {
    let refused = async {
        loop {
            match TcpStream::connect(to).await {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    timeout(LIVENESS, refused).await.expect("refused in time");
}

#[tokio::test]
async fn handlers_are_told_whether_only_this_machine_reaches_them() {
    let allow = [(CROSS_SITE.to_owned(), "allow".to_owned())];
    let opens = Via::Loopback("kubectl annotate -n default service np sampan.dev/cross-site-requests=allow".into());
    for (annotations, via) in [(None, opens), (Some(allow.into()), Via::NodePort)] {
        let network = network();
        let (h, h_ip) = pod(&network, "h").await;
        let echo = Echo::new("h");
        let _serving = h.serve_http(8080, Arc::new(echo.clone())).await.expect("bound");
        let number = free_port();
        let spec = json!({"clusterIP": "10.96.0.7", "type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
        let mut np = service("np", spec);
        np.metadata.annotations = annotations;
        let slices = [slice(json!([{"port": 8080}]), json!([{"addresses": [h_ip.to_string()]}]))];
        network.table().write().update(&name("np"), Some((&np, &slices)));
        let mut ports = NodePorts::new(network.clone(), Arc::new(|port, error| panic!("{port:?}: {error}")));
        ports.sync(&network.table().read().node_ports());
        ask(connect_when_open(SocketAddr::new(at("127.0.0.1:0").ip(), number)).await).await;
        h.http(get(&format!("http://{h_ip}:8080/"))).await.expect("answered");
        Dialer::http(&network, SocketAddr::new(h_ip, 8080), get("/")).await.expect("answered");
        assert_eq!(*echo.vias.lock(), [via, Via::Pod, Via::Cluster]);
    }
}

#[tokio::test]
async fn a_node_port_refuses_while_no_endpoint_is_ready_and_nobody_else_gets_it() {
    let network = network();
    let (h, h_ip) = pod(&network, "h").await;
    let _serving = h.serve_http(8080, Arc::new(Echo::new("h"))).await.expect("bound");
    let number = free_port();
    let to = SocketAddr::new(at("127.0.0.1:0").ip(), number);
    let spec = json!({"clusterIP": "10.96.0.7", "type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
    let mut ports = NodePorts::new(network.clone(), Arc::new(|port, error| panic!("{port:?}: {error}")));
    let mut ready = |endpoints: &[std::net::IpAddr]| {
        put_service(&network, "np", spec.clone(), json!([{"port": 8080}]), endpoints);
        ports.sync(&network.table().read().node_ports());
    };
    // A foreign program that is content with any address, as servers are.
    let foreign = || {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("set");
        socket.bind(to).and_then(|()| socket.listen(1)).map(drop).map_err(|error| error.kind())
    };
    // As a new Service, whose pods come later; scaled to zero and up again.
    for _ in 0..3 {
        ready(&[]);
        let taken = async {
            while foreign().is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIVENESS, taken).await.expect("taken in time");
        refused_soon(to).await;
        for _ in 0..20 {
            assert_eq!(
                TcpStream::connect(to).await.map(drop).map_err(|e| e.kind()),
                Err(std::io::ErrorKind::ConnectionRefused)
            );
            assert_eq!(foreign(), Err(std::io::ErrorKind::AddrInUse));
        }
        ready(&[h_ip]);
        let got = ask(connect_when_open(to).await).await;
        assert!(got.ends_with("h GET /n h"), "{got}");
        assert_eq!(foreign(), Err(std::io::ErrorKind::AddrInUse));
    }
}

#[tokio::test]
async fn a_taken_node_port_is_reported_once_and_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let number = taken.local_addr().expect("bound").port();
    let network = network();
    let (reports, mut reported) = mpsc::unbounded_channel();
    let report: Report =
        Arc::new(move |port, error| reports.send((port.number, error.kind())).expect("the test listens"));
    let spec = json!({"clusterIP": "10.96.0.7", "type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
    put_service(&network, "np", spec, json!([{"port": 8080}]), &[at("10.32.0.9:0").ip()]);
    let mut ports = NodePorts::new(network.clone(), report);
    let tcp = NodePort { protocol: Protocol::Tcp, number, service: name("np") };
    ports.sync(std::slice::from_ref(&tcp));
    ports.sync(&[tcp]);
    assert_eq!(reported.recv().await, Some((number, std::io::ErrorKind::AddrInUse)));
    drop(taken);
    connect_when_open(SocketAddr::new(at("127.0.0.1:0").ip(), number)).await;
    assert!(reported.try_recv().is_err());
}

/// The answer of a health check port: head and body.
async fn health(to: SocketAddr) -> (String, String) {
    let got = ask(connect_when_open(to).await).await;
    let (head, body) = got.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn a_health_check_port_tells_whether_this_node_has_endpoints() {
    let network = network_with(|c| c.node = "n1".into());
    let number = free_port();
    let to = SocketAddr::new(at("127.0.0.1:0").ip(), number);
    let put = |endpoints: &[&str], asleep: bool| {
        let spec = json!({"clusterIP": "10.96.0.7", "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": number,
            "ports": [{"port": 80}]});
        let endpoints: serde_json::Value = endpoints
            .iter()
            .map(|node| json!({"addresses": [format!("10.32.0.{}", node.len())], "nodeName": node}))
            .collect();
        let mut slice = (*slice(json!([{"port": 8080}]), endpoints)).clone();
        slice.metadata.annotations = asleep.then(|| [("sampan.dev/scaled-to-zero".to_owned(), "lb".to_owned())].into());
        network.table().write().update(&name("lb"), Some((&service("lb", spec), &[Arc::new(slice)])));
    };
    let report: HealthReport = Arc::new(|name, number, error| panic!("{name:?} {number}: {error}"));
    let mut ports = HealthPorts::new(network.clone(), report);
    // the port is there before any endpoint, and no load balancer was assigned
    for (endpoints, asleep, status, weight, local) in [
        (&[][..], false, "503 Service Unavailable", 0, 0),
        (&["n22"], false, "503 Service Unavailable", 0, 0),
        (&["n1", "n22"], false, "200 OK", 1, 1),
        (&[], true, "200 OK", 1, 0),
    ] {
        put(endpoints, asleep);
        ports.sync();
        let (head, body) = health(to).await;
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {}\r\n", status.to_ascii_lowercase())), "{endpoints:?}: {head}");
        for header in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            &format!("x-load-balancing-endpoint-weight: {weight}"),
        ] {
            assert!(head.contains(header), "{header}: {head}");
        }
        let wanted = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"lb\"\n\t}},\n\t\"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": true\n}}"
        );
        assert_eq!(body, wanted);
    }
    // who says nothing holds no place for ever, and others are answered meanwhile
    let mut silent = connect_when_open(to).await;
    health(to).await;
    let mut end = [0];
    assert!(matches!(timeout(LIVENESS, silent.read(&mut end)).await.expect("in time"), Ok(0) | Err(_)));
    network.table().write().update(&name("lb"), None);
    ports.sync();
    refused_soon(to).await;
}

#[tokio::test]
async fn a_taken_health_check_port_is_reported_once_and_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let number = taken.local_addr().expect("bound").port();
    let network = network();
    let spec = json!({"clusterIP": "10.96.0.7", "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": number,
        "ports": [{"port": 80}]});
    put_service(&network, "lb", spec, json!([{"port": 8080}]), &[]);
    let (reports, mut reported) = mpsc::unbounded_channel();
    let report: HealthReport = Arc::new(move |name, number, error| {
        reports.send((name.clone(), number, error.kind())).expect("the test listens")
    });
    let mut ports = HealthPorts::new(network.clone(), report);
    ports.sync();
    ports.sync();
    assert_eq!(reported.recv().await, Some((name("lb"), number, std::io::ErrorKind::AddrInUse)));
    drop(taken);
    health(SocketAddr::new(at("127.0.0.1:0").ip(), number)).await;
    assert!(reported.try_recv().is_err());
}

/// A TLS server for `kubernetes.default.svc` that answers one request, and its authority.
fn tls_server(names: &[&str]) -> (Arc<rustls::ServerConfig>, Vec<rustls::pki_types::CertificateDer<'static>>) {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let pem = made.cert.pem();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).expect("a pair");
    (Arc::new(config), certificates(pem.as_bytes()))
}

#[tokio::test]
async fn https_to_the_api_trusts_the_clusters_authority_only() {
    let (config, roots) = tls_server(&["kubernetes.default.svc"]);
    assert_eq!(roots.len(), 1);
    let api = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = api.local_addr().expect("bound");
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    tokio::spawn(async move {
        while let Ok((socket, _)) = api.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a byte"));
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("written");
        }
    });
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 443}]});
    for (trusted, url, works) in [
        (roots.clone(), "https://kubernetes.default.svc/version", true),
        (roots, "https://kubernetes.default/version", false), // not a name of the certificate
        (Vec::new(), "https://kubernetes.default.svc/version", false),
    ] {
        let network = network_with(|c| {
            c.api = Api { port: 6443, address };
            c.cluster_roots = trusted;
        });
        put_service(&network, "kubernetes", spec.clone(), json!([{"port": 6443}]), &[network.node_internal()]);
        let (a, _) = pod(&network, "a").await;
        match timeout(LIVENESS, a.http(get(url))).await.expect("in time") {
            Ok(response) => assert_eq!((works, text(response).await.as_str()), (true, "ok")),
            Err(error) => assert!(!works && matches!(error, Error::Protocol(_)), "{error}"),
        }
    }
}

#[tokio::test]
async fn the_table_follows_services_and_slices() {
    let network = network();
    let (services, slices) = (Informer::<Service>::new(), Informer::<EndpointSlice>::new());
    let token = CancellationToken::new();
    // Informers are shared: what another user indexes, and how, must not matter.
    slices.index("service", |_| Vec::new());
    let nodes = Informer::new();
    nodes.replace(Vec::new(), 1);
    let following =
        tokio::spawn(follow::follow(network.clone(), services.clone(), slices.clone(), nodes, None, token.clone()));
    let web = service("web", json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}));
    let slice_of = |endpoint: &str, revision: &str| {
        let mut slice = (*slice(json!([{"port": 8080}]), json!([{"addresses": [endpoint]}]))).clone();
        slice.metadata.resource_version = Some(revision.to_owned());
        slice.metadata.labels = Some([("kubernetes.io/service-name".to_owned(), "web".to_owned())].into());
        slice
    };
    slices.replace(vec![slice_of("10.32.0.2", "1")], 1);
    services.replace(vec![web], 1);
    let endpoint = || match network.table().read().find(Protocol::Tcp, at("10.96.0.7:80")) {
        Found::Port(port) => port.endpoints(false).first().map(ToString::to_string),
        _ => None,
    };
    let until = |wanted: Option<&'static str>| {
        let endpoint = &endpoint;
        let wait = async move {
            while endpoint().as_deref() != wanted {
                tokio::task::yield_now().await;
            }
        };
        async { timeout(LIVENESS, wait).await.expect("followed in time") }
    };
    until(Some("10.32.0.2:8080")).await;
    slices.apply(WatchEvent::Modified(slice_of("10.32.0.3", "2")));
    until(Some("10.32.0.3:8080")).await;
    slices.replace(Vec::new(), 3);
    until(None).await;
    assert!(matches!(network.table().read().find(Protocol::Tcp, at("10.96.0.7:80")), Found::Port(_)));
    services.replace(Vec::new(), 4);
    let gone = async {
        while network.table().read().resolve("default", "web", None).is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIVENESS, gone).await.expect("followed in time");
    token.cancel();
    timeout(LIVENESS, following).await.expect("ends in time").expect("no panic");
}
