//! Ports of the host that lead to pods: of one pod, and UDP ones of Services.

use crate::{
    tests::{LIVENESS, at, connect_when_open, free_port, network, pod, put_service, spec},
    *,
};
use bytes::Bytes;
use container::{
    Protocol,
    net::{Datagrams, Error, HostPort, Network, PodNetwork},
};
use serde_json::json;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    time::timeout,
};

fn host_port(protocol: Protocol, at: SocketAddr, to: u16) -> HostPort {
    HostPort { protocol, at, to }
}

/// What a client receives.
async fn received(client: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    let size = timeout(LIVENESS, client.recv(&mut buffer)).await.expect("in time").expect("received");
    String::from_utf8_lossy(&buffer[..size]).into_owned()
}

/// Says back what comes, and who asked.
async fn echo(socket: Box<dyn Datagrams>) {
    while let Ok((data, from)) = socket.receive().await {
        let answer = format!("{} from {}", String::from_utf8_lossy(&data), from.ip());
        socket.send_to(Bytes::from(answer), from).await.expect("sent");
    }
}

#[tokio::test]
async fn a_host_port_leads_to_its_pod_for_as_long_as_it_is_there() {
    let network = network();
    let (tcp, udp) = (at(&format!("127.0.0.1:{}", free_port())), at(&format!("127.0.0.1:{}", free_port())));
    let ports = vec![
        // without an address it is the node's
        host_port(Protocol::Tcp, at(&format!("0.0.0.0:{}", tcp.port())), 80),
        host_port(Protocol::Udp, udp, 53),
    ];
    let wanted = PodNetwork { host_ports: ports.clone(), ..spec("a") };
    let attached = network.attach(wanted.clone()).await.expect("attached");
    let listener = attached.sockets.listen(at("0.0.0.0:80")).await.expect("bound");
    tokio::spawn(echo(attached.sockets.bind_udp(at("0.0.0.0:53")).await.expect("bound")));
    network.attach(wanted).await.expect("again, and the ports are open already");

    let mut client = connect_when_open(tcp).await;
    let (mut server, peer) = timeout(LIVENESS, listener.accept()).await.expect("in time").expect("accepted");
    assert_eq!(peer.ip(), network.node_internal());
    server.write_all(b"hello").await.expect("written");
    drop(server);
    let mut said = String::new();
    client.read_to_string(&mut said).await.expect("read");
    assert_eq!(said, "hello");

    let node = network.node_internal();
    let clients = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").expect("bound"));
    for (number, client) in clients.into_iter().enumerate() {
        client.set_nonblocking(true).expect("set");
        let client = UdpSocket::from_std(client).expect("a socket");
        client.connect(udp).await.expect("connected");
        for _ in 0..2 {
            client.send(format!("{number}").as_bytes()).await.expect("sent");
            assert_eq!(received(&client).await, format!("{number} from {node}"), "each client gets its own answers");
        }
    }

    // another pod gets none of them, and nothing stays of it
    let taken = network.attach(PodNetwork { host_ports: ports.clone(), ..spec("b") }).await.map(drop);
    assert_eq!(taken, Err(Error::AddressInUse(tcp)));
    assert_eq!(network.list().len(), 1);
    let foreign = vec![host_port(Protocol::Tcp, at("192.0.2.1:1"), 80)];
    let refused = network.attach(PodNetwork { host_ports: foreign, ..spec("b") }).await.map(drop);
    assert!(matches!(&refused, Err(Error::Unreachable(text)) if text.contains("192.0.2.1:1")), "{refused:?}");
    network.detach("a").await;
    let free = async {
        while network.attach(PodNetwork { host_ports: ports.clone(), ..spec("b") }).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIVENESS, free).await.expect("the ports are free when their pod has left");
}

#[tokio::test]
async fn udp_node_ports_lead_to_endpoints() {
    let network = network();
    let (sockets, ip) = pod(&network, "a").await;
    tokio::spawn(echo(sockets.bind_udp(at("0.0.0.0:53")).await.expect("bound")));
    let number = free_port();
    let ports = json!([{"protocol": "UDP", "port": 53, "nodePort": number}]);
    let spec = json!({"clusterIP": "10.96.0.7", "type": "NodePort", "ports": ports});
    put_service(&network, "dns", spec, json!([{"protocol": "UDP", "port": 53}]), &[ip]);
    let mut node_ports = NodePorts::new(network.clone(), Arc::new(|port, error| panic!("{port:?}: {error}")));
    node_ports.sync(&network.table().read().node_ports());
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    client.connect(("127.0.0.1", number)).await.expect("connected");
    let answered = async {
        loop {
            // until the port is open, which nobody is told of
            let _ = client.send(b"ask").await;
            let mut buffer = [0; 64];
            if let Ok(Ok(size)) = timeout(std::time::Duration::from_millis(50), client.recv(&mut buffer)).await {
                return String::from_utf8_lossy(&buffer[..size]).into_owned();
            }
        }
    };
    let said = timeout(LIVENESS, answered).await.expect("in time");
    assert_eq!(said, format!("ask from {}", network.node_internal()));
}
