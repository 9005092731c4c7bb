//! Whole configurations of whole specifications.

use super::*;
use container::{Artifact, Capabilities, HttpPolicy, Limits, LinuxResources, Propagation, Stdin};
use expect_test::{Expect, expect};

fn spec() -> ContainerSpec {
    ContainerSpec {
        id: "c1".into(),
        name: "main".into(),
        artifact: Artifact::Linux { layers: vec![], digest: "sha256:0".into() },
        args: vec!["sleep".into(), "1".into()],
        env: vec![("A".into(), "1".into()), ("B".into(), "2".into()), ("A".into(), "3".into())],
        cwd: None,
        root: RootFolder::Absent,
        mounts: vec![],
        ports: vec![],
        limits: Limits::default(),
        log: "/x".into(),
        core_dump: false,
        http: HttpPolicy::default(),
        stdin: Stdin::Empty,
        tty: false,
        linux: None,
    }
}

fn pod() -> Pod {
    let (own, of_pod) = (
        |kind| Namespace { kind, path: None },
        |kind, name: &str| Namespace { kind, path: Some(format!("/proc/7/ns/{name}").into()) },
    );
    Pod {
        rootless: false,
        cgroup_v2: false,
        bounding: capabilities::ALL,
        oom_score_adj: 0,
        max_open_files: 1 << 20,
        namespaces: vec![
            own("pid"),
            own("mount"),
            of_pod("network", "net"),
            of_pod("ipc", "ipc"),
            of_pod("uts", "uts"),
        ],
        shm: Some("/pod/shm".into()),
        cgroup: Some("/sampan/pod1".into()),
    }
}

fn found() -> Found {
    let user = User { uid: 5, gid: 6, additional_gids: vec![6, 7] };
    Found { user, root: "rootfs".into(), ..Found::default() }
}

/// The configuration, a line for each value of its second level; a long filter of system calls is its number of rules.
fn check(spec: &ContainerSpec, pod: &Pod, found: Found, expected: &Expect) {
    let mut made = serde_json::to_value(config(spec, pod, found).unwrap()).unwrap();
    if let Some(rules) = made["linux"]["seccomp"]["syscalls"].as_array().map(Vec::len).filter(|rules| *rules > 1) {
        made["linux"]["seccomp"]["syscalls"] = rules.into();
    }
    let mut lines = String::new();
    for (name, value) in made.as_object().unwrap() {
        match value {
            Value::Array(values) => values.iter().for_each(|value| lines += &format!("{name}: {value}\n")),
            Value::Object(values) => {
                values.iter().for_each(|(inner, value)| lines += &format!("{name}.{inner}: {value}\n"));
            }
            value => lines += &format!("{name}: {value}\n"),
        }
    }
    expected.assert_eq(&lines);
}

