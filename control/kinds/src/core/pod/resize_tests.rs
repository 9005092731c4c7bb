//! Tables of what a resize may change, with upstream's texts.

use super::{super::Pods, *};
use crate::testing::{context, created};
use server::Strategy;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: default}
spec:
  containers:
  - {name: a, image: i, resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 200m, memory: 64Mi}}}
  - {name: b, image: i, resources: {requests: {ephemeral-storage: 1Gi}}}
  initContainers:
  - {name: side, image: i, restartPolicy: Always, resources: {requests: {cpu: 10m}}, resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}
  - {name: first, image: i, resources: {requests: {cpu: 10m}}}
";

fn old(more: &str) -> Object {
    let pod = created(&Pods(Default::default()), POD);
    let more: Value = serde_yaml::from_str(more).expect("YAML");
    Object::from_value(api::patch::merge(&pod.into_value(), &more)).expect("an object")
}

fn told(new: &Object, old: &Object) -> Vec<String> {
    let mut context = context();
    context.subresource = "resize".to_owned();
    Pods(Default::default()).validate_update(&context, new, old).iter().map(ToString::to_string).collect()
}

/// The violations after these amounts were set, by pointer.
fn set(changes: &[(&str, Value)]) -> Vec<String> {
    let old = old("{}");
    let mut new = old.clone().into_value();
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        new.pointer_mut(parent).expect("a parent")[field] = value.clone();
    }
    told(&Object::from_value(new).expect("an object"), &old)
}

#[test]
fn cpu_and_memory_change_and_nothing_else() {
    let a = "/spec/containers/0/resources";
    let b = "/spec/containers/1/resources";
    let none: &[&str] = &[];
    for (what, pointer, value, expected) in [
        ("a request", format!("{a}/requests/cpu"), json!("150m"), none),
        ("a limit", format!("{a}/limits/memory"), json!("128Mi"), none),
        ("a new limit", format!("{b}/limits"), json!({"memory": "1Gi"}), none),
        ("a sidecar", "/spec/initContainers/0/resources/requests/cpu".to_owned(), json!("20m"), none),
        ("an init container", "/spec/initContainers/1/resources/requests/cpu".to_owned(), json!("20m"), none),
        (
            "a request goes",
            format!("{a}/requests"),
            json!({"cpu": "100m"}),
            &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
        ),
        (
            "limits go",
            format!("{a}/limits"),
            json!({}),
            &["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"],
        ),
        (
            "storage",
            format!("{b}/requests/ephemeral-storage"),
            json!("2Gi"),
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        ),
        (
            "a policy",
            "/spec/containers/0/resizePolicy".to_owned(),
            json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]),
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        ),
        (
            "a policy of a sidecar",
            "/spec/initContainers/0/resizePolicy".to_owned(),
            json!([]),
            &[
                "spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable",
            ],
        ),
        ("the class", format!("{a}/requests"), json!({"cpu": "200m", "memory": "64Mi"}), none),
        (
            "a name",
            "/spec/containers/1/name".to_owned(),
            json!("c"),
            &["spec.containers[1].name: Forbidden: containers may not be renamed or reordered on resize"],
        ),
        (
            "fewer",
            "/spec/initContainers".to_owned(),
            json!([]),
            &["spec.initContainers: Forbidden: initContainers may not be added or removed on resize"],
        ),
    ] {
        assert_eq!(set(&[(&pointer, value)]), expected, "{what}");
    }
}

#[test]
fn a_container_with_claims_is_not_resized() {
    let claims = "{spec: {containers: [{name: a, image: i, resources: {claims: [{name: c}], requests: {cpu: 100m}}}], initContainers: null}}";
    let old = old(claims);
    let mut new = old.clone().into_value();
    new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("200m");
    let told = told(&Object::from_value(new).expect("an object"), &old);
    assert_eq!(told, ["spec: Forbidden: only cpu and memory resources are mutable"]);
}

