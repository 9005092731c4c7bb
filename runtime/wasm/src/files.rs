//! Files of guests: the folders that they see, and their share of the node's open files and disk.
//!
//! Folders are opened for each instance anew, from [`Mount`]s and never by a path that a guest may have changed meanwhile; and only when it
//! uses one, so that a request which needs no files, and a command that waits, cost nothing: a node has fewer descriptors than room for pods
//! with a token each. Guests list their folders when they begin, so that what a command is shown until then is [`nowhere`].

pub(crate) mod budget;

use budget::Held;
use container::{Mount, MountError};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};
use wasmtime_wasi::{
    FsPerms, OpenMode, ResourceTable, WasiCtxBuilder,
    filesystem::{Descriptor, Dir},
    p2::{DynInputStream, DynOutputStream},
};

/// Open folders, and where a guest sees them.
pub(crate) type Folders = Vec<(Dir, String)>;

fn permissions(mount: &Mount) -> (FsPerms, OpenMode) {
    match mount.read_only {
        true => (FsPerms::ReadOnly, OpenMode::READ),
        false => (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE),
    }
}

/// What of a component's table may hold a file: a stream does so longer than the file's own entry.
pub(crate) fn count(table: &mut ResourceTable) -> usize {
    let holds = |entry: &&mut (dyn std::any::Any + Send)| {
        entry.is::<Descriptor>() || entry.is::<DynInputStream>() || entry.is::<DynOutputStream>()
    };
    table.iter_mut().filter(holds).count()
}

/// A folder that is none any more: nothing is in it, and nothing can be made there. One for all guests.
pub(crate) fn nowhere(beside: &Path) -> io::Result<Dir> {
    let path = beside.join(format!("nowhere-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    let handle = File::open(&path)?;
    std::fs::remove_dir(&path)?;
    Ok(Dir::new(handle, FsPerms::ReadOnly, OpenMode::READ, false))
}

/// The folders of a command that has used none yet.
pub(crate) fn unopened(mounts: &[Mount], nowhere: &Dir) -> Folders {
    mounts.iter().map(|mount| (nowhere.clone(), mount.target.clone())).collect()
}

fn open(mount: &Mount) -> wasmtime::Result<File> {
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
