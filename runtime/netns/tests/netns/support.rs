//! A node's network namespace for a test, and programs in it.

use netns::{Layout, Node, Options, Place, Pod};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

pub(crate) const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn layout() -> Layout {
    Layout::halves("10.32.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap()).unwrap()
}

pub(crate) fn options(folder: Option<&Path>) -> Options {
    Options {
        program: helper(),
        args: Vec::new(),
        env: Vec::new(),
        folder: folder.map(Path::to_owned),
        layout: layout(),
    }
}

/// The helper's program: beside the tests where they were copied, or else where it was built.
pub(crate) fn helper() -> PathBuf {
    let copied = std::env::current_exe().unwrap().with_file_name("netns-helper");
    if copied.exists() { copied } else { env!("CARGO_BIN_EXE_netns-helper").into() }
}

/// Whether the machine can do what is tested. Where it cannot, the test is left out, loudly.
pub(crate) fn can(what: &[&str]) -> bool {
    let found =
        |tool: &&&str| ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|at| Path::new(at).join(tool).exists());
    let missing: Vec<_> = what.iter().filter(|tool| !found(tool)).collect();
    let namespaces = Command::new("unshare").args(["-Urn", "true"]).status().is_ok_and(|status| status.success());
    let can = missing.is_empty() && namespaces;
    if !can {
        let text = format!("SKIPPED: this machine lacks {missing:?}, or allows no namespaces ({namespaces})");
        assert!(std::env::var("SAMPAN_TEST_REQUIRE").as_deref() != Ok("all"), "{text}");
        eprintln!("{text}");
    }
    can
}

pub(crate) async fn node() -> Node {
    Node::open(options(None)).await.unwrap()
}

pub(crate) async fn pod(node: &Node, number: u8) -> (String, Arc<Pod>) {
    let id = format!("pod-{number}");
    let pod = node.attach(&id, routed(number)).await.unwrap();
    (id, pod)
}

pub(crate) fn routed(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 32, 128, number)
}

pub(crate) fn local(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 32, 0, number)
}

pub(crate) fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

pub(crate) fn any(port: u16) -> SocketAddrV4 {
    at(Ipv4Addr::UNSPECIFIED, port)
}

/// A connection, which does not take long.
pub(crate) async fn connect(node: &Node, place: Place<'_>, to: SocketAddrV4) -> netns::Result<TcpStream> {
    timeout(LIMIT, node.connect(place, None, to)).await.expect("an answer in time")
}

/// Why a connection fails.
pub(crate) async fn failure(node: &Node, place: Place<'_>, to: SocketAddrV4) -> std::io::ErrorKind {
    match connect(node, place, to).await {
        Err(netns::Error::Io(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddrV4) {
    let (stream, peer) = timeout(LIMIT, listener.accept()).await.expect("a connection in time").unwrap();
    let std::net::SocketAddr::V4(peer) = peer else { panic!("{peer}") };
    (stream, peer)
}

/// Sends a word each way.
pub(crate) async fn talk(near: &mut TcpStream, far: &mut TcpStream) {
    let work = async {
        near.write_all(b"ask").await.unwrap();
        let mut bytes = [0; 3];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ask");
        far.write_all(b"answer").await.unwrap();
        let mut bytes = [0; 6];
        near.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"answer");
    };
    timeout(LIMIT, work).await.expect("in time");
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{what} in time"));
}

/// A program in a network namespace of this user.
pub(crate) fn inside(node: &Node, namespace: &Path, program: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display()));
    if let (_, Some(user)) = node.paths() {
        command.arg(format!("--user={}", user.display())).arg("--preserve-credentials");
    }
    command.arg("--").args(program);
    command
}

/// What a program in a namespace prints.
pub(crate) fn printed(node: &Node, namespace: &Path, program: &[&str]) -> String {
    let output = inside(node, namespace, program).output().unwrap();
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// The processes in a network namespace, given as a link such as `net:[1]`.
pub(crate) fn processes_in(namespace: &Path) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let of = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        (std::fs::read_link(entry.path().join("ns/net")).ok()? == namespace).then_some(pid)
    };
    all.filter_map(of).collect()
}

/// The number of a namespace, as links tell it.
pub(crate) fn number_of(path: &Path) -> PathBuf {
    std::fs::read_link(path).unwrap()
}
