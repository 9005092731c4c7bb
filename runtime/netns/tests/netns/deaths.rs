//! Who may die, and what is left.

use crate::support::{
    LIMIT, accept, any, at, can, connect, failure, inside, kill, layout, node, number_of, options, pod, printed,
    processes_in, routed, talk, until,
};
use netns::{Behind, Endpoint, Error, Node, Place, Protocol, Rules, Service};
use std::{
    fs,
    io::ErrorKind,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// The process in the node's namespace. It may be in that of a pod for a moment.
async fn helper_of(node: &Node) -> u32 {
    let namespace = number_of(&node.paths().0);
    let work = async {
        loop {
            if let [one] = processes_in(&namespace)[..] {
                return one;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, work).await.expect("a helper")
}

#[tokio::test]
async fn a_helper_that_dies_is_replaced_and_nothing_breaks() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let ((a, _), (b, second)) = (pod(&node, 1).await, pod(&node, 2).await);
    let listener = node.listen(Place::Pod(&b), any(80)).await.unwrap();
    let service = at(Ipv4Addr::new(10, 96, 0, 7), 80);
    let behind = Behind::Endpoints { endpoints: vec![Endpoint { at: at(routed(2), 80), weight: 1 }], affinity: None };
    let rules = Rules { services: vec![Service { at: service, protocol: Protocol::Tcp, behind }], refused: Vec::new() };
    node.apply(&rules).await.unwrap();
    let mut near = connect(&node, Place::Pod(&a), service).await.unwrap();
    let mut far = accept(&listener).await.0;
    let first = helper_of(&node).await;
    kill(first);
    until("the helper is gone", || processes_in(&number_of(&node.paths().0)).is_empty()).await;
    talk(&mut near, &mut far).await;
    // by a socket of the pod, which is the new helper's
    let mut near = connect(&node, Place::Pod(&a), service).await.unwrap();
    let mut far = accept(&listener).await.0;
    talk(&mut near, &mut far).await;
    assert_ne!(helper_of(&node).await, first);
    assert_eq!(number_of(&node.attach(&b, routed(2)).await.unwrap().path()), number_of(&second.path()));
    let (c, _) = pod(&node, 3).await;
    connect(&node, Place::Pod(&c), service).await.unwrap();
    // and again, in the middle of many calls
    let tasks: Vec<_> = (10..40)
        .map(|number| {
            let node = node.clone();
            tokio::spawn(async move { pod(&node, number).await })
        })
        .collect();
    sleep(Duration::from_millis(5)).await;
    kill(helper_of(&node).await);
    for task in tasks {
        task.await.unwrap();
    }
    connect(&node, Place::Pod("pod-39"), service).await.unwrap();
    node.detach(&b).await.unwrap();
    assert_eq!(failure(&node, Place::Pod(&a), service).await, ErrorKind::HostUnreachable);
}

/// What the host has that a network could leave behind.
fn of_the_host() -> Vec<String> {
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    vec![
        run("ip", &["-o", "link"]),
        run("ip", &["-o", "address"]),
        run("ip", &["route", "show", "table", "all"]),
        run("ip", &["rule"]),
        run("nft", &["list", "tables"]),
        read("/proc/self/mountinfo"),
        read("/proc/sys/net/ipv4/ip_forward"),
        read("/proc/sys/net/ipv4/conf/all/rp_filter"),
        read("/proc/sys/net/ipv4/conf/all/send_redirects"),
        read("/proc/sys/net/ipv6/conf/default/disable_ipv6"),
    ]
}

#[tokio::test]
async fn nothing_is_left_on_the_host_and_nothing_was_changed() {
    if !can(&["nft", "ip"]) {
        return;
    }
    let before = of_the_host();
    let node = node().await;
    let (_, first) = pod(&node, 1).await;
    let _egress = node.egress().await.unwrap();
    assert_eq!(of_the_host(), before, "while it is there");
    let numbers = [number_of(&node.paths().0), number_of(&first.path())];
    drop((node, first, _egress));
    until("no process is in a namespace", || numbers.iter().all(|number| processes_in(number).is_empty())).await;
    assert_eq!(of_the_host(), before);
}

/// Not a test: a node that dies. It makes a pod with a program in it, says so, and waits.
#[test]
#[ignore = "started by other tests as a node"]
#[expect(clippy::zombie_processes, reason = "the program outlives this process, and is killed by the test")]
fn a_node() {
    let Ok(folder) = std::env::var("NETNS_FOLDER") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = Node::open(options(Some(Path::new(&folder)))).await.unwrap();
        let ((_, first), (b, _)) = (pod(&node, 1).await, pod(&node, 2).await);
        let listener = node.listen(Place::Pod(&b), any(80)).await.unwrap();
        let program = std::env::var("NETNS_PROGRAM").unwrap();
        let child = inside(&node, &first.path(), &["sleep", &program]).stdout(Stdio::null()).spawn().unwrap();
        // it has entered, or has ended already
        until("the program is there", || program == "0" || !processes_in(&number_of(&first.path())).is_empty()).await;
        let told =
            format!("{} {} {}", number_of(&node.paths().0).display(), number_of(&first.path()).display(), child.id());
        fs::write(Path::new(&folder).join("told.part"), told).unwrap();
        fs::rename(Path::new(&folder).join("told.part"), Path::new(&folder).join("told")).unwrap();
        drop(listener);
        sleep(Duration::from_secs(600)).await;
    });
}

