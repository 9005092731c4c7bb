//! The sample `echo` on WASI 0.3: a `wasi:cli/run` component whose functions are asynchronous. Without arguments a server that answers with
//! what it is sent, by TCP and UDP, on the port of the environment variable `PORT` (7000); with `tcp://HOST:PORT TEXT` or
//! `udp://HOST:PORT TEXT` a client that prints the answer.

use wasip3::{
    cli::environment::{get_arguments, get_environment},
    exports::cli::run::Guest,
    sockets::{
        ip_name_lookup::resolve_addresses,
        types::{IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket, UdpSocket},
    },
    wit_bindgen::spawn_local,
    wit_stream,
};

struct Echo;

wasip3::cli::command::export!(Echo);

impl Guest for Echo {
    async fn run() -> Result<(), ()> {
        let arguments = get_arguments();
        let done = match arguments.get(1) {
            None => serve().await,
            Some(url) => ask(url, arguments[2..].join(" ").into_bytes()).await.map_err(|error| format!("{url}: {error}")),
        };
        match done {
            Ok(answer) => print(answer).await,
            Err(error) => {
                print(format!("{error}\n").into_bytes()).await;
                return Err(());
            }
        }
        Ok(())
    }
}

async fn print(text: Vec<u8>) {
    let (mut writer, reader) = wit_stream::new();
    let printed = wasip3::cli::stdout::write_via_stream(reader);
    writer.write_all(text).await;
    drop(writer);
    // Nobody to tell when standard output is gone.
    let _ = printed.await;
}

fn socket_address(address: IpAddress, port: u16) -> IpSocketAddress {
    match address {
        IpAddress::Ipv4(address) => IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }),
        IpAddress::Ipv6(address) => IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 }),
    }
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

async fn serve() -> Result<Vec<u8>, String> {
    let port = get_environment().iter().find(|(name, _)| name == "PORT").and_then(|(_, port)| port.parse().ok());
    let at = socket_address(IpAddress::Ipv4((0, 0, 0, 0)), port.unwrap_or(7000));
    let listener = TcpSocket::create(IpAddressFamily::Ipv4).map_err(text)?;
    listener.bind(at).map_err(text)?;
    let mut connections = listener.listen().map_err(text)?;
    let datagrams = UdpSocket::create(IpAddressFamily::Ipv4).map_err(text)?;
    datagrams.bind(at).map_err(text)?;
    spawn_local(async move {
        while let Ok((data, from)) = datagrams.receive().await {
            // An answer may be lost, as on any network.
            let _ = datagrams.send(data, Some(from)).await;
        }
    });
    print(b"listening\n".to_vec()).await;
    while let Some(connection) = connections.next().await {
        spawn_local(async move {
            let (received, _) = connection.receive();
            // The peer may be gone.
            let _ = connection.send(received).await;
        });
    }
    Err("the listener is closed".into())
}

async fn ask(url: &str, question: Vec<u8>) -> Result<Vec<u8>, String> {
    let (scheme, rest) = url.split_once("://").ok_or("not a URL")?;
    let (host, port) = rest.rsplit_once(':').ok_or("the URL has no port")?;
    let port = port.parse().map_err(text)?;
    let addresses = resolve_addresses(host.to_owned()).await.map_err(text)?;
    let to = socket_address(*addresses.first().ok_or("no address")?, port);
    let family = match to {
        IpSocketAddress::Ipv4(_) => IpAddressFamily::Ipv4,
        IpSocketAddress::Ipv6(_) => IpAddressFamily::Ipv6,
    };
    if scheme == "udp" {
        let socket = UdpSocket::create(family).map_err(text)?;
        socket.connect(to).map_err(text)?;
        socket.send(question, None).await.map_err(text)?;
        return Ok(socket.receive().await.map_err(text)?.0);
    }
    let socket = TcpSocket::create(family).map_err(text)?;
    socket.connect(to).await.map_err(text)?;
    let (mut writer, reader) = wit_stream::new();
    let sent = socket.send(reader);
    spawn_local(async move {
        writer.write_all(question).await;
    });
    let (answer, received) = socket.receive();
    let answer = answer.collect().await;
    sent.await.map_err(text)?;
    received.await.map_err(text)?;
    Ok(answer)
}
