use super::*;
use expect_test::expect;

fn layout() -> Layout {
    Layout::halves("10.32.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap()).unwrap()
}

fn service(at: &str, protocol: Protocol, behind: Behind) -> Service {
    Service { at: at.parse().unwrap(), protocol, behind }
}

fn endpoints(all: &[(&str, u16)], affinity: Option<u64>) -> Behind {
    let endpoints = all.iter().map(|(at, weight)| Endpoint { at: at.parse().unwrap(), weight: *weight }).collect();
    Behind::Endpoints { endpoints, affinity: affinity.map(Duration::from_secs) }
}

fn changed(from: Option<&Table>, to: &Table) -> String {
    Table::change(from, to).transactions(usize::MAX).concat()
}

/// The lines that services add to those that are always there.
fn added(services: Vec<Service>) -> String {
    let none = Rules::default().table(&layout());
    changed(Some(&none), &Rules { services, refused: Vec::new() }.table(&layout()))
}

#[test]
fn what_is_always_there() {
    let rules = Rules {
        services: Vec::new(),
        refused: vec!["169.254.0.0/16".parse().unwrap(), "127.0.0.0/8".parse().unwrap()],
    };
    expect![[r#"
        add table ip sampan
        delete table ip sampan
        add table ip sampan
        add set ip sampan bound { type ipv4_addr . inet_proto . inet_service; }
        add set ip sampan diverted { type ipv4_addr . inet_proto . inet_service; }
        add set ip sampan itself { type ipv4_addr . ipv4_addr; }
        add map ip sampan services { type ipv4_addr . inet_proto . inet_service : verdict; }
        add set ip sampan unserved { type ipv4_addr . inet_proto . inet_service; }
        add chain ip sampan balance { type nat hook prerouting priority dstnat; policy accept; }
        add chain ip sampan divert { type filter hook prerouting priority dstnat + 10; policy drop; }
        add chain ip sampan hide { type nat hook postrouting priority srcnat; policy accept; }
        add chain ip sampan outside
        add chain ip sampan unserved
        add rule ip sampan balance ip daddr . meta l4proto . th dport vmap @services
        add rule ip sampan divert ip daddr 10.32.128.0/17 accept
        add rule ip sampan divert iif lo accept
        add rule ip sampan divert ip daddr 10.32.0.1 ct direction original goto outside
        add rule ip sampan divert ip daddr 10.32.0.0/17 accept
        add rule ip sampan divert ip daddr . meta l4proto . th dport @bound accept
        add rule ip sampan divert ip daddr . meta l4proto . th dport @unserved goto unserved
        add rule ip sampan divert ip daddr . meta l4proto . th dport @diverted goto outside
        add rule ip sampan divert ip daddr 10.96.0.0/16 goto unserved
        add rule ip sampan divert ip daddr { 127.0.0.0/8, 169.254.0.0/16 } reject with icmp admin-prohibited
        add rule ip sampan divert goto outside
        add rule ip sampan hide ip saddr . ip daddr @itself snat to 10.32.0.1
        add rule ip sampan outside meta l4proto { tcp, udp } tproxy to 127.0.0.1:15001 accept
        add rule ip sampan outside reject with icmp admin-prohibited
        add rule ip sampan unserved meta l4proto tcp reject with tcp reset
        add rule ip sampan unserved reject
    "#]]
    .assert_eq(&changed(None, &rules.table(&layout())));
}

#[test]
fn endpoints_share_by_weight() {
    let rules = added(vec![
        service(
            "10.96.0.7:80",
            Protocol::Tcp,
            endpoints(&[("10.32.128.5:8080", 3), ("10.32.0.9:8080", 1), ("10.32.0.8:1", 0)], None),
        ),
        service("10.96.0.8:53", Protocol::Udp, endpoints(&[("10.32.128.5:53", 0)], None)),
    ]);
    expect![[r#"
        add chain ip sampan service-10.96.0.7-tcp-80
        add chain ip sampan service-10.96.0.8-udp-53
        add rule ip sampan service-10.96.0.7-tcp-80 meta l4proto tcp dnat ip to numgen random mod 4 map { 0-2 : 10.32.128.5 . 8080, 3 : 10.32.0.9 . 8080 }
        add rule ip sampan service-10.96.0.8-udp-53 meta l4proto udp dnat ip to 10.32.128.5:53
        add element ip sampan itself { 10.32.128.5 . 10.32.128.5 }
        add element ip sampan services { 10.96.0.7 . tcp . 80 : goto service-10.96.0.7-tcp-80 }
        add element ip sampan services { 10.96.0.8 . udp . 53 : goto service-10.96.0.8-udp-53 }
    "#]]
    .assert_eq(&rules);
}

#[test]
fn a_client_keeps_its_endpoint() {
    let rules = added(vec![service(
        "10.96.0.7:80",
        Protocol::Tcp,
        endpoints(&[("10.32.128.5:8080", 1), ("10.32.128.6:8080", 0)], Some(60)),
    )]);
    expect![[r#"
        add set ip sampan clients-10.96.0.7-tcp-80-10.32.128.5-8080-60 { type ipv4_addr; flags dynamic,timeout; timeout 60s; size 65535; }
        add set ip sampan clients-10.96.0.7-tcp-80-10.32.128.6-8080-60 { type ipv4_addr; flags dynamic,timeout; timeout 60s; size 65535; }
        add chain ip sampan endpoint-10.96.0.7-tcp-80-10.32.128.5-8080
        add chain ip sampan endpoint-10.96.0.7-tcp-80-10.32.128.6-8080
        add chain ip sampan service-10.96.0.7-tcp-80
        add rule ip sampan endpoint-10.96.0.7-tcp-80-10.32.128.5-8080 update @clients-10.96.0.7-tcp-80-10.32.128.5-8080-60 { ip saddr }
        add rule ip sampan endpoint-10.96.0.7-tcp-80-10.32.128.5-8080 meta l4proto tcp dnat ip to 10.32.128.5:8080
        add rule ip sampan endpoint-10.96.0.7-tcp-80-10.32.128.6-8080 update @clients-10.96.0.7-tcp-80-10.32.128.6-8080-60 { ip saddr }
        add rule ip sampan endpoint-10.96.0.7-tcp-80-10.32.128.6-8080 meta l4proto tcp dnat ip to 10.32.128.6:8080
        add rule ip sampan service-10.96.0.7-tcp-80 ip saddr @clients-10.96.0.7-tcp-80-10.32.128.5-8080-60 goto endpoint-10.96.0.7-tcp-80-10.32.128.5-8080
        add rule ip sampan service-10.96.0.7-tcp-80 ip saddr @clients-10.96.0.7-tcp-80-10.32.128.6-8080-60 goto endpoint-10.96.0.7-tcp-80-10.32.128.6-8080
        add rule ip sampan service-10.96.0.7-tcp-80 numgen random mod 1 vmap { 0 : goto endpoint-10.96.0.7-tcp-80-10.32.128.5-8080 }
        add element ip sampan itself { 10.32.128.5 . 10.32.128.5 }
        add element ip sampan itself { 10.32.128.6 . 10.32.128.6 }
        add element ip sampan services { 10.96.0.7 . tcp . 80 : goto service-10.96.0.7-tcp-80 }
    "#]]
    .assert_eq(&rules);
}

#[test]
fn without_endpoints_it_is_refused_or_diverted_or_a_sockets_and_the_last_one_counts() {
    let rules = added(vec![
        service("10.96.0.7:80", Protocol::Tcp, endpoints(&[], None)),
        service("10.96.0.8:80", Protocol::Tcp, Behind::Nobody),
        service("10.96.0.8:80", Protocol::Tcp, Behind::Egress),
        service("10.96.0.10:53", Protocol::Udp, Behind::Socket),
    ]);
    expect![[r#"
        add element ip sampan bound { 10.96.0.10 . udp . 53 }
        add element ip sampan unserved { 10.96.0.7 . tcp . 80 }
        add element ip sampan diverted { 10.96.0.8 . tcp . 80 }
    "#]]
    .assert_eq(&rules);
}
