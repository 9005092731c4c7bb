//! Links, addresses and routes: of the node's namespace, and between it and a pod.
//!
//! A pod has the link `eth0` with its address alone (/32), and a default route by 169.254.1.1, which is nobody: its link-layer address is that of
//! the node's end, for ever. In the other direction there is a route to the one address. So there is no bridge, and no ARP.

use super::netlink::Netlink;
use crate::Layout;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
};

/// The gateway of all pods.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The kernel's index of the loopback device of every namespace.
const LOOPBACK: u32 = 1;

/// The kernel's table of local addresses, which is looked up first.
const LOCAL_TABLE: u8 = 255;

/// The name of the link in the pod.
const POD_LINK: &str = "eth0";

/// The name of the node's end of a pod's link.
pub(super) fn name(pod: Ipv4Addr) -> String {
    format!("pod{:08x}", u32::from(pod))
}

/// A link-layer address of local meaning: of the node's or of the pod's end.
fn hardware(pod: Ipv4Addr, of_node: bool) -> Vec<u8> {
    let [a, b, c, d] = pod.octets();
    vec![if of_node { 0x0e } else { 0x0a }, 0x58, a, b, c, d]
}

fn up(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(link)
}

fn address(index: u32, address: Ipv4Addr) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    RouteNetlinkMessage::NewAddress(message)
}

struct Route {
    kind: RouteType,
    table: u8,
    scope: RouteScope,
    to: Ipv4Addr,
    prefix: u8,
    more: Vec<RouteAttribute>,
}

fn route(route: Route) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: route.prefix,
        table: route.table,
        protocol: RouteProtocol::Static,
        scope: route.scope,
        kind: route.kind,
        ..RouteHeader::default()
    };
    message.attributes = route.more;
    if route.prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(route.to)));
    }
    RouteNetlinkMessage::NewRoute(message)
}

fn neighbour(index: u32, address: Ipv4Addr, hardware: Vec<u8>) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
        NeighbourAttribute::LinkLayerAddress(hardware),
    ];
    RouteNetlinkMessage::NewNeighbour(message)
}

