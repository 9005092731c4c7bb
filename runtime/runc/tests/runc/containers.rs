//! What a program sees in a Linux container.

use super::support::{Node, can_run, can_run_as_root, oci_runtime, wait};
use container::{
    Capabilities, Device, Exec, ExitReason, Limits, LinuxContainer, LinuxSandbox, Mount, Processes, Propagation,
    RootFolder, Runtime, Seccomp, Stdin, Streams, User, net::Sandbox,
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn linux(change: impl FnOnce(&mut LinuxContainer)) -> Option<Box<LinuxContainer>> {
    let mut linux = LinuxContainer { seccomp: Seccomp::RuntimeDefault, ..LinuxContainer::default() };
    change(&mut linux);
    Some(Box::new(linux))
}

/// Both runtimes that Debian has. crun refuses a machine whose cgroups of version 2 have controllers beside those of version 1: there it does not see
/// the former.
async fn nodes() -> Vec<Node> {
    let mut nodes = vec![Node::new().await];
    let Some(crun) = oci_runtime("crun") else {
        eprintln!("SKIPPED with crun: it is not installed");
        return nodes;
    };
    let without = nodes[0].folder.path().join("crun");
    let script = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'umount /sys/fs/cgroup/unified; exec {} \"$@\"' crun \"$@\"\n",
        crun.display()
    );
    fs::write(&without, script).unwrap();
    fs::set_permissions(&without, fs::Permissions::from_mode(0o755)).unwrap();
    nodes.push(Node::with(|options| options.oci_runtime = if is_hybrid() { without } else { crun }).await);
    // whose folder holds the script goes last
    nodes.reverse();
    nodes
}

