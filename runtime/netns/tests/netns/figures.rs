//! What it costs. Not in every run: `cargo test --release -p netns --test netns figures -- --ignored --nocapture`.

use crate::support::{any, at, can, layout, node, pod, printed, routed};
use netns::{Behind, Endpoint, Node, Place, Protocol, Rules, Service};
use std::{
    fs,
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// CPU time of a process, in ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

#[tokio::test]
#[ignore = "figures"]
async fn a_pod() {
    if !can(&["nft"]) {
        return;
    }
    let begin = Instant::now();
    let node = node().await;
    println!("node: {:?}", begin.elapsed());
    let (mut made, mut removed) = (Vec::new(), Vec::new());
    for number in 1..=100 {
        let begin = Instant::now();
        pod(&node, number).await;
        made.push(begin.elapsed());
    }
    let helper = crate::support::processes_in(&crate::support::number_of(&node.paths().0))[0];
    let memory = fs::read_to_string(format!("/proc/{helper}/smaps_rollup")).unwrap();
    let pss = memory.lines().find(|line| line.starts_with("Pss:")).unwrap().to_owned();
    for number in 1..=100 {
        let begin = Instant::now();
        node.detach(&format!("pod-{number}")).await.unwrap();
        removed.push(begin.elapsed());
    }
    println!("make a pod: p50 {:?}, remove: p50 {:?}, helper with 100 pods: {pss}", median(made), median(removed));
}

#[tokio::test]
#[ignore = "figures"]
async fn a_dial() {
    if !can(&["nft"]) {
        return;
    }
    const DIALS: u32 = 20_000;
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    let listener = node.listen(Place::Pod(&a), any(80)).await.unwrap();
    let helper = crate::support::processes_in(&crate::support::number_of(&node.paths().0))[0];
    let (own, its, begin) = (ticks(std::process::id()), ticks(helper), Instant::now());
    for _ in 0..DIALS {
        let dial = node.connect(Place::Node, None, at(routed(1), 80));
        let (near, far) = tokio::join!(dial, listener.accept());
        // no port waits
        rustix::net::sockopt::set_socket_linger(near.unwrap(), Some(Duration::ZERO)).unwrap();
        drop(far);
    }
    let each = |ticks: u64| ticks * 10_000 / u64::from(DIALS);
    println!(
        "dial and accept: {:?}; CPU: {} us here, {} us in the helper",
        begin.elapsed() / DIALS,
        each(ticks(std::process::id()) - own),
        each(ticks(helper) - its)
    );
}

/// Bytes that a client gets through in a while.
async fn throughput(node: &Node, from: &str, to: std::net::SocketAddrV4, listener: &tokio::net::TcpListener) -> f64 {
    let (near, far) = tokio::join!(node.connect(Place::Pod(from), None, to), listener.accept());
    let (mut near, (mut far, _)) = (near.unwrap(), far.unwrap());
    let send = tokio::spawn(async move {
        let block = vec![0; 128 << 10];
        while near.write_all(&block).await.is_ok() {}
    });
    let (mut sum, mut block, begin) = (0u64, vec![0; 128 << 10], Instant::now());
    while begin.elapsed() < Duration::from_secs(3) {
        sum += far.read(&mut block).await.unwrap() as u64;
    }
    drop(far);
    send.abort();
    sum as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9
}

/// The same two processes through a Service, and through nothing but a rule of DNAT between the same two links.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures"]
async fn a_service() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let ((a, _), (b, _)) = (pod(&node, 1).await, pod(&node, 2).await);
    let listener = node.listen(Place::Pod(&b), any(80)).await.unwrap();
    let to = at(Ipv4Addr::new(10, 96, 0, 7), 80);
    let one = Endpoint { at: at(routed(2), 80), weight: 1 };
    let nft = |text: &str| {
        let mut command = crate::support::inside(&node, &node.paths().0, &["nft", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    };
    let bare = format!(
        "table ip bare {{ chain nat {{ type nat hook prerouting priority dstnat; ip daddr {} dnat to {}; }}; }}",
        to.ip(),
        one.at
    );
    let bare = bare.replace(&format!("ip daddr {}", to.ip()), &format!("ip daddr {} tcp dport 80", to.ip()));
    let many = |number: u32| Service {
        at: at(Ipv4Addr::from(0x0a60_1000 + number), 80),
        protocol: Protocol::Tcp,
        behind: Behind::Endpoints { endpoints: vec![one, one], affinity: None },
    };
    let mine = Service { at: to, ..many(0) };
    let services: Vec<_> = (0..1000).map(many).chain([mine]).collect();
    let rules = Rules { services, refused: vec!["169.254.0.0/16".parse().unwrap(), "127.0.0.0/8".parse().unwrap()] };
    let (mut by_service, mut by_bare, mut direct) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        node.apply(&rules).await.unwrap();
        by_service.push(throughput(&node, &a, to, &listener).await);
        direct.push(throughput(&node, &a, one.at, &listener).await);
        // as if there were nothing else
        nft("delete table ip sampan");
        nft(&bare);
        by_bare.push(throughput(&node, &a, to, &listener).await);
        nft("delete table ip bare");
        assert!(node.apply(&Rules::default()).await.is_err(), "it is not what it was");
    }
    let mid = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "Gbit/s: Service among 1000 {:.1}, bare DNAT {:.1}, direct {:.1}",
        mid(by_service),
        mid(by_bare),
        mid(direct)
    );
    let _ = (layout(), printed(&node, &node.paths().0, &["true"]), Command::new("true"));
}
