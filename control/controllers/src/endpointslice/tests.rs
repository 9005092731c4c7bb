use super::{plan::MANAGED_BY, *};
use crate::{
    meta,
    servicepods::{HEADLESS, TRIGGER_TIME},
    slices::{MANAGED_BY_LABEL, SERVICE_NAME},
};
use api::annotations::{SCALED_TO_ZERO, WAKE_REQUESTED};
use k8s_openapi::api::discovery::v1::Endpoint;
use serde_json::{Value, json};

fn service(more: Value) -> Service {
    let mut value = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"team": "x"}},
        "spec": {"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
                 "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}});
    for (k, v) in more.as_object().into_iter().flatten() {
        value["spec"][k] = v.clone();
    }
    serde_json::from_value(value).expect("a Service")
}

fn pod(i: usize, ready: bool, more: Value) -> Arc<Pod> {
    let name = format!("p{i:03}");
    let mut value = json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", i / 200, i % 200 + 1),
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
    for (k, v) in more.as_object().into_iter().flatten() {
        for (k2, v2) in v.as_object().into_iter().flatten() {
            value[k][k2] = v2.clone();
        }
    }
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn pods(n: usize) -> Vec<Arc<Pod>> {
    (0..n).map(|i| pod(i, true, json!({}))).collect()
}

fn run(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Plan {
    with(service, pods, existing, |_| {})
}

/// Node n1 is in zone z1, and so on; node n0 is in none, and there are no others.
fn zone_of(node: &str) -> Option<Option<String>> {
    match node.strip_prefix('n')? {
        "0" => Some(None),
        number => Some(Some(format!("z{number}"))),
    }
}

fn with<'a>(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    change: impl FnOnce(&mut Facts<'a>),
) -> Plan {
    let mut facts = Facts { zone: &zone_of, trigger: None, asleep: None, ratios: None, hinted: false };
    change(&mut facts);
    plan(service, pods, existing, &facts)
}

/// As the server would have stored them.
fn stored(plan: &Plan) -> Vec<Arc<EndpointSlice>> {
    let named = |(i, s): (usize, &EndpointSlice)| {
        let mut s = s.clone();
        s.metadata.name.get_or_insert_with(|| format!("web-{i}"));
        s.metadata.uid.get_or_insert_with(|| format!("slice-{i}"));
        Arc::new(s)
    };
    plan.update.iter().chain(&plan.create).enumerate().map(named).collect()
}

fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
    slices.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect()
}

#[test]
fn a_slice_looks_like_upstreams() {
    let p = run(&service(json!({})), &pods(1), &[]);
    assert_eq!(
        serde_json::to_value(&p.create[0]).expect("JSON"),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"generateName": "web-", "namespace": "ns",
                "labels": {"team": "x", SERVICE_NAME: "web", MANAGED_BY_LABEL: MANAGED_BY},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s",
                    "controller": true, "blockOwnerDeletion": true}]},
            "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "n1", "zone": "z1",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p000", "uid": "p000"}}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        })
    );
}

#[test]
fn what_is_right_is_left_alone() {
    let s = service(json!({}));
    for n in [0, 1, 100, 250] {
        let existing = stored(&run(&s, &pods(n), &[]));
        assert_eq!(run(&s, &pods(n), &existing), Plan::default(), "{n}");
    }
}

#[test]
fn slices_hold_a_hundred_endpoints_at_most() {
    let s = service(json!({}));
    assert_eq!(sizes(&run(&s, &pods(250), &[]).create), [100, 100, 50]);
    let existing = stored(&run(&s, &pods(250), &[]));
    let grown = run(&s, &pods(260), &existing);
    assert_eq!((sizes(&grown.update), grown.create.len()), (vec![60], 0), "the one with room is filled");
    let grown = run(&s, &pods(310), &existing);
    assert_eq!((grown.update.len(), sizes(&grown.create)), (0, vec![60]), "no room for all: a new one");
}

#[test]
fn conditions_tell_ready_serving_and_terminating() {
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    for (publish, ready, more, expected) in [
        (false, true, json!({}), (true, true, false)),
        (false, false, json!({}), (false, false, false)),
        (false, true, deleting.clone(), (false, true, true)),
        (true, false, json!({}), (true, false, false)),
        (true, false, deleting, (true, false, true)),
    ] {
        let p = run(&service(json!({"publishNotReadyAddresses": publish})), &[pod(1, ready, more)], &[]);
        let c = p.create[0].endpoints.as_ref().expect("endpoints")[0].conditions.clone().expect("conditions");
        assert_eq!((c.ready, c.serving, c.terminating), (Some(expected.0), Some(expected.1), Some(expected.2)));
    }
}

