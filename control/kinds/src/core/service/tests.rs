//! Services through defaulting, preparation, reservation and validation, as the server does it.

use super::*;
use crate::testing::{self, context, errors, parse, row, update_errors};
use expect_test::expect;
use parking_lot::Mutex;
use server::Changes;
use std::{collections::BTreeMap, ops::Deref};

/// The IPAddresses that were written with Services.
#[derive(Default)]
struct Recorded(Mutex<BTreeMap<String, Arc<Object>>>);

impl Recorded {
    /// What the store does with the writes of a transaction.
    fn store(&self, companions: Vec<Companion>) {
        let mut all = self.0.lock();
        for companion in companions {
            let before = match &companion {
                Companion::Create(_, object) => all.insert(object.name().to_owned(), Arc::new(object.clone())),
                Companion::Delete(_, object) => all.remove(object.name()),
            };
            assert_eq!(before.is_some(), matches!(companion, Companion::Delete(..)), "{companion:?}");
        }
    }
}

impl Objects for Recorded {
    fn get(&self, _: &str, resource: &str, _: &str, name: &str) -> Option<Arc<Object>> {
        self.0.lock().get(name).filter(|_| resource == "ipaddresses").cloned()
    }

    fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<Object>> {
        Vec::new()
    }

    fn changes(&self, _: &str, _: &str) -> Changes {
        Changes::default()
    }
}

struct Cluster {
    services: Services,
    recorded: Arc<Recorded>,
}

impl Cluster {
    fn context(&self) -> Context {
        Context { objects: self.recorded.clone(), ..context() }
    }

    /// The IPAddresses and whose they are.
    fn recorded(&self) -> Vec<(String, String)> {
        let all = self.recorded.0.lock();
        let parent = |object: &Object| object.str_at(&["spec", "parentRef", "name"]).unwrap_or_default().to_owned();
        all.iter().map(|(ip, object)| (ip.clone(), parent(object))).collect()
    }
}

