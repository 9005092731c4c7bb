//! Objects that are as bad as the limits of a request (3 MiB, lists of 2,000 elements) allow, and all that is done to them on a write
//! and a read. What is quadratic takes minutes here, what is not a moment.

use crate::{
    admissionregistration::{
        mutatingadmissionpolicy, mutatingwebhookconfiguration, validatingadmissionpolicy,
        validatingadmissionpolicybinding,
    },
    apiregistration::apiservice,
    apps::{daemonset, deployment, statefulset},
    batch::job,
    core::{endpoints, node, pod, service},
    discovery::endpointslice,
    flowcontrol::{flowschema, prioritylevelconfiguration},
    networking::{ingress, networkpolicy},
    node::runtimeclass,
    resource::{deviceclass, resourceclaim, resourceclaimtemplate, resourceslice},
    storage::csinode,
    testing::{self, context, now},
};
use api::{Cause, GroupVersionKind, Object, invalid};
use serde_json::{Map, Value, json};
use server::{Strategy, TableConvertor};
use std::time::{Duration, Instant};

/// Elements that a list may have.
const LIST: usize = 2_000;
/// Bytes that a body may have.
const BODY: usize = 3 << 20;
/// Far more than any of these takes, even unoptimised beside other tests.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

fn list(count: usize, make: impl Fn(usize) -> Value) -> Value {
    (0..count).map(make).collect()
}

fn map(count: usize, key: impl Fn(usize) -> String, value: &Value) -> Value {
    Value::Object((0..count).map(|i| (key(i), value.clone())).collect::<Map<_, _>>())
}

/// As many elements as a body can hold, each with a long list of objects: the parser bounds their number in all.
fn filling(make: impl Fn(usize) -> Value) -> Value {
    let size = make(0).to_string().len() + 1;
    list((BODY / size).clamp(1, 95), make)
}

/// All that a write and a table do, and the answer if it is refused.
#[allow(clippy::disallowed_methods)] // measures, but decides nothing by it
fn all_of_it(what: &str, strategy: &(impl Strategy + TableConvertor), object: Value) -> Vec<Cause> {
    let mut object = Object::from_value(object).expect("an object");
    let begin = Instant::now();
    let context = context();
    strategy.default(&mut object);
    strategy.prepare_create(&context, &mut object);
    let mut causes = strategy.validate(&context, &object);
    let old = object.clone();
    let mut new = object.clone();
    new.set(&["metadata", "annotations"], json!({"a": "b"}));
    strategy.prepare_update(&context, &mut new, &old);
    causes.extend(strategy.validate_update(&context, &new, &old));
    strategy.validate_status(&context, &new, &old);
    let warnings = strategy.warnings(&context, &object, None);
    strategy.row(&object, now());
    let answer = invalid(&GroupVersionKind::new("", "v1", "Kind"), "x", &causes).to_json();
    let took = begin.elapsed();
    println!(
        "{what}: {took:?}, {} causes, {} warnings, answer {} KiB",
        causes.len(),
        warnings.len(),
        answer.len() >> 10
    );
    assert!(took < TEST_TIMEOUT, "{what}: {took:?}");
    assert!(answer.len() < 1 << 20, "{what}: an answer of {} bytes", answer.len());
    assert!(warnings.len() < 3 * LIST, "{what}: {} warnings", warnings.len());
    causes
}