#[test]
fn finished_pods_and_pods_without_address_are_no_endpoints() {
    let finished = pod(1, true, json!({"status": {"phase": "Succeeded"}}));
    let homeless = pod(2, true, json!({"status": {"podIP": null}}));
    let p = run(&service(json!({})), &[finished, homeless], &[]);
    assert_eq!(sizes(&p.create), [0], "an empty slice");
    assert_eq!(p.create[0].ports, None);
}

#[test]
fn the_empty_slice_makes_way_for_endpoints_and_comes_back() {
    let s = service(json!({}));
    let empty = stored(&run(&s, &[], &[]));
    let p = run(&s, &pods(1), &empty);
    assert_eq!((p.create.len(), sizes(&p.update), p.delete.len()), (0, vec![1], 0), "one write instead of two");
    assert_eq!(p.update[0].metadata.name.as_deref(), Some("web-0"));
    let full = stored(&p);
    let p = run(&s, &[], &full);
    assert_eq!((p.create.len(), sizes(&p.update), p.delete.len()), (0, vec![0], 0));
    assert_eq!(p.update[0].ports, None);
}

#[test]
fn pods_with_another_port_number_get_their_own_slice() {
    let mut other = (*pod(2, true, json!({}))).clone();
    other.spec.as_mut().expect("a spec").containers[0].ports.as_mut().expect("ports")[0].container_port = 9090;
    let p = run(&service(json!({})), &[pod(1, true, json!({})), Arc::new(other)], &[]);
    assert_eq!(sizes(&p.create), [1, 1]);
}

#[test]
fn headless_services_are_labelled_and_name_their_pods() {
    let s = service(json!({"clusterIP": "None", "ports": null}));
    let p = run(&s, &[pod(1, true, json!({"spec": {"hostname": "h", "subdomain": "web"}}))], &[]);
    assert_eq!(p.create[0].metadata.labels.as_ref().expect("labels")[HEADLESS], "");
    assert_eq!(p.create[0].endpoints.as_ref().expect("endpoints")[0].hostname.as_deref(), Some("h"));
}

#[test]
fn a_change_of_readiness_updates_the_slice_in_place() {
    let s = service(json!({}));
    let existing = stored(&run(&s, &pods(3), &[]));
    let mut changed = pods(3);
    changed[1] = pod(
        1,
        false,
        json!({"status": {"conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:05Z"}]}}),
    );
    let time = "2026-01-01T00:00:05Z";
    let p = with(&s, &changed, &existing, |facts| facts.trigger = Some(time.to_owned()));
    assert_eq!((p.create.len(), sizes(&p.update), p.delete.len()), (0, vec![3], 0));
    assert_eq!(meta::annotation(&p.update[0].metadata, TRIGGER_TIME), Some(time));
    let again = run(&s, &pods(3), &stored(&p));
    assert_eq!(meta::annotation(&again.update[0].metadata, TRIGGER_TIME), None, "an old time does not stay");
}

#[test]
fn slices_are_filled_and_replaced_as_upstream_does() {
    let s = service(json!({}));
    let existing = |sizes: &[usize]| -> Vec<Arc<EndpointSlice>> {
        let (mut slices, mut from) = (Vec::new(), 0);
        for (number, size) in sizes.iter().enumerate() {
            let of: Vec<_> = (from..from + size).map(|i| pod(i, true, json!({}))).collect();
            let mut slice = (*stored(&run(&s, &of, &[]))[0]).clone();
            slice.metadata.name = Some(format!("web-{number}"));
            slice.metadata.uid = Some(format!("slice-{number}"));
            slices.push(Arc::new(slice));
            from += size;
        }
        slices
    };
    let range = |from: usize, to: usize| -> Vec<Arc<Pod>> { (from..to).map(|i| pod(i, true, json!({}))).collect() };
    for (what, slices, pods, create, update, delete) in [
        ("the fullest with room is filled", vec![60, 90, 20], range(0, 175), vec![], vec![95], 0),
        ("what must change anyway is filled first", vec![50, 60], range(1, 130), vec![], vec![69], 0),
        ("a full new one, and the rest into an old one", vec![40], range(0, 200), vec![100], vec![100], 0),
        ("no slice is written to make fewer of them", vec![30, 30, 30], range(0, 90), vec![], vec![], 0),
        ("an empty one goes", vec![100, 10], range(0, 100), vec![], vec![], 1),
        ("all change: the old ones are used again", vec![100, 50], range(200, 350), vec![], vec![100, 50], 0),
    ] {
        let p = run(&s, &pods, &existing(&slices));
        let sorted = |slices: &[EndpointSlice]| {
            let mut sizes = sizes(slices);
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            sizes
        };
        assert_eq!((sorted(&p.create), sorted(&p.update), p.delete.len()), (create, update, delete), "{what}");
    }
}

