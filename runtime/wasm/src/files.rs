//! Files of guests: the folders that they see, and their share of the node's open files and disk.
//!
//! Folders are opened for each instance anew, from [`Mount`]s and never by a path that a guest may have changed meanwhile; a component's
//! only when it asks for them, so that a request which needs no files costs nothing.

pub(crate) mod budget;

use budget::Held;
use container::{Mount, MountError};
use std::os::fd::{AsRawFd, OwnedFd};
use wasmtime_wasi::{FsPerms, OpenMode, WasiCtxBuilder, filesystem::Dir};

/// Open folders, and where a guest sees them.
pub(crate) type Folders = Vec<(Dir, String)>;

fn permissions(mount: &Mount) -> (FsPerms, OpenMode) {
    match mount.read_only {
        true => (FsPerms::ReadOnly, OpenMode::READ),
        false => (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE),
    }
}

fn open(mount: &Mount) -> wasmtime::Result<std::fs::File> {
    let told = |error: MountError| wasmtime::format_err!("mount {} cannot be opened: {error}", mount.target);
    mount.open().map_err(told)
}

/// Whether all mounts can be opened now.
pub(crate) fn check(mounts: &[Mount]) -> wasmtime::Result<()> {
    mounts.iter().try_for_each(|mount| open(mount).map(drop))
}

fn room(mounts: &[Mount], held: &mut Held, count: impl FnOnce() -> usize) -> wasmtime::Result<()> {
    if held.open(mounts.len(), count) {
        return Ok(());
    }
    wasmtime::bail!("the volumes cannot be opened: guests of this node hold too many files open")
}

/// Opens the folders of a component. `count` counts what it has open.
pub(crate) fn folders(mounts: &[Mount], held: &mut Held, count: impl FnOnce() -> usize) -> wasmtime::Result<Folders> {
    room(mounts, held, count)?;
    let folder = |mount: &Mount| {
        let (perms, mode) = permissions(mount);
        Ok((Dir::new(open(mount)?, perms, mode, false), mount.target.clone()))
    };
    mounts.iter().map(folder).collect()
}

/// Opens the folders of a core module. Preview 1 takes them by path only: the path of an open handle leads to what is open, whatever
/// stands at its name by now.
pub(crate) fn preopen(builder: &mut WasiCtxBuilder, mounts: &[Mount], held: &mut Held) -> wasmtime::Result<()> {
    room(mounts, held, || 0)?;
    for mount in mounts {
        let handle = OwnedFd::from(open(mount)?);
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        builder
            .preopened_dir(path, &mount.target, permissions(mount).0)
            .map_err(|error| error.context(format!("mount {} cannot be opened by its handle", mount.target)))?;
    }
    Ok(())
}
