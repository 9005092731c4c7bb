//! Streams into pods: from a client's WebSocket through the API server and the node's agent into the runtime and the pod's network. What
//! kubectl speaks is in `tests/e2e`.

use crate::world::{PODS, World};
use container::net::Network;
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use server::User;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

/// The client's side of a stream.
struct Client(WebSocketStream<TokioIo<Upgraded>>);

impl Client {
    /// Opens a stream, or says how it was refused.
    async fn open(world: &World, target: &str, headers: &[(&str, &str)]) -> Result<Self, (u16, String)> {
        let admin = User::new("admin", &["system:masters", "system:authenticated"]);
        let stream = server::nodes::piped(world.server.service_for(admin));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let path = if target.starts_with('?') { format!("{PODS}{target}") } else { format!("{PODS}/{target}") };
        let mut request = Request::get(path).header(header::HOST, "cluster.example:6443");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let code = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body).trim_end().to_owned();
            let status: Value = serde_json::from_str(&text).unwrap_or_default();
            return Err((code, status["message"].as_str().map_or(text, str::to_owned)));
        }
        let upgraded = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        Ok(Self(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await))
    }

    async fn websocket(world: &World, target: &str, protocol: &str) -> Self {
        Self::open(world, target, &websocket(protocol)).await.unwrap_or_else(|refusal| panic!("{target}: {refusal:?}"))
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
    }

    /// The next message; `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        match self.0.next().await?.unwrap() {
            Message::Binary(bytes) => Some(bytes.to_vec()),
            Message::Text(text) => Some(text.as_bytes().to_vec()),
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 1000);
                None
            }
            other => panic!("{other:?}"),
        }
    }

    async fn says(&mut self, wanted: &[u8]) {
        let said = self.next().await.unwrap();
        assert_eq!(said, wanted, "{}", String::from_utf8_lossy(&said));
    }

    /// The status at the end.
    async fn status(mut self) -> Value {
        let said = self.next().await.unwrap();
        assert_eq!((said[0], self.next().await), (3, None));
        serde_json::from_slice(&said[1..]).unwrap()
    }
}

fn websocket(protocol: &str) -> Vec<(&str, &str)> {
    let mut headers = vec![
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "AQIDBAUGBwgJCgsMDQ4PEA=="),
    ];
    if !protocol.is_empty() {
        headers.push(("sec-websocket-protocol", protocol));
    }
    headers
}

