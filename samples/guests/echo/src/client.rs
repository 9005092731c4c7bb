//! Asks a server.

use crate::{blocking, show, socket_address};
use wasip2::{
    io::{poll::poll, streams::StreamError},
    sockets::{
        instance_network::instance_network,
        ip_name_lookup::resolve_addresses,
        network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Network},
        tcp::{ShutdownType, TcpSocket},
        tcp_create_socket::create_tcp_socket,
        udp::OutgoingDatagram,
        udp_create_socket::create_udp_socket,
    },
};

pub fn ask(url: &str, text: &[u8]) -> Result<String, String> {
    let (scheme, rest) = url.split_once("://").ok_or("not a URL")?;
    let (host, port) = rest.rsplit_once(':').ok_or("the URL has no port")?;
    let port = port.parse().map_err(|_| "the port is no number")?;
    let network = instance_network();
    let addresses = resolve(&network, host.trim_matches(['[', ']'])).map_err(|error| error.name())?;
    let asked = match scheme {
        "tcp" => by_tcp,
        "udp" => by_udp,
        "names" => return Ok(addresses.into_iter().map(|address| show(&socket_address(address, port)) + "\n").collect()),
        _ => return Err("the URL must begin with tcp:// or udp://".into()),
    };
    let mut last = "no address".to_owned();
    for address in addresses {
        match asked(&network, socket_address(address, port), text) {
            Ok(answer) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn resolve(network: &Network, name: &str) -> Result<Vec<IpAddress>, ErrorCode> {
    let stream = resolve_addresses(network, name)?;
    let mut addresses = Vec::new();
    while let Some(address) = blocking(stream.subscribe(), || stream.resolve_next_address())? {
        addresses.push(address);
    }
    Ok(addresses)
}

fn family(address: &IpSocketAddress) -> IpAddressFamily {
    match address {
        IpSocketAddress::Ipv4(_) => IpAddressFamily::Ipv4,
        IpSocketAddress::Ipv6(_) => IpAddressFamily::Ipv6,
    }
}

fn by_tcp(network: &Network, to: IpSocketAddress, text: &[u8]) -> Result<Vec<u8>, String> {
    let name = |error: ErrorCode| error.name().to_owned();
    let socket: TcpSocket = create_tcp_socket(family(&to)).map_err(name)?;
    socket.start_connect(network, to).map_err(name)?;
    let (input, output) = blocking(socket.subscribe(), || socket.finish_connect()).map_err(name)?;
    let broken = |error: StreamError| format!("the connection broke: {error}");
    let (mut sent, mut answer) = (0, Vec::new());
    loop {
        let writing = sent < text.len();
        let (readable, writable) = (input.subscribe(), output.subscribe());
        let ready = if writing { poll(&[&readable, &writable]) } else { poll(&[&readable]) };
        drop((readable, writable));
        if ready.contains(&1) {
            let room = output.check_write().map_err(broken)? as usize;
            let next = text.len().min(sent + room);
            output.write(&text[sent..next]).map_err(broken)?;
            sent = next;
            if sent == text.len() {
                socket.shutdown(ShutdownType::Send).map_err(name)?;
            }
        }
        if ready.contains(&0) {
            match input.read(64 << 10) {
                Ok(bytes) => answer.extend_from_slice(&bytes),
                Err(StreamError::Closed) => return Ok(answer),
                Err(error) => return Err(broken(error)),
            }
        }
    }
}

fn by_udp(network: &Network, to: IpSocketAddress, text: &[u8]) -> Result<Vec<u8>, String> {
    let name = |error: ErrorCode| error.name().to_owned();
    let socket = create_udp_socket(family(&to)).map_err(name)?;
    let any = match to {
        IpSocketAddress::Ipv4(_) => IpAddress::Ipv4((0, 0, 0, 0)),
        IpSocketAddress::Ipv6(_) => IpAddress::Ipv6((0, 0, 0, 0, 0, 0, 0, 0)),
    };
    socket.start_bind(network, socket_address(any, 0)).map_err(name)?;
    socket.finish_bind().map_err(name)?;
    let (incoming, outgoing) = socket.stream(Some(to)).map_err(name)?;
    outgoing.subscribe().block();
    outgoing.check_send().map_err(name)?;
    outgoing.send(&[OutgoingDatagram { data: text.to_vec(), remote_address: None }]).map_err(name)?;
    incoming.subscribe().block();
    let answers = incoming.receive(1).map_err(name)?;
    answers.into_iter().next().map(|answer| answer.data).ok_or_else(|| "no answer".into())
}