fn a_pod(spec: Value) -> Value {
    let mut whole = json!({"containers": [{"name": "c", "image": "i"}]});
    for (key, value) in spec.as_object().expect("fields") {
        whole[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": whole})
}

fn named(prefix: &str, i: usize) -> String {
    format!("{prefix}{i}")
}

#[test]
fn volumes_and_their_mounts_are_looked_up() {
    let volumes = list(LIST, |i| json!({"name": named("v", i), "emptyDir": {}}));
    let mounts = || list(LIST, |i| json!({"name": named("v", i), "mountPath": format!("/{i}")}));
    let container = |c| json!({"name": named("c", c), "image": "i", "volumeMounts": mounts()});
    let spec = json!({"volumes": volumes, "containers": filling(container)});
    assert_eq!(all_of_it("mounts", &pod::Pods(Default::default()), a_pod(spec)), []);
    let claims = list(LIST, |i| json!({"name": named("v", i), "persistentVolumeClaim": {"claimName": "x"}}));
    let devices = || list(LIST, |i| json!({"name": named("v", i), "devicePath": format!("/{i}")}));
    let container = |c| json!({"name": named("c", c), "image": "i", "volumeDevices": devices()});
    let spec = json!({"volumes": claims, "containers": filling(container)});
    assert_eq!(all_of_it("devices", &pod::Pods(Default::default()), a_pod(spec)), []);
    let container = |c| json!({"name": named("c", c), "image": "i", "volumeMounts": list(LIST, |_| json!({"name": "w", "mountPath": "/w"}))});
    assert!(
        !all_of_it("unknown volumes", &pod::Pods(Default::default()), a_pod(json!({"containers": filling(container)})))
            .is_empty()
    );
    let keys = || {
        list(LIST, |i| {
            let key = json!({"volumeName": named("v", i), "path": "p", "key": "k"});
            json!({"name": named("e", i), "valueFrom": {"fileKeyRef": key}})
        })
    };
    let volumes = list(LIST, |i| json!({"name": named("v", i), "emptyDir": {}}));
    let container = |c| json!({"name": named("c", c), "image": "i", "env": keys()});
    let spec = json!({"volumes": volumes, "containers": filling(container)});
    assert_eq!(all_of_it("variables from files", &pod::Pods(Default::default()), a_pod(spec)), []);
    let files = |s| json!({"configMap": {"name": "m", "items": list(LIST, |i| json!({"key": "k", "path": format!("{s}/{i}")}))}});
    let spec = json!({"volumes": [{"name": "v", "projected": {"sources": filling(files)}}]});
    assert_eq!(all_of_it("projected", &pod::Pods(Default::default()), a_pod(spec)), []);
}

#[test]
fn containers_and_their_lists_are_looked_up() {
    for kind in ["containers", "initContainers"] {
        let containers = list(LIST, |i| json!({"name": named("c", i), "image": "i"}));
        assert_eq!(all_of_it(kind, &pod::Pods(Default::default()), a_pod(json!({ kind: containers }))), []);
    }
    let nothing = list(LIST, |_| json!({}));
    assert!(
        !all_of_it("empty containers", &pod::Pods(Default::default()), a_pod(json!({ "containers": nothing })))
            .is_empty()
    );
    let env = || list(LIST, |i| json!({"name": named("e", i), "value": "v"}));
    let container = |c| json!({"name": named("c", c), "image": "i", "env": env()});
    assert_eq!(all_of_it("env", &pod::Pods(Default::default()), a_pod(json!({"containers": filling(container)}))), []);
    for empty in ["env", "ports", "volumeMounts", "envFrom", "resizePolicy", "volumeDevices"] {
        let container = |c| json!({"name": named("c", c), "image": "i", empty: list(LIST, |_| json!({}))});
        let spec = json!({"containers": filling(container)});
        assert!(!all_of_it(&format!("empty {empty}"), &pod::Pods(Default::default()), a_pod(spec)).is_empty());
    }
    let same =
        |c| json!({"name": named("c", c), "image": "i", "env": list(LIST, |_| json!({"name": "E", "value": "v"}))});
    assert_eq!(
        all_of_it("one variable", &pod::Pods(Default::default()), a_pod(json!({"containers": filling(same)}))),
        []
    );
    for (what, host) in [("inner ports", false), ("host ports", true)] {
        let port = |c: usize, i: usize| match host {
            true => json!({"containerPort": 80, "hostPort": (c * LIST + i) % 65_535 + 1}),
            false => json!({"containerPort": i + 1, "name": named("p", i)}),
        };
        let container = |c| json!({"name": named("c", c), "image": "i", "ports": list(LIST, |i| port(c, i))});
        all_of_it(what, &pod::Pods(Default::default()), a_pod(json!({"containers": filling(container)})));
    }
    let port = |i| json!({"containerPort": 80, "hostPort": 80, "hostIP": format!("10.0.{}.{}", i / 250, i % 250)});
    let container = |c| json!({"name": named("c", c), "image": "i", "ports": list(LIST, port)});
    all_of_it(
        "ports of many addresses",
        &pod::Pods(Default::default()),
        a_pod(json!({"containers": filling(container)})),
    );
    let claims = list(LIST, |i| json!({"name": named("r", i), "resourceClaimName": "x"}));
    let asked = || list(LIST, |i| json!({"name": named("s", i)}));
    let container = |c| json!({"name": named("c", c), "image": "i", "resources": {"claims": asked()}});
    let spec = json!({"resourceClaims": claims, "containers": filling(container)});
    assert!(!all_of_it("claims", &pod::Pods(Default::default()), a_pod(spec)).is_empty());
    let amounts = map(100_000, |i| format!("example.com/{i}"), &json!("1"));
    let containers =
        list(LIST, |i| json!({"name": named("c", i), "image": "i", "resources": {"requests": {"cpu": "1m"}}}));
    let spec = json!({"resources": {"requests": amounts}, "containers": containers});
    assert!(!all_of_it("resources of the pod", &pod::Pods(Default::default()), a_pod(spec)).is_empty());
}

#[test]
fn scheduling_rules_are_looked_up() {
    let keys = |prefix: &'static str| list(LIST, move |i| json!(named(prefix, i)));
    let constraint = |i: usize| json!({"maxSkew": 1, "topologyKey": named("t", i), "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}});
    let spec = json!({"topologySpreadConstraints": list(LIST, constraint)});
    assert_eq!(all_of_it("constraints", &pod::Pods(Default::default()), a_pod(spec)), []);
    let with_keys = |i: usize| {
        let mut value = constraint(i);
        value["matchLabelKeys"] = keys("a");
        value["mismatchLabelKeys"] = keys("b");
        value
    };
    let spec = json!({"topologySpreadConstraints": filling(with_keys)});
    assert_eq!(all_of_it("label keys", &pod::Pods(Default::default()), a_pod(spec)), []);
    for (what, item) in [
        ("schedulingGates", json!({"name": "g"})),
        ("tolerations", json!({"key": "k", "operator": "Exists"})),
        ("hostAliases", json!({"ip": "10.0.0.1", "hostnames": ["h"]})),
        ("imagePullSecrets", json!({"name": "s"})),
    ] {
        let distinct = |i: usize| {
            let mut value = item.clone();
            for (key, field) in [("schedulingGates", "name"), ("tolerations", "key"), ("imagePullSecrets", "name")] {
                if key == what {
                    value[field] = named("n", i).into();
                }
            }
            value
        };
        assert_eq!(all_of_it(what, &pod::Pods(Default::default()), a_pod(json!({ what: list(LIST, distinct) }))), []);
    }
    let sysctls = list(LIST, |i| json!({"name": named("kernel.x", i), "value": "1"}));
    assert_eq!(
        all_of_it("sysctls", &pod::Pods(Default::default()), a_pod(json!({"securityContext": {"sysctls": sysctls}}))),
        []
    );
    let term = |_| json!({"matchExpressions": list(LIST, |_| json!({"key": "-"}))});
    let required = json!({"nodeSelectorTerms": filling(term)});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
    assert!(!all_of_it("terms", &pod::Pods(Default::default()), a_pod(json!({ "affinity": affinity }))).is_empty());
    let labels = map(200_000, |i| format!("-{i}"), &json!("-"));
    assert!(
        !all_of_it("bad labels", &pod::Pods(Default::default()), a_pod(json!({ "nodeSelector": labels }))).is_empty()
    );
}

#[test]
fn other_kinds_are_looked_up_too() {
    let services = service::Services::new(&testing::settings());
    let object = |kind: &str, rest: Value| {
        let mut value =
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "namespace": "d", "uid": "u"}});
        for (key, field) in rest.as_object().expect("fields") {
            value[key] = field.clone();
        }
        value
    };
    let ports = list(LIST, |i| json!({"name": named("p", i), "port": i + 1}));
    assert_eq!(all_of_it("service", &services, object("Service", json!({"spec": {"ports": ports}}))), []);
    let same = list(LIST, |_| json!({"name": "p", "port": 1, "nodePort": 30_000}));
    let families = list(LIST, |_| json!("IPv4"));
    let ips = list(LIST, |i| json!(format!("10.96.{}.{}", i / 250, i % 250)));
    let spec =
        json!({"type": "NodePort", "ports": same, "ipFamilies": families, "clusterIP": "10.96.0.0", "clusterIPs": ips});
    assert!(!all_of_it("equal ports", &services, object("Service", json!({ "spec": spec }))).is_empty());
    let ports = list(LIST, |i| json!({"name": named("p", i), "port": i + 1}));
    let bad = |_| json!({"addresses": list(LIST, |_| json!("x"))});
    let slice = json!({"addressType": "IPv4", "ports": ports, "endpoints": list(400, bad)});
    assert!(!all_of_it("slice", &endpointslice::Slices, object("EndpointSlice", slice)).is_empty());
    let subsets = json!([{"addresses": list(200_000, |_| json!({"ip": "x"}))}]);
    assert!(
        !all_of_it("endpoints", &endpoints::AllEndpoints, object("Endpoints", json!({ "subsets": subsets })))
            .is_empty()
    );
    let taints = list(LIST, |i| json!({"key": named("k", i), "effect": "NoSchedule"}));
    let addresses = list(LIST, |i| json!({"type": "InternalIP", "address": named("a", i)}));
    let fields = json!({"spec": {"taints": taints}, "status": {"addresses": addresses}});
    assert_eq!(all_of_it("node", &node::Nodes, object("Node", fields)), []);
    let tolerations = list(LIST, |i| json!({"key": named("k", i), "operator": "Exists"}));
    let class = json!({"handler": "h", "scheduling": {"tolerations": tolerations}});
    assert_eq!(all_of_it("runtime class", &runtimeclass::Classes, object("RuntimeClass", class)), []);
}

#[test]
fn workloads_are_looked_up_too() {
    let template = |containers: Value, policy: &str| json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": policy, "containers": containers}});
    let containers = || list(LIST, |i| json!({"name": named("c", i), "image": "i"}));
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template(containers(), "Always")});
    let metadata = json!({"name": "x", "namespace": "d", "uid": "u"});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec});
    let as_kind = |kind: &str| {
        let mut object = deployment.clone();
        object["kind"] = kind.into();
        object
    };
    let (stateful, daemon) = (as_kind("StatefulSet"), as_kind("DaemonSet"));
    assert_eq!(all_of_it("stateful set", &statefulset::StatefulSets(Default::default()), stateful), []);
    assert_eq!(all_of_it("daemon set", &daemonset::DaemonSets(Default::default()), daemon), []);
    assert_eq!(all_of_it("deployment", &deployment::Deployments(Default::default()), deployment), []);
    let rule = |i: usize| {
        let codes = json!({"containerName": named("c", i), "operator": "In", "values": list(LIST, |n| json!(n + 1))});
        json!({"action": "FailJob", "onExitCodes": codes})
    };
    let spec = json!({"template": template(containers(), "Never"), "podFailurePolicy": {"rules": filling(rule)}});
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec});
    assert!(!all_of_it("job", &job::Jobs(Default::default()), job).is_empty());
    // A template of the largest size, told to be immutable.
    let env = list(
        60,
        |c| json!({"name": named("c", c), "image": "i", "env": list(LIST, |i| json!({"name": named("e", i)}))}),
    );
    let spec = json!({"template": template(env, "Never")});
    let old = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec});
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["hostname"] = json!("h");
    let object = |value: Value| Object::from_value(value).expect("an object");
    let mut causes = job::Jobs(Default::default()).validate_update(&context(), &object(new), &object(old));
    // It has no defaults, of which the update speaks as well.
    causes.retain(|cause| cause.message.ends_with(": field is immutable"));
    let answer = invalid(&GroupVersionKind::new("batch", "v1", "Job"), "x", &causes);
    assert!(answer.message.ends_with("...: field is immutable"), "{}", answer.message);
    assert!(answer.to_json().len() < 64 << 10);
}