#[test]
fn a_slice_of_a_service_before_with_the_same_name_is_not_used_again() {
    let s = service(json!({}));
    let mut old = (*stored(&run(&s, &pods(1), &[]))[0]).clone();
    old.metadata.owner_references.as_mut().expect("owners")[0].uid = "before".to_owned();
    let p = run(&s, &pods(1), &[Arc::new(old)]);
    assert_eq!((sizes(&p.create), p.update.len(), p.delete.len()), (vec![1], 0, 1));
}

#[test]
fn a_pod_of_a_node_that_does_not_exist_is_left_out_unless_it_is_published_anyway() {
    let lost = pod(1, true, json!({"spec": {"nodeName": "gone"}}));
    let p = run(&service(json!({})), &[lost.clone(), pod(2, true, json!({}))], &[]);
    assert_eq!((sizes(&p.create), p.nodeless), (vec![1], vec![("p001".to_owned(), "gone".to_owned())]));
    let p = run(&service(json!({"publishNotReadyAddresses": true})), &[lost], &[]);
    assert_eq!((sizes(&p.create), p.nodeless.len()), (vec![1], 0));
}

#[test]
fn each_family_has_slices_of_its_own() {
    let s = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
    let both = pod(1, true, json!({"status": {"podIPs": [{"ip": "10.1.0.1"}, {"ip": "2001:db8::1"}]}}));
    let p = run(&s, &[both], &[]);
    let of = |p: &Plan| -> Vec<(String, usize)> {
        p.create.iter().map(|s| (s.address_type.clone(), s.endpoints.as_ref().map_or(0, Vec::len))).collect()
    };
    assert_eq!(of(&p), [("IPv4".to_owned(), 1), ("IPv6".to_owned(), 1)]);
    let single = run(&service(json!({})), &[], &stored(&p));
    assert_eq!(single.delete.iter().map(|s| s.address_type.as_str()).collect::<Vec<_>>(), ["IPv6"]);
}

fn on_node(i: usize, node: usize, ready: bool) -> Arc<Pod> {
    pod(i, ready, json!({"spec": {"nodeName": format!("n{node}")}}))
}

/// The hints of the endpoints of a plan, by the name of the pod: `zone/node`.
fn hints(p: &Plan) -> Vec<String> {
    let one = |e: &Endpoint| {
        let name = e.target_ref.as_ref().and_then(|r| r.name.clone()).expect("a name");
        let hints = e.hints.clone().unwrap_or_default();
        let zones: Vec<String> = hints.for_zones.into_iter().flatten().map(|z| z.name).collect();
        let nodes: Vec<String> = hints.for_nodes.into_iter().flatten().map(|n| n.name).collect();
        format!("{name} {}/{}", zones.join(","), nodes.join(","))
    };
    let mut all: Vec<String> =
        p.create.iter().chain(&p.update).flat_map(|s| s.endpoints.iter().flatten()).map(one).collect();
    all.sort();
    all
}

