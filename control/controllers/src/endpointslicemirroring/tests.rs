use super::{plan::MAX_ADDRESSES, *};
use crate::{
    meta,
    slices::{MANAGED_BY_LABEL, SERVICE_NAME},
};
use serde_json::{Value, json};

fn endpoints(subsets: Value, more: Value) -> Endpoints {
    let mut metadata = json!({"name": "db", "namespace": "ns", "uid": "e"});
    for (key, value) in more.as_object().into_iter().flatten() {
        metadata[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": metadata, "subsets": subsets})).expect("Endpoints")
}

/// As the server would have stored them.
fn stored(plan: &Plan) -> Vec<Arc<EndpointSlice>> {
    let named = |(i, slice): (usize, &EndpointSlice)| {
        let mut slice = slice.clone();
        slice.metadata.name.get_or_insert_with(|| format!("db-{i}"));
        slice.metadata.uid.get_or_insert_with(|| format!("slice-{i}"));
        Arc::new(slice)
    };
    plan.update.iter().chain(&plan.create).enumerate().map(named).collect()
}

fn addresses(ips: &[&str]) -> Value {
    ips.iter().map(|ip| json!({"ip": ip})).collect()
}

fn counts(plan: &Plan) -> (usize, usize, usize) {
    (plan.create.len(), plan.update.len(), plan.delete.len())
}

#[test]
fn a_mirrored_slice_looks_like_upstreams() {
    let subsets = json!([{"addresses": [{"ip": "192.0.2.1", "hostname": "a", "nodeName": "n1"}],
        "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}]);
    let more = json!({"labels": {"team": "x", "endpointslice.kubernetes.io/managed-by": "me"},
        "annotations": {"note": "y", "endpoints.kubernetes.io/last-change-trigger-time": "z",
            "kubectl.kubernetes.io/last-applied-configuration": "{}"}});
    let plan = plan(&endpoints(subsets, more), &[]);
    assert_eq!(
        serde_json::to_value(&plan.create).expect("JSON"),
        json!([{
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"generateName": "db-", "namespace": "ns", "annotations": {"note": "y"},
                "labels": {"team": "x", SERVICE_NAME: "db", MANAGED_BY_LABEL: CONTROLLER},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": "db", "uid": "e",
                    "controller": true, "blockOwnerDeletion": true}]},
            "endpoints": [
                {"addresses": ["192.0.2.1"], "conditions": {"ready": true}, "hostname": "a", "nodeName": "n1"},
                {"addresses": ["192.0.2.2"], "conditions": {"ready": false}}],
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        }])
    );
    assert_eq!(plan.warnings, []);
}

#[test]
fn what_is_not_to_be_mirrored_is_not() {
    for (more, mirrored) in [
        (json!({}), true),
        (json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}), false),
        (json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "false"}}), true),
        (json!({"annotations": {"control-plane.alpha.kubernetes.io/leader": ""}}), false),
    ] {
        assert_eq!(is_mirrored(&endpoints(Value::Null, more.clone())), mirrored, "{more}");
    }
}

#[test]
fn subsets_become_slices_by_family_and_ports() {
    let port = |number: u16| json!([{"port": number, "protocol": "TCP"}]);
    let of = |subsets: Value| plan(&endpoints(subsets, json!({})), &[]);
    let sizes = |plan: &Plan| -> Vec<(String, usize)> {
        plan.create.iter().map(|s| (s.address_type.clone(), s.endpoints.as_ref().map_or(0, Vec::len))).collect()
    };
    let both = json!([{"addresses": addresses(&["192.0.2.1", "2001:db8::1", "192.0.2.2"]), "ports": port(80)}]);
    assert_eq!(sizes(&of(both)), [("IPv4".to_owned(), 2), ("IPv6".to_owned(), 1)]);
    let two = json!([{"addresses": addresses(&["192.0.2.1"]), "ports": port(80)},
        {"addresses": addresses(&["192.0.2.1"]), "ports": port(81)}]);
    assert_eq!(sizes(&of(two)), [("IPv4".to_owned(), 1), ("IPv4".to_owned(), 1)]);
    let twice = json!([{"addresses": addresses(&["192.0.2.1"]), "ports": port(80)},
        {"notReadyAddresses": addresses(&["192.0.2.1", "192.0.2.2"]), "ports": port(80)}]);
    let plan = of(twice);
    assert_eq!(sizes(&plan), [("IPv4".to_owned(), 2)], "subsets with the same ports are one");
    let ready: Vec<_> =
        plan.create[0].endpoints.iter().flatten().map(|e| e.conditions.as_ref().and_then(|c| c.ready)).collect();
    assert_eq!(ready, [Some(true), Some(false)], "an address that is both is ready");
    assert_eq!(sizes(&of(Value::Null)), [], "no subset, no slice");
}

