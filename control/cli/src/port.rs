//! Binds the port of the API, and finds the process that occupies a port.

use anyhow::{Context, bail};
use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
};

/// Listens. The error names the process that occupies the port, and how to choose another port.
pub(crate) fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = match TcpListener::bind(address) {
        Ok(listener) => listener,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let elsewhere = format!("choose another with --listen, for example --listen {}:0", address.ip());
            match holder(address, std::process::id()) {
                PortHolder::Other(who) => bail!("{address} is taken by {who}; {elsewhere}"),
                PortHolder::Expected => {
                    bail!("{address} is taken by process {}, this one; {elsewhere}", std::process::id())
                }
                // The kernel keeps the port of a closed connection for a minute.
                PortHolder::Nobody => bail!(
                    "{address} is taken by a connection, open or just ended (nobody listens there); wait a minute, or {elsewhere}"
                ),
            }
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot listen on {address}; choose another with --listen"));
        }
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// An address that clients can use: the unspecified address is replaced by 127.0.0.1.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        false => address,
    }
}

/// Which process listens at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortHolder {
    Nobody,
    /// The expected process.
    Expected,
    /// Another process, `process 7 (nginx)`, as far as this user can see.
    Other(String),
}

/// Finds the process that listens on a TCP address, or on it and others. `ours` is the expected process.
pub(crate) fn holder(address: SocketAddr, ours: u32) -> PortHolder {
    let inodes = listeners(address);
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    match () {
        () if sockets.is_empty() => PortHolder::Nobody,
        () if has_one(format!("/proc/{ours}").as_ref(), &sockets) => PortHolder::Expected,
        () => PortHolder::Other(process_with(&sockets).unwrap_or_else(|| "another process".to_owned())),
    }
}

/// The process that has one of these sockets, as far as this user can see.
fn process_with(sockets: &[String]) -> Option<String> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        has_one(&process.path(), sockets).then_some(())?;
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        Some(format!("process {pid} ({})", name.trim()))
    })
}

fn has_one(process: &Path, sockets: &[String]) -> bool {
    let mut descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    descriptors
        .any(|fd| fs::read_link(fd.path()).is_ok_and(|link| sockets.iter().any(|socket| link.as_os_str() == &**socket)))
}

/// The inodes of all listening sockets that accept connections to `address`.
fn listeners(address: SocketAddr) -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|table| fs::read_to_string(table).ok());
    let of = |text: String| -> Vec<String> {
        text.lines().skip(1).filter_map(|line| listening_inode(line, address)).collect()
    };
    tables.flat_map(of).collect()
}

/// The inode of a line of /proc/net/tcp or tcp6 that listens (state 0A) on `address`.
fn listening_inode(line: &str, address: SocketAddr) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (ip, port) = local.rsplit_once(':')?;
    let (ip, port) = (hex_address(ip)?, u16::from_str_radix(port, 16).ok()?);
    let same = ip == address.ip().to_canonical() || ip.is_unspecified() || address.ip().is_unspecified();
    (*state == "0A" && port == address.port() && same).then(|| (*inode).to_owned())
}

/// An address in the format of /proc/net: 32-bit words in the byte order of the machine.
fn hex_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_le_bytes);
    if hex.len() == 8 {
        return word(0).map(IpAddr::from);
    }
    let mut bytes = [0; 16];
    for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(index * 8)?);
    }
    Some(IpAddr::from(bytes).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_owner_and_the_way_out() {
        let first = listen("127.0.0.1:0".parse().expect("an address")).expect("free");
        let address = first.local_addr().expect("bound");
        let error = listen(address).expect_err("taken").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains("--listen 127.0.0.1:0"), "{error}");
    }

    #[test]
    fn a_port_that_only_a_connection_has_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let error = listen(client.local_addr().expect("bound")).expect_err("taken").to_string();
        assert!(error.contains("a connection, open or just ended"), "{error}");
    }

    #[test]
    fn every_address_is_told_as_one_to_go_to() {
        for (listen, told) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "127.0.0.1:1"), ("10.1.2.3:4", "10.1.2.3:4")] {
            assert_eq!(reachable(listen.parse().expect("an address")).to_string(), told);
        }
    }

    #[test]
    fn who_listens_where_is_read_from_proc() {
        let line = |local: &str, state: &str| format!("0: {local} 00000000:0000 {state} 0:0 00:0 00000000 0 0 77 1");
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (local, address, found) in [
            ("0100007F:7580", "127.0.0.1:30080", true),
            ("0100007F:7580", "127.0.0.2:30080", false),
            ("0100007F:7580", "127.0.0.1:30081", false),
            ("0100007F:7580", "0.0.0.0:30080", true),
            ("00000000:7580", "127.0.0.2:30080", true),
            ("00000000000000000000000000000000:7580", "127.0.0.1:30080", true),
            ("0000000000000000FFFF00000100007F:7580", "127.0.0.1:30080", true),
            ("00000000000000000000000001000000:7580", "[::1]:30080", true),
        ] {
            let inode = listening_inode(&line(local, "0A"), at(address));
            assert_eq!(inode.as_deref() == Some("77"), found, "{local} {address}");
            assert_eq!(listening_inode(&line(local, "01"), at(address)), None, "connected");
        }
        let free = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("bound");
        assert_eq!(holder(free, std::process::id()), PortHolder::Nobody);
        let ours = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = ours.local_addr().expect("bound");
        assert_eq!(holder(address, std::process::id()), PortHolder::Expected);
        let who = holder(address, u32::MAX);
        assert!(
            matches!(&who, PortHolder::Other(who) if who.contains(&format!("process {}", std::process::id()))),
            "{who:?}"
        );
    }
}
