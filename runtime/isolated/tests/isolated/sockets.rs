//! Servers and clients of TCP and UDP in isolated pods, over the network in memory.

use crate::support::{Node, sample};
use container::{
    ContainerSpec, Runtime,
    net::{Dialer, Network},
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn echo(node: &Node, args: &[&str]) -> ContainerSpec {
    let args: Vec<&str> = ["echo"].into_iter().chain(args.iter().copied()).collect();
    node.spec(&sample("echo/echo.wasm"), &args)
}

async fn ask(node: &Node, pod: &str, args: &[&str]) -> (i32, String) {
    let id = node.start(pod, echo(node, args)).await;
    let code = node.exit(&id).await.code;
    (code, node.log(&id, |_| true).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_and_clients_in_other_processes_speak_over_the_pods_network() {
    let node = Node::new().await;
    let server = node.pod("server", &[]).await;
    let client = node.pod("client", &[server]).await;
    let id = node.start("server", echo(&node, &[])).await;
    node.log(&id, |text| text.contains("listening on 0.0.0.0:7000")).await;
    for scheme in ["tcp", "udp"] {
        for host in [server.to_string(), "friends".into()] {
            let answer = ask(&node, "client", &[&format!("{scheme}://{host}:7000"), "a", "boat"]).await;
            assert_eq!(answer, (0, "stdout P a boat\n".into()), "{scheme} {host}");
        }
        let answer = ask(&node, "server", &[&format!("{scheme}://localhost:7000"), "home"]).await;
        assert_eq!(answer, (0, "stdout P home\n".into()), "a guest's localhost is its pod's");
    }
    let mut stream = Dialer::connect(&node.network, (server, 7000).into()).await.unwrap();
    stream.write_all(b"from outside").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "from outside", "it answers after the other half is closed");
    let log = node.log(&id, |text| text.matches("connection from").count() == 4).await;
    assert_eq!(log.matches(&format!("connection from {client}:")).count(), 2, "{log}");
    let (code, text) = ask(&node, "client", &[&format!("tcp://{server}:9"), "a"]).await;
    assert_ne!(code, 0, "nobody is there: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_has_the_port_of_the_last_one() {
    let node = Node::new().await;
    node.pod("server", &[]).await;
    for _ in 0..3 {
        let id = node.start("server", echo(&node, &[])).await;
        node.log(&id, |text| text.contains("listening on 0.0.0.0:7000")).await;
        node.runtime.stop(&id, Duration::from_secs(1)).await.unwrap();
        node.runtime.remove(&id).await.unwrap();
    }
    node.runtime.remove_sandbox(&"server".into()).await.unwrap();
    node.network.detach("server").await;
}
