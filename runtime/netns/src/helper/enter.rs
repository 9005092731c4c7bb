//! Into namespaces. The kernel lets only a process of one thread change its user namespace; another would have several network namespaces at a
//! time, of which the host's is one.

use nix::sched::{CloneFlags, setns, unshare};
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
};

/// The namespaces that a helper holds.
pub(super) struct Namespaces {
    pub(super) net: OwnedFd,
    /// What owns it, where this process is not root.
    pub(super) user: Option<OwnedFd>,
}

/// Where a namespace is that cannot be made, and why.
fn refused(what: &str, error: nix::Error) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "this machine allows no {what} namespace ({error}): see the sysctls user.max_{what}_namespaces, \
             kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns"
        ),
    )
}

/// The present network namespace.
pub(super) fn present_net() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Whether this process has one thread, as all that is here must have.
pub(super) fn is_alone() -> io::Result<bool> {
    Ok(fs::read_dir("/proc/self/task")?.count() == 1)
}

/// Makes new namespaces and enters them: of the network, and of users first where this process may not make one otherwise. Its user is root
/// there.
pub(super) fn make() -> io::Result<Namespaces> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(Namespaces { net: present_net()?, user: None });
    }
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| refused("user", error))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
    fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| refused("net", error))?;
    Ok(Namespaces { net: present_net()?, user: Some(File::open("/proc/self/ns/user")?.into()) })
}

/// Enters namespaces that a former helper made.
pub(super) fn again(net: OwnedFd, user: Option<OwnedFd>) -> io::Result<Namespaces> {
    if let Some(user) = &user {
        setns(user, CloneFlags::CLONE_NEWUSER)?;
    }
    setns(&net, CloneFlags::CLONE_NEWNET)?;
    Ok(Namespaces { net, user })
}

/// Does something in another network namespace, and comes back.
pub(super) fn inside<T>(other: impl AsFd, home: impl AsFd, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    setns(other, CloneFlags::CLONE_NEWNET)?;
    let result = work();
    come_back(home)?;
    result
}

/// Makes a network namespace, does something in it, and comes back.
pub(super) fn inside_new(home: impl AsFd, work: impl FnOnce() -> io::Result<()>) -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| refused("net", error))?;
    let result = present_net().and_then(|net| work().map(|()| net));
    come_back(home)?;
    result
}

/// A helper that is in the wrong namespace must not go on: whoever holds the descriptors starts another.
fn come_back(home: impl AsFd) -> io::Result<()> {
    setns(home, CloneFlags::CLONE_NEWNET).map_err(|error| {
        tracing::error!(%error, "a helper cannot return to the network namespace of the node");
        std::process::exit(1);
    })
}
