use super::{
    stream::{Reader, Writer},
    tcp::Tcp,
    udp::Udp,
    *,
};
use bytes::Bytes;
use container::{
    Clock,
    fake::FakeNetwork,
    log::{Disk, Log, Options},
    net::{Listener, Network, PodNetwork, Sockets},
};
use std::{future::poll_fn, sync::Arc, time::SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError};

struct Pod {
    sockets: Arc<dyn Sockets>,
    log: Log,
    _folder: tempfile::TempDir,
}

impl Pod {
    async fn new() -> Self {
        let spec = PodNetwork {
            id: "pod".into(),
            name: "pod".into(),
            namespace: "default".into(),
            hostname: "pod".into(),
            address: None,
            host_aliases: vec![],
            host_ports: Vec::new(),
            kernel: false,
        };
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::new(|| SystemTime::UNIX_EPOCH);
        let log = Log::new(folder.path().join("log"), Options::default(), clock, &Disk::new());
        Self { sockets: FakeNetwork::default().attach(spec).await.unwrap().sockets, log, _folder: folder }
    }

    async fn listener(&self, port: u16) -> Box<dyn Listener> {
        self.sockets.listen(at("127.0.0.1", port)).await.unwrap()
    }

    async fn connect(&self, tcp: &mut Tcp, port: u16) -> Result<(), SocketFault> {
        tcp.start_connect(&self.sockets, &self.log, at("127.0.0.1", port))?;
        poll_fn(|context| tcp.poll_connect(context)).await
    }