fn whole(kind: &str, rest: Value) -> Value {
    let mut value =
        json!({"apiVersion": "x/v1", "kind": kind, "metadata": {"name": "x", "namespace": "d", "uid": "u"}});
    for (key, field) in rest.as_object().expect("fields") {
        value[key] = field.clone();
    }
    value
}

#[test]
fn webhooks_and_policies_are_looked_up_too() {
    let kind = || mutatingwebhookconfiguration::FORM;
    let hook = |i: usize, rest: Value| {
        let config = json!({"url": "https://example.com"});
        let mut hook = json!({"name": format!("h{i}.example.com"), "clientConfig": config, "sideEffects": "None", "admissionReviewVersions": ["v1"]});
        for (key, field) in rest.as_object().expect("fields") {
            hook[key] = field.clone();
        }
        hook
    };
    let hooks = |hooks: Value| whole("MutatingWebhookConfiguration", json!({"webhooks": hooks}));
    assert_eq!(all_of_it("webhooks", &kind(), hooks(list(LIST, |i| hook(i, json!({}))))), []);
    let same = list(LIST, |_| hook(0, json!({})));
    assert!(!all_of_it("one webhook", &kind(), hooks(same)).is_empty());
    assert!(!all_of_it("empty webhooks", &kind(), hooks(list(LIST, |_| json!({})))).is_empty());
    let rule = |resources: Value| json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources});
    let right = |_| rule(list(LIST, |i| json!(format!("r{i}/s{i}"))));
    assert_eq!(all_of_it("rules", &kind(), hooks(json!([hook(0, json!({"rules": filling(right)}))]))), []);
    let wrong =
        |_| rule(list(LIST, |i| json!(if i % 2 == 0 { format!("r{}/*", i / 4) } else { format!("*/s{}", i / 4) })));
    let empty = |_| json!({"operations": list(LIST, |_| json!("")), "apiVersions": list(LIST, |_| json!("")), "resources": list(LIST, |_| json!(""))});
    for rules in [filling(wrong), filling(empty), list(LIST, |_| json!({}))] {
        assert!(!all_of_it("bad rules", &kind(), hooks(json!([hook(0, json!({ "rules": rules }))]))).is_empty());
    }
    let steps = json!({"clientConfig": {"service": {"name": "s", "namespace": "n", "path": "/".repeat(BODY)}}});
    assert!(!all_of_it("a path", &kind(), hooks(json!([hook(0, steps)]))).is_empty());
    let url = json!({"clientConfig": {"url": format!("https://{}", "[:@%41".repeat(BODY / 6))}});
    assert!(!all_of_it("a URL", &kind(), hooks(json!([hook(0, url)]))).is_empty());
    let conditions = || list(LIST, |i| json!({"name": named("c", i), "expression": "x"}));
    let versions = || list(LIST, |i| json!(named("v", i)));
    let selector =
        || json!({"matchExpressions": list(LIST, |_| json!({"key": "-", "operator": "In", "values": ["-"]}))});
    let bad =
        json!({"matchConditions": conditions(), "admissionReviewVersions": versions(), "objectSelector": selector()});
    assert!(!all_of_it("conditions", &kind(), hooks(json!([hook(0, bad)]))).is_empty());

    let named_rule = |i| json!({"resourceNames": list(LIST, |n| json!(named("n", n * (i % 2)))), "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]});
    let constraints = || json!({"resourceRules": filling(named_rule), "excludeResourceRules": list(LIST, |_| json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}))});
    let expressions =
        |name: &'static str| list(LIST, move |i| json!({"name": named("v", i), "key": named("k", i), name: "x"}));
    let spec = json!({"matchConstraints": constraints(), "variables": expressions("expression"), "validations": expressions("expression"),
        "auditAnnotations": expressions("valueExpression"), "mutations": list(LIST, |_| json!({})), "matchConditions": conditions()});
    let policy = whole(
        "Policy",
        json!({"spec": spec, "status": {"typeChecking": {"expressionWarnings": list(LIST, |_| json!({}))}}}),
    );
    assert!(!all_of_it("policy", &validatingadmissionpolicy::FORM, policy.clone()).is_empty());
    assert!(!all_of_it("mutating policy", &mutatingadmissionpolicy::FORM, policy).is_empty());
    let spec = json!({"validationActions": list(LIST, |i| json!(named("a", i))), "matchResources": constraints(),
        "paramRef": {"selector": selector(), "name": "/".repeat(BODY / 4)}});
    let binding = whole("Binding", json!({ "spec": spec }));
    assert!(!all_of_it("binding", &validatingadmissionpolicybinding::FORM, binding).is_empty());
    let service = whole(
        "APIService",
        json!({"spec": {"caBundle": "A".repeat(BODY)}, "status": {"conditions": list(LIST, |_| json!({"type": "-"}))}}),
    );
    assert!(!all_of_it("API service", &apiservice::Services, service).is_empty());
}