impl Deref for Cluster {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

fn services() -> Cluster {
    Cluster { services: Services::new(&testing::settings()), recorded: Arc::default() }
}

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

/// Create as the server does it: defaults, preparation, reservation (kept), validation.
fn create(services: &Cluster, text: &str) -> Result<Object, String> {
    let mut object = testing::created(&services.services, text);
    let mut reservation = services.reserve(&services.context(), &mut object, None).map_err(|s| s.message)?;
    testing::valid(&services.services, &object)?;
    services.recorded.store(reservation.take_companions());
    reservation.commit();
    Ok(object)
}

fn update(services: &Cluster, new: &Object, old: &Object) -> Result<Object, String> {
    let mut object = new.clone();
    services.default(&mut object);
    services.prepare_update(&context(), &mut object, old);
    let mut reservation = services.reserve(&services.context(), &mut object, Some(old)).map_err(|s| s.message)?;
    testing::valid(&services.services, &object)?;
    let causes = services.validate_update(&context(), &object, old);
    if let Some(cause) = causes.first() {
        return Err(cause.to_string());
    }
    services.recorded.store(reservation.take_companions());
    reservation.commit();
    Ok(object)
}

/// Delete as the server does it.
fn delete(services: &Cluster, object: &Object) {
    services.recorded.store(services.leaving(services.recorded.as_ref(), object));
    services.release(object);
}

#[test]
fn a_service_gets_an_address_and_defaults() {
    let mut made = create(&services(), WEB).unwrap();
    let ip = made.str_at(&["spec", "clusterIP"]).unwrap().to_owned();
    assert!(ip.starts_with("10.96."), "{ip}");
    made.set(&["spec", "clusterIP"], "IP");
    made.set(&["spec", "clusterIPs"], json!(["IP"]));
    expect![[r#"
        apiVersion: v1
        kind: Service
        metadata:
          name: web
          namespace: default
        spec:
          clusterIP: IP
          clusterIPs:
          - IP
          internalTrafficPolicy: Cluster
          ipFamilies:
          - IPv4
          ipFamilyPolicy: SingleStack
          ports:
          - port: 80
            protocol: TCP
            targetPort: 80
          selector:
            app: web
          sessionAffinity: None
          type: ClusterIP
        status:
          loadBalancer: {}
    "#]]
    .assert_eq(&testing::yaml(&made));
}

#[test]
fn addresses_are_taken_once_and_given_back() {
    let all = services();
    let asking = WEB.replace("selector:", "clusterIP: 10.96.0.10, selector:");
    let made = create(&all, &asking).unwrap();
    let second = create(&all, &asking.replace("name: web", "name: other"));
    assert_eq!(
        second.unwrap_err(),
        "Service \"other\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: provided IP is already allocated"
    );
    assert_eq!(all.recorded(), [("10.96.0.10".to_owned(), "web".to_owned())]);
    delete(&all, &made);
    assert_eq!(all.recorded(), []);
    create(&all, &asking).unwrap();
}

#[test]
fn an_ip_address_of_somebody_else_stays() {
    let all = services();
    let made = create(&all, WEB).unwrap();
    let ip = made.str_at(&["spec", "clusterIP"]).unwrap().to_owned();
    for change in [json!({"spec": {"parentRef": {"name": "other"}}}), json!({"metadata": {"finalizers": ["a/b"]}})] {
        let mut object = Object::clone(&all.recorded.get("", "ipaddresses", "", &ip).unwrap());
        json_patch(&mut object, &change);
        all.recorded.0.lock().insert(ip.clone(), Arc::new(object));
        assert!(all.leaving(all.recorded.as_ref(), &made).is_empty(), "{change}");
    }
}

fn json_patch(object: &mut Object, change: &Value) {
    for (part, fields) in change.as_object().into_iter().flatten() {
        for (field, value) in fields.as_object().into_iter().flatten() {
            object.set(&[part, field], value.clone());
        }
    }
}

#[test]
fn a_refused_write_gives_back_what_it_took() {
    let all = services();
    let bad = "{metadata: {name: web}, spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}, {port: 81, nodePort: 80}]}}";
    let refused = create(&all, bad).unwrap_err();
    assert_eq!(
        refused,
        "Service \"web\" is invalid: spec.ports[1].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
    let good =
        "{metadata: {name: web}, spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]}}";
    create(&all, good).unwrap();
    assert!(create(&all, good).unwrap_err().contains("provided IP is already allocated"));
    let same_port = "{metadata: {name: web2}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}}";
    assert_eq!(
        create(&all, same_port).unwrap_err(),
        "Service \"web2\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
}

#[test]
fn allocations_are_rebuilt_from_what_is_stored() {
    let stored = create(
        &services(),
        "{metadata: {name: web}, spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]}}",
    )
    .unwrap();
    let fresh = services();
    fresh.load(&stored);
    let again = create(&fresh, "{metadata: {name: b}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}");
    assert!(again.unwrap_err().contains("provided IP is already allocated"));
}

#[test]
fn a_put_without_allocated_values_keeps_them() {
    let all = services();
    let made = create(&all, &WEB.replace("selector:", "type: NodePort, selector:")).unwrap();
    let again = update(&all, &parse(&WEB.replace("selector:", "type: NodePort, selector:")), &made).unwrap();
    assert_eq!(again, made);
}

#[test]
fn tcp_and_udp_of_one_port_share_a_node_port() {
    let text = "{metadata: {name: dns}, spec: {type: NodePort, ports: [{name: a, port: 53, protocol: UDP}, {name: b, port: 53, protocol: TCP}]}}";
    let made = create(&services(), text).unwrap();
    let ports = made.list_at(&["spec", "ports"]);
    assert_eq!(ports[0]["nodePort"], ports[1]["nodePort"]);
}

#[test]
fn a_change_of_type_gives_back_what_it_no_longer_needs() {
    let all = services();
    let made = create(
        &all,
        "{metadata: {name: web}, spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]}}",
    )
    .unwrap();
    let mut new = made.clone();
    new.set(&["spec", "type"], "ExternalName");
    new.set(&["spec", "externalName"], "example.com");
    let named = update(&all, &new, &made).unwrap();
    assert_eq!((named.at(&["spec", "clusterIP"]), all.recorded()), (None, vec![]));
    assert_eq!(named.at(&["spec", "ports"]).unwrap()[0].get("nodePort"), None);
    create(
        &all,
        "{metadata: {name: b}, spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]}}",
    )
    .unwrap();
    let mut back = named.clone();
    back.set(&["spec", "type"], "ClusterIP");
    let back = update(&all, &back, &named).unwrap();
    let ip = back.str_at(&["spec", "clusterIP"]).unwrap().to_owned();
    assert!(ip.starts_with("10.96.") && all.recorded().contains(&(ip, "web".to_owned())));
}

#[test]
fn an_address_does_not_change() {
    let all = services();
    let made = create(&all, WEB).unwrap();
    let mut new = made.clone();
    new.set(&["spec", "clusterIP"], "10.96.0.99");
    assert_eq!(
        update(&all, &new, &made).unwrap_err(),
        "spec.clusterIPs[0]: Invalid value: [\"10.96.0.99\"]: may not change once set"
    );
}

#[test]
fn headless_services_without_selector_are_of_both_families() {
    let made = create(&services(), "{metadata: {name: h}, spec: {clusterIP: None}}").unwrap();
    assert_eq!(made.at(&["spec", "ipFamilies"]), Some(&json!(["IPv4", "IPv6"])));
    assert_eq!(made.str_at(&["spec", "ipFamilyPolicy"]), Some("RequireDualStack"));
}

#[test]
fn every_violation_is_named() {
    let text = "
metadata: {name: web, namespace: default}
spec:
  sessionAffinity: Sticky
  externalTrafficPolicy: Local
  ports: [{port: 0, nodePort: 30000}, {name: a, port: 80, protocol: XTP, targetPort: A_}, {name: a, port: 80, protocol: XTP}]
";
    expect![[r#"
        spec.ports[0].name: Required value
        spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
        spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive
        spec.ports[1].protocol: Unsupported value: "XTP": supported values: "SCTP", "TCP", "UDP"
        spec.ports[1].targetPort: Invalid value: "A_": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
        spec.ports[1].targetPort: Invalid value: "A_": must contain at least one letter (a-z)
        spec.ports[2].name: Duplicate value: "a"
        spec.ports[2].protocol: Unsupported value: "XTP": supported values: "SCTP", "TCP", "UDP"
        spec.sessionAffinity: Unsupported value: "Sticky": supported values: "ClientIP", "None"
        spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
        spec.ports[2]: Duplicate value: {"Name":"","Protocol":"XTP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}
        spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services
    "#]]
    .assert_eq(&errors(&services().services, text));
}

#[test]
fn class_and_health_check_port_stay() {
    let all = services();
    let old = parse(
        "{spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001, loadBalancerClass: a/b}}",
    );
    let new = parse(
        "{spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30002, loadBalancerClass: a/c}}",
    );
    expect![[r#"
        spec.loadBalancerClass: Invalid value: "a/c": may not change once set
        spec.healthCheckNodePort: Forbidden: field is immutable
    "#]]
    .assert_eq(&update_errors(&all.services, &new, &old));
}

#[test]
fn rows_show_addresses_and_ports() {
    let all = services();
    let text = "
metadata: {name: web, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {type: NodePort, clusterIPs: [10.96.0.1], selector: {b: '2', a: '1'}, ports: [{port: 80, nodePort: 30080, protocol: TCP}, {port: 53, protocol: UDP}]}
";
    assert_eq!(row(&all.services, text), "web | NodePort | 10.96.0.1 | <none> | 80:30080/TCP,53/UDP | 60s | a=1,b=2");
    let balanced = "{metadata: {name: lb}, spec: {type: LoadBalancer, externalIPs: [1.2.3.4]}, status: {loadBalancer: {ingress: [{ip: 9.9.9.9}, {hostname: h}]}}}";
    assert_eq!(
        row(&all.services, balanced),
        "lb | LoadBalancer | <none> | 9.9.9.9,h,1.2.3.4 | <none> | <unknown> | <none>"
    );
    assert_eq!(
        row(&all.services, "{metadata: {name: lb}, spec: {type: LoadBalancer}}"),
        "lb | LoadBalancer | <none> | <pending> | <none> | <unknown> | <none>"
    );
    assert_eq!(
        row(&all.services, "{metadata: {name: e}, spec: {type: ExternalName, externalName: example.com}}"),
        "e | ExternalName | <none> | example.com | <none> | <unknown> | <none>"
    );
}

#[test]
fn odd_fields_are_warned_about() {
    let object = parse(
        "{metadata: {name: h}, spec: {type: ClusterIP, clusterIP: None, clusterIPs: [None], sessionAffinity: ClientIP, externalName: x, trafficDistribution: PreferClose}}",
    );
    expect![[r#"
        spec.SessionAffinity is ignored for headless services
        spec.externalName is ignored when spec.type is not "ExternalName"
        spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"
        spec.trafficDistribution: not honoured by sampan yet; traffic goes to all endpoints alike"#]]
    .assert_eq(&services().warnings(&context(), &object, None).join("\n"));
}

#[test]
fn what_is_not_done_yet_is_said() {
    let object = parse(
        "{metadata: {name: h}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, internalTrafficPolicy: Local, trafficDistribution: PreferSameNode, ports: [{port: 1, protocol: TCP}, {port: 2, protocol: SCTP}]}}",
    );
    expect![[r#"
        spec.type: sampan assigns no load balancer yet; the Service is reachable by its node ports
        spec.externalTrafficPolicy: not honoured by sampan yet; traffic goes to endpoints of all nodes
        spec.internalTrafficPolicy: not honoured by sampan yet; traffic goes to endpoints of all nodes
        spec.trafficDistribution: not honoured by sampan yet; traffic goes to all endpoints alike
        spec.ports[1].protocol: sampan does not carry SCTP yet"#]]
    .assert_eq(&services().warnings(&context(), &object, None).join("\n"));
    assert!(services().warnings(&context(), &object, Some(&object)).is_empty());
}

#[test]
fn what_stood_among_the_addresses_before_is_refused_for_its_place_alone() {
    let all = services();
    let headless = WEB.replace("{selector", "{clusterIP: None, selector");
    let old = create(&all, &headless).unwrap();
    let mut twice = old.clone();
    twice.set(&["spec", "clusterIPs"], json!(["None", "None"]));
    let place = "spec.clusterIPs: Invalid value: [\"None\",\"None\"]: 'None' must be the first and only value";
    assert_eq!(update(&all, &twice, &old).unwrap_err(), format!("Service \"web\" is invalid: {place}"));
    let new =
        create(&all, &headless.replace("clusterIP: None", "clusterIP: None, clusterIPs: [None, None]")).unwrap_err();
    assert!(
        new.contains(place) && new.contains("spec.clusterIPs[1]: Invalid value: \"None\": must be a valid IP address"),
        "{new}"
    );
}
