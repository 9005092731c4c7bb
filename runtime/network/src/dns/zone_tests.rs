//! Every row of the specification, and what is beside it.

use super::zone::{Answers, Said, TTL, View, Zone};
use crate::table::{Name, ServiceTable};
use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{self, RData, Record, RecordType},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};
use std::{net::IpAddr, sync::Arc};

const ALL: View = View { most: 4096, turn: 0 };

pub(super) fn put(table: &mut ServiceTable, namespace: &str, name: &str, spec: Value, slices: &[Value]) {
    let service = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
    let service: Service = serde_json::from_value(service).unwrap();
    let slice = |slice: &Value| -> Arc<EndpointSlice> { Arc::new(serde_json::from_value(slice.clone()).unwrap()) };
    let slices: Vec<_> = slices.iter().map(slice).collect();
    let name: Name = (namespace.into(), name.into());
    table.update(&name, Some((&service, &slices)));
}

pub(super) fn zone() -> Zone {
    let ranges = ["10.32.0.0/11", "10.96.0.0/16", "fd00:96::/112"].map(|range| range.parse().unwrap());
    Zone::new("cluster.local", IpAddr::from([10, 96, 0, 10]), ranges.into()).unwrap()
}

pub(super) fn table() -> ServiceTable {
    let mut table = ServiceTable::default();
    put(
        &mut table,
        "default",
        "kubernetes",
        json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}),
        &[],
    );
    put(
        &mut table,
        "shop",
        "web",
        json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7"], "externalIPs": ["192.0.2.7"], "ports": [
            {"name": "http", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "s", "port": 9, "protocol": "SCTP"}]}),
        &[],
    );
    put(&mut table, "shop", "plain", json!({"clusterIP": "10.96.0.8", "ports": [{"port": 80}]}), &[]);
    let pet = |address: &str, host: Option<&str>, ready: bool| json!({"addresses": [address], "hostname": host, "conditions": {"ready": ready}});
    put(
        &mut table,
        "shop",
        "pets",
        json!({"clusterIP": "None", "ports": [{"name": "https", "port": 443, "targetPort": "web"}, {"name": "any", "port": 1, "protocol": "UDP"}]}),
        &[
            json!({"metadata": {}, "addressType": "IPv4", "ports": [{"name": "https", "port": 8443}, {"name": "any", "port": 1, "protocol": "UDP"}],
                "endpoints": [pet("10.32.0.5", Some("pet-0"), true), pet("10.32.0.6", Some("pet-1"), true),
                    pet("10.32.0.7", None, true), pet("10.32.0.8", Some("pet-3"), false)]}),
            json!({"metadata": {}, "addressType": "IPv6", "ports": [{"name": "https", "port": 8443}],
                "endpoints": [pet("fd00:32::5", Some("pet-0"), true)]}),
        ],
    );
    put(&mut table, "shop", "empty", json!({"clusterIP": "None", "ports": [{"name": "https", "port": 443}]}), &[]);
    let external = |name: &str| json!({"type": "ExternalName", "externalName": name});
    for (name, target) in [
        ("far", "www.example.com"),
        ("near", "web.shop.svc.cluster.local"),
        ("nearer", "near.shop.svc.cluster.local."),
        ("gone", "no.shop.svc.cluster.local"),
        ("ring", "ring.shop.svc.cluster.local"),
        ("number", "192.0.2.1"),
    ] {
        put(&mut table, "shop", name, external(target), &[]);
    }
    table
}

pub(super) fn query(name: &str, kind: RecordType) -> Query {
    Query::query(rr::Name::from_ascii(name).unwrap(), kind)
}

fn short(record: &Record) -> String {
    let Record { name, ttl, data, .. } = record;
    assert!(*ttl == TTL, "{record:?}");
    let text = match data {
        RData::TXT(text) => text.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect::<String>(),
        other => other.to_string(),
    };
    format!("{name} {} {text}", data.record_type())
}

fn all(records: &[Record]) -> Vec<String> {
    records.iter().map(short).collect()
}

fn said(name: &str, kind: RecordType) -> Answers {
    match zone().answer(&query(name, kind), &table(), ALL) {
        Said::Here(answers) => {
            assert!(answers.authoritative && !answers.authentic);
            answers
        }
        elsewhere => panic!("{name}: {elsewhere:?}"),
    }
}

