//! The namespaces of a pod. The shim itself is in those that the containers share, so that they end with it: nobody has to remove them.

use super::owner;
use crate::{oci::Namespace, protocol::Orders, rootfs};
use container::{Processes, SandboxSpec, net::Sandbox};
use rustix::{
    fs::{Mode, OFlags, open},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto,
        socket_with,
    },
    process::{getegid, geteuid},
    system::{setdomainname, sethostname},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Bytes of `/dev/shm`, if the pod does not say.
const SHM: u64 = 64 << 20;

/// What was made for a pod.
pub(crate) struct Made {
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) shm: PathBuf,
    pub(crate) rootless: bool,
    /// The first process of the pod's process namespace, and what it ends with.
    pub(crate) init: Option<(Child, std::process::ChildStdin)>,
}

fn context<T>(what: &str, result: Result<T, impl Into<io::Error>>) -> io::Result<T> {
    result.map_err(|error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

/// Leaves the host's namespaces. Called while the process has one thread, or by its first.
///
/// # Errors
/// The kernel refuses one.
pub(crate) fn enter(orders: &Orders) -> io::Result<Made> {
    let SandboxSpec { linux, network, hostname, .. } = &orders.sandbox;
    let rootless = !geteuid().is_root();
    // it is the node's to show, which nobody may look at from inside of another user namespace
    let joined = match network {
        Sandbox::Virtual | Sandbox::Host => None,
        Sandbox::Namespace(path) => Some(context(&path.display().to_string(), handle(path))?),
    };
    if rootless {
        if *network == Sandbox::Host {
            return Err(io::Error::other("hostNetwork needs root: run sampan as root, or leave it out of the pod"));
        }
        if linux.processes == Processes::Host {
            return Err(io::Error::other(
                "who sees the processes of the host needs root: nothing else could end what it leaves",
            ));
        }
        be_root_of_an_own_user_namespace(joined.as_ref())?;
    }
    let mut own = UnshareFlags::NEWUTS;
    if !linux.mounts_on_host {
        own |= UnshareFlags::NEWNS;
    }
    if !linux.host_ipc {
        own |= UnshareFlags::NEWIPC;
    }
    if *network == Sandbox::Virtual {
        own |= UnshareFlags::NEWNET;
    }
    context("namespaces of the pod", unshare(own))?;
    if !linux.mounts_on_host {
        // what the host mounts appears here too, and never the other way
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        context("mounts of the host", mount_change("/", slave))?;
    }
    match joined {
        None if *network == Sandbox::Host => {}
        None => context("the loopback interface", loopback_up())?,
        Some(namespace) => {
            let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            context("the network namespace of the pod", moved)?;
        }
    }
    context("the host name", sethostname(hostname.as_bytes()))?;
    if !linux.domain.is_empty() {
        context("the domain name", setdomainname(linux.domain.as_bytes()))?;
    }
    for (name, value) in &linux.sysctls {
        context(&format!("sysctl {name:?}"), set_sysctl(name, value))?;
    }
    let shm = shm(orders)?;
    let init = match linux.processes {
        Processes::Pod => Some(context("the process namespace of the pod", init(orders))?),
        _ => None,
    };
    let namespaces = namespaces(orders, init.as_ref().map(|(child, _)| child.id()));
    Ok(Made { namespaces, shm, rootless, init })
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: what can break other threads is a table of descriptors of one's own, which no caller asks for.
    #[allow(unsafe_code)]
    let unshared = unsafe { rustix::thread::unshare_unsafe(flags) };
    Ok(unshared?)
}

fn handle(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The namespaces of a container: those of the pod by path, its own without one.
fn namespaces(orders: &Orders, init: Option<u32>) -> Vec<Namespace> {
    // those of this thread, which is the process's first but in tests
    let shim = format!("{}/task/{}", std::process::id(), rustix::thread::gettid().as_raw_nonzero());
    let of = |kind, name: &str, process: &str| {
        let path = Some(format!("/proc/{process}/ns/{name}").into());
        Namespace { kind, path }
    };
    let own = |kind| Namespace { kind, path: None };
    let mut all = vec![own("mount"), of("network", "net", &shim), of("uts", "uts", &shim)];
    if !orders.sandbox.linux.host_ipc {
        all.push(of("ipc", "ipc", &shim));
    }
    match (orders.sandbox.linux.processes, init) {
        (Processes::Container, _) => all.push(own("pid")),
        (Processes::Pod, Some(init)) => all.push(of("pid", "pid", &init.to_string())),
        (Processes::Pod | Processes::Host, _) => {}
    }
    if orders.cgroup.is_some() && orders.cgroups.join("cgroup.controllers").exists() {
        all.push(own("cgroup"));
    }
    all
}

/// Becomes user 0 of a user namespace: of the one that owns the network namespace, or of a new one with one user.
fn be_root_of_an_own_user_namespace(network: Option<&OwnedFd>) -> io::Result<()> {
    if let Some(network) = network {
        let owner = context("the owner of the network namespace", owner::of(network))?;
        let moved = move_into_link_name_space(owner.as_fd(), Some(LinkNameSpaceType::User));
        return context("the user namespace of the network", moved);
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    context("a user namespace", unshare(UnshareFlags::NEWUSER))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// Sets a kernel parameter of this process's namespaces. Names have dots or slashes, as in `sysctl`.
fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fs::OpenOptions::new()
        .write(true)
        .open(Path::new("/proc/sys").join(path))
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
}

/// The folder for `/dev/shm`.
fn shm(orders: &Orders) -> io::Result<PathBuf> {
    if orders.sandbox.linux.host_ipc {
        return Ok("/dev/shm".into());
    }
    let folder = orders.folder.join("shm");
    rootfs::unmount_all(&folder);
    fs::create_dir_all(&folder)?;
    let size = orders.sandbox.linux.shm_bytes.unwrap_or(SHM);
    let options = CString::new(format!("mode=1777,size={size}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    context("/dev/shm", mount("shm", &folder, "tmpfs", flags, &*options))?;
    Ok(folder)
}

/// Starts the first process of a new process namespace: this program again, whose standard input is a pipe.
fn init(orders: &Orders) -> io::Result<(Child, std::process::ChildStdin)> {
    let own = handle(Path::new("/proc/self/ns/pid"))?;
    unshare(UnshareFlags::NEWPID)?;
    let mut command = Command::new(&orders.program);
    command.args(&orders.args).env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = command.spawn();
    // all other children are of the host's again
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    let mut child = started?;
    let stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((child, stdin))
}

/// Sets the loopback interface up, by one message of rtnetlink(7).
fn loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_WITH_ACK: u16 = 1 | 4;
    const INTERFACE: u32 = 1;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_WITH_ACK.to_ne_bytes());
    message.extend([0; 8]); // number and sender
    message.extend([0; 4]); // family and kind
    for part in [INTERFACE, IFF_UP, IFF_UP] {
        message.extend(part.to_ne_bytes());
    }
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 256];
    let (count, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    // the header is 16 bytes; an error of 0 is the acknowledgement
    let error = answer
        .get(16..20)
        .filter(|_| count >= 20)
        .map(|bytes| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    match error {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