const MAKE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// The index of a link by its name; `None` if there is none.
fn index(netlink: &mut Netlink, name: &str) -> io::Result<Option<u32>> {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    match netlink.ask(RouteNetlinkMessage::GetLink(link), 0) {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(link.header.index)),
        Ok(_) => Ok(None),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn expected(netlink: &mut Netlink, name: &str) -> io::Result<u32> {
    index(netlink, name)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no link {name}")))
}

/// Makes the present namespace the node's: any local address can be bound, addresses of pods that do not exist are unreachable, and whatever
/// leaves the node's range is delivered here, where the rules divert it. Idempotent.
pub(super) fn set_up_node(netlink: &mut Netlink, layout: &Layout) -> io::Result<()> {
    for (name, value) in [
        ("ipv4/ip_forward", "1"),
        // a pod's packets have the source address of the pod
        ("ipv4/conf/all/rp_filter", "1"),
        ("ipv4/conf/default/rp_filter", "1"),
        // a pod that calls itself by a Service is not told of a shorter way
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
    ] {
        sysctl(name, value)?;
    }
    disable_ipv6()?;
    let all = Ipv4Addr::UNSPECIFIED;
    let local = |table, to, prefix| Route {
        kind: RouteType::Local,
        table,
        scope: RouteScope::Host,
        to,
        prefix,
        more: vec![RouteAttribute::Oif(LOOPBACK)],
    };
    let unreachable = Route {
        kind: RouteType::Unreachable,
        table: RouteHeader::RT_TABLE_MAIN,
        scope: RouteScope::Universe,
        to: layout.routed.network(),
        prefix: layout.routed.prefix_len(),
        more: Vec::new(),
    };
    for message in [
        up(LOOPBACK),
        address(LOOPBACK, layout.node),
        route(local(LOCAL_TABLE, layout.local.network(), layout.local.prefix_len())),
        route(unreachable),
        route(local(RouteHeader::RT_TABLE_MAIN, all, 0)),
    ] {
        netlink.ask(message, MAKE)?;
    }
    Ok(())
}

/// Prepares the present namespace as a pod's, before it has its link.
pub(super) fn set_up_pod() -> io::Result<()> {
    disable_ipv6()?;
    Netlink::new()?.ask(up(LOOPBACK), 0).map(drop)
}

/// Connects a pod's namespace, of which `inside` is a socket, with the node's. A link that was left by an earlier attempt is removed.
pub(super) fn connect(
    netlink: &mut Netlink,
    inside: &mut Netlink,
    layout: &Layout,
    pod: Ipv4Addr,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    disconnect(netlink, pod)?;
    // the end of a link to a node's namespace that is on its way to its end
    remove(inside, POD_LINK)?;
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(POD_LINK.into()),
        LinkAttribute::Mtu(layout.mtu),
        LinkAttribute::Address(hardware(pod, false)),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
    ];
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![
        LinkAttribute::IfName(name(pod)),
        LinkAttribute::Mtu(layout.mtu),
        LinkAttribute::Address(hardware(pod, true)),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    netlink.ask(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)?;
    let of_pod = expected(inside, POD_LINK)?;
    inside.ask(up(of_pod), 0)?;
    inside.ask(address(of_pod, pod), MAKE)?;
    inside.ask(neighbour(of_pod, GATEWAY, hardware(pod, true)), MAKE)?;
    let by = |scope, to, prefix, more| {
        let (kind, table) = (RouteType::Unicast, RouteHeader::RT_TABLE_MAIN);
        route(Route { kind, table, scope, to, prefix, more })
    };
    let gateway = vec![RouteAttribute::Oif(of_pod)];
    inside.ask(by(RouteScope::Link, GATEWAY, 32, gateway), MAKE)?;
    let default = vec![RouteAttribute::Oif(of_pod), RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY))];
    inside.ask(by(RouteScope::Universe, Ipv4Addr::UNSPECIFIED, 0, default), MAKE)?;
    let of_node = expected(netlink, &name(pod))?;
    netlink.ask(neighbour(of_node, pod, hardware(pod, false)), MAKE)?;
    let source = RouteAttribute::PrefSource(RouteAddress::Inet(layout.node));
    netlink.ask(by(RouteScope::Link, pod, 32, vec![RouteAttribute::Oif(of_node), source]), MAKE)?;
    Ok(())
}

/// Whether the pod has its link.
pub(super) fn is_connected(netlink: &mut Netlink, pod: Ipv4Addr) -> io::Result<bool> {
    Ok(index(netlink, &name(pod))?.is_some())
}

/// Removes the link of a pod, with its addresses and routes. Idempotent.
pub(super) fn disconnect(netlink: &mut Netlink, pod: Ipv4Addr) -> io::Result<()> {
    remove(netlink, &name(pod))
}

fn remove(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    match netlink.ask(RouteNetlinkMessage::DelLink(link), 0) {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Pods have IPv4 addresses only: links get none of their own making.
fn disable_ipv6() -> io::Result<()> {
    match sysctl("ipv6/conf/default/disable_ipv6", "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()), // a kernel without IPv6
        result => result,
    }
}

/// Sets a value of the present network namespace.
fn sysctl(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value)
        .map_err(|error| io::Error::new(error.kind(), format!("net/{name} cannot be set: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_hardware_addresses_are_of_one_pod() {
        let pod = Ipv4Addr::new(10, 32, 128, 5);
        assert_eq!(name(pod), "pod0a208005");
        assert!(name(Ipv4Addr::BROADCAST).len() < 16, "the kernel's limit");
        assert_eq!(hardware(pod, true), [0x0e, 0x58, 10, 32, 128, 5]);
        assert_ne!(hardware(pod, true), hardware(pod, false));
    }
}
