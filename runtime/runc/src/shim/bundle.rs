//! The bundle of a container: its root file system, what is mounted into it, and its configuration.

use super::devices;
use crate::{
    config::{self, Found, Pod, mounts::Bind},
    disk, rootfs, users,
};
use container::{Artifact, ContainerSpec, LinuxContainer, Mount, Propagation, RootFolder, Seccomp, tree};
use rustix::{
    fs::{Mode, OFlags, open},
    mount::mount_bind_recursive,
};
use serde_json::Value;
use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The configuration's name, which the specification gives.
pub(crate) const CONFIG: &str = "config.json";
const ROOT: &str = "rootfs";
/// The folder of staged mounts.
const STAGED: &str = "mounts";
/// Most bytes of a profile of seccomp.
const MAX_PROFILE: u64 = 1 << 20;

/// Makes the bundle in `folder`, which exists. Returns what keeps its layers from being removed. What was mounted before an error is left to
/// [`unmount`].
///
/// # Errors
/// What the specification asks for is not there or not possible.
pub(crate) fn make(
    folder: &Path,
    spec: &ContainerSpec,
    pod: &Pod,
    hostname: Option<&Path>,
) -> Result<Vec<OwnedFd>, String> {
    let Artifact::Linux { layers, .. } = &spec.artifact else { return Err("this is no Linux image".into()) };
    let default = LinuxContainer::default();
    let linux = spec.linux.as_deref().unwrap_or(&default);
    let (root, own) = (folder.join(ROOT), folder.join("written"));
    let written = match &spec.root {
        RootFolder::Writable(written) => written,
        _ => &own,
    };
    let layers = rootfs::mount_overlay(layers, written, &root)
        .map_err(|error| format!("failed to mount the root folder: {error}"))?;
    let handle = open(&root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let handle = handle.map_err(|error| format!("open the root folder: {error}"))?;
    let user = users::resolve(&linux.user, &handle)?;
    let mut binds = stage(folder, &spec.mounts)?;
    if let Some(hostname) = hostname.filter(|_| !binds.iter().any(|bind| bind.target == "/etc/hostname")) {
        let (source, target, propagation) = (hostname.to_owned(), "/etc/hostname".into(), Propagation::None);
        binds.push(Bind { source, target, read_only: false, no_exec: false, propagation });
    }
    let found =
        Found { user, root: ROOT.into(), binds, devices: devices(linux, pod)?, profile: profile(&linux.seccomp)? };
    let config = config::config(spec, pod, found)?;
    disk::write(&folder.join(CONFIG), &config).map_err(|error| format!("write the configuration: {error}"))?;
    Ok(layers)
}

/// Mounts what the container mounts at paths that no guest can replace: a guest may have replaced a part of the path of a volume by a link, and the
/// OCI runtime would follow it.
fn stage(folder: &Path, mounts: &[Mount]) -> Result<Vec<Bind>, String> {
    let mut binds = Vec::new();
    for (number, mount) in mounts.iter().enumerate() {
        let failed = |error: io::Error| format!("failed to mount {}: {error}", mount.target);
        let source = folder.join(STAGED).join(number.to_string());
        let opened = mount.open().map_err(|error| format!("failed to mount {}: {error}", mount.target))?;
        match mount.is_file {
            false => fs::create_dir_all(&source).map_err(failed)?,
            true => {
                fs::create_dir_all(folder.join(STAGED)).map_err(failed)?;
                fs::File::create(&source).map_err(failed)?;
            }
        }
        let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
        mount_bind_recursive(path, &source).map_err(|error| failed(error.into()))?;
        let Mount { target, read_only, no_exec, propagation, .. } = mount.clone();
        binds.push(Bind { source, target, read_only, no_exec, propagation });
    }
    Ok(binds)
}

fn devices(linux: &LinuxContainer, pod: &Pod) -> Result<Vec<(crate::oci::Device, String)>, String> {
    let mut found = Vec::new();
    // one user can make no device: the OCI runtime then mounts those of every container
    if linux.privileged && !pod.rootless {
        found.extend(devices::all().into_iter().map(|device| (device, "rwm".to_owned())));
    }
    for device in &linux.devices {
        found.retain(|(other, _)| other.path != device.container);
        found.push((devices::one(&device.host, &device.container)?, device.access.clone()));
    }
    Ok(found)
}

/// The profile in a file of the host.
fn profile(seccomp: &Seccomp) -> Result<Option<Value>, String> {
    let Seccomp::Localhost(path) = seccomp else { return Ok(None) };
    let failed = |error: String| format!("failed to load the seccomp profile {}: {error}", path.display());
    let size = fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_PROFILE {
        return Err(failed(format!("{size} bytes, at most {MAX_PROFILE}")));
    }
    let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| failed(error.to_string()))
}

/// Takes all mounts of a bundle away.
pub(crate) fn unmount(folder: &Path) {
    rootfs::unmount_all(&folder.join(ROOT));
    for entry in fs::read_dir(folder.join(STAGED)).into_iter().flatten().flatten() {
        rootfs::unmount_all(&entry.path());
    }
}

/// Removes a bundle.
///
/// # Errors
/// Something is still mounted there.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    unmount(folder);
    tree::remove(folder)
}

/// The path of a container's bundle; `None` if the id is no name of a folder.
pub(crate) fn path(containers: &Path, id: &str) -> Option<PathBuf> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let plain = !id.is_empty() && id.len() <= 128 && !id.starts_with('.') && id.bytes().all(is_name);
    plain.then(|| containers.join(id))
}