#[test]
fn devices_are_looked_up_too() {
    let classes = deviceclass::Classes(Default::default());
    let spec = json!({"selectors": list(LIST, |_| json!({})), "config": list(32, |_| json!({"opaque": {"driver": "d", "parameters": {"a": "b".repeat(BODY / 40)}}}))});
    assert!(!all_of_it("class", &classes, whole("DeviceClass", json!({ "spec": spec }))).is_empty());

    let claims = || resourceclaim::Claims(Default::default());
    let claim =
        |devices: Value, status: Value| whole("ResourceClaim", json!({"spec": {"devices": devices}, "status": status}));
    let exact = || json!({"deviceClassName": "c", "selectors": list(32, |_| json!({"cel": {"expression": "x"}})), "tolerations": list(LIST, |_| json!({"operator": "Equal", "value": " "}))});
    let requests = list(32, |i| json!({"name": named("r", i), "exactly": exact()}));
    let references = |_| json!({"requests": list(32, |i| json!(named("r", i))), "matchAttribute": "/".repeat(1_000)});
    let devices = json!({"requests": requests, "constraints": list(32, references), "config": list(32, references)});
    assert!(!all_of_it("claim", &claims(), claim(devices.clone(), json!({}))).is_empty());
    assert!(
        !all_of_it("requests", &claims(), claim(json!({"requests": list(LIST, |_| json!({}))}), json!({}))).is_empty()
    );
    let template = whole(
        "ResourceClaimTemplate",
        json!({"spec": {"metadata": {"labels": map(100_000, |i| format!("-{i}"), &json!("-")), "annotations": map(50_000, |i| format!("-{i}"), &json!(""))}, "spec": {"devices": devices}}}),
    );
    assert!(!all_of_it("template", &resourceclaimtemplate::Templates(Default::default()), template).is_empty());
    let result = |i: usize| json!({"request": "a", "driver": "d", "pool": "p", "device": named("x", i), "bindingConditions": list(LIST, |i| json!(named("c", i))), "bindingFailureConditions": list(LIST, |i| json!(named("c", i)))});
    let said = |i: usize| json!({"driver": "d", "pool": "/".repeat(1_000), "device": named("x", i), "conditions": list(10, |_| json!({"type": ""}))});
    let users = list(256, |i| json!({"resource": "pods", "name": "p", "uid": named("u", i)}));
    let status = json!({"allocation": {"devices": {"results": filling(result), "config": list(64, references)}}, "devices": list(1_500, said), "reservedFor": users});
    let mut object =
        Object::from_value(claim(json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "c"}}]}), status))
            .expect("an object");
    let kind = claims();
    let old = object.clone();
    kind.prepare_status(&context(), &mut object, &old);
    all_of_it("status", &kind, object.into_value());

    let slices = || resourceslice::Slices(Default::default());
    let slice = |devices: Value, sets: Value| {
        whole(
            "ResourceSlice",
            json!({"spec": {"driver": "d", "pool": {"name": "/".repeat(BODY / 8)}, "devices": devices, "sharedCounters": sets}}),
        )
    };
    let attributes = map(20_000, |i| format!("{}-{i}", "k".repeat(100)), &json!({"string": "s".repeat(65)}));
    let device = |i: usize| json!({"name": named("d", i), "attributes": {"a": {"int": 1}}, "capacity": {"m": {"value": "1"}}, "taints": list(16, |_| json!({"key": "-"}))});
    let values = list(LIST, |i| json!(LIST - i));
    let odd = json!({"name": "odd", "attributes": attributes, "allowMultipleAllocations": true, "capacity": {"m": {"value": "1", "requestPolicy": {"default": "1", "validValues": values}}}});
    let devices: Value = (0..63).map(device).chain([odd]).collect();
    let sets = list(
        8,
        |i| json!({"name": named("c", i), "counters": map(10_000, |i| format!("-{i}"), &json!({"value": "1"}))}),
    );
    assert!(!all_of_it("slice", &slices(), slice(devices.clone(), sets)).is_empty());
    assert!(!all_of_it("devices", &slices(), slice(list(LIST, |_| json!({})), json!(null))).is_empty());
    let object = |value: Value| Object::from_value(value).expect("an object");
    let (old, mut new) = (object(slice(devices.clone(), json!(null))), object(slice(devices, json!(null))));
    new.set(&["spec", "nodeName"], "n");
    assert!(!slices().validate_update(&context(), &new, &old).is_empty());
}

