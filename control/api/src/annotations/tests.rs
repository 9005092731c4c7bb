use super::*;

/// What is said of a pod with the containers `web` and `api`.
fn of_pod(annotations: &[(&str, &str)]) -> Vec<String> {
    let faults = faults_of_pod(annotations.iter().copied(), &["web", "api"].into(), 100);
    faults.iter().map(ToString::to_string).collect()
}

/// What the node would say of each container.
fn of_node(annotations: &[(&str, &str)]) -> Vec<Fault> {
    let all: BTreeMap<&str, &str> = annotations.iter().copied().collect();
    let value = |name: &str| all.get(name).copied();
    let mut faults = Vec::new();
    for container in ["web", "api"] {
        let of = OfContainer { container, value: &value };
        faults.extend(of.reuses().err());
        faults.extend(of.read(&MAX_INSTANCE_REQUESTS).err());
        faults.extend(of.read(&MAX_INSTANCE_AGE).err());
        faults.extend(of.read(&MAX_INSTANCE_IDLE).err());
        faults.extend(of.read(&MIN_INSTANCES).err());
        faults.extend(of.read(&REQUEST_TIMEOUT).err());
        faults.extend(of.read(&MAX_CONCURRENT_REQUESTS).err());
        faults.extend(of.read(&MAX_QUEUED_REQUESTS).err());
        faults.extend(of.read(&ACCESS_LOG).err());
        faults.extend(of.read(&TRACE_CONTEXT).err());
        faults.extend(of.read(&COREDUMP).err());
    }
    faults
}

#[test]
fn what_the_node_cannot_read_is_a_fault_and_what_it_reads_is_none() {
    let time = "must be a time above 0, such as 500ms, 90s, 2m or 1h30m";
    let reuse = ("sampan.dev/instances", "reuse");
    for (name, right, wrong, wanted) in [
        ("instances", "reuse", "pool", "must be per-request or reuse"),
        ("instances", "per-request", "", "must be per-request or reuse"),
        ("max-instance-requests", "1", "0", "must be a number of at least 1"),
        ("max-instance-age", "1h30m", "1d", time),
        ("max-instance-idle", "500ms", "-1s", time),
        ("min-instances", "512", "513", "must be a number from 0 to 512"),
        ("request-timeout", "30s", "30", time),
        ("max-concurrent-requests", "65536", "0", "must be a number from 1 to 65536"),
        ("max-queued-requests", "0", "many", "must be a number from 0 to 1048576"),
        ("access-log", "true", "yes", "must be true or false"),
        ("trace-context", "false", "1", "must be true or false"),
        ("coredump", "true", "on", "must be true or false"),
    ] {
        for name in [format!("sampan.dev/{name}"), format!("web.sampan.dev/{name}")] {
            let with = |value| match name.ends_with("/instances") {
                true => vec![(&*name, value)],
                false => vec![reuse, (&*name, value)],
            };
            assert_eq!((of_pod(&with(right)), of_node(&with(right))), (vec![], vec![]), "{name}");
            assert_eq!(of_pod(&with(wrong)), [format!("annotation {name}: invalid value {wrong:?}: {wanted}")]);
            assert!(of_node(&with(wrong)).iter().any(|fault| fault.name == name), "{name}: the node refuses it too");
        }
    }
    assert_eq!(
        of_pod(&[("example.com/instances", "x"), ("instances", "x"), ("notsampan.dev/instances", "x")]),
        [""; 0]
    );
}

#[test]
fn limits_of_reuse_mean_nothing_without_it() {
    let text = |name: &str| format!("annotation {name}: means nothing without sampan.dev/instances: reuse");
    let least = ("sampan.dev/min-instances", "2");
    assert_eq!(of_pod(&[least]), [text(least.0)]);
    assert_eq!(of_pod(&[least, ("sampan.dev/instances", "reuse")]), [""; 0]);
    // One container of the two does not reuse, and the node would not start it.
    for one in [("web.sampan.dev/instances", "reuse"), ("sampan.dev/instances", "per-request")] {
        assert_eq!(of_pod(&[least, one]), [text(least.0)]);
        assert!(of_node(&[least, one]).iter().any(|fault| fault.to_string() == text(least.0)));
    }
    let own = ("web.sampan.dev/max-instance-age", "1h");
    assert_eq!(of_pod(&[own, ("api.sampan.dev/instances", "reuse")]), [text(own.0)]);
    assert_eq!(of_pod(&[own, ("web.sampan.dev/instances", "reuse")]), [""; 0]);
    // A policy that cannot be read is the one fault.
    let wrong = "annotation sampan.dev/instances: invalid value \"x\": must be per-request or reuse";
    assert_eq!(of_pod(&[least, ("sampan.dev/instances", "x")]), [wrong]);
}