#[test]
fn a_plain_container() {
    check(
        &spec(),
        &pod(),
        found(),
        &expect![[r#"
            linux.cgroupsPath: "/sampan/pod1/c1"
            linux.maskedPaths: ["/proc/asound","/proc/acpi","/proc/interrupts","/proc/kcore","/proc/keys","/proc/latency_stats","/proc/timer_list","/proc/timer_stats","/proc/sched_debug","/proc/scsi","/sys/firmware","/sys/devices/virtual/powercap"]
            linux.namespaces: [{"type":"pid"},{"type":"mount"},{"path":"/proc/7/ns/net","type":"network"},{"path":"/proc/7/ns/ipc","type":"ipc"},{"path":"/proc/7/ns/uts","type":"uts"}]
            linux.readonlyPaths: ["/proc/bus","/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger"]
            linux.resources: {"cpu":{"shares":2},"devices":[{"access":"rwm","allow":false}]}
            mounts: {"destination":"/proc","options":["nosuid","noexec","nodev"],"source":"proc","type":"proc"}
            mounts: {"destination":"/dev","options":["nosuid","strictatime","mode=755","size=65536k"],"source":"tmpfs","type":"tmpfs"}
            mounts: {"destination":"/dev/pts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"],"source":"devpts","type":"devpts"}
            mounts: {"destination":"/dev/mqueue","options":["nosuid","noexec","nodev"],"source":"mqueue","type":"mqueue"}
            mounts: {"destination":"/sys","options":["nosuid","noexec","nodev","ro"],"source":"sysfs","type":"sysfs"}
            mounts: {"destination":"/sys/fs/cgroup","options":["nosuid","noexec","nodev","relatime","ro"],"source":"cgroup","type":"cgroup"}
            mounts: {"destination":"/dev/shm","options":["rbind","rprivate","nosuid","noexec","nodev","rw"],"source":"/pod/shm","type":"bind"}
            ociVersion: "1.0.2"
            process.args: ["sleep","1"]
            process.capabilities: {"bounding":["CAP_CHOWN","CAP_DAC_OVERRIDE","CAP_FOWNER","CAP_FSETID","CAP_KILL","CAP_SETGID","CAP_SETUID","CAP_SETPCAP","CAP_NET_BIND_SERVICE","CAP_NET_RAW","CAP_SYS_CHROOT","CAP_MKNOD","CAP_AUDIT_WRITE","CAP_SETFCAP"],"effective":["CAP_CHOWN","CAP_DAC_OVERRIDE","CAP_FOWNER","CAP_FSETID","CAP_KILL","CAP_SETGID","CAP_SETUID","CAP_SETPCAP","CAP_NET_BIND_SERVICE","CAP_NET_RAW","CAP_SYS_CHROOT","CAP_MKNOD","CAP_AUDIT_WRITE","CAP_SETFCAP"],"permitted":["CAP_CHOWN","CAP_DAC_OVERRIDE","CAP_FOWNER","CAP_FSETID","CAP_KILL","CAP_SETGID","CAP_SETUID","CAP_SETPCAP","CAP_NET_BIND_SERVICE","CAP_NET_RAW","CAP_SYS_CHROOT","CAP_MKNOD","CAP_AUDIT_WRITE","CAP_SETFCAP"]}
            process.cwd: "/"
            process.env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","B=2","A=3"]
            process.noNewPrivileges: false
            process.oomScoreAdj: 0
            process.rlimits: [{"hard":524288,"soft":1024,"type":"RLIMIT_NOFILE"}]
            process.terminal: false
            process.user: {"additionalGids":[6,7],"gid":6,"uid":5}
            root.path: "rootfs"
            root.readonly: false
        "#]],
    );
}

#[test]
fn a_privileged_one_sees_the_machine() {
    let linux = LinuxContainer { privileged: true, seccomp: Seccomp::RuntimeDefault, ..LinuxContainer::default() };
    let mut pod = pod();
    pod.namespaces.remove(0);
    pod.bounding = 0b11;
    let device = Device { path: "/dev/kvm".into(), kind: "c", major: 10, minor: 232, file_mode: 0o660, uid: 0, gid: 5 };
    let found = Found { devices: vec![(device, "rwm".into())], ..found() };
    check(
        &ContainerSpec { linux: Some(Box::new(linux)), ..spec() },
        &pod,
        found,
        &expect![[r#"
            linux.cgroupsPath: "/sampan/pod1/c1"
            linux.devices: [{"fileMode":432,"gid":5,"major":10,"minor":232,"path":"/dev/kvm","type":"c","uid":0}]
            linux.namespaces: [{"type":"mount"},{"path":"/proc/7/ns/net","type":"network"},{"path":"/proc/7/ns/ipc","type":"ipc"},{"path":"/proc/7/ns/uts","type":"uts"}]
            linux.resources: {"cpu":{"shares":2},"devices":[{"access":"rwm","allow":true}]}
            mounts: {"destination":"/proc","options":["nosuid","noexec","nodev"],"source":"proc","type":"proc"}
            mounts: {"destination":"/dev","options":["nosuid","strictatime","mode=755","size=65536k"],"source":"tmpfs","type":"tmpfs"}
            mounts: {"destination":"/dev/pts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"],"source":"devpts","type":"devpts"}
            mounts: {"destination":"/dev/mqueue","options":["nosuid","noexec","nodev"],"source":"mqueue","type":"mqueue"}
            mounts: {"destination":"/sys","options":["nosuid","noexec","nodev","rw"],"source":"sysfs","type":"sysfs"}
            mounts: {"destination":"/sys/fs/cgroup","options":["nosuid","noexec","nodev","relatime","rw"],"source":"cgroup","type":"cgroup"}
            mounts: {"destination":"/dev/shm","options":["rbind","rprivate","nosuid","noexec","nodev","rw"],"source":"/pod/shm","type":"bind"}
            ociVersion: "1.0.2"
            process.args: ["sleep","1"]
            process.capabilities: {"bounding":["CAP_CHOWN","CAP_DAC_OVERRIDE"],"effective":["CAP_CHOWN","CAP_DAC_OVERRIDE"],"permitted":["CAP_CHOWN","CAP_DAC_OVERRIDE"]}
            process.cwd: "/"
            process.env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","B=2","A=3"]
            process.noNewPrivileges: false
            process.oomScoreAdj: 0
            process.rlimits: [{"hard":524288,"soft":1024,"type":"RLIMIT_NOFILE"}]
            process.terminal: false
            process.user: {"additionalGids":[6,7],"gid":6,"uid":5}
            root.path: "rootfs"
            root.readonly: false
        "#]],
    );
}

#[test]
fn a_restricted_one_with_all_that_can_be_said() {
    let linux = LinuxContainer {
        capabilities: Capabilities { add: vec!["NET_BIND_SERVICE".into()], drop: vec!["ALL".into()] },
        no_new_privileges: true,
        seccomp: Seccomp::RuntimeDefault,
        rlimits: [("RLIMIT_CORE".to_owned(), (9, 8))].into(),
        oom_score_adj: 950,
        resources: LinuxResources {
            pids: Some(64),
            swap_bytes: Some(0),
            huge_pages: [("2MB".to_owned(), 4 << 20)].into(),
            cpus: "0-1".into(),
        },
        ..LinuxContainer::default()
    };
    let limits = Limits { cpu_millis: Some(500), memory_bytes: Some(64 << 20), cpu_request_millis: Some(250) };
    let bind = |source: &str, target: &str, read_only, propagation| Bind {
        source: source.into(),
        target: target.into(),
        read_only,
        no_exec: read_only,
        propagation,
    };
    let binds = vec![
        bind("/pod/m/0", "/a/b", true, Propagation::None),
        bind("/pod/m/1", "/a", false, Propagation::HostToContainer),
        bind("/pod/m/2", "/dev/shm/", false, Propagation::Bidirectional),
    ];
    let device =
        Device { path: "/dev/fuse".into(), kind: "c", major: 10, minor: 229, file_mode: 0o666, uid: 0, gid: 0 };
    let found = Found { binds, devices: vec![(device, "rw".into())], ..found() };
    let spec = ContainerSpec {
        linux: Some(Box::new(linux)),
        limits,
        tty: true,
        cwd: Some("/srv".into()),
        root: RootFolder::ReadOnly,
        env: vec![("PATH".into(), "/bin".into())],
        ..spec()
    };
    check(
        &spec,
        &Pod { cgroup_v2: true, ..pod() },
        found,
        &expect![[r#"
        linux.cgroupsPath: "/sampan/pod1/c1"
        linux.devices: [{"fileMode":438,"gid":0,"major":10,"minor":229,"path":"/dev/fuse","type":"c","uid":0}]
        linux.maskedPaths: ["/proc/asound","/proc/acpi","/proc/interrupts","/proc/kcore","/proc/keys","/proc/latency_stats","/proc/timer_list","/proc/timer_stats","/proc/sched_debug","/proc/scsi","/sys/firmware","/sys/devices/virtual/powercap"]
        linux.namespaces: [{"type":"pid"},{"type":"mount"},{"path":"/proc/7/ns/net","type":"network"},{"path":"/proc/7/ns/ipc","type":"ipc"},{"path":"/proc/7/ns/uts","type":"uts"}]
        linux.readonlyPaths: ["/proc/bus","/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger"]
        linux.resources: {"cpu":{"cpus":"0-1","period":100000,"quota":50000,"shares":256},"devices":[{"access":"rwm","allow":false},{"access":"rw","allow":true,"major":10,"minor":229,"type":"c"}],"hugepageLimits":[{"limit":4194304,"pageSize":"2MB"}],"memory":{"limit":67108864,"swap":67108864},"pids":{"limit":64},"unified":{"memory.oom.group":"1"}}
        linux.rootfsPropagation: "rshared"
        linux.seccomp: {"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"syscalls":9}
        mounts: {"destination":"/proc","options":["nosuid","noexec","nodev"],"source":"proc","type":"proc"}
        mounts: {"destination":"/dev","options":["nosuid","strictatime","mode=755","size=65536k"],"source":"tmpfs","type":"tmpfs"}
        mounts: {"destination":"/dev/pts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"],"source":"devpts","type":"devpts"}
        mounts: {"destination":"/dev/mqueue","options":["nosuid","noexec","nodev"],"source":"mqueue","type":"mqueue"}
        mounts: {"destination":"/sys","options":["nosuid","noexec","nodev","ro"],"source":"sysfs","type":"sysfs"}
        mounts: {"destination":"/sys/fs/cgroup","options":["nosuid","noexec","nodev","relatime","ro"],"source":"cgroup","type":"cgroup"}
        mounts: {"destination":"/a","options":["rbind","rslave","rw"],"source":"/pod/m/1","type":"bind"}
        mounts: {"destination":"/a/b","options":["rbind","rprivate","ro","noexec"],"source":"/pod/m/0","type":"bind"}
        mounts: {"destination":"/dev/shm/","options":["rbind","rshared","rw"],"source":"/pod/m/2","type":"bind"}
        ociVersion: "1.0.2"
        process.args: ["sleep","1"]
        process.capabilities: {"bounding":["CAP_NET_BIND_SERVICE"],"effective":["CAP_NET_BIND_SERVICE"],"permitted":["CAP_NET_BIND_SERVICE"]}
        process.cwd: "/srv"
        process.env: ["TERM=xterm","PATH=/bin"]
        process.noNewPrivileges: true
        process.oomScoreAdj: 950
        process.rlimits: [{"hard":8,"soft":8,"type":"RLIMIT_CORE"},{"hard":524288,"soft":1024,"type":"RLIMIT_NOFILE"}]
        process.terminal: true
        process.user: {"additionalGids":[6,7],"gid":6,"uid":5}
        root.path: "rootfs"
        root.readonly: true
    "#]],
    );
}

#[test]
fn one_user_gets_no_cgroup_and_no_groups() {
    let pod = Pod { rootless: true, cgroup: None, ..pod() };
    let user = User { uid: 0, gid: 0, additional_gids: vec![0, 7] };
    check(
        &spec(),
        &pod,
        Found { user, ..found() },
        &expect![[r#"
        linux.maskedPaths: ["/proc/asound","/proc/acpi","/proc/interrupts","/proc/kcore","/proc/keys","/proc/latency_stats","/proc/timer_list","/proc/timer_stats","/proc/sched_debug","/proc/scsi","/sys/firmware","/sys/devices/virtual/powercap"]
        linux.namespaces: [{"type":"pid"},{"type":"mount"},{"path":"/proc/7/ns/net","type":"network"},{"path":"/proc/7/ns/ipc","type":"ipc"},{"path":"/proc/7/ns/uts","type":"uts"}]
        linux.readonlyPaths: ["/proc/bus","/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger"]
        mounts: {"destination":"/proc","options":["nosuid","noexec","nodev"],"source":"proc","type":"proc"}
        mounts: {"destination":"/dev","options":["nosuid","strictatime","mode=755","size=65536k"],"source":"tmpfs","type":"tmpfs"}
        mounts: {"destination":"/dev/pts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620"],"source":"devpts","type":"devpts"}
        mounts: {"destination":"/dev/mqueue","options":["nosuid","noexec","nodev"],"source":"mqueue","type":"mqueue"}
        mounts: {"destination":"/sys","options":["nosuid","noexec","nodev","ro"],"source":"sysfs","type":"sysfs"}
        mounts: {"destination":"/dev/shm","options":["rbind","rprivate","nosuid","noexec","nodev","rw"],"source":"/pod/shm","type":"bind"}
        ociVersion: "1.0.2"
        process.args: ["sleep","1"]
        process.capabilities: {"bounding":["CAP_CHOWN","CAP_DAC_OVERRIDE","CAP_FOWNER","CAP_FSETID","CAP_KILL","CAP_SETGID","CAP_SETUID","CAP_SETPCAP","CAP_NET_BIND_SERVICE","CAP_NET_RAW","CAP_SYS_CHROOT","CAP_MKNOD","CAP_AUDIT_WRITE","CAP_SETFCAP"],"effective":["CAP_CHOWN","CAP_DAC_OVERRIDE","CAP_FOWNER","CAP_FSETID","CAP_KILL","CAP_SETGID","CAP_SETUID","CAP_SETPCAP","CAP_NET_BIND_SERVICE","CAP_NET_RAW","CAP_SYS_CHROOT","CAP_MKNOD","CAP_AUDIT_WRITE","CAP_SETFCAP"],"permitted":["CAP_CHOWN","CAP_DAC_OVERRIDE","CAP_FOWNER","CAP_FSETID","CAP_KILL","CAP_SETGID","CAP_SETUID","CAP_SETPCAP","CAP_NET_BIND_SERVICE","CAP_NET_RAW","CAP_SYS_CHROOT","CAP_MKNOD","CAP_AUDIT_WRITE","CAP_SETFCAP"]}
        process.cwd: "/"
        process.env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","B=2","A=3"]
        process.noNewPrivileges: false
        process.rlimits: [{"hard":524288,"soft":1024,"type":"RLIMIT_NOFILE"}]
        process.terminal: false
        process.user: {"gid":0,"uid":0}
        root.path: "rootfs"
        root.readonly: false
    "#]],
    );
    let error = config(&spec(), &pod, found()).unwrap_err();
    assert!(error.contains("user 5 and group 6") && error.contains("uidmap"), "{error}");
}

#[test]
fn a_profile_of_the_host_is_taken_as_it_is() {
    let profile = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW"});
    let with = |seccomp| {
        let linux = LinuxContainer { seccomp, unmasked_proc: true, ..LinuxContainer::default() };
        let found = Found { profile: Some(profile.clone()), ..found() };
        let spec = ContainerSpec { linux: Some(Box::new(linux)), ..spec() };
        serde_json::to_value(config(&spec, &pod(), found).unwrap()).unwrap()["linux"].clone()
    };
    let local = with(Seccomp::Localhost("/x".into()));
    assert_eq!(local["seccomp"], profile);
    assert!(local["maskedPaths"].is_null() && local["readonlyPaths"].is_null());
    assert!(with(Seccomp::Unconfined)["seccomp"].is_null());
}

#[test]
fn what_cannot_be_is_told() {
    type Change = fn(&mut ContainerSpec);
    let table: &[(&str, Change)] = &[
        ("no command specified", |spec| spec.args.clear()),
        ("no command specified", |spec| spec.args[0].clear()),
        ("the working directory \"srv\" is not an absolute path", |spec| spec.cwd = Some("srv".into())),
        ("arguments and environment must not contain NUL", |spec| spec.args.push("a\0b".into())),
        ("unknown capability \"FLY\"", |spec| {
            let capabilities = Capabilities { add: vec!["FLY".into()], drop: vec![] };
            spec.linux = Some(Box::new(LinuxContainer { capabilities, ..LinuxContainer::default() }));
        }),
    ];
    for (expected, change) in table {
        let mut spec = spec();
        change(&mut spec);
        assert_eq!(config(&spec, &pod(), found()).unwrap_err(), *expected);
    }
}

#[test]
fn who_may_not_lower_the_score_of_the_kernel_keeps_its_own() {
    let linux = LinuxContainer { oom_score_adj: -997, ..LinuxContainer::default() };
    let score = |bounding: u64, own: i32| {
        let pod = Pod { bounding, oom_score_adj: own, ..pod() };
        let spec = ContainerSpec { linux: Some(Box::new(linux.clone())), ..spec() };
        config(&spec, &pod, found()).expect("a configuration").process.oom_score_adj
    };
    let without = capabilities::ALL & !(1 << 24);
    assert_eq!(
        (score(capabilities::ALL, 0), score(without, 0), score(without, -500)),
        (Some(-997), Some(0), Some(-500))
    );
}