/// An object of any kind with a spec.
fn with_spec(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "d", "uid": "u"}, "spec": spec})
}

#[test]
fn rules_of_networks_are_looked_up() {
    let policies = networkpolicy::Policies(Default::default());
    let policy = |what: &str, rules: Value| all_of_it(what, &policies, with_spec("NetworkPolicy", "x", rules));
    let net = |i: usize| format!("10.{}.{}.0/24", i / 250, i % 250);
    let parts = || list(LIST, |i| json!(net(i)));
    let block = |_| json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": parts()}}]});
    assert_eq!(policy("excepted networks", json!({"ingress": filling(block)})), []);
    let peers = |_| json!({"to": list(LIST, |i| json!({"ipBlock": {"cidr": net(i)}}))});
    assert_eq!(policy("peers", json!({"egress": filling(peers)})), []);
    let odd = |_| json!({"to": list(LIST, |i| json!({"ipBlock": {"cidr": format!("2001:DB8:{i:x}::/48")}}))});
    assert_eq!(policy("peers of another spelling", json!({"egress": filling(odd)})), []);
    let selected = |_| json!({"from": list(LIST, |_| json!({"podSelector": {"matchExpressions": [{"key": "-", "operator": "-"}]}}))});
    assert!(!policy("selectors", json!({"ingress": filling(selected)})).is_empty());
    let wrong = |_| json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": list(LIST, |_| json!("x"))}}]});
    assert!(!policy("no networks", json!({"ingress": filling(wrong)})).is_empty());
    let ports = |_| json!({"ports": list(LIST, |i| json!({"port": i, "endPort": i + 1}))});
    assert!(!policy("ports", json!({"ingress": filling(ports), "policyTypes": list(LIST, |_| json!("x"))})).is_empty());
    let values = json!({"matchExpressions": [{"key": "k", "operator": "In", "values": list(LIST, |_| json!("-"))}]});
    let selected = |_| json!({"from": list(LIST, |_| json!({"podSelector": {}}))});
    assert!(!policy("values", json!({"podSelector": values, "ingress": filling(selected)})).is_empty());
}