/// The answers, without the name and type that were asked for.
fn found(name: &str, kind: RecordType) -> Vec<String> {
    let said = said(name, kind);
    assert_eq!((said.code, &said.authorities[..]), (ResponseCode::NoError, &[][..]), "{name}");
    let prefix = format!("{name} {kind} ");
    let of = |line: String| line.strip_prefix(&prefix).map_or(line.clone(), str::to_owned);
    all(&said.answers).into_iter().map(of).collect()
}

/// The code of an absence, with whose SOA.
fn absent(name: &str, kind: RecordType) -> (ResponseCode, String) {
    let said = said(name, kind);
    assert_eq!((&said.answers[..], &said.additionals[..]), (&[][..], &[][..]), "{name}");
    let [soa] = &said.authorities[..] else { panic!("{name}: {said:?}") };
    let RData::SOA(data) = &soa.data else { panic!("{soa:?}") };
    assert_eq!((data.minimum, soa.ttl, data.mname.to_string().as_str()), (TTL, TTL, "ns.dns.cluster.local."));
    (said.code, soa.name.to_string())
}

fn missing(name: &str) {
    for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::ANY] {
        assert_eq!(absent(name, kind), (ResponseCode::NXDomain, "cluster.local.".into()), "{name} {kind}");
    }
}

fn has_none(name: &str, kind: RecordType) {
    assert_eq!(absent(name, kind), (ResponseCode::NoError, "cluster.local.".into()), "{name} {kind}");
}

use RecordType::{A, AAAA, CNAME, MX, SRV};

/// 2.2
#[test]
fn the_version_of_the_schema() {
    assert_eq!(found("dns-version.cluster.local.", RecordType::TXT), ["1.1.0"]);
    has_none("dns-version.cluster.local.", A);
}

/// 2.3
#[test]
fn a_service_with_a_cluster_ip() {
    let web = "web.shop.svc.cluster.local.";
    assert_eq!(found("kubernetes.default.svc.cluster.local.", A), ["10.96.0.1"]);
    assert_eq!(found(web, A), ["10.96.0.7"], "external addresses are not its own");
    assert_eq!(found(web, AAAA), ["fd00:96::7"]);
    has_none("kubernetes.default.svc.cluster.local.", AAAA);
    has_none(web, MX);
    has_none(web, CNAME);
    assert_eq!(found("_http._tcp.web.shop.svc.cluster.local.", SRV), [format!("0 100 80 {web}")]);
    assert_eq!(found("_dns._udp.web.shop.svc.cluster.local.", SRV), [format!("0 100 53 {web}")]);
    let more = said("_http._tcp.web.shop.svc.cluster.local.", SRV).additionals;
    assert_eq!(all(&more), [format!("{web} A 10.96.0.7"), format!("{web} AAAA fd00:96::7")]);
    assert_eq!(found(web, SRV), [format!("0 100 80 {web}"), format!("0 100 53 {web}")], "as CoreDNS");
    has_none("_http._tcp.web.shop.svc.cluster.local.", A);
    has_none("_tcp.web.shop.svc.cluster.local.", A);
    for no in
        ["_http._udp.web.shop", "_dns._tcp.web.shop", "http._tcp.web.shop", "_http.tcp.web.shop", "_s._sctp.web.shop"]
    {
        missing(&format!("{no}.svc.cluster.local."));
    }
    // a port without a name has none
    missing("_._tcp.plain.shop.svc.cluster.local.");
    missing("_tcp.plain.shop.svc.cluster.local.");
    missing("10-96-0-7.web.shop.svc.cluster.local.");
}