    /// A guest's connection with its peer.
    async fn pair(&self) -> (Tcp, Reader, Writer, net::Stream) {
        let (listener, mut tcp) = (self.listener(80).await, Tcp::new(false));
        self.connect(&mut tcp, 80).await.unwrap();
        let (reader, writer) = tcp.take_halves().unwrap();
        (tcp, reader, writer, listener.accept().await.unwrap().0)
    }
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

#[tokio::test]
async fn a_socket_does_what_its_state_allows() {
    let pod = Pod::new().await;
    let mut tcp = Tcp::new(false);
    assert_eq!(tcp.local(), Err(SocketFault::InvalidState));
    assert!(matches!(tcp.accept(), Some(Err(SocketFault::InvalidState))));
    for wrong in ["::1", "224.0.0.1", "255.255.255.255", "::ffff:127.0.0.1"] {
        assert_eq!(tcp.bind(&*pod.sockets, at(wrong, 1)).await, Err(SocketFault::InvalidArgument), "{wrong}");
    }
    let elsewhere = at("10.1.1.1", 1);
    assert_eq!(tcp.bind(&*pod.sockets, elsewhere).await, Err(net::Error::NotAvailable(elsewhere).into()));
    tcp.bind(&*pod.sockets, at("0.0.0.0", 0)).await.unwrap();
    let port = tcp.local().unwrap().port();
    assert_ne!(port, 0);
    assert_eq!(tcp.bind(&*pod.sockets, at("0.0.0.0", 0)).await, Err(SocketFault::InvalidState));
    let refused = pod.connect(&mut Tcp::new(false), port).await;
    assert!(
        matches!(refused, Err(SocketFault::Net(net::Error::Refused(_)))),
        "a bound port does not listen: {refused:?}"
    );
    assert_eq!(tcp.set_backlog(0), Err(SocketFault::InvalidArgument));
    tcp.listen(&*pod.sockets).await.unwrap();
    assert!(tcp.accept().is_none());
    assert_eq!(pod.connect(&mut tcp, port).await, Err(SocketFault::InvalidState), "a listener does not connect");

    let mut client = Tcp::new(false);
    pod.connect(&mut client, port).await.unwrap();
    tcp.ready().await;
    let accepted = tcp.accept().unwrap().unwrap();
    assert_eq!(accepted.local(), Ok(at("127.0.0.1", port)), "by the address that the peer used");
    assert_eq!((client.remote(), client.local()), (accepted.local(), accepted.remote()));
    assert_eq!(pod.connect(&mut client, port).await, Err(SocketFault::InvalidState));
    assert!(client.take_halves().is_ok() && client.take_halves().is_err());

    let mut failed = Tcp::new(false);
    assert!(pod.connect(&mut failed, 9).await.is_err());
    assert_eq!(pod.connect(&mut failed, port).await, Err(SocketFault::InvalidState), "a socket is used once");
}

#[tokio::test]
async fn halves_close_by_themselves() {
    let pod = Pod::new().await;
    let (tcp, mut reader, mut writer, mut peer) = pod.pair().await;
    assert_eq!(reader.read(10).unwrap(), Bytes::new(), "nothing yet");
    assert!(tokio::time::timeout(std::time::Duration::from_millis(1), reader.ready()).await.is_err());
    peer.write_all(b"question").await.unwrap();
    reader.ready().await;
    assert_eq!(reader.read(3).unwrap(), "que");
    assert_eq!(reader.read(100).unwrap(), "stion");
    assert!(writer.check_write().unwrap() >= 6);
    writer.write(Bytes::from_static(b"answer")).unwrap();
    tcp.shut(false, true).unwrap();
    assert!(matches!(writer.check_write(), Err(StreamError::Closed)));
    let mut answer = String::new();
    peer.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
    peer.write_all(b"more").await.unwrap();
    peer.shutdown().await.unwrap();
    reader.ready().await;
    assert_eq!(reader.read(100).unwrap(), "more", "the other half is open");
    reader.ready().await;
    assert!(matches!(reader.read(100), Err(StreamError::Closed)));
    assert_eq!(tcp.shut(true, true), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_is_written_is_delivered_after_the_guest_is_gone_but_not_for_ever() {
    let pod = Pod::new().await;
    for reads in [true, false] {
        let (tcp, reader, mut writer, mut peer) = pod.pair().await;
        let mut written = 0;
        // the pipe, and what waits for room in it
        while let allowed @ 1.. = writer.check_write().unwrap() {
            writer.write(Bytes::from(vec![7; allowed])).unwrap();
            written += allowed;
        }
        writer.write(Bytes::new()).unwrap();
        assert!(matches!(writer.write(Bytes::from_static(b"more")), Err(StreamError::Trap(_))));
        assert_eq!(tcp.weight(), stream::WRITE, "it is charged for what it has in flight");
        tcp.shut(false, true).unwrap();
        drop((tcp, reader, writer));
        let mut got = Vec::new();
        if reads {
            peer.read_to_end(&mut got).await.unwrap();
            assert_eq!(got.len(), written);
        } else {
            tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
            peer.read_to_end(&mut got).await.unwrap();
            assert!(got.len() < written, "the rest is given up");
        }
    }
}

#[tokio::test]
async fn a_peer_that_is_gone_closes_the_stream() {
    let pod = Pod::new().await;
    let (_tcp, mut reader, mut writer, peer) = pod.pair().await;
    drop(peer);
    assert!(matches!(reader.read(1), Err(StreamError::Closed)));
    assert!(matches!(writer.write(Bytes::from_static(b"x")), Err(StreamError::Closed)));
    assert!(matches!(writer.flush(), Err(StreamError::Closed)));
}

#[tokio::test]
async fn a_connected_udp_socket_hears_its_peer_only() {
    let pod = Pod::new().await;
    let [mut one, mut two, mut three] = [(); 3].map(|()| Udp::new(false));
    assert!(one.incoming().is_err(), "not bound");
    for udp in [&mut one, &mut two, &mut three] {
        udp.bind(&*pod.sockets, at("127.0.0.1", 0)).await.unwrap();
    }
    one.connect(&*pod.sockets, Some(two.local().unwrap())).unwrap();
    let mut incoming = one.incoming().unwrap();
    let to = one.local().unwrap();
    for (udp, text) in [(&three, "no"), (&two, "yes")] {
        let mut outgoing = udp.outgoing(&pod.log).unwrap();
        assert_eq!(outgoing.send(vec![0; 65_508], Some(to)), Err(SocketFault::TooLarge));
        assert_eq!(outgoing.send(vec![], None), Err(SocketFault::InvalidArgument));
        outgoing.send(text.into(), Some(to)).unwrap();
        outgoing.ready().await;
    }
    let heard = poll_fn(|context| incoming.poll_receive(context)).await.unwrap();
    assert_eq!(heard, (Bytes::from_static(b"yes"), two.local().unwrap()));
    let mut outgoing = one.outgoing(&pod.log).unwrap();
    assert_eq!(outgoing.send(vec![], Some(three.local().unwrap())), Err(SocketFault::InvalidArgument));
}

#[tokio::test]
async fn a_connected_udp_socket_has_the_address_that_its_peer_sees() {
    let pod = Pod::new().await;
    let [mut peer, mut udp] = [(); 2].map(|()| Udp::new(false));
    peer.bind(&*pod.sockets, at("127.0.0.1", 0)).await.unwrap();
    udp.bind(&*pod.sockets, at("0.0.0.0", 0)).await.unwrap();
    let port = udp.local().unwrap().port();
    udp.connect(&*pod.sockets, Some(peer.local().unwrap())).unwrap();
    assert_eq!(udp.local(), Ok(at("127.0.0.1", port)));
    let mut outgoing = udp.outgoing(&pod.log).unwrap();
    outgoing.send("hello".into(), None).unwrap();
    outgoing.ready().await;
    let mut incoming = peer.incoming().unwrap();
    let (_, from) = poll_fn(|context| incoming.poll_receive(context)).await.unwrap();
    assert_eq!(udp.local(), Ok(from));
    let own = *pod.sockets.addresses().first().unwrap();
    udp.connect(&*pod.sockets, Some(at("192.0.2.1", 53))).unwrap();
    assert_eq!(udp.local().unwrap().ip(), own);
    udp.connect(&*pod.sockets, None).unwrap();
    assert_eq!(udp.local(), Ok(at("0.0.0.0", port)));
}
