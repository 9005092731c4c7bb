//! The pods of a helper: their namespaces and links.

use super::{
    enter::{self, Namespaces},
    links,
    netlink::Netlink,
};
use crate::{
    Layout,
    packet::MAX_DESCRIPTORS,
    protocol::{Kind, MAX_ID, PAGE},
};
use rustix::{
    fs::fstat,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};
use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    net::Ipv4Addr,
    ops::Bound,
    os::fd::{AsFd, OwnedFd},
};

struct Pod {
    address: Ipv4Addr,
    namespace: OwnedFd,
}

/// The pods, in the node's namespace.
pub(super) struct Pods {
    pub(super) namespaces: Namespaces,
    pub(super) layout: Layout,
    netlink: Netlink,
    pods: BTreeMap<String, Pod>,
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

impl Pods {
    /// No pods in the present namespace, which becomes the node's.
    pub(super) fn new(namespaces: Namespaces, layout: Layout) -> io::Result<Self> {
        let mut netlink = Netlink::new()?;
        links::set_up_node(&mut netlink, &layout)?;
        Ok(Self { namespaces, layout, netlink, pods: BTreeMap::new() })
    }

    /// Makes and connects the namespace of a pod, or connects one that exists. The same pod has the same namespace.
    pub(super) fn attach(&mut self, id: String, address: Ipv4Addr, existing: Option<OwnedFd>) -> io::Result<OwnedFd> {
        if id.is_empty() || id.len() > MAX_ID {
            return Err(invalid(format!("the id of a pod has {} bytes", id.len())));
        }
        if !self.layout.routed.contains(&address) {
            return Err(invalid(format!("{address} is not in {}", self.layout.routed)));
        }
        if let Some(pod) = self.pods.get(&id) {
            return match pod.address == address {
                true => pod.namespace.try_clone(),
                false => Err(invalid(format!("pod {id} has the address {}", pod.address))),
            };
        }
        if let Some((other, _)) = self.pods.iter().find(|(_, pod)| pod.address == address) {
            return Err(invalid(format!("pod {other} has the address {address}")));
        }
        let Self { namespaces, layout, netlink, .. } = self;
        let namespace = match existing {
            // as a former helper left it
            Some(namespace) if links::is_connected(netlink, address)? => namespace,
            existing => {
                let mut inside = None;
                let mut prepare = || {
                    links::set_up_pod()?;
                    inside = Some(Netlink::new()?);
                    Ok(())
                };
                let namespace = match existing {
                    Some(namespace) => enter::inside(&namespace, &namespaces.net, prepare).map(|()| namespace)?,
                    None => enter::inside_new(&namespaces.net, &mut prepare)?,
                };
                let mut inside = inside.ok_or(io::ErrorKind::NotFound)?;
                links::connect(netlink, &mut inside, layout, address, namespace.as_fd())?;
                namespace
            }
        };
        let given = namespace.try_clone()?;
        self.pods.insert(id, Pod { address, namespace });
        Ok(given)
    }

    /// Disconnects a pod and gives up its namespace.
    pub(super) fn detach(&mut self, id: &str) -> io::Result<()> {
        if let Some(pod) = self.pods.get(id) {
            links::disconnect(&mut self.netlink, pod.address)?;
            self.pods.remove(id);
        }
        Ok(())
    }

    /// Sockets in the namespace of a pod or of the node.
    pub(super) fn sockets(&self, of: Option<&str>, kind: Kind, count: u8) -> io::Result<Vec<OwnedFd>> {
        if usize::from(count) > MAX_DESCRIPTORS {
            return Err(invalid(format!("{count} sockets")));
        }
        let make = || {
            let kind = match kind {
                Kind::Tcp => SocketType::STREAM,
                Kind::Udp => SocketType::DGRAM,
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let one = |_| Ok(socket_with(AddressFamily::INET, kind, flags, None)?);
            (0..count).map(one).collect::<io::Result<Vec<_>>>()
        };
        let Some(id) = of else { return make() };
        let pod = self.pods.get(id).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no pod {id}")))?;
        enter::inside(&pod.namespace, &self.namespaces.net, make)
    }

    /// The pods after one.
    pub(super) fn page(&self, after: Option<String>) -> Vec<(String, Ipv4Addr)> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page = self.pods.range((after, Bound::Unbounded)).take(PAGE);
        page.map(|(id, pod)| (id.clone(), pod.address)).collect()
    }

    /// Whether a process is in the namespace of a pod.
    pub(super) fn are_in_use(&self) -> bool {
        let number = |pod: &Pod| fstat(&pod.namespace).ok().map(|stat| format!("net:[{}]", stat.st_ino));
        let ours: HashSet<String> = self.pods.values().filter_map(number).collect();
        let Ok(processes) = fs::read_dir("/proc") else { return !ours.is_empty() };
        let is_ours = |process: fs::DirEntry| {
            let namespace = fs::read_link(process.path().join("ns/net")).ok();
            namespace.and_then(|link| link.into_os_string().into_string().ok()).is_some_and(|link| ours.contains(&link))
        };
        !ours.is_empty() && processes.flatten().any(is_ours)
    }
}