#[test]
fn invalid_and_too_many_addresses_are_left_out_and_told() {
    let many: Vec<String> = (0..MAX_ADDRESSES + 5).map(|i| format!("192.0.{}.{}", i / 250, i % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let odd = addresses(&["not an address", "203.0.113.1"]);
    for (subsets, size, reasons) in [
        (json!([{"addresses": odd}]), 1, vec!["InvalidIPAddress"]),
        (json!([{"addresses": addresses(&many)}]), MAX_ADDRESSES, vec!["TooManyAddressesToMirror"]),
        (
            json!([{"addresses": odd, "notReadyAddresses": addresses(&many)}]),
            MAX_ADDRESSES,
            vec!["InvalidIPAddress", "TooManyAddressesToMirror"],
        ),
    ] {
        let plan = plan(&endpoints(subsets, json!({})), &[]);
        assert_eq!(plan.create[0].endpoints.as_ref().map(Vec::len), Some(size));
        assert_eq!(plan.warnings.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(), reasons);
    }
    let cut = plan(&endpoints(json!([{"addresses": addresses(&many)}]), json!({})), &[]);
    assert_eq!(
        cut.warnings[0].1,
        "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 5 addresses were skipped"
    );
}

#[test]
fn what_is_right_is_left_alone_and_what_changed_is_written_in_place() {
    let port = |number: u16| json!([{"port": number, "protocol": "TCP"}]);
    let one = |ip: &str, number: u16| json!([{"addresses": addresses(&[ip]), "ports": port(number)}]);
    let first = plan(&endpoints(one("192.0.2.1", 80), json!({})), &[]);
    let existing = stored(&first);
    for (subsets, more, wanted) in [
        (one("192.0.2.1", 80), json!({}), (0, 0, 0)),
        (one("192.0.2.2", 80), json!({}), (0, 1, 0)),
        (one("192.0.2.1", 81), json!({}), (0, 1, 0)),
        (one("2001:db8::1", 80), json!({}), (1, 0, 1)),
        (one("192.0.2.1", 80), json!({"labels": {"team": "x"}}), (0, 1, 0)),
        (one("192.0.2.1", 80), json!({"annotations": {"note": "x"}}), (0, 1, 0)),
        (one("192.0.2.1", 80), json!({"uid": "another"}), (0, 1, 0)),
        (Value::Null, json!({}), (0, 0, 1)),
    ] {
        let endpoints = endpoints(subsets.clone(), more.clone());
        let next = plan(&endpoints, &existing);
        assert_eq!(counts(&next), wanted, "{subsets} {more}");
        for slice in &next.update {
            assert_eq!(slice.metadata.name, existing[0].metadata.name, "{subsets} {more}");
            assert_eq!(
                slice.metadata.owner_references.as_ref().expect("owners")[0].uid,
                meta::uid(&endpoints.metadata)
            );
        }
        if counts(&next).2 == 0 && counts(&next).1 == 1 {
            assert_eq!(counts(&plan(&endpoints, &stored(&next))), (0, 0, 0), "once is enough: {subsets} {more}");
        }
    }
    let twice = [existing.clone(), existing].concat();
    assert_eq!(counts(&plan(&endpoints(one("192.0.2.1", 80), json!({})), &twice)), (0, 0, 1), "one for each group");
}
