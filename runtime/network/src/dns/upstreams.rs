//! The name servers that are asked for what is not the cluster's.

use crate::config::Upstreams;
use parking_lot::Mutex;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Most servers of the file, as in resolv.conf(5).
const MOST: usize = 3;

/// How long what was read of the file counts.
const FRESH: Duration = Duration::from_secs(5);

/// The port of name servers.
const PORT: u16 = 53;

/// The servers at a time.
pub(crate) struct Servers {
    of: Upstreams,
    /// The server's own address, which would ask itself.
    own: IpAddr,
    read: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
}

impl Servers {
    pub(crate) fn new(of: Upstreams, own: IpAddr) -> Self {
        Self { of, own, read: Mutex::default() }
    }

    /// The servers in the order in which they are asked.
    pub(crate) async fn now(&self) -> Arc<[SocketAddr]> {
        let path = match &self.of {
            Upstreams::Given(servers) => return servers.iter().copied().collect(),
            Upstreams::File(path) => path,
        };
        let known = self.read.lock().clone();
        match known {
            Some((at, servers)) if at.elapsed() < FRESH => servers,
            known => {
                let servers = read(path, self.own).await.or(known.map(|(_, servers)| servers)).unwrap_or_default();
                *self.read.lock() = Some((Instant::now(), servers.clone()));
                servers
            }
        }
    }
}

async fn read(path: &Path, own: IpAddr) -> Option<Arc<[SocketAddr]>> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Some(parse(&text, own).into()),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the name servers of this machine are not known");
            None
        }
    }
}

/// The servers of a file. Without any it is this machine, as for its own resolver.
fn parse(text: &str, own: IpAddr) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        address.parse::<IpAddr>().ok()
    };
    let mut servers: Vec<IpAddr> = text.lines().filter_map(server).take(MOST).collect();
    if servers.is_empty() {
        servers.push(Ipv4Addr::LOCALHOST.into());
    }
    servers.retain(|server| *server != own);
    servers.into_iter().map(|server| SocketAddr::new(server, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));

    #[test]
    fn a_file_says_who_is_asked() {
        let of = |text| parse(text, OWN).iter().map(ToString::to_string).collect::<Vec<_>>();
        let text =
            "# nameserver 9.9.9.9\nsearch a b\n nameserver 127.0.0.53\nnameserver\t2001:db8::1 # x\nnameserver no\n";
        assert_eq!(of(text), ["127.0.0.53:53", "[2001:db8::1]:53"]);
        assert_eq!(
            of("nameserver 1.1.1.1\nnameserver 10.96.0.10\nnameserver 3.3.3.3\nnameserver 4.4.4.4"),
            ["1.1.1.1:53", "3.3.3.3:53"]
        );
        assert_eq!(of("options ndots:5"), ["127.0.0.1:53"]);
        assert_eq!(of("nameserver 10.96.0.10"), [""; 0], "it does not ask itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_changes_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 127.0.0.2").unwrap();
        let servers = Servers::new(Upstreams::File(path.clone()), OWN);
        assert_eq!(servers.now().await[..], ["127.0.0.2:53".parse().unwrap()]);
        std::fs::write(&path, "nameserver 127.0.0.3").unwrap();
        assert_eq!(servers.now().await[..], ["127.0.0.2:53".parse().unwrap()], "not each time");
        tokio::time::advance(FRESH).await;
        assert_eq!(servers.now().await[..], ["127.0.0.3:53".parse().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(FRESH).await;
        assert_eq!(servers.now().await[..], ["127.0.0.3:53".parse().unwrap()], "while it is replaced");
    }
}