#[test]
fn traffic_distribution_gives_ready_endpoints_hints_of_their_own_place() {
    let pods = [on_node(1, 1, true), on_node(2, 2, true), on_node(3, 1, false), on_node(4, 0, true)];
    let of = |distribution: &str| service(json!({"trafficDistribution": distribution}));
    for (distribution, wanted) in [
        ("PreferClose", ["p001 z1/", "p002 z2/", "p003 /", "p004 /"]),
        ("PreferSameZone", ["p001 z1/", "p002 z2/", "p003 /", "p004 /"]),
        ("PreferSameNode", ["p001 z1/n1", "p002 z2/n2", "p003 /", "p004 /n0"]),
        ("Other", ["p001 /", "p002 /", "p003 /", "p004 /"]),
    ] {
        let p = run(&of(distribution), &pods, &[]);
        assert_eq!(hints(&p), wanted, "{distribution}");
        assert_eq!(run(&of(distribution), &pods, &stored(&p)), Plan::default(), "{distribution}: once is enough");
    }
    let near = stored(&run(&of("PreferSameNode"), &pods, &[]));
    let zone = run(&of("PreferClose"), &pods, &near);
    assert_eq!((zone.create.len(), hints(&zone)[0].as_str()), (0, "p001 z1/"), "another value changes the slice");
    assert_eq!(hints(&run(&service(json!({})), &pods, &near))[0], "p001 /", "no value takes the hints away");
}

fn auto() -> Service {
    let mut service = service(json!({"trafficDistribution": "PreferClose"}));
    let annotations = [("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned())];
    service.metadata.annotations = Some(annotations.into());
    service
}

fn node(name: &str, cpu: &str, ready: bool, labels: Value) -> Arc<Node> {
    let status = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": status}]}}))
        .expect("a Node"),
    )
}

fn in_zone(name: &str, cpu: &str, zone: &str) -> Arc<Node> {
    node(name, cpu, true, json!({"topology.kubernetes.io/zone": zone}))
}

#[test]
fn the_share_of_a_zone_is_that_of_its_nodes_cpu() {
    let ratio = |nodes: &[Arc<Node>]| -> Option<Vec<(String, i64)>> {
        let percent = |(zone, ratio): (String, f64)| (zone, (ratio * 100.0).round() as i64);
        Some(topology::ratios(nodes)?.into_iter().map(percent).collect())
    };
    let (a, b) = (in_zone("a", "1", "z1"), in_zone("b", "3000m", "z2"));
    let wanted = Some(vec![("z1".to_owned(), 25), ("z2".to_owned(), 75)]);
    assert_eq!(ratio(&[a.clone(), b.clone()]), wanted);
    let master = node("m", "9", true, json!({"node-role.kubernetes.io/control-plane": ""}));
    let down = node("d", "9", false, json!({"topology.kubernetes.io/zone": "z1"}));
    assert_eq!(ratio(&[a.clone(), b.clone(), master, down]), wanted, "neither control planes nor what is not ready");
    assert_eq!(ratio(&[a.clone(), in_zone("c", "1", "z1")]), None, "one zone");
    assert_eq!(ratio(&[a.clone(), b.clone(), node("e", "1", true, json!({}))]), None, "a node of no zone");
    assert_eq!(ratio(&[a, b, in_zone("f", "0", "z1")]), None, "no CPU");
}

#[test]
fn hints_follow_the_share_of_cpu_with_upstreams_events() {
    let ratios = topology::ratios(&[in_zone("a", "1", "z1"), in_zone("b", "1", "z2"), in_zone("c", "1", "z3")]);
    let s = auto();
    let go = |pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>], hinted: bool| {
        with(&s, pods, existing, |facts| (facts.ratios, facts.hinted) = (ratios.as_ref(), hinted))
    };
    let events =
        |p: &Plan| -> Vec<String> { p.events.iter().map(|(_, reason, text)| format!("{reason} {text}")).collect() };
    let one_each = [on_node(1, 1, true), on_node(2, 2, true), on_node(3, 3, true)];
    let p = go(&one_each, &[], false);
    assert_eq!(hints(&p), ["p001 z1/", "p002 z2/", "p003 z3/"]);
    assert_eq!(events(&p), ["TopologyAwareHintsEnabled Topology Aware Hints has been enabled, addressType: IPv4"]);
    let again = go(&one_each, &stored(&p), true);
    assert_eq!((again.update.len(), again.events.len()), (0, 0), "hints that can stay do");
    let uneven = [
        on_node(1, 1, true),
        on_node(2, 1, true),
        on_node(3, 2, true),
        on_node(4, 2, true),
        on_node(5, 1, true),
        on_node(6, 1, true),
    ];
    let p = go(&uneven, &[], false);
    let to_third = hints(&p).iter().filter(|hint| hint.ends_with(" z3/")).count();
    assert_eq!(to_third, 2, "zones with more give to the one with none: {:?}", hints(&p));
    assert_eq!(p.zones, [Zones::from([("z1".to_owned(), 2), ("z2".to_owned(), 2), ("z3".to_owned(), 2)])]);
    for (what, pods, told) in [
        (
            "fewer than zones",
            vec![on_node(1, 1, true), on_node(2, 2, true)],
            "Insufficient number of endpoints (2 endpoints, 3 zones)",
        ),
        ("none is ready", vec![on_node(1, 1, false)], "Insufficient number of endpoints (0 endpoints, 3 zones)"),
        (
            "no even share",
            (1..=4).map(|i| on_node(i, i % 3 + 1, true)).collect(),
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones)",
        ),
        (
            "a node of no zone",
            [one_each.to_vec(), vec![on_node(4, 0, true), on_node(5, 1, true), on_node(6, 1, true)]].concat(),
            "One or more endpoints do not have a zone specified",
        ),
    ] {
        let p = go(&pods, &[], true);
        assert_eq!(events(&p), [format!("TopologyAwareHintsDisabled {told}, addressType: IPv4")], "{what}");
        assert!(hints(&p).iter().all(|hint| hint.ends_with(" /")), "{what}: {:?}", hints(&p));
    }
    let unknown = with(&s, &one_each, &[], |_| {});
    let text = "TopologyAwareHintsDisabled Insufficient Node information: allocatable CPU or zone not specified on one or more nodes, addressType: IPv4";
    assert_eq!(events(&unknown), [text]);
    let off = with(&service(json!({})), &one_each, &stored(&go(&one_each, &[], false)), |facts| facts.hinted = true);
    assert_eq!(events(&off), ["TopologyAwareHintsDisabled Topology Aware Hints has been disabled, addressType: IPv4"]);
    assert_eq!((off.update.len(), hints(&off)[0].as_str()), (1, "p001 /"));
}