/// 2.3.3, 2.4.3
#[test]
fn names_of_addresses() {
    let ptr = RecordType::PTR;
    assert_eq!(found("7.0.96.10.in-addr.arpa.", ptr), ["web.shop.svc.cluster.local."]);
    let six = rr::Name::from("fd00:96::7".parse::<IpAddr>().unwrap()).to_string();
    assert_eq!(found(&six, ptr), ["web.shop.svc.cluster.local."]);
    assert_eq!(found("5.0.32.10.in-addr.arpa.", ptr), ["pet-0.pets.shop.svc.cluster.local."]);
    assert_eq!(found("7.0.32.10.in-addr.arpa.", ptr), ["10-32-0-7.pets.shop.svc.cluster.local."]);
    let zone_of = |name, kind| absent(name, kind);
    assert_eq!(zone_of("9.0.96.10.in-addr.arpa.", ptr), (ResponseCode::NXDomain, "96.10.in-addr.arpa.".into()));
    assert_eq!(
        zone_of("8.0.32.10.in-addr.arpa.", ptr),
        (ResponseCode::NXDomain, "32.10.in-addr.arpa.".into()),
        "not ready"
    );
    assert_eq!(zone_of("7.0.96.10.in-addr.arpa.", A), (ResponseCode::NoError, "96.10.in-addr.arpa.".into()));
    assert_eq!(zone_of("0.96.10.in-addr.arpa.", ptr), (ResponseCode::NoError, "96.10.in-addr.arpa.".into()));
    for outside in [
        "7.2.0.192.in-addr.arpa.",
        "10.in-addr.arpa.",
        "1.0.128.10.in-addr.arpa.",
        "in-addr.arpa.",
        "007.0.96.10.in-addr.arpa.",
    ] {
        let said = zone().answer(&query(outside, ptr), &table(), ALL);
        assert!(matches!(&said, Said::Elsewhere { aliases, .. } if aliases.is_empty()), "{outside}: {said:?}");
    }
}

/// 2.4
#[test]
fn a_headless_service() {
    let pets = "pets.shop.svc.cluster.local.";
    assert_eq!(found(pets, A), ["10.32.0.5", "10.32.0.6", "10.32.0.7"]);
    assert_eq!(found(pets, AAAA), ["fd00:32::5"]);
    assert_eq!(found("pet-0.pets.shop.svc.cluster.local.", A), ["10.32.0.5"]);
    assert_eq!(found("pet-0.pets.shop.svc.cluster.local.", AAAA), ["fd00:32::5"]);
    assert_eq!(found("10-32-0-7.pets.shop.svc.cluster.local.", A), ["10.32.0.7"]);
    has_none("pet-1.pets.shop.svc.cluster.local.", AAAA);
    missing("pet-3.pets.shop.svc.cluster.local.");
    missing("10-32-0-5.pets.shop.svc.cluster.local.");
    let https = "_https._tcp.pets.shop.svc.cluster.local.";
    let of = |host: &str| format!("0 25 8443 {host}.pets.shop.svc.cluster.local.");
    assert_eq!(found(https, SRV), [of("pet-0"), of("pet-1"), of("10-32-0-7"), of("pet-0")]);
    assert_eq!(
        all(&said(https, SRV).additionals),
        [
            "pet-0.pets.shop.svc.cluster.local. A 10.32.0.5",
            "pet-1.pets.shop.svc.cluster.local. A 10.32.0.6",
            "10-32-0-7.pets.shop.svc.cluster.local. A 10.32.0.7",
            "pet-0.pets.shop.svc.cluster.local. AAAA fd00:32::5",
        ]
    );
    missing("_http._tcp.pets.shop.svc.cluster.local.");
    for nobody in ["empty.shop", "_https._tcp.empty.shop"] {
        missing(&format!("{nobody}.svc.cluster.local."));
    }
}

#[test]
fn several_records_take_turns_and_are_bounded() {
    let of = |view| match zone().answer(&query("pets.shop.svc.cluster.local.", A), &table(), view) {
        Said::Here(answers) => answers.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(View { most: 2, turn: 1 }), ["10.32.0.6", "10.32.0.7"]);
    assert_eq!(of(View { most: 2, turn: usize::MAX }).len(), 2);
    assert_eq!(View::of(512, 0).most, 33, "one more than fits");
}

/// 2.5
#[test]
fn an_external_name() {
    let far = "far.shop.svc.cluster.local.";
    let said = |name: &str, kind| zone().answer(&query(name, kind), &table(), ALL);
    for kind in [A, AAAA, MX, SRV] {
        let Said::Elsewhere { aliases, name } = said(far, kind) else { panic!("{kind}") };
        assert_eq!(
            (all(&aliases), name.to_string()),
            (vec![format!("{far} CNAME www.example.com.")], "www.example.com.".into())
        );
    }
    assert_eq!(found(far, CNAME), ["www.example.com."]);
    let near =
        ["near.shop.svc.cluster.local. CNAME web.shop.svc.cluster.local.", "web.shop.svc.cluster.local. A 10.96.0.7"];
    let nearer = "nearer.shop.svc.cluster.local. CNAME near.shop.svc.cluster.local.";
    assert_eq!(found("nearer.shop.svc.cluster.local.", A), [&[nearer][..], &near].concat());
    let Said::Here(gone) = said("gone.shop.svc.cluster.local.", A) else { panic!("elsewhere") };
    assert_eq!((gone.code, gone.answers.len(), gone.authorities.len()), (ResponseCode::NXDomain, 1, 1));
    let Said::Here(ring) = said("ring.shop.svc.cluster.local.", A) else { panic!("elsewhere") };
    assert_eq!(ring.code, ResponseCode::ServFail, "a ring ends");
    missing("number.shop.svc.cluster.local.");
    missing("a.far.shop.svc.cluster.local.");
}

