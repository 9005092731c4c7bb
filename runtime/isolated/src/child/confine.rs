//! What a child gives up before it sees anything of a guest: other files (Landlock), other system calls (seccomp), privileges.

use crate::child::filter;
use anyhow::{Context, bail};
use container::Folder;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::{
    process::{Resource, Rlimit, Signal, getrlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets, Gid, Uid},
};

/// Most descriptors of a child. Guests have fewer: see `Options::files`.
const DESCRIPTORS: u64 = 8192;

/// The kernel kills this process when the node's thread that started it ends.
pub(super) fn die_with_the_node() -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("cannot end with the node")
}

/// When memory is short, the kernel shall end a pod and not the node.
pub(super) fn be_the_first_to_go() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

/// Confines this thread, and those that it starts, to the folders of the pod.
///
/// # Errors
/// The kernel cannot.
pub(super) fn confine(folders: &[Folder], user: Option<u32>) -> anyhow::Result<()> {
    limit().context("cannot lower its limits")?;
    if let Some(user) = user {
        become_user(user).context("cannot become another user")?;
    }
    drop_capabilities().context("cannot drop its capabilities")?;
    rustix::thread::set_no_new_privs(true).context("cannot give up new privileges")?;
    let status = landlock(folders).context("cannot restrict its files (Landlock)")?;
    if status == RulesetStatus::NotEnforced {
        bail!("the kernel has no Landlock (Linux 5.13, with landlock among the modules of lsm=)");
    }
    filter::install().context("cannot restrict its system calls (seccomp)")
}

fn limit() -> anyhow::Result<()> {
    let bound = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Core, bound(0))?;
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(DESCRIPTORS);
    setrlimit(Resource::Nofile, bound(most))?;
    Ok(())
}

/// Leaves root, and all groups. Keeps the capabilities for [`drop_capabilities`].
fn become_user(user: u32) -> anyhow::Result<()> {
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_groups(&[])?;
    let (group, user) = (Gid::from_raw(user), Uid::from_raw(user));
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    // the change of the user has taken the signal back
    die_with_the_node()
}

/// The capability of root that is kept: the files of volumes belong to anybody. Landlock says which files there are.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE;

fn drop_capabilities() -> anyhow::Result<()> {
    let now = rustix::thread::capabilities(None)?;
    let kept = CapabilitySets {
        effective: now.permitted & KEPT,
        permitted: now.permitted & KEPT,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, kept)?;
    Ok(())
}