fn is_hybrid() -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers");
    controllers.is_ok_and(|text| !text.trim().is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_started_ends_as_upstream_has_it() {
    if !can_run_as_root() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    fs::write(node.layer.join("bin/text"), "no program").unwrap();
    let table = [
        ("/nope", "exec: \"/nope\": stat /nope: no such file or directory"),
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/bin/text", "exec: \"/bin/text\": permission denied"),
        ("/bin", "exec: \"/bin\": permission denied"),
    ];
    for (program, expected) in table {
        let spec = node.spec(&[program]);
        let id = spec.id.clone();
        node.runtime.create(&"one".into(), spec).await.unwrap();
        let error = node.runtime.start(&id).await.unwrap_err().to_string();
        let exit = node.exit(&id).await;
        assert_eq!((exit.code, exit.reason), (128, ExitReason::StartError), "{program}");
        let start = "OCI runtime create failed: runc create failed: unable to start container process: ";
        assert!(exit.message.starts_with(start) && exit.message.contains(expected), "{}", exit.message);
        assert_eq!(exit.message, error);
        assert_eq!(node.log(&id), "", "what the OCI runtime writes is no output of the container");
    }
    for node in nodes().await {
        node.pod("one").await;
        let spec = node.spec(&["/nope"]);
        let id = spec.id.clone();
        node.runtime.create(&"one".into(), spec).await.unwrap();
        assert!(node.runtime.start(&id).await.is_err());
        assert_eq!(node.exit(&id).await.code, 128);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_is_told_at_once() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let user = |name: &str| linux(|linux| linux.user.of_image = name.into());
    let nobody = "unable to find user nobody: no matching entries in passwd file";
    let mut table = vec![(node.spec(&["true"]), nobody.to_owned()), (node.spec(&[]), "no command specified".into())];
    table[0].0.linux = user("nobody");
    let mut spec = node.spec(&["true"]);
    spec.artifact = container::Artifact::Linux { layers: vec!["/no/layer".into()], digest: String::new() };
    table.push((spec, "failed to mount the root folder: /no/layer: No such file or directory".into()));
    let mut spec = node.spec(&["true"]);
    spec.linux = linux(|linux| linux.seccomp = Seccomp::Localhost("/no/profile".into()));
    table.push((spec, "failed to load the seccomp profile /no/profile: No such file or directory".into()));
    let mut spec = node.spec(&["true"]);
    let volume = node.folder.path().join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    spec.mounts = vec![Mount::new(&volume, "sub", "/data", false).unwrap()];
    fs::rename(volume.join("sub"), volume.join("old")).unwrap();
    symlink("/etc", volume.join("sub")).unwrap();
    table.push((spec, "failed to mount /data: sub: it is not a folder, or it was replaced by a link".into()));
    let mut spec = node.spec(&["true"]);
    spec.id = "../x".into();
    table.push((spec, "\"../x\" is no id of a container".into()));
    for (spec, expected) in table {
        let id = spec.id.clone();
        let error = node.runtime.create(&"one".into(), spec).await.unwrap_err();
        assert!(matches!(error, container::Error::Invalid(_)), "{error}");
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(node.runtime.list().await.unwrap().iter().all(|status| status.id != id));
    }
    let folder = node.options.folder.join("one/containers");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "nothing is left");
    let mut sandbox = node.sandbox_spec("two");
    sandbox.linux.sysctls = [("net.nope".to_owned(), "1".to_owned())].into();
    let error = node.runtime.sandbox(sandbox, node.unused.sockets.clone()).await.unwrap_err().to_string();
    assert!(error.contains("sysctl \"net.nope\": No such file or directory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_capabilities_are_those_of_the_pod() {
    if !can_run_as_root() {
        return;
    }
    for node in nodes().await {
        node.pod("one").await;
        let of = async |user: User, capabilities: Capabilities, privileged: bool| {
            let mut spec = node.sh("id -u; id -g; id -G; while read a b; do case $a in Cap[EB]*|NoN*|Seccomp:) echo $a $b;; esac; done </proc/self/status");
            spec.linux = linux(|linux| {
                (linux.user, linux.capabilities, linux.privileged) = (user, capabilities, privileged);
                linux.no_new_privileges = !privileged;
            });
            let (exit, said) = node.run("one", spec).await;
            assert_eq!(exit.code, 0, "{said}");
            said.lines().map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let root = of(User::default(), Capabilities::default(), false).await;
        let caps = ["CapEff: 00000000a80425fb", "CapBnd: 00000000a80425fb", "NoNewPrivs: 1", "Seccomp: 2"];
        assert_eq!(root, [&["0", "0", "0"][..], &caps[..]].concat());
        let web = User { of_image: "web".into(), groups: vec![7], ..User::default() };
        let web = of(web, Capabilities { add: vec![], drop: vec!["ALL".into()] }, false).await;
        let none = ["CapEff: 0000000000000000", "CapBnd: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"];
        assert_eq!(web, [&["33", "33", "33 7 29"][..], &none[..]].concat());
        let all = of(User { user: Some(5), group: Some(6), ..User::default() }, Capabilities::default(), true).await;
        assert_eq!(all[..3], ["5", "6", "6"]);
        assert_eq!(all[5..], ["NoNewPrivs: 0", "Seccomp: 0"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_folder_is_the_image_and_what_was_written() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let upper = node.folder.path().join("upper");
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/motd"), "upper\n").unwrap();
    let written = node.folder.path().join("roots/one");
    let spec = |script: &str, root| {
        let mut spec = node.sh(script);
        spec.artifact =
            container::Artifact::Linux { layers: vec![node.layer.clone(), upper.clone()], digest: String::new() };
        spec.root = root;
        spec
    };
    let script = "cat /etc/motd; echo mine >/etc/motd && cat /etc/motd; ls -ld / | head -c 10; echo; hostname";
    let (exit, said) = node.run("one", spec(script, RootFolder::Writable(written.clone()))).await;
    assert_eq!((exit.code, &*said), (0, "upper\nmine\ndrwxr-xr-x\none\n"));
    assert_eq!(fs::read_to_string(written.join("files/etc/motd")).unwrap(), "mine\n");
    let (_, said) = node.run("one", spec("cat /etc/motd; touch /x 2>&1 || echo no", RootFolder::ReadOnly)).await;
    assert_eq!(said, "upper\ntouch: /x: Read-only file system\nno\n");
    assert_eq!(fs::read_to_string(upper.join("etc/motd")).unwrap(), "upper\n");
    // a layer is locked as long as a container has it
    let lock =
        || rustix::fs::flock(fs::File::open(&upper).unwrap(), rustix::fs::FlockOperation::NonBlockingLockExclusive);
    let id = node.start("one", spec("sleep 1000", RootFolder::Absent)).await;
    assert!(lock().is_err());
    node.runtime.remove(&id).await.unwrap();
    lock().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_those_of_the_pod() {
    if !can_run_as_root() {
        return;
    }
    for node in nodes().await {
        node.pod("one").await;
        let volume = node.folder.path().join("volume");
        fs::create_dir_all(volume.join("sub")).unwrap();
        fs::write(volume.join("hosts"), "127.0.0.1 localhost\n").unwrap();
        let mut spec = node.sh("exec 2>&1; echo a >/data/a; echo b >/data/ro/b || echo no; cat /etc/hosts; echo >/etc/hosts || echo no; cat /etc/hostname; echo x >/dev/shm/x");
        let below = Mount::new(&volume, "sub", "/data/ro", true).unwrap();
        spec.mounts = vec![below, Mount::new(&volume, "", "/data", false).unwrap()];
        spec.mounts.push(Mount::file(&volume, "hosts", "/etc/hosts", true).unwrap());
        let (exit, said) = node.run("one", spec).await;
        let no = |path| format!("/bin/sh: can't create {path}: Read-only file system\nno\n");
        let expected = [&no("/data/ro/b"), "127.0.0.1 localhost\n", &no("/etc/hosts"), "one\n"].concat();
        assert_eq!((exit.code, said), (0, expected));
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "a\n");
        // the containers of a pod share this one
        assert_eq!(node.run("one", node.sh("cat /dev/shm/x")).await.1, "x\n");
        // removing the pod leaves volumes alone
        node.runtime.remove_sandbox(&"one".into()).await.unwrap();
        assert!(volume.join("a").exists() && volume.join("ro").is_dir());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mounted_travels_as_the_pod_says() {
    if !can_run_as_root() {
        return;
    }
    let node = Node::new().await;
    let mounted = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    for (propagation, to_host) in [(Propagation::HostToContainer, false), (Propagation::Bidirectional, true)] {
        let volume = node.folder.path().join(format!("volume-{to_host}"));
        fs::create_dir_all(volume.join("in")).unwrap();
        // a mount of its own, which is shared as those of a machine with systemd are
        rustix::mount::mount_bind(&volume, &volume).unwrap();
        let shared = rustix::mount::MountPropagationFlags::SHARED;
        rustix::mount::mount_change(&volume, shared).unwrap();
        let mut sandbox = node.sandbox_spec("one");
        sandbox.linux.mounts_on_host = to_host;
        node.runtime.sandbox(sandbox, node.unused.sockets.clone()).await.unwrap();
        let mut spec = node.sh("while [ ! -e /v/in/seen ]; do sleep 0.01; done; echo seen; mount -t tmpfs inner /v/in; touch /v/in/mine; sleep 1000");
        let mut mount = Mount::new(&volume, "", "/v", false).unwrap();
        mount.propagation = propagation;
        spec.mounts = vec![mount];
        spec.linux = linux(|linux| linux.privileged = true);
        let id = node.start("one", spec).await;
        rustix::mount::mount("outer", volume.join("in"), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        fs::write(volume.join("in/seen"), "").unwrap();
        node.said(&id, "seen").await;
        if to_host {
            wait("the host sees it", || volume.join("in/mine").exists().then_some(())).await;
        } else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(!volume.join("in/mine").exists());
        }
        node.runtime.remove_sandbox(&"one".into()).await.unwrap();
        let pods = node.options.folder.to_str().unwrap().to_owned();
        assert!(!mounted().contains(&pods), "{}", mounted());
        while rustix::mount::unmount(volume.join("in"), rustix::mount::UnmountFlags::DETACH).is_ok() {}
        rustix::mount::unmount(&volume, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(volume.join("in").is_dir());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_those_of_the_pod() {
    if !can_run_as_root() {
        return;
    }
    for node in nodes().await {
        let sandbox = async |id: &str, linux: LinuxSandbox, network| {
            let spec = container::SandboxSpec { linux, network, ..node.sandbox_spec(id) };
            node.runtime.sandbox(spec, node.unused.sockets.clone()).await.unwrap();
        };
        let own = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
        let show = "for n in net ipc uts pid mnt; do ls -l /proc/self/ns/$n; done; ls /sys/class/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls -d /proc/[0-9]*|wc -l";
        let seen = async |pod: &str| {
            let (exit, said) = node.run(pod, node.sh(show)).await;
            assert_eq!(exit.code, 0, "{said}");
            let mut lines = said.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned());
            let names: Vec<String> = lines.by_ref().take(5).collect();
            (names, lines.collect::<Vec<_>>())
        };
        let sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned())].into();
        sandbox("own", LinuxSandbox { sysctls, ..LinuxSandbox::default() }, Sandbox::Virtual).await;
        let (first, rest) = seen("own").await;
        let (second, _) = seen("own").await;
        assert_eq!(first[..3], second[..3], "network, IPC and host name are the pod's");
        for (name, of) in ["net", "ipc", "uts", "pid", "mnt"].iter().zip(&first) {
            assert_ne!(*of, own(name), "{name}");
        }
        assert_eq!(rest[..2], ["lo", "7"]);
        node.runtime.remove_sandbox(&"own".into()).await.unwrap();
        // a network namespace by its path, and the host's processes and IPC
        let host = LinuxSandbox { processes: Processes::Host, host_ipc: true, ..LinuxSandbox::default() };
        sandbox("host", host, Sandbox::Namespace("/proc/self/ns/net".into())).await;
        let (names, rest) = seen("host").await;
        assert_eq!((&names[0], &names[1], &names[3]), (&own("net"), &own("ipc"), &own("pid")));
        assert!(rest.last().unwrap().parse::<u32>().unwrap() > 3);
        // what it leaves in the host's namespace is killed with it
        let (exit, _) = node.run("host", node.sh("sleep 1000 & exit 3")).await;
        assert_eq!(exit.code, 3);
        node.only_the_shim("host").await;
        // one process namespace for all containers
        let pod = LinuxSandbox { processes: Processes::Pod, ..LinuxSandbox::default() };
        sandbox("shared", pod, Sandbox::Virtual).await;
        let long = node.start("shared", node.sh("sleep 1000 & sleep 1000")).await;
        let (one, rest) = seen("shared").await;
        assert_eq!(one[3], seen("shared").await.0[3]);
        assert!(rest.last().unwrap().parse::<u32>().unwrap() >= 5, "{rest:?}");
        node.runtime.stop(&long, Duration::ZERO).await.unwrap();
        let (_, said) = node.run("shared", node.sh("sleep 0.2; ls -d /proc/[0-9]*|wc -l")).await;
        assert!(said.trim().parse::<u32>().unwrap() <= 5, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_of_system_calls_refuses_what_needs_more() {
    if !can_run_as_root() {
        return;
    }
    for node in nodes().await {
        node.pod("one").await;
        let run = async |seccomp: Seccomp, add: &str| {
            let mut spec = node.sh("mount -t tmpfs x /tmp && echo mounted");
            spec.linux = linux(|linux| {
                linux.seccomp = seccomp;
                linux.capabilities.add = vec![add.into()];
            });
            node.run("one", spec).await.1
        };
        assert_eq!(run(Seccomp::RuntimeDefault, "SYS_ADMIN").await, "mounted\n");
        let profile = node.folder.path().join("profile.json");
        let names = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO","errnoRet":5}]}"#;
        fs::write(&profile, names).unwrap();
        let said = run(Seccomp::Localhost(profile), "SYS_ADMIN").await;
        assert!(said.contains("Input/output error"), "{said}");
        assert!(run(Seccomp::RuntimeDefault, "NET_ADMIN").await.contains("mount: "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_made_for_those_who_may_use_them() {
    if !can_run_as_root() {
        return;
    }
    for node in nodes().await {
        node.pod("one").await;
        let script = "head -c 1 /dev/zero | wc -c; head -c 1 /dev/kmsg >/dev/null 2>&1; echo $?; head -c 1 /dev/mine 2>/dev/null | wc -c; ls -d /dev/kmsg";
        let (_, said) = node.run("one", node.sh(script)).await;
        assert_eq!(said, "1\n1\n0\nls: /dev/kmsg: No such file or directory\n");
        let mut spec = node.sh(script);
        let device = Device { host: "/dev/zero".into(), container: "/dev/mine".into(), access: "r".into() };
        spec.linux = linux(|linux| linux.devices = vec![device]);
        assert_eq!(node.run("one", spec).await.1, "1\n1\n1\nls: /dev/kmsg: No such file or directory\n");
        let mut spec = node.sh("ls -d /dev/kmsg; touch /sys/fs/cgroup/x 2>&1 | wc -l");
        spec.linux = linux(|linux| linux.privileged = true);
        assert!(node.run("one", spec).await.1.starts_with("/dev/kmsg\n"), "privileged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_are_counted_and_change_in_place() {
    if !can_run_as_root() {
        return;
    }
    for node in nodes().await {
        node.pod("one").await;
        let mut spec = node.sh("while :; do :; done");
        spec.limits = Limits { cpu_millis: Some(100), memory_bytes: Some(32 << 20), cpu_request_millis: Some(50) };
        let id = node.start("one", spec).await;
        let busy = async || {
            let before = node.runtime.stats(&id).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let after = node.runtime.stats(&id).await.unwrap();
            assert!(after.memory_bytes > 0 && after.instances == 1);
            (after.cpu_nanos - before.cpu_nanos, after.throttled - before.throttled)
        };
        let (cpu, throttled) = busy().await;
        assert!(cpu < 300_000_000 && throttled > 0, "{cpu} {throttled}");
        let limits = Limits { memory_bytes: Some(16 << 20), ..Limits::default() };
        node.runtime.update_limits(&id, limits).await.unwrap();
        let (_, throttled) = busy().await;
        assert_eq!(throttled, 0, "no limit any more");
        let mut exec = node.sh("x=0123456789abcdef; while :; do x=$x$x; done");
        let command = std::mem::take(&mut exec.args);
        let run = node.runtime.exec(&id, Exec { command, tty: false }, Streams::default()).await.unwrap();
        assert!(run != 0, "the new limit of memory holds");
        node.runtime.stop(&id, Duration::ZERO).await.unwrap();
        assert_eq!(node.exit(&id).await.reason, ExitReason::OomKilled);
        // a limit of the pod holds for all its containers
        let mut small = node.sandbox_spec("small");
        small.limits = Limits { memory_bytes: Some(16 << 20), ..Limits::default() };
        node.runtime.sandbox(small, node.unused.sockets.clone()).await.unwrap();
        let (exit, _) = node.run("small", node.sh("x=0123456789abcdef; while :; do x=$x$x; done")).await;
        assert_eq!(exit.code, 137);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_and_one_output() {
    if !can_run_as_root() {
        return;
    }
    for node in nodes().await {
        node.pod("one").await;
        let mut spec =
            node.sh("read line; echo got $line; stty size; read line; sleep 0.1; stty size; echo err >&2; read x");
        (spec.tty, spec.stdin) = (true, Stdin::Open);
        let id = node.start("one", spec).await;
        let ((stdin, mut input), (stdout, mut output)) = (tokio::io::duplex(1024), tokio::io::duplex(1024));
        let (sizes, resize) = tokio::sync::mpsc::channel(4);
        let streams = Streams {
            stdin: Some(Box::new(stdin)),
            stdout: Some(Box::new(stdout)),
            stderr: None,
            resize: Some(resize),
        };
        let attach = node.runtime.attach(&id, streams);
        let talk = async {
            sizes.send((80, 24)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            input.write_all(b"hello\n").await.unwrap();
            node.said(&id, "24 80").await;
            sizes.send((100, 30)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            input.write_all(b"\n").await.unwrap();
            node.said(&id, "err").await;
            input.write_all(b"\n").await.unwrap();
            let mut text = String::new();
            output.read_to_string(&mut text).await.unwrap();
            text
        };
        let (attached, text) = tokio::join!(attach, talk);
        attached.unwrap();
        assert_eq!(text, "hello\r\ngot hello\r\n24 80\r\n\r\n30 100\r\nerr\r\n\r\n");
        assert_eq!(node.exit(&id).await.code, 0);
        // and of a command beside a program
        let id = node.start("one", node.sh("sleep 1000")).await;
        let (stdout, mut output) = tokio::io::duplex(1024);
        let streams = Streams { stdout: Some(Box::new(stdout)), ..Streams::default() };
        let command = ["/bin/sh", "-c", "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal; echo $TERM; exit 5"]
            .map(ToOwned::to_owned)
            .to_vec();
        let exec = node.runtime.exec(&id, Exec { command, tty: true }, streams);
        let mut text = String::new();
        let (code, read) = tokio::join!(exec, output.read_to_string(&mut text));
        read.unwrap();
        assert_eq!((code.unwrap(), &*text), (5, "terminal\r\nxterm\r\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_cannot_be_started_or_are_given_up() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let id = node.start("one", node.sh("sleep 1000")).await;
    let exec = |command: &[&str]| Exec { command: command.iter().map(ToString::to_string).collect(), tty: false };
    let error = node.runtime.exec(&id, exec(&["nope"]), Streams::default()).await.unwrap_err().to_string();
    let expected = "failed to exec in container: OCI runtime exec failed: exec failed: unable to start container process: exec: \"nope\": \
                    executable file not found in $PATH";
    assert_eq!(error, expected);
    let before = node.processes().len();
    let waiting = node.runtime.exec(&id, exec(&["sleep", "999"]), Streams::default());
    assert!(tokio::time::timeout(Duration::from_millis(500), waiting).await.is_err());
    wait("the command ends with its caller", || (node.processes().len() == before).then_some(())).await;
    // much output, and a process that keeps it open
    let (stdout, mut output) = tokio::io::duplex(1024);
    let streams = Streams { stdout: Some(Box::new(stdout)), ..Streams::default() };
    let run = node.runtime.exec(&id, exec(&["sh", "-c", "head -c 3000000 /dev/zero; sleep 30 & exit 4"]), streams);
    let mut bytes = Vec::new();
    let (code, read) = tokio::join!(run, output.read_to_end(&mut bytes));
    read.unwrap();
    assert_eq!((code.unwrap(), bytes.len()), (4, 3_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_of_clients_ends_as_the_pod_says() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let send = async |id: &container::ContainerId, text: &[u8]| {
        let (stdin, mut input) = tokio::io::duplex(1024);
        let streams = Streams { stdin: Some(Box::new(stdin)), ..Streams::default() };
        let write = async {
            input.write_all(text).await.unwrap();
            drop(input);
        };
        tokio::join!(node.runtime.attach(id, streams), write).0.unwrap();
    };
    let mut spec = node.spec(&["cat"]);
    spec.stdin = Stdin::Once;
    let once = node.start("one", spec).await;
    send(&once, b"first\n").await;
    assert_eq!(node.exit(&once).await.code, 0, "it has read the end");
    assert_eq!(node.log(&once), "first\n");
    let mut spec = node.spec(&["cat"]);
    spec.stdin = Stdin::Open;
    let open = node.start("one", spec).await;
    for text in [&b"first\n"[..], b"second\n"] {
        send(&open, text).await;
    }
    node.said(&open, "first\nsecond\n").await;
    let (exit, said) = node.run("one", node.spec(&["cat"])).await;
    assert_eq!((exit.code, &*said), (0, ""), "none is empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_path_and_many_layers_are_fine() {
    if !can_run() {
        return;
    }
    let long = tempfile::tempdir().unwrap();
    let folder = long.path().join("x".repeat(120)).join("y,:\\ z".repeat(20));
    let node = Node::with(|options| options.folder = folder.join("pods")).await;
    node.pod("one").await;
    let layers: Vec<_> = (0..127)
        .map(|number| {
            let layer = folder.join(format!("layer-{number}"));
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(format!("file-{number}")), "").unwrap();
            fs::write(layer.join("last"), number.to_string()).unwrap();
            layer
        })
        .collect();
    let mut spec = node.sh("ls -d /file-* | wc -l; cat /last");
    (spec.tty, spec.stdin) = (true, Stdin::Open);
    let layers = std::iter::once(node.layer.clone()).chain(layers).collect();
    spec.artifact = container::Artifact::Linux { layers, digest: String::new() };
    let (exit, said) = node.run("one", spec).await;
    assert_eq!(exit.code, 0, "{said}");
    assert!(said.starts_with("127\n126"), "{said}");
    assert!(Path::new(&node.options.folder).exists());
}
