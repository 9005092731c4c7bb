//! A `wasi:cli/run` component on wasi:sockets. Without arguments a server that answers with what it is sent, by TCP and UDP, on the
//! port of the environment variable `PORT` (7000); with `tcp://HOST:PORT TEXT` or `udp://HOST:PORT TEXT` a client that prints the answer.

mod client;
mod server;

use std::io::Write;
use wasip2::{
    cli::environment::{get_arguments, get_environment},
    exports::cli::run::Guest,
    sockets::network::{ErrorCode, IpAddress, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress},
};

struct Echo;

wasip2::cli::command::export!(Echo);

impl Guest for Echo {
    fn run() -> Result<(), ()> {
        let arguments = get_arguments();
        let Some(url) = arguments.get(1) else {
            return server::serve(variable("PORT").unwrap_or(7000)).map_err(|error| print(&format!("{}\n", error.name())));
        };
        let text = arguments[2..].join(" ").repeat(variable("REPEAT").unwrap_or(1));
        let answer = client::ask(url, text.as_bytes()).map_err(|error| print(&format!("{url}: {error}\n")))?;
        print(&answer);
        Ok(())
    }
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    get_environment().iter().find(|(known, _)| known == name)?.1.parse().ok()
}

fn print(text: &str) {
    let mut out = wasip2::cli::stdout::get_stdout();
    // Nobody to tell when standard output is gone.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn socket_address(address: IpAddress, port: u16) -> IpSocketAddress {
    match address {
        IpAddress::Ipv4(address) => IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }),
        IpAddress::Ipv6(address) => IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 }),
    }
}

fn show(address: &IpSocketAddress) -> String {
    match address {
        IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) }) => format!("{a}.{b}.{c}.{d}:{port}"),
        IpSocketAddress::Ipv6(v6) => format!("[{:x?}]:{}", v6.address, v6.port),
    }
}

/// Calls again, after the pollable is ready, what would block.
fn blocking<T>(pollable: wasip2::io::poll::Pollable, mut call: impl FnMut() -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
    loop {
        match call() {
            Err(ErrorCode::WouldBlock) => pollable.block(),
            done => return done,
        }
    }
}
