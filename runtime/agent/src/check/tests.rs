use super::*;
use container::{
    fake::{FakeNetwork, FakeRuntime, Script},
    net::{Listener, Network, PodNetwork},
};
use http::{HeaderMap, Response};
use http_body_util::{Full, StreamBody};
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc};
use tokio_rustls::TlsAcceptor;

const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 32, 0, 9));

async fn run(network: &FakeNetwork, probe: Value) -> Outcome {
    let container =
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 80}]})).unwrap();
    let probe: Probe = serde_json::from_value(probe).unwrap();
    let clock = container::Clock::new(|| std::time::SystemTime::UNIX_EPOCH);
    let runtime = FakeRuntime::new("wasmtime", clock, |_, _| Script::Run);
    let id = "nobody".into();
    let access = Access { dialer: network, runtime: &runtime, id: &id, address: POD };
    check(access, &probe, &container, Duration::from_secs(1)).await
}

fn pod() -> PodNetwork {
    PodNetwork {
        id: "u".into(),
        name: "p".into(),
        namespace: "n".into(),
        hostname: "p".into(),
        address: Some(POD),
        host_aliases: Vec::new(),
        host_ports: Vec::new(),
        kernel: false,
    }
}

#[test]
fn of_the_commands_variables_only_those_are_known_that_the_container_itself_sets() {
    let container = serde_json::from_value(json!({"name": "c", "env": [{"name": "A", "value": "1"},
        {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}))
    .unwrap();
    let action = ExecAction { command: Some(["x$(A)", "$(B)", "$(C)", "$$(A)"].map(str::to_owned).into()) };
    assert_eq!(static_command(&action, &container).unwrap(), ["x1", "", "$(C)", "$(A)"]);
}

#[tokio::test]
async fn http_checks_judge_by_status() {
    let network = FakeNetwork::default();
    network.answer(80, |request| match request.uri().path() {
        "/ok" => (200, vec![]),
        "/teapot" => (418, vec![]),
        "/to-ok" => (302, vec![("location".into(), "/ok".into())]),
        "/away" => (302, vec![("location".into(), "http://10.0.0.1/ok".into())]),
        "/loop" => (302, vec![("location".into(), "/loop".into())]),
        "/head" if request.headers().get("x-own").is_some_and(|v| v == "1") => (204, vec![]),
        _ => (500, vec![]),
    });
    for (path, expected) in [
        ("/ok", Outcome::Passed),
        ("ok", Outcome::Passed),
        ("/to-ok", Outcome::Passed),
        ("/teapot", Outcome::Failed("HTTP probe failed with statuscode: 418".into())),
        ("/other", Outcome::Failed("HTTP probe failed with statuscode: 500".into())),
        ("/away", Outcome::Warned("Probe terminated redirects".into())),
        ("/loop", Outcome::Failed("Get \"http://10.32.0.9:80/loop\": stopped after 10 redirects".into())),
    ] {
        assert_eq!(run(&network, json!({"httpGet": {"path": path, "port": "web"}})).await, expected, "{path}");
    }
    let own = json!({"httpGet": {"path": "/head", "port": 80, "httpHeaders": [{"name": "X-Own", "value": "1"}]}});
    assert_eq!(run(&network, own).await, Outcome::Passed);
}

#[tokio::test]
async fn what_cannot_be_reached_fails_in_go_words() {
    let network = FakeNetwork::default();
    network.attach(pod()).await.unwrap();
    network.answer(80, |_| (200, vec![]));
    let failed = |text: &str| Outcome::Failed(text.into());
    for (probe, expected) in [
        (json!({"tcpSocket": {"port": 80}}), Outcome::Passed),
        (json!({"tcpSocket": {"port": 81}}), failed("dial tcp 10.32.0.9:81: connect: connection refused")),
        (
            json!({"httpGet": {"port": 81}}),
            failed("Get \"http://10.32.0.9:81/\": dial tcp 10.32.0.9:81: connect: connection refused"),
        ),
        (json!({"tcpSocket": {"port": "none"}}), Outcome::Errored("couldn't find port: none in container c".into())),
        (json!({"exec": {"command": ["x"]}}), Outcome::Errored("not found: container nobody".into())),
    ] {
        assert_eq!(run(&network, probe).await, expected);
    }
}

/// Serves health as gRPC does: by the name of the service.
async fn serve_health(listener: Box<dyn Listener>) {
    while let Ok((stream, _)) = listener.accept().await {
        let health = service_fn(|request: Request<hyper::body::Incoming>| async move {
            let path = request.uri().path().to_owned();
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            let service = String::from_utf8_lossy(asked.get(7..).unwrap_or_default()).into_owned();
            let (message, code, text): (&[u8], _, _) = match &*service {
                "" => (&[0, 0, 0, 0, 2, 8, 1], "0", ""),
                "sick" => (&[0, 0, 0, 0, 2, 8, 2], "0", ""),
                "unset" => (&[0, 0, 0, 0, 0], "0", ""),
                "cut" => (&[0, 0, 0, 0, 9, 8], "0", ""),
                "nobody" => (&[], "5", "unknown service"),
                _ => (&[], "12", "unknown method"),
            };
            assert_eq!(path, "/grpc.health.v1.Health/Check");
            let trailers = HeaderMap::from_iter(
                [("grpc-status", code), ("grpc-message", text)]
                    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
            );
            let frames = [Frame::data(Bytes::from_static(message)), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
            Ok::<_, Infallible>(Response::new(StreamBody::new(futures::stream::iter(frames))))
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), health).await });
    }
}

#[tokio::test]
async fn grpc_checks_ask_for_the_health_of_a_service() {
    let network = FakeNetwork::default();
    let sockets = network.attach(pod()).await.unwrap().sockets;
    let at = |port| SocketAddr::new(POD, port);
    tokio::spawn(serve_health(sockets.listen(at(90)).await.unwrap()));
    network.answer(91, |_| (404, vec![]));
    let silent = sockets.listen(at(92)).await.unwrap();
    let failed = |text: &str| Outcome::Failed(text.into());
    let rpc = "error: health rpc probe failed: rpc error: code =";
    for (probe, expected) in [
        (json!({"port": 90}), Outcome::Passed),
        (json!({"port": 90, "service": ""}), Outcome::Passed),
        (json!({"port": 90, "service": "sick"}), failed("service unhealthy (responded with \"NOT_SERVING\")")),
        (json!({"port": 90, "service": "unset"}), failed("service unhealthy (responded with \"UNKNOWN\")")),
        (json!({"port": 90, "service": "nobody"}), failed(&format!("{rpc} NotFound desc = unknown service"))),
        (json!({"port": 90, "service": "cut"}), failed(&format!("{rpc} Unknown desc = the answer is cut off"))),
        (
            json!({"port": 90, "service": "x"}),
            failed(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown method",
            ),
        ),
        (
            json!({"port": 89}),
            failed(
                "error: failed to connect service at \"10.32.0.9:89\": dial tcp 10.32.0.9:89: connect: connection refused",
            ),
        ),
        (json!({"port": 92}), failed("timeout: health rpc did not complete within 1s")),
        (json!({"port": 0}), Outcome::Errored("invalid port number: 0".into())),
    ] {
        assert_eq!(run(&network, json!({"grpc": probe})).await, expected, "{probe}");
    }
    drop(silent);
}

/// Serves HTTP by TLS with a certificate that nobody knows.
async fn serve_tls(listener: Box<dyn Listener>) {
    let made = rcgen::generate_simple_self_signed(["nobody.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let answer = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let status = match request.uri().path() {
                    "/ok" if request.headers()[header::HOST] == "10.32.0.9:443" => 200,
                    "/to-ok" => 302,
                    _ => 500,
                };
                let answer = Response::builder().status(status).header(header::LOCATION, "/ok");
                Ok::<_, Infallible>(answer.body(Full::new(Bytes::from_static(b"said"))).unwrap())
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

#[tokio::test]
async fn https_checks_accept_any_certificate() {
    let network = FakeNetwork::default();
    let sockets = network.attach(pod()).await.unwrap().sockets;
    tokio::spawn(serve_tls(sockets.listen(SocketAddr::new(POD, 443)).await.unwrap()));
    let get = |path: &str, port: u16| json!({"httpGet": {"path": path, "port": port, "scheme": "HTTPS"}});
    assert_eq!(run(&network, get("/ok", 443)).await, Outcome::Passed);
    assert_eq!(run(&network, get("/to-ok", 443)).await, Outcome::Passed);
    let failed = Outcome::Failed("HTTP probe failed with statuscode: 500".into());
    assert_eq!(run(&network, get("/no", 443)).await, failed);
    let Outcome::Failed(text) = run(&network, get("/ok", 1)).await else { panic!("nobody listens") };
    assert_eq!(text, "Get \"https://10.32.0.9:1/ok\": dial tcp 10.32.0.9:1: connect: connection refused");
}
