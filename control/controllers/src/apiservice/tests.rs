//! Tables: what the condition says, and which APIServices custom resources have.

use super::*;
use serde_json::{Value, json};

fn made<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

#[test]
fn each_check_has_upstreams_reason_and_text() {
    let reference: ServiceReference = made(json!({"namespace": "n", "name": "s", "port": 443}));
    let ports = json!([{"name": "web", "port": 80}, {"name": "https", "port": 443}]);
    let service = |spec: Value| -> Service { made(json!({"metadata": {}, "spec": spec})) };
    let good = service(json!({"type": "ClusterIP", "ports": ports}));
    let slice = |conditions: Value, port: Value| -> Arc<EndpointSlice> {
        Arc::new(made(json!({"metadata": {}, "addressType": "IPv4", "ports": [port],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": conditions}]})))
    };
    let https = json!({"name": "https", "port": 8443});
    let ready = slice(json!({"ready": true}), https.clone());
    let asleep: Arc<EndpointSlice> = Arc::new(made(json!({"addressType": "IPv4", "endpoints": [],
        "metadata": {"annotations": {SCALED_TO_ZERO: "d"}}})));
    let missing = "endpointslices for service/s in \"n\" have no addresses with port name \"https\"";
    for (service, slices, expected) in [
        (None, vec![], Some((false, "ServiceNotFound", "service/s in \"n\" is not present"))),
        (
            Some(service(json!({"type": "ClusterIP", "ports": [{"port": 80}]}))),
            vec![ready.clone()],
            Some((false, "ServicePortError", "service/s in \"n\" is not listening on port 443")),
        ),
        (
            Some(good.clone()),
            vec![],
            Some((false, "EndpointsNotFound", "cannot find endpointslices for service/s in \"n\"")),
        ),
        (
            Some(good.clone()),
            vec![slice(json!({"ready": false}), https.clone())],
            Some((false, "MissingEndpoints", missing)),
        ),
        (
            Some(good.clone()),
            vec![slice(json!({"ready": true}), json!({"name": "web", "port": 8080}))],
            Some((false, "MissingEndpoints", missing)),
        ),
        (
            Some(good.clone()),
            vec![slice(json!({"ready": true}), json!({"name": "https"}))],
            Some((false, "MissingEndpoints", missing)),
        ),
        (Some(good.clone()), vec![asleep], Some((true, "Passed", "all checks passed"))),
        (Some(good.clone()), vec![slice(json!({"ready": false}), https), ready.clone()], None),
        (Some(good), vec![slice(json!({}), json!({"name": "https", "port": 1}))], None),
        (Some(service(json!({"type": "ExternalName"}))), vec![], None),
    ] {
        let verdict = judge(Some(&reference), service.as_ref(), &slices);
        let verdict = verdict.as_ref().map(|(available, reason, text)| (*available, *reason, text.as_str()));
        assert_eq!(verdict, expected);
    }
    let local = judge(None, None, &[]);
    assert_eq!(local, Some((true, "Local", "Local APIServices are always available".to_owned())));
}

#[test]
fn the_time_of_a_condition_is_that_of_its_status() {
    let at = |seconds: i64| Timestamp::from_second(seconds).expect("a time");
    let other: APIServiceCondition = made(json!({"type": "Other", "status": "True"}));
    let first = conditions(std::slice::from_ref(&other), passed(), at(1)).expect("new");
    assert_eq!((first.len(), &first[0]), (2, &other));
    assert_eq!(first[1].last_transition_time, Some(Time(at(1))));
    assert_eq!(conditions(&first, passed(), at(2)), None, "nothing has changed");
    let down = conditions(&first, failed("no answer"), at(3)).expect("down");
    assert_eq!((down[1].status.as_str(), &down[1].last_transition_time), ("False", &Some(Time(at(3)))));
    let still = conditions(&down, failed("another"), at(4)).expect("another text");
    assert_eq!((still[1].message.as_deref(), &still[1].last_transition_time), (Some("another"), &Some(Time(at(3)))));
}

#[test]
fn custom_resources_are_registered_while_a_definition_serves_them() {
    let definition = |served: bool| -> Arc<Definition> {
        Arc::new(made(json!({"metadata": {"name": "things.a.com"}, "spec": {"group": "a.com",
            "versions": [{"name": "v1", "served": served, "storage": true}]}})))
    };
    let stored = |label: &str, priority: i64| -> APIService {
        made(json!({"metadata": {"name": "v1.a.com", "labels": {MANAGED: label}}, "spec": {"group": "a.com",
            "version": "v1", "groupPriorityMinimum": priority, "versionPriority": 100}}))
    };
    for (stored, served, expected) in [
        (None, true, "create"),
        (None, false, "none"),
        (Some(stored("true", 1000)), true, "none"),
        (Some(stored("true", 5)), true, "update"),
        (Some(stored("true", 1000)), false, "delete"),
        (Some(stored("onstart", 5)), true, "none"),
        (Some(stored("other", 5)), false, "none"),
    ] {
        let shown = match register("v1.a.com", stored.as_ref(), &[definition(served)]) {
            None => "none",
            Some(Write::Create(new)) => {
                let labels = new.metadata.labels.clone().unwrap_or_default();
                assert_eq!((new.metadata.name.as_deref(), labels[MANAGED].as_str()), (Some("v1.a.com"), "true"));
                assert_eq!(
                    new.spec.map(|spec| (spec.group_priority_minimum, spec.version_priority)),
                    Some((1000, 100))
                );
                "create"
            }
            Some(Write::Update(spec)) => {
                assert_eq!(spec.group_priority_minimum, 1000);
                "update"
            }
            Some(Write::Delete) => "delete",
        };
        assert_eq!(shown, expected, "{stored:?} {served}");
    }
    assert_eq!(register("nodot", None, &[definition(true)]), None);
    assert_eq!(register("v2.a.com", None, &[definition(true)]), None);
}