/// 2.6
#[test]
fn an_address_of_a_pod() {
    assert_eq!(found("1-2-3-4.shop.pod.cluster.local.", A), ["1.2.3.4"]);
    assert_eq!(found("fd00--5.shop.pod.cluster.local.", AAAA), ["fd00::5"]);
    has_none("1-2-3-4.shop.pod.cluster.local.", AAAA);
    for no in ["1-2-3.shop", "1-2-3-256.shop", "a.shop", "x.1-2-3-4.shop"] {
        missing(&format!("{no}.pod.cluster.local."));
    }
}

#[test]
fn the_domain_itself_and_what_is_between() {
    let apex = "cluster.local.";
    let soa = said(apex, RecordType::SOA);
    assert!(
        matches!(&soa.answers[..], [record] if record.record_type() == RecordType::SOA) && soa.authorities.is_empty()
    );
    assert_eq!(found(apex, RecordType::NS), ["ns.dns.cluster.local."]);
    assert_eq!(all(&said(apex, RecordType::NS).additionals), ["ns.dns.cluster.local. A 10.96.0.10"]);
    assert_eq!(found("ns.dns.cluster.local.", A), ["10.96.0.10"]);
    for exists in [
        apex,
        "dns.cluster.local.",
        "svc.cluster.local.",
        "pod.cluster.local.",
        "shop.svc.cluster.local.",
        "any.pod.cluster.local.",
    ] {
        has_none(exists, A);
    }
    for no in [
        "nothing.svc",
        "shop",
        "web.shop",
        "web.shop.svg",
        "no.shop.svc",
        "web.other.svc",
        "a.b.c.web.shop.svc",
        "sho.svc",
    ] {
        missing(&format!("{no}.cluster.local."));
    }
    let odd = rr::Name::from_labels([&b"\xff"[..], b"shop", b"svc", b"cluster", b"local"]).unwrap();
    let said = zone().answer(&Query::query(odd, A), &table(), ALL);
    assert!(matches!(&said, Said::Here(answers) if answers.code == ResponseCode::NXDomain), "no text: {said:?}");
}

#[test]
fn case_means_nothing_and_is_kept() {
    let name = "WeB.sHop.sVc.Cluster.LOCAL.";
    assert_eq!(found(name, A), ["10.96.0.7"]);
    assert_eq!(said(name, A).answers[0].name.to_string(), name);
    assert_eq!(found("_HTTP._Tcp.web.shop.svc.cluster.local.", SRV).len(), 1);
    assert_eq!(found("PET-0.pets.shop.svc.cluster.local.", A), ["10.32.0.5"]);
}

#[test]
fn what_is_outside_is_asked_elsewhere() {
    for outside in ["example.com.", "local.", "xcluster.local.", ".", "cluster.local.example.com."] {
        let said = zone().answer(&query(outside, A), &table(), ALL);
        assert!(
            matches!(&said, Said::Elsewhere { aliases, name } if aliases.is_empty() && name.to_string() == outside),
            "{said:?}"
        );
    }
}

#[test]
fn a_service_that_changes_leaves_nothing() {
    let mut table = table();
    let before = table.changes();
    let name: Name = ("shop".into(), "pets".into());
    table.replace(&name, None);
    assert_eq!(table.changes(), before + 1);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(table.of_member(address("10.32.0.5")).count(), 0);
    put(&mut table, "shop", "web", json!({"clusterIP": "10.96.0.9"}), &[]);
    assert_eq!((table.of_cluster_ip(address("10.96.0.7")), table.of_cluster_ip(address("192.0.2.7"))), (None, None));
    assert!(table.of_cluster_ip(address("10.96.0.9")).is_some());
    table.replace(&("default".into(), "kubernetes".into()), None);
    assert!(!table.has_namespace("default") && table.has_namespace("shop") && !table.has_namespace("sho"));
}