#[test]
fn rules_of_ingresses_are_looked_up() {
    let ingresses = ingress::Ingresses(Default::default());
    let ingress = |what: &str, spec: Value| {
        let points = list(LIST, |i| json!({"ip": format!("10.0.{}.{}", i / 250, i % 250), "hostname": named("h", i)}));
        let mut object = with_spec("Ingress", "x", spec);
        object["status"] = json!({"loadBalancer": {"ingress": points}});
        all_of_it(what, &ingresses, object)
    };
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let path = |i: usize| json!({"path": format!("/{i}"), "pathType": "Prefix", "backend": backend});
    let rules = list(LIST, |i| json!({"host": named("h", i), "http": {"paths": [path(i)]}}));
    let tls = list(LIST, |i| json!({"hosts": [named("h", i)], "secretName": "s"}));
    assert_eq!(ingress("hosts", json!({"rules": rules, "tls": tls})), []);
    let rule = |i| json!({"host": named("h", i), "http": {"paths": list(LIST, path)}});
    assert_eq!(ingress("paths", json!({"rules": filling(rule)})), []);
    let same = |_| json!({"host": "h", "http": {"paths": list(LIST, |_| path(0))}});
    assert_eq!(ingress("equal paths", json!({"rules": filling(same)})), []);
    let bad = |_| json!({"host": "-", "http": {"paths": list(LIST, |_| json!({"pathType": "Exact", "path": "//%2f%2F/..", "backend": {}}))}});
    assert!(!ingress("bad paths", json!({"rules": filling(bad)})).is_empty());
    let hosts = |_| json!({"hosts": list(LIST, |_| json!("*"))});
    assert!(!ingress("bad hosts", json!({"defaultBackend": backend, "tls": filling(hosts)})).is_empty());
    let long = "/a".repeat(1 << 20);
    let path = json!({"path": long, "pathType": "Prefix", "backend": backend});
    assert_eq!(ingress("a long path", json!({"rules": [{"http": {"paths": [path]}}]})), []);
}