#[test]
fn a_service_is_overloaded_when_a_zone_has_too_few_for_its_share() {
    let ratios = topology::ratios(&[in_zone("a", "1", "z1"), in_zone("b", "1", "z2")]);
    let zones = |a: usize, b: usize| Zones::from([("z1".to_owned(), a), ("z2".to_owned(), b)]);
    for (zones, ratios, wanted) in [
        (zones(3, 3), ratios.as_ref(), false),
        (zones(5, 1), ratios.as_ref(), true),
        (Zones::from([("z1".to_owned(), 3)]), ratios.as_ref(), true),
        (Zones::new(), ratios.as_ref(), false),
        (zones(3, 3), None, true),
    ] {
        assert_eq!(topology::is_overloaded(&zones, ratios), wanted, "{zones:?} {ratios:?}");
    }
}

#[test]
fn slices_tell_of_sleeping_deployments_until_they_serve() {
    let s = service(json!({}));
    let asleep = |pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]| {
        with(&s, pods, existing, |facts| facts.asleep = Some("web".to_owned()))
    };
    let marked = |slice: &EndpointSlice| {
        [SCALED_TO_ZERO, WAKE_REQUESTED].map(|key| meta::annotation(&slice.metadata, key).map(str::to_owned))
    };
    let awake = stored(&run(&s, &pods(1), &[]));
    let p = asleep(&pods(1), &awake);
    assert_eq!(marked(&p.update[0]), [Some("web".to_owned()), None], "before the pods go");
    let p = asleep(&[], &stored(&p));
    assert_eq!((sizes(&p.update), marked(&p.update[0])), (vec![0], [Some("web".to_owned()), None]));
    let mut requested = (*stored(&p)[0]).clone();
    requested.metadata.annotations.get_or_insert_default().insert(WAKE_REQUESTED.to_owned(), "now".to_owned());
    let requested = [Arc::new(requested)];
    assert_eq!(asleep(&[], &requested), Plan::default(), "the request stays");
    let p = asleep(&[pod(1, false, json!({}))], &requested);
    assert_eq!(marked(&p.update[0]), [Some("web".to_owned()), Some("now".to_owned())], "also while it starts");
    let p = run(&s, &pods(1), &stored(&p));
    assert_eq!(marked(&p.update[0]), [None, None], "both end together");
}