/// A program that is killed at the end of the test.
struct Program(u32);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.0.to_string()]).stderr(Stdio::null()).status();
    }
}

/// Runs such a node, and kills it. Returns the namespaces of the node and of its first pod, and the program in the pod.
async fn dead_node(folder: &Path, program: &str) -> (PathBuf, PathBuf, Program) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["deaths::a_node", "--exact", "--ignored", "--nocapture"]).stdout(Stdio::null());
    command.env("NETNS_FOLDER", folder).env("NETNS_PROGRAM", program);
    let mut child = command.spawn().unwrap();
    let file = folder.join("told");
    until("it is ready", || file.exists()).await;
    let told = fs::read_to_string(&file).unwrap();
    let mut parts = told.split_whitespace();
    let mut next = || parts.next().unwrap().to_owned();
    let (node, pod, program) = (next().into(), next().into(), Program(next().parse().unwrap()));
    child.kill().unwrap();
    child.wait().unwrap();
    (node, pod, program)
}

#[tokio::test]
async fn pods_that_outlive_the_node_are_found_again() {
    if !can(&["nft", "nsenter"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (namespace, of_pod, program) = dead_node(folder.path(), "600").await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(processes_in(&of_pod), [program.0], "it goes on");
    let node = Node::open(options(Some(folder.path()))).await.unwrap();
    assert_eq!(number_of(&node.paths().0), namespace);
    assert_eq!(node.pods(), [("pod-1".into(), routed(1)), ("pod-2".into(), routed(2))]);
    let again = node.attach("pod-1", routed(1)).await.unwrap();
    assert_eq!(number_of(&again.path()), of_pod);
    let listener = node.listen(Place::Pod("pod-1"), any(80)).await.unwrap();
    connect(&node, Place::Pod("pod-2"), at(routed(1), 80)).await.unwrap();
    accept(&listener).await;
    // its end is that of the program, now that nobody serves it
    drop((node, listener, again));
    sleep(Duration::from_secs(3)).await;
    assert_eq!(processes_in(&namespace).len(), 1, "the program lives");
    drop(program);
    until("the helper ends with the last program", || processes_in(&namespace).is_empty()).await;
}

#[tokio::test]
async fn a_helper_without_pods_in_use_ends_with_the_node() {
    if !can(&["nft", "nsenter"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (namespace, of_pod, _) = dead_node(folder.path(), "0").await;
    until("it ends", || processes_in(&namespace).is_empty() && processes_in(&of_pod).is_empty()).await;
    let node = Node::open(options(Some(folder.path()))).await.unwrap();
    assert_eq!(node.pods(), []);
}

#[tokio::test]
async fn pods_of_a_dead_helper_and_node_are_adopted() {
    if !can(&["nft", "nsenter"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (namespace, of_pod, program) = dead_node(folder.path(), "600").await;
    let helper = processes_in(&namespace);
    kill(helper[0]);
    until("it is dead", || processes_in(&namespace).is_empty()).await;
    let node = Node::open(options(Some(folder.path()))).await.unwrap();
    assert_eq!(node.pods(), []);
    let of_program = fs::File::open(format!("/proc/{}/ns/net", program.0)).unwrap();
    let adopted = node.adopt("pod-1", routed(1), std::os::fd::AsFd::as_fd(&of_program)).await;
    if let Err(Error::Failed(text)) = &adopted
        && node.paths().1.is_some()
    {
        // the user namespace that owns it is gone with the node's, and this one's root is nobody there
        assert!(text.contains("Operation not permitted"), "{text}");
        return;
    }
    assert_eq!(number_of(&adopted.unwrap().path()), of_pod);
    let (b, _) = pod(&node, 2).await;
    let listener = node.listen(Place::Pod("pod-1"), any(80)).await.unwrap();
    let mut near = connect(&node, Place::Pod(&b), at(routed(1), 80)).await.unwrap();
    let (mut far, peer) = accept(&listener).await;
    assert_eq!(*peer.ip(), routed(2));
    talk(&mut near, &mut far).await;
    drop(program);
}

#[tokio::test]
async fn a_helper_of_another_layout_is_not_used() {
    if !can(&["nft", "nsenter"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (namespace, _, program) = dead_node(folder.path(), "600").await;
    let mut other = options(Some(folder.path()));
    other.layout.mtu = 9000;
    assert_ne!(other.layout, layout());
    let node = Node::open(other).await.unwrap();
    assert_ne!(number_of(&node.paths().0), namespace);
    until("the former one is ended", || processes_in(&namespace).is_empty()).await;
    assert_eq!(node.pods(), []);
    let (_, first) = pod(&node, 1).await;
    let links = printed(&node, &first.path(), &["ip", "-o", "link"]);
    assert!(links.contains("mtu 9000"), "{links}");
    drop(program);
}

#[tokio::test]
async fn a_closed_node_ends_its_helper() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    let namespace = number_of(&node.paths().0);
    timeout(LIMIT, node.close()).await.unwrap();
    assert_eq!(processes_in(&namespace), [0u32; 0]);
    assert!(matches!(node.attach("b", routed(2)).await, Err(Error::Lost(_))));
    assert!(matches!(connect(&node, Place::Pod(&a), at(routed(2), 1)).await, Err(Error::Lost(_))));
}