#[test]
fn flows_and_drivers_are_looked_up() {
    let schemas = flowschema::Schemas;
    let schema = |what: &str, name: &str, rules: Value| {
        let spec = json!({"priorityLevelConfiguration": {"name": "l"}, "rules": rules});
        all_of_it(what, &schemas, with_spec("FlowSchema", name, spec))
    };
    let subjects = || list(LIST, |i| json!({"kind": "User", "user": {"name": named("u", i)}}));
    let verbs = || list(LIST, |_| json!("get"));
    let names = || list(LIST, |i| json!(named("n", i)));
    let resources = || json!([{"verbs": verbs(), "apiGroups": names(), "resources": names(), "namespaces": names()}]);
    let rule = |_| json!({"subjects": subjects(), "resourceRules": resources()});
    assert_eq!(schema("flows", "x", filling(rule)), []);
    assert!(!schema("a fixed flow", "catch-all", filling(rule)).is_empty());
    let wrong =
        || json!([{"verbs": list(LIST, |i| json!(named("v", i))), "nonResourceURLs": list(LIST, |_| json!("a"))}]);
    let rule = |_| json!({"subjects": list(LIST, |_| json!({})), "nonResourceRules": wrong()});
    assert!(!schema("wrong flows", "x", filling(rule)).is_empty());
    let levels = prioritylevelconfiguration::Levels;
    let numbers = json!({"queues": i64::MAX, "handSize": i64::MAX, "queueLengthLimit": i64::MIN});
    let spec = json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": numbers}}});
    let level = with_spec("PriorityLevelConfiguration", "x", spec);
    assert!(!all_of_it("a level", &levels, level).is_empty());
    let node = |what: &str, drivers: Value| {
        all_of_it(what, &csinode::Nodes, with_spec("CSINode", "x", json!({"drivers": drivers})))
    };
    let drivers = list(LIST, |i| json!({"name": named("d", i), "nodeID": "i", "topologyKeys": ["k"]}));
    assert_eq!(node("drivers", drivers), []);
    assert!(!node("equal drivers", list(LIST, |_| json!({"name": "d", "nodeID": "i"}))).is_empty());
    let keys = |i| json!({"name": named("d", i), "nodeID": "i", "topologyKeys": names()});
    assert_eq!(node("topology keys", filling(keys)), []);
}
