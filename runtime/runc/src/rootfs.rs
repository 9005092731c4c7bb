//! The root file system of a container: an overlay of its image's layers and a folder of its own.

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Most layers: those that fit into the page of text that `mount` takes. Images have at most 127.
const MAX_LAYERS: usize = 150;

/// Mounts the layers, given from the lowest to the highest, at `target`. What differs from them is in `written`, which is made.
///
/// Marks for what a layer hides are `user.` attributes (`userxattr`) with and without root, so that one unpacked layer serves both. Nothing is
/// synced (`volatile`): after a power cut the container starts anew with an empty folder. Paths go in as descriptors: they are short, and no
/// character of them means anything.
///
/// Returns the layers with a shared lock (`flock`) each, by which nobody removes one while it is held.
///
/// # Errors
/// A layer is missing, or the kernel has no overlay file system for this user.
pub(crate) fn mount_overlay(layers: &[PathBuf], written: &Path, target: &Path) -> io::Result<Vec<OwnedFd>> {
    if layers.len() > MAX_LAYERS {
        return Err(io::Error::other(format!(
            "an image of {} layers: at most {MAX_LAYERS} can be mounted",
            layers.len()
        )));
    }
    let (upper, work, none) = (written.join("files"), written.join("work"), written.join("none"));
    for folder in [&upper, &work, target] {
        make(folder)?;
    }
    let mut layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
    if layers.is_empty() {
        make(&none)?;
        layers.push(&none);
    }
    let mut opened = Vec::with_capacity(layers.len());
    for layer in layers.into_iter().rev() {
        let handle = folder(layer, OFlags::RDONLY)?;
        // who removes it has an exclusive one, and has removed its name before
        flock(&handle, FlockOperation::NonBlockingLockShared)
            .map_err(|error| io::Error::other(format!("{} is about to be removed: {error}", layer.display())))?;
        opened.push(handle);
    }
    let (upper, work) = (folder(&upper, OFlags::PATH)?, folder(&work, OFlags::PATH)?);
    let path = |folder: &OwnedFd| format!("/proc/self/fd/{}", folder.as_raw_fd());
    let lower: Vec<String> = opened.iter().map(path).collect();
    let options = format!("lowerdir={},upperdir={},workdir={},userxattr", lower.join(":"), path(&upper), path(&work));
    let mounted = |options: &str| {
        let options = CString::new(options).map_err(io::Error::other)?;
        Ok::<_, io::Error>(mount("overlay", target, "overlay", MountFlags::empty(), &*options)?)
    };
    match mounted(&format!("{options},volatile")) {
        // Linux before 5.10
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => mounted(&options),
        other => other,
    }?;
    Ok(opened)
}

/// Makes a folder that others may enter, as the root of a container is. This process's mask lets it.
fn make(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn folder(path: &Path, access: OFlags) -> io::Result<OwnedFd> {
    let opened = open(path, access | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("{}: {error}", path.display())))
}

/// Takes a mount away, also while it is used. It is fine if there is none.
pub(crate) fn unmount_all(target: &Path) {
    while unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
}