/// A cluster with a pod that runs, and the pod's uid.
async fn world() -> (World, String) {
    let world = World::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
        {"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]}});
    let pod = world.call("POST", PODS, pod).await;
    world.until("the pod to run", |w| w.in_phase("Running") == 1).await;
    (world, pod["metadata"]["uid"].as_str().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_command_has_its_streams_and_its_exit_code() {
    let (world, _) = world().await;
    let mut client =
        Client::websocket(&world, "p/exec?container=c&command=copy&command=3&stdin=1&stdout=1", "v5.channel.k8s.io")
            .await;
    client.says(b"\x01").await;
    client.send(b"\x00hello").await;
    client.says(b"\x01hello").await;
    let long = [&[0][..], &vec![7; 200_000]].concat();
    client.send(&long).await;
    let mut got = 0;
    while got < 200_000 {
        let piece = client.next().await.unwrap();
        assert!(piece[0] == 1 && piece[1..].iter().all(|byte| *byte == 7));
        got += piece.len() - 1;
    }
    // The end of what it reads is its own end.
    client.send(b"\xff\x00").await;
    let wanted = json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": "command terminated with non-zero exit code: error executing command [copy 3], exit code 3",
        "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
    assert_eq!(client.status().await, wanted);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn each_version_is_told_the_end_in_its_way() {
    let (world, _) = world().await;
    let target = |code: &str| format!("p/exec?container=c&command=copy&command={code}&stdout=1&stderr=1");
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        let mut client = Client::websocket(&world, &target("0"), protocol).await;
        client.says(b"\x01").await;
        assert_eq!(client.status().await, json!({"metadata": {}, "status": "Success"}));
    }
    for protocol in ["channel.k8s.io", ""] {
        let mut client = Client::websocket(&world, &target("0"), protocol).await;
        client.says(b"\x01").await;
        assert_eq!(client.next().await, None, "success is no message: conformance tests accept none");
        let mut client = Client::websocket(&world, &target("2"), protocol).await;
        client.says(b"\x01").await;
        client
            .says(b"\x03command terminated with non-zero exit code: error executing command [copy 2], exit code 2")
            .await;
        assert_eq!(client.next().await, None);
    }
    let mut client = Client::websocket(&world, &target("0"), "v4.base64.channel.k8s.io").await;
    client.says(b"1").await;
    client.says(b"3eyJtZXRhZGF0YSI6e30sInN0YXR1cyI6IlN1Y2Nlc3MifQ==").await;
    let mut client = Client::websocket(&world, "p/exec?container=c&command=ls&stdout=1", "v4.channel.k8s.io").await;
    client.says(b"\x01").await;
    let status = client.status().await;
    let text = r#"error executing command in container: ["ls"] is not in the container"#;
    assert_eq!((&status["reason"], &status["code"]), (&json!("InternalError"), &json!(500)));
    assert_eq!(status["message"], format!("Internal error occurred: {text}"));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_joins_a_program() {
    let (world, _) = world().await;
    let mut client = Client::websocket(&world, "p/attach?container=d&stdin=1&stdout=1", "v4.channel.k8s.io").await;
    client.says(b"\x01").await;
    client.send(b"\x00hello").await;
    client.says(b"\x01hello").await;
    client.0.send(Message::Ping("there?".into())).await.unwrap();
    assert_eq!(client.0.next().await.unwrap().unwrap(), Message::Pong("there?".into()));
    client.0.close(None).await.unwrap();
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_over_websocket_sends_each_event_as_a_message() {
    let (world, uid) = world().await;
    let mut client = Client::websocket(&world, "?watch=true&timeoutSeconds=30", "").await;
    let event: Value = serde_json::from_slice(&client.next().await.unwrap()).unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["uid"]), (&json!("ADDED"), &json!(uid)));
    world.call("PATCH", &format!("{PODS}/p"), json!({"metadata": {"labels": {"a": "b"}}})).await;
    let event: Value = serde_json::from_slice(&client.next().await.unwrap()).unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["labels"]["a"]), (&json!("MODIFIED"), &json!("b")));
    assert_eq!(client.next().await, None, "it ends in time");
    let evil = [websocket(""), vec![("origin", "https://evil.example")]].concat();
    assert_eq!(Client::open(&world, "?watch=true", &evil).await.err().map(|refusal| refusal.0), Some(403));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn ports_are_forwarded_also_to_what_listens_on_the_loopback() {
    let (world, uid) = world().await;
    let view = world.network.view(&uid).unwrap();
    let listener = view.listen("127.0.0.1:80".parse().unwrap()).await.unwrap();
    let mut client = Client::websocket(&world, "p/portforward?ports=80", "v4.channel.k8s.io").await;
    client.says(b"\x00\x50\x00").await;
    client.says(b"\x01\x50\x00").await;
    let (mut there, _) = listener.accept().await.unwrap();
    client.send(b"\x00ping").await;
    let mut ping = [0; 4];
    there.read_exact(&mut ping).await.unwrap();
    assert_eq!(&ping, b"ping");
    there.write_all(b"pong").await.unwrap();
    client.says(b"\x00pong").await;
    // A client that goes away takes its connection with it.
    drop(client);
    assert_eq!(there.read(&mut ping).await.unwrap(), 0);

    // And what closes the connection in the pod closes the client's, with all that was sent before.
    let mut client = Client::websocket(&world, "p/portforward?ports=80", "v4.channel.k8s.io").await;
    client.says(b"\x00\x50\x00").await;
    client.says(b"\x01\x50\x00").await;
    let (mut there, _) = listener.accept().await.unwrap();
    there.write_all(b"bye").await.unwrap();
    drop(there);
    client.says(b"\x00bye").await;
    assert_eq!(client.next().await, None);

    let mut client = Client::websocket(&world, "p/portforward?ports=81", "v4.channel.k8s.io").await;
    client.says(b"\x00\x51\x00").await;
    client.says(b"\x01\x51\x00").await;
    let text = format!(
        "\x01error forwarding port 81 to pod {uid}, uid : failed to connect to localhost:81 inside the pod: dial tcp4 \
         127.0.0.1:81: connect: connection refused"
    );
    client.says(text.as_bytes()).await;
    assert_eq!(client.next().await, None);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_before_the_upgrade() {
    let (world, _) = world().await;
    let unplaced = json!({"metadata": {"name": "q"}, "spec": {"nodeSelector": {"no": "such"},
        "containers": [{"name": "c", "image": "i:1"}]}});
    world.call("POST", PODS, unplaced).await;
    let v5 = websocket("v5.channel.k8s.io");
    let with = |more: &[(&'static str, &'static str)]| [&v5[..], more].concat();
    let spdy = |versions: &[(&'static str, &'static str)]| {
        [&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")][..], versions].concat()
    };
    let exec = "p/exec?container=c&command=ls&stdout=1";
    let served = "[v4.channel.k8s.io v3.channel.k8s.io v2.channel.k8s.io channel.k8s.io]";
    for (target, headers, code, text) in [
        (exec, vec![], 400, "Upgrade request required".to_owned()),
        (
            exec,
            with(&[("origin", "https://evil.example")]),
            403,
            "a page of \"https://evil.example\" may not open a stream here".into(),
        ),
        (
            exec,
            with(&[("sec-fetch-site", "cross-site")]),
            403,
            "a page of another site may not open a stream here".into(),
        ),
        ("x/exec?command=ls&stdout=1", v5.clone(), 404, "pods \"x\" not found".into()),
        (
            "p/exec?command=ls&stdout=1",
            v5.clone(),
            400,
            "a container name must be specified for pod p, choose one of: [c d]".into(),
        ),
        ("p/exec?container=x&command=ls&stdout=1", v5.clone(), 400, "container x is not valid for pod p".into()),
        ("q/exec?command=ls&stdout=1", v5.clone(), 400, "pod q does not have a host assigned".into()),
        ("q/portforward?ports=1", v5.clone(), 400, "pod q does not have a host assigned".into()),
        (
            "p/exec?container=c&command=ls",
            v5.clone(),
            400,
            "you must specify at least 1 of stdin, stdout, stderr".into(),
        ),
        ("p/portforward", websocket("v4.channel.k8s.io"), 400, "query parameter \"ports\" is required".into()),
        ("p/portforward?ports=0", websocket("v4.channel.k8s.io"), 400, "port \"0\" must be > 0".into()),
        (
            exec,
            spdy(&[("x-stream-protocol-version", "v9.channel.k8s.io")]),
            403,
            format!(
                "unable to upgrade: unable to negotiate protocol: client supports [v9.channel.k8s.io], server accepts {served}"
            ),
        ),
        (
            exec,
            spdy(&[]),
            400,
            "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with 3 headers".into(),
        ),
    ] {
        let refusal = Client::open(&world, target, &headers).await.err();
        assert_eq!(refusal, Some((code, text)), "{target} {headers:?}");
    }
    let own = with(&[("origin", "https://cluster.example:6443")]);
    assert!(Client::open(&world, exec, &own).await.is_ok(), "the API's own page");
    world.end().await;
}