#[test]
fn an_unknown_name_has_the_nearest_known_one() {
    for (name, near) in [
        ("sampan.dev/instance", "sampan.dev/instances"),
        ("sampan.dev/Instances", "sampan.dev/instances"),
        ("web.sampan.dev/max_instance_age", "web.sampan.dev/max-instance-age"),
        ("sampan.dev/max-instances-requests", "sampan.dev/max-instance-requests"),
        ("sampan.dev/core-dump", "sampan.dev/coredump"),
        ("sampan.dev/timeout-request", ""),
        ("sampan.dev/", ""),
        ("sampan.dev/a/b", ""),
    ] {
        let told = of_pod(&[(name, "x")]);
        let want = match near {
            "" => "known are instances, max-instance-requests, max-instance-age, max-instance-idle, min-instances, request-timeout, \
                   max-concurrent-requests, max-queued-requests, access-log, trace-context, coredump"
                .to_owned(),
            near => format!("did you mean {near}?"),
        };
        assert_eq!(told, [format!("annotation {name}: unknown annotation; {want}")]);
    }
    let none = ["annotation cache.sampan.dev/instances: the pod has no container \"cache\""];
    assert_eq!(of_pod(&[("cache.sampan.dev/instances", "reuse")]), none);
    let service =
        ["annotation sampan.dev/cross-site-requests: unknown annotation; it means something on a Service only"];
    assert_eq!(of_pod(&[(CROSS_SITE, "allow")]), service);
}

#[test]
fn annotations_beside_a_template_or_on_a_service_are_told() {
    let workload = |kind: &str, annotations: &[(&str, &str)]| {
        let faults = faults_of_workload(annotations.iter().copied(), kind, "spec.template", 100);
        faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        workload("Job", &[("a.example/b", "c"), ("web.sampan.dev/instances", "d"), ("sampan.dev/instanzes", "e")]),
        [
            "annotation web.sampan.dev/instances: has no effect here: what pods read is in spec.template.metadata.annotations",
            "annotation sampan.dev/instanzes: unknown annotation; did you mean sampan.dev/instances?",
        ]
    );
    let idle = |kind: &str, value: &str| workload(kind, &[(SCALE_TO_ZERO_AFTER, value)]);
    assert_eq!(workload("Deployment", &[(SCALE_TO_ZERO_AFTER, "5m"), (SCALED_TO_ZERO, "2")]), [""; 0]);
    assert_eq!(
        idle("Deployment", "soon"),
        [
            "annotation sampan.dev/scale-to-zero-after: invalid value \"soon\": must be a time above 0, such as 500ms, 90s, 2m or 1h30m"
        ]
    );
    assert_eq!(
        idle("StatefulSet", "5m"),
        ["annotation sampan.dev/scale-to-zero-after: has no effect here: it means something on a Deployment only"]
    );
    assert_eq!(
        workload("Deployment", &[("sampan.dev/scale-to-zero", "5m")]),
        ["annotation sampan.dev/scale-to-zero: unknown annotation; did you mean sampan.dev/scale-to-zero-after?"]
    );
    let service = |annotations: &[(&str, &str)]| {
        let faults = faults_of_service(annotations.iter().copied(), 100);
        faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(service(&[(CROSS_SITE, "allow"), ("a.example/b", "c")]), [""; 0]);
    assert_eq!(
        service(&[(CROSS_SITE, "yes"), ("sampan.dev/instances", "reuse"), ("sampan.dev/cross-site-request", "allow")]),
        [
            "annotation sampan.dev/cross-site-requests: invalid value \"yes\": must be allow",
            "annotation sampan.dev/instances: has no effect here: pods read it",
            "annotation sampan.dev/cross-site-request: unknown annotation; of Services sampan.dev/cross-site-requests is known",
        ]
    );
}

#[test]
fn a_crowd_of_faults_is_bounded_and_quickly_told() {
    let names: Vec<String> = (0..10_000).map(|i| format!("c{i}.sampan.dev/instance{i}")).collect();
    let long = "ä".repeat(100_000);
    let annotations = names.iter().map(|name| (name.as_str(), long.as_str()));
    assert_eq!(faults_of_pod(annotations.clone(), &BTreeSet::new(), 200).len(), 200);
    assert_eq!(faults_of_workload(annotations.clone(), "Job", "template", 200).len(), 200);
    assert_eq!(faults_of_service(annotations, 200).len(), 200);
    let containers: Vec<String> = (0..10_000).map(|i| format!("c{i}")).collect();
    let containers = containers.iter().map(String::as_str).collect();
    assert_eq!(faults_of_pod([("sampan.dev/min-instances", "1")].into_iter(), &containers, 200).len(), 1);
    let told = faults_of_pod([("sampan.dev/instances", long.as_str())].into_iter(), &containers, 200);
    assert!(told[0].text.len() < 200, "{}", told[0]);
}
