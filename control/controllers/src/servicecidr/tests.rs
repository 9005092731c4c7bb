//! What is done with ServiceCIDRs, as tables.

use super::{plan::*, *};
use std::{sync::Arc, time::Duration};

fn range(name: &str, cidrs: &[&str], more: Value) -> Arc<ServiceCIDR> {
    let mut object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
    for (key, value) in more.as_object().into_iter().flatten() {
        match key.as_str() {
            "status" => object["status"] = value.clone(),
            key => object["metadata"][key] = value.clone(),
        }
    }
    Arc::new(serde_json::from_value(object).expect("a ServiceCIDR"))
}

fn address(ip: &str, by: &str) -> Arc<IPAddress> {
    let object = json!({"metadata": {"name": ip, "labels": {"ipaddress.kubernetes.io/managed-by": by}},
        "spec": {"parentRef": {"resource": "services", "namespace": "a", "name": "b"}}});
    Arc::new(serde_json::from_value(object).expect("an IPAddress"))
}

fn planned(range: &Arc<ServiceCIDR>, others: &[Arc<ServiceCIDR>], ips: &[&str]) -> Plan {
    let all: Vec<_> = others.iter().chain([range]).cloned().collect();
    let addresses = ips.iter().map(|ip| address(ip, "ipallocator.k8s.io")).collect();
    plan(range, &all, || addresses, "2026-01-01T00:00:20Z".parse().expect("a time"))
}

fn deleted(at: &str) -> Value {
    json!({"deletionTimestamp": at, "finalizers": [FINALIZER]})
}

const OLD: &str = "2026-01-01T00:00:00Z";

#[test]
fn one_that_stays_is_kept_by_the_finalizer_and_ready() {
    let ready = json!([{"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
        "lastTransitionTime": OLD}]);
    let by_server = json!([{"type": "Ready", "status": "True", "reason": "", "lastTransitionTime": OLD,
        "message": "Kubernetes default Service CIDR is ready"}]);
    for (more, add, says) in [
        (json!({}), true, true),
        (json!({"finalizers": ["a/b"]}), true, true),
        (json!({"finalizers": [FINALIZER]}), false, true),
        (json!({"finalizers": [FINALIZER], "status": {"conditions": by_server}}), false, true),
        (json!({"finalizers": [FINALIZER], "status": {"conditions": ready}}), false, false),
    ] {
        let Plan::Keep { add_finalizer, condition } = planned(&range("a", &["10.0.0.0/24"], more.clone()), &[], &[])
        else {
            panic!("{more}")
        };
        assert_eq!((add_finalizer, condition.is_some()), (add, says), "{more}");
        let text = "Kubernetes Service CIDR is ready";
        assert!(condition.is_none_or(|one| (one.status, one.reason, one.message) == ("True", "", text)));
    }
}

#[test]
fn one_that_is_deleted_goes_when_no_address_needs_it() {
    let gone = |cidrs: &[&str]| range("gone", cidrs, deleted(OLD));
    let other = |cidrs: &[&str]| range("other", cidrs, json!({}));
    for (own, others, ips, goes) in [
        (&["10.0.0.0/24"][..], vec![], &[][..], true),
        (&["10.0.0.0/24"], vec![], &["10.0.1.5"], true),
        (&["10.0.0.0/24"], vec![], &["10.0.0.5"], false),
        // The first and the last address are nobody's.
        (&["10.0.0.0/24"], vec![], &["10.0.0.0", "10.0.0.255"], true),
        (&["10.0.0.0/24"], vec![other(&["10.0.0.0/16"])], &["10.0.0.5"], true),
        (&["10.0.0.0/24"], vec![other(&["10.0.0.0/24"])], &["10.0.0.5"], true),
        // One that is deleted too holds nothing.
        (&["10.0.0.0/24"], vec![range("other", &["10.0.0.0/16"], deleted(OLD))], &["10.0.0.5"], false),
        // It has a part of the addresses.
        (&["10.0.0.0/24"], vec![other(&["10.0.0.0/25"])], &["10.0.0.5"], true),
        (&["10.0.0.0/24"], vec![other(&["10.0.0.0/25"])], &["10.0.0.5", "10.0.0.200"], false),
        (&["10.0.0.0/24", "fd00::/64"], vec![other(&["10.0.0.0/16"])], &["10.0.0.5", "fd00::5"], false),
        (&["10.0.0.0/24", "fd00::/64"], vec![other(&["10.0.0.0/16", "fd00::/64"])], &["10.0.0.5", "fd00::5"], true),
    ] {
        let plan = planned(&gone(own), &others, ips);
        if goes {
            assert_eq!(plan, Plan::Release, "{own:?} {ips:?}");
        } else {
            let Plan::Hold(Some(condition)) = plan else { panic!("{own:?} {ips:?}: {plan:?}") };
            assert_eq!((condition.status, condition.reason), ("False", "Terminating"));
        }
    }
    let range = gone(&["10.0.0.0/24"]);
    let others = vec![address("10.0.0.5", "somebody.example")];
    let now = "2026-01-01T00:00:20Z".parse().expect("a time");
    assert_eq!(
        plan(&range, std::slice::from_ref(&range), || others, now),
        Plan::Release,
        "an address of somebody else"
    );
}

#[test]
fn one_that_is_deleted_stays_ten_seconds_and_is_told_once() {
    let young = range("a", &["10.0.0.0/24"], deleted("2026-01-01T00:00:14Z"));
    assert_eq!(planned(&young, &[], &[]), Plan::Wait(Duration::from_secs(4)));
    let text =
        "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
    let mut more = deleted(OLD);
    more["status"] = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "Terminating", "message": text,
        "lastTransitionTime": OLD}]});
    assert_eq!(planned(&range("a", &["10.0.0.0/24"], more), &[], &["10.0.0.5"]), Plan::Hold(None));
    let others = json!({"deletionTimestamp": OLD, "finalizers": ["somebody/else"]});
    assert_eq!(planned(&range("a", &["10.0.0.0/24"], others), &[], &[]), Plan::Hold(None), "it is not ours to let go");
}

#[test]
fn those_that_share_addresses_overlap() {
    for (one, other, expected) in [
        ("10.0.0.0/24", "10.0.0.0/16", true),
        ("10.0.0.0/16", "10.0.0.0/24", true),
        ("10.0.0.0/24", "10.0.1.0/24", false),
        ("10.0.0.0/24", "fd00::/64", false),
    ] {
        assert_eq!(
            overlap(&range("a", &[one], json!({})), &range("b", &[other], json!({}))),
            expected,
            "{one} {other}"
        );
    }
}