fn landlock(folders: &[Folder]) -> anyhow::Result<RulesetStatus> {
    let abi = ABI::V6;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    for folder in folders {
        // What is not there cannot be allowed. A single file is mounted as a copy, which is in another folder.
        if !folder.path.is_dir() {
            continue;
        }
        let opened = PathFd::new(&folder.path).with_context(|| folder.path.display().to_string())?;
        let access = access(abi, folder);
        ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// Neither programs nor devices, sockets and pipes. Without links, also nothing that comes from another folder.
fn access(abi: ABI, folder: &Folder) -> BitFlags<AccessFs> {
    let never = AccessFs::Execute
        | AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::MakeSock
        | AccessFs::MakeFifo
        | AccessFs::IoctlDev;
    let never = if folder.links { never } else { never | AccessFs::MakeSym | AccessFs::Refer };
    let all = if folder.read_only { AccessFs::from_read(abi) } else { AccessFs::from_all(abi) };
    all & !never
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{
        io::Errno,
        net::{AddressFamily, SocketType},
        process::Pid,
    };
    use std::{
        fs::{self, File},
        io::{self, Write},
        net::{Ipv4Addr, TcpListener, TcpStream},
        os::unix::{fs::PermissionsExt, net::UnixStream},
        path::Path,
        process::Command,
        sync::mpsc,
        thread,
    };

    fn folder(path: &Path, read_only: bool) -> Folder {
        Folder { path: path.to_owned(), read_only, links: !read_only }
    }

    /// Runs `work` in a confined thread. The confinement holds for a thread and those that it starts.
    fn confined<T: Send + 'static>(folders: Vec<Folder>, work: impl FnOnce() -> T + Send + 'static) -> T {
        let confined = thread::spawn(move || {
            confine(&folders, rustix::process::geteuid().is_root().then_some(0x7fff_0001))
                .expect("this kernel can confine");
            work()
        });
        confined.join().expect("no panic")
    }

    #[test]
    fn a_confined_process_has_its_folders_and_nothing_else() {
        let outside = tempfile::tempdir().unwrap();
        let (own, shown) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "x").unwrap();
        fs::write(shown.path().join("file"), "shown").unwrap();
        let folders = vec![folder(own.path(), false), folder(shown.path(), true), folder(Path::new("/nowhere"), true)];
        let paths = [outside.path(), own.path(), shown.path()].map(Path::to_owned);
        let refused = confined(folders, move || {
            let [outside, own, shown] = paths;
            fs::write(own.join("a"), "a").expect("its own folder");
            fs::create_dir(own.join("d")).expect("its own folder");
            fs::rename(own.join("a"), own.join("d/b")).expect("its own folder");
            fs::remove_dir_all(own.join("d")).expect("its own folder");
            assert_eq!(fs::read_to_string(shown.join("file")).expect("it may read"), "shown");
            std::os::unix::fs::symlink(&outside, own.join("way")).expect("its own folder");
            [
                File::open("/etc/passwd").map(drop),
                File::open("/proc/self/environ").map(drop),
                File::open(outside.join("secret")).map(drop),
                File::open(own.join("way/secret")).map(drop),
                fs::write(outside.join("new"), ""),
                fs::write(shown.join("file"), "other"),
                fs::remove_file(shown.join("file")),
                fs::rename(shown.join("file"), own.join("file")),
                fs::hard_link(outside.join("secret"), own.join("link")),
                fs::read_dir("/").map(drop),
            ]
            .map(|result| result.map_err(|error| error.kind()))
        });
        for (at, result) in refused.into_iter().enumerate() {
            let error = result.expect_err("refused");
            let expected = [io::ErrorKind::PermissionDenied, io::ErrorKind::CrossesDevices];
            assert!(expected.contains(&error), "{at}: {error}");
        }
        assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "x");
    }

    /// The node opens logs by their paths: a link there would lead it anywhere.
    #[test]
    fn where_links_are_not_allowed_there_are_none() {
        let (logs, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let no_links = Folder { path: logs.path().to_owned(), read_only: false, links: false };
        let paths = [logs.path(), volume.path()].map(Path::to_owned);
        confined(vec![no_links, folder(volume.path(), false)], move || {
            let [logs, volume] = paths;
            fs::create_dir(logs.join("c")).expect("a folder");
            fs::write(logs.join("c/0.log"), "x").expect("a file");
            fs::rename(logs.join("c/0.log"), logs.join("c/1.log")).expect("rotated");
            let link = |at: &Path| std::os::unix::fs::symlink("/etc/passwd", at);
            link(&volume.join("link")).expect("in a volume");
            fs::write(volume.join("file"), "").expect("in a volume");
            let refused = [
                link(&logs.join("c/0.log")),
                fs::rename(volume.join("link"), logs.join("c/0.log")),
                fs::hard_link(volume.join("link"), logs.join("c/0.log")),
                fs::rename(volume.join("file"), logs.join("c/0.log")),
            ];
            for (at, result) in refused.into_iter().enumerate() {
                let error = result.expect_err("refused").kind();
                let expected = [io::ErrorKind::PermissionDenied, io::ErrorKind::CrossesDevices];
                assert!(expected.contains(&error), "{at}: {error}");
            }
        });
    }

    #[test]
    fn a_confined_process_starts_no_program_and_opens_no_socket() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let own = tempfile::tempdir().unwrap();
        let program = own.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let parent = Pid::as_raw(rustix::process::getppid());
        confined(vec![folder(own.path(), false)], move || {
            let eperm = |what: &str, result: Result<(), Errno>| assert_eq!(result, Err(Errno::PERM), "{what}");
            for program in [Path::new("/bin/true"), &program] {
                let error = Command::new(program).status().expect_err("no process").kind();
                assert_eq!(error, io::ErrorKind::PermissionDenied);
            }
            for family in [AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX, AddressFamily::NETLINK] {
                for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::RAW] {
                    eperm("socket", rustix::net::socket(family, kind, None).map(drop));
                }
            }
            TcpStream::connect(address).expect_err("no connection");
            let parent = Pid::from_raw(parent).expect("a process");
            eperm("kill", rustix::process::kill_process(parent, Signal::CONT));
            eperm("pidfd_open", rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty()).map(drop));
            eperm("setrlimit", setrlimit(Resource::Core, getrlimit(Resource::Core)));
            eperm("chmod", rustix::fs::chmod(&program, rustix::fs::Mode::RWXU));
            eperm("chroot", rustix::process::chroot(program.parent().expect("a folder")));
            eperm("prctl", rustix::thread::set_no_new_privs(false));
            eperm("capget", rustix::thread::capabilities(None).map(drop));
            eperm("setpriority", rustix::process::setpriority_process(Some(parent), 19));
            // what it needs
            let (mut a, b) = UnixStream::pair().expect("a pair");
            a.write_all(b"x").expect("written");
            drop(b);
            let (sender, receiver) = mpsc::channel();
            thread::Builder::new().name("named".into()).spawn(move || sender.send(7)).expect("a thread");
            assert_eq!(receiver.recv(), Ok(7));
            assert!(rustix::fs::memfd_create("code", rustix::fs::MemfdFlags::CLOEXEC).is_ok());
        });
    }

    /// A socket that the node handed over may end, but never becomes one to somebody else.
    #[test]
    fn a_socket_that_was_closed_connects_to_nobody_else() {
        use rustix::net::{RecvFlags, SendFlags, recv, sendto};
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = other.local_addr().unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        drop(client);
        let result = confined(Vec::new(), move || {
            let mut buffer = [0; 1];
            let _ = recv(&accepted, &mut buffer, RecvFlags::empty());
            let _ = accepted.shutdown(std::net::Shutdown::Both);
            // MSG_FASTOPEN
            let connect = sendto(&accepted, b"x", SendFlags::from_bits_retain(0x2000_0000), &to);
            (connect, rustix::net::connect(&accepted, &to))
        });
        assert_eq!(result, (Err(Errno::PERM), Err(Errno::PERM)));
    }
}
