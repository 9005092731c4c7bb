use super::*;
use container::{
    fake::{FakeNetwork, FakeRuntime, Script},
    net::{Network, PodNetwork},
};
use serde_json::{Value, json};

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
    let pod = PodNetwork {
        id: "u".into(),
        name: "p".into(),
        namespace: "n".into(),
        hostname: "p".into(),
        address: Some(POD),
        host_aliases: Vec::new(),
        kernel: false,
    };
    network.attach(pod).await.unwrap();
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
    for probe in [json!({"grpc": {"port": 1}}), json!({"httpGet": {"port": 80, "scheme": "HTTPS"}})] {
        assert!(matches!(run(&network, probe).await, Outcome::Errored(_)));
    }
}