#[test]
fn the_class_of_a_pod_is_kept() {
    let mut old = created(
        &Pods(Default::default()),
        "{metadata: {name: p}, spec: {containers: [{name: a, image: i, resources: {limits: {cpu: 1, memory: 1Gi}}}]}}",
    );
    assert_eq!(old.str_at(&["status", "qosClass"]), Some("Guaranteed"));
    let mut new = old.clone();
    new.entry(&["spec", "containers"])[0]["resources"]["limits"]["cpu"] = json!("2");
    let text = "spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing";
    assert_eq!(told(&new, &old), [text]);
    new.entry(&["spec", "containers"])[0]["resources"]["requests"]["cpu"] = json!("2");
    assert_eq!(told(&new, &old), [""; 0]);
    // What the status says counts, and without it what the spec asks for.
    old.remove(&["status"]);
    assert_eq!(told(&new, &old), [""; 0]);
}

#[test]
fn a_pod_must_be_one_that_is_resized() {
    let grown = |old: &Object| {
        let mut new = old.clone();
        new.entry(&["spec", "containers"])[0]["resources"]["requests"]["cpu"] = json!("150m");
        told(&new, old)
    };
    let unsupported = "spec: Forbidden: Pod running on node without support for resize";
    for (more, expected) in [
        ("{}", ""),
        ("{metadata: {annotations: {kubernetes.io/config.mirror: x}}}", "[]: Forbidden: static pods cannot be resized"),
        ("{spec: {os: {name: windows}}}", "[]: Forbidden: windows pods cannot be resized"),
        ("{spec: {os: {name: linux}}}", ""),
        ("{status: {containerStatuses: [{name: a, state: {running: {}}}]}}", unsupported),
        ("{status: {containerStatuses: [{name: a, state: {running: {}}, resources: {}}]}}", ""),
        ("{status: {containerStatuses: [{name: a, state: {waiting: {}}}]}}", ""),
        (
            "{status: {nodeAllocatableResourceClaimStatuses: [{}]}}",
            "spec: Forbidden: pods with node allocatable resource claims cannot be resized",
        ),
    ] {
        assert_eq!(grown(&old(more)).join("\n"), expected, "{more}");
    }
}

#[test]
fn an_init_container_that_would_restart_is_not_resized() {
    let old = old("{}");
    let policy = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    let with = |cpu: &str, policy: &Value| {
        let mut pod = old.clone();
        let first = &mut pod.entry(&["spec", "initContainers"])[1];
        first["resizePolicy"] = policy.clone();
        first["resources"]["requests"]["cpu"] = json!(cpu);
        pod
    };
    let before = with("10m", &policy);
    assert_eq!(told(&before, &before), [""; 0], "nothing changes");
    let text = "spec.initContainers[1]: Forbidden: non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
    assert_eq!(told(&with("20m", &policy), &before), [text]);
}

#[test]
fn the_pod_as_a_whole_is_resized_as_well() {
    let old = old("{spec: {resources: {requests: {cpu: 1}, limits: {hugepages-2Mi: 2Mi}}}}");
    for (value, expected) in [
        (json!({"requests": {"cpu": "2"}, "limits": {"hugepages-2Mi": "2Mi"}}), &[][..]),
        (json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"hugepages-2Mi": "2Mi", "memory": "1Gi"}}), &[]),
        (json!(null), &["spec.resources: Forbidden: pod-level resources cannot be removed"]),
        (
            json!({"limits": {"hugepages-2Mi": "2Mi"}}),
            &[
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
                "spec.resources.requests: Forbidden: pod-level resource requests cannot be removed",
            ],
        ),
        (
            json!({"requests": {"cpu": "1"}, "limits": {"hugepages-2Mi": "4Mi"}}),
            &["spec: Forbidden: only cpu and memory resources are mutable at pod-level"],
        ),
    ] {
        let mut new = old.clone();
        new.set(&["spec", "resources"], value.clone());
        assert_eq!(told(&new, &old), expected, "{value}");
    }
}
