//! Mounts the tmpfs of volumes of memory (`emptyDir: {medium: Memory}`).
//!
//! It is mounted on the host, in the volume's folder: all runtimes see the same files, and it outlives the containers. A copy of the mount in the
//! namespace of another pod goes with the folder, which the kernel then takes from all of them. The source names who mounted it: what a user
//! mounts into a pod's folders is never taken away.

use rustix::{
    fs::{AtFlags, Mode, OFlags, StatxFlags, open, openat, statx},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};
use std::{ffi::CString, io, os::fd::OwnedFd, path::Path};

/// The source in the list of mounts.
const SOURCE: &str = "sampan-emptydir";
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Mounts a tmpfs of at most `size` bytes, which all users may write.
///
/// # Errors
/// `PermissionDenied`: this process may not mount.
pub(super) fn mount(dir: &Path, size: Option<u64>) -> io::Result<()> {
    let size = size.map_or(String::new(), |size| format!(",size={size}"));
    let mounted = |more: &str| {
        let options = CString::new(format!("mode=0777{size}{more}"))?;
        Ok::<_, io::Error>(rustix::mount::mount(SOURCE, dir, "tmpfs", MountFlags::empty(), &*options)?)
    };
    match mounted(",noswap") {
        // Linux before 6.4
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => mounted(""),
        other => other,
    }
}

/// Whether the folder is what [`mount`] has mounted.
pub(super) fn is_mounted(dir: &Path) -> io::Result<bool> {
    let folder = open(dir, FOLDER, Mode::empty())?;
    let id = mount_id(&folder)?;
    if id == mount_id(&openat(&folder, "..", FOLDER, Mode::empty())?)? {
        return Ok(false);
    }
    let id = id.to_string();
    let is_own = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        Some(before.split(' ').next() == Some(&id) && after.starts_with(&format!("tmpfs {SOURCE} ")))
    };
    Ok(std::fs::read_to_string("/proc/self/mountinfo")?.lines().any(|line| is_own(line) == Some(true)))
}

/// Takes away what [`mount`] has mounted. Returns whether there was something.
///
/// # Errors
/// It is in use: somebody works there, or has mounted something there.
pub(super) fn unmount(dir: &Path) -> io::Result<bool> {
    if !is_mounted(dir)? {
        return Ok(false);
    }
    rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW)?;
    Ok(true)
}

/// The number of the mount that a folder is in. Linux 5.8.
fn mount_id(folder: &OwnedFd) -> io::Result<u64> {
    Ok(statx(folder, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}
