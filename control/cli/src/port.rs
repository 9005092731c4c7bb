//! Binding the API's port, and saying who has it when it is taken.

use anyhow::{Context, bail};
use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
};

/// Listens, or says what is in the way and how to choose another port.
pub(crate) fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = match TcpListener::bind(address) {
        Ok(listener) => listener,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let who = owner_of(address.port()).map_or_else(String::new, |who| format!(" by {who}"));
            bail!("{address} is taken{who}; choose another with --listen, for example --listen {}:0", address.ip())
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot listen on {address}; choose another with --listen"));
        }
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Which process listens on a TCP port, as far as this user may see.
fn owner_of(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| listening_inode(line, port))
    })?;
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut descriptors = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        descriptors.find(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()))?;
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        Some(format!("process {pid} ({})", name.trim()))
    })
}

/// The inode of a line of /proc/net/tcp that listens (state 0A) on `port`.
fn listening_inode(line: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (_, hex) = local.rsplit_once(':')?;
    (*state == "0A" && u16::from_str_radix(hex, 16).ok()? == port).then(|| (*inode).to_owned())
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
}
