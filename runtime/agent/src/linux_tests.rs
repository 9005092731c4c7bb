use super::*;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn image(user: &str) -> Command {
    Command { user: user.into(), stop_signal: "SIGQUIT".into(), ..Command::default() }
}

fn made(spec: Value, user: &str) -> Result<LinuxContainer, String> {
    let pod = pod(spec);
    container(&pod, &pod::spec(&pod).containers[0], &image(user), Path::new("/profiles"), 1000)
}

/// A pod with this security context of its own and of its container.
fn with(of_pod: Value, own: Value, user: &str) -> Result<LinuxContainer, String> {
    made(json!({"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]}), user)
}

#[test]
fn a_container_wins_over_its_pod() {
    let plain = with(json!({}), json!({}), "web:audio").unwrap();
    let expected = LinuxContainer {
        user: User { of_image: "web:audio".into(), ..User::default() },
        oom_score_adj: 1000,
        resources: LinuxResources { swap_bytes: Some(0), ..LinuxResources::default() },
        stop_signal: "SIGQUIT".into(),
        ..LinuxContainer::default()
    };
    assert_eq!(plain, expected);
    let of_pod = json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4, 5], "supplementalGroupsPolicy": "Strict",
        "seccompProfile": {"type": "RuntimeDefault"}});
    let pods = with(of_pod.clone(), json!({}), "").unwrap();
    let user =
        User { of_image: String::new(), user: Some(1), group: Some(2), groups: vec![3, 4, 5], only_these_groups: true };
    assert_eq!((pods.user, pods.seccomp), (user.clone(), Seccomp::RuntimeDefault));
    let own = json!({"runAsUser": 7, "runAsGroup": 8, "privileged": true, "allowPrivilegeEscalation": false, "procMount": "Unmasked",
        "seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}});
    let own = with(of_pod, own, "").unwrap();
    assert_eq!(own.user, User { user: Some(7), group: Some(8), ..user });
    assert_eq!(own.seccomp, Seccomp::Localhost("/profiles/a/b.json".into()));
    assert!(own.privileged && own.no_new_privileges && own.unmasked_proc);
    assert_eq!((own.capabilities.add, own.capabilities.drop), (vec!["NET_ADMIN".into()], vec!["ALL".into()]));
    let lifecycle = json!({"containers": [{"name": "c", "lifecycle": {"stopSignal": "SIGUSR1"}}]});
    assert_eq!(made(lifecycle, "").unwrap().stop_signal, "SIGUSR1");
}

#[test]
fn who_must_not_be_root_is_checked_in_upstreams_words() {
    let of = "(pod: \"p_n(u)\", container: c)";
    let root = format!("container has runAsNonRoot and image will run as root {of}");
    let named =
        format!("container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root {of}");
    for (of_pod, own, user, expected) in [
        (json!({"runAsNonRoot": true}), json!({}), "", Some(root.clone())),
        (json!({"runAsNonRoot": true}), json!({}), "0:5", Some(root)),
        (json!({}), json!({"runAsNonRoot": true}), "web:audio", Some(named)),
        (json!({}), json!({"runAsNonRoot": true}), "5", None),
        (json!({"runAsUser": 5}), json!({"runAsNonRoot": true}), "web", None),
        (json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), "", None),
        (
            json!({"runAsNonRoot": true}),
            json!({"runAsUser": 0}),
            "5",
            Some(format!("container's runAsUser breaks non-root policy {of}")),
        ),
        (json!({"runAsUser": -1}), json!({}), "", Some("runAsUser -1 is out of range".into())),
        (
            json!({"seccompProfile": {"type": "Localhost"}}),
            json!({}),
            "",
            Some("localhostProfile must be set if seccompProfile type is Localhost.".into()),
        ),
    ] {
        assert_eq!(with(of_pod.clone(), own.clone(), user).err(), expected, "{of_pod} {own} {user}");
    }
}

#[test]
fn the_kernel_prefers_what_the_kubelet_prefers() {
    let score = |spec: Value| made(spec, "").unwrap().oom_score_adj;
    let resources = |resources: Value| json!({"containers": [{"name": "c", "resources": resources}]});
    let guaranteed =
        resources(json!({"limits": {"cpu": "1", "memory": "10"}, "requests": {"cpu": "1", "memory": "10"}}));
    assert_eq!(score(guaranteed), -997);
    assert_eq!(score(resources(json!({}))), 1000);
    for (requested, expected) in [("100", 900), ("1", 999), ("999", 3), ("5000", 3)] {
        assert_eq!(score(resources(json!({"requests": {"memory": requested}}))), expected, "{requested}");
    }
    assert_eq!(score(json!({"priority": 2_000_001_000, "containers": [{"name": "c"}]})), -997);
}

#[test]
fn what_containers_share_is_the_pods() {
    let one = |extra: Value| {
        let mut spec = json!({"containers": [{"name": "c"}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        sandbox(&pod(spec))
    };
    assert_eq!(one(json!({})), LinuxSandbox { cgroup: "besteffort".into(), ..LinuxSandbox::default() });
    assert_eq!(one(json!({"shareProcessNamespace": true})).processes, Processes::Pod);
    let host =
        one(json!({"hostPID": true, "hostIPC": true, "securityContext": {"sysctls": [{"name": "a.b", "value": "1"}]}}));
    assert_eq!((host.processes, host.host_ipc), (Processes::Host, true));
    assert_eq!(host.sysctls, [("a.b".to_owned(), "1".to_owned())].into());
    for (propagation, on_host) in [("None", false), ("HostToContainer", false), ("Bidirectional", true)] {
        let mounts = json!([{"name": "v", "mountPath": "/v", "mountPropagation": propagation}]);
        let containers =
            json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i", "volumeMounts": mounts}]});
        assert_eq!(one(containers).mounts_on_host, on_host, "{propagation}");
    }
}

#[test]
fn the_hosts_file_is_upstreams() {
    let aliases: Vec<HostAlias> =
        serde_json::from_value(json!([{"ip": "10.0.0.1", "hostnames": ["a", "b"]}, {"ip": "10.0.0.2"}])).unwrap();
    let addresses = ["10.32.0.5".parse().unwrap()];
    let text = hosts(&addresses, "web-0", None, &aliases);
    assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost"));
    let end =
        "fe00::2\tip6-allrouters\n10.32.0.5\tweb-0\n\n# Entries added by HostAliases.\n10.0.0.1\ta\tb\n10.0.0.2\t\n";
    assert!(text.ends_with(end), "{text}");
    assert!(hosts(&addresses, "web-0", None, &[]).ends_with("\n10.32.0.5\tweb-0\n"));
    let named = hosts(&addresses, "web-0", Some("web.shop.svc.cluster.local"), &[]);
    assert!(named.ends_with("\n10.32.0.5\tweb-0.web.shop.svc.cluster.local\tweb-0\n"), "{named}");
}
