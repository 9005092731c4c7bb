//! The folders that a guest sees. They are opened for each instance anew, from [`Mount`]s and never by a path that a guest may have changed
//! meanwhile; a component's only when it asks for them, so that a request which needs no files costs nothing.

use crate::guest::{Guest, Shared};
use container::{Mount, MountError};
use std::os::fd::{AsRawFd, OwnedFd};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::{
    FsPerms, OpenMode, WasiCtxBuilder,
    filesystem::{Descriptor, Dir},
    p2::bindings::filesystem::preopens,
};

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

/// What gives a component its folders, in place of wasmtime-wasi's list of folders that are open already.
struct Preopens<'a> {
    shared: &'a Shared,
    table: &'a mut ResourceTable,
}

struct HasPreopens;

impl HasData for HasPreopens {
    type Data<'a> = Preopens<'a>;
}

impl preopens::Host for Preopens<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let give = |mount: &Mount| {
            let (perms, mode) = permissions(mount);
            let dir = Dir::new(open(mount)?, perms, mode, false);
            Ok((self.table.push(Descriptor::Dir(dir))?, mount.target.clone()))
        };
        self.shared.spec.mounts.iter().map(give).collect()
    }
}

/// Components get their folders from here.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    preopens::add_to_linker::<Guest, HasPreopens>(linker, |guest| {
        let (shared, table) = guest.files();
        Preopens { shared, table }
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Opens the folders of a core module. Preview 1 takes them by path only: the path of an open handle leads to what is open, whatever
/// stands at its name by now.
pub(crate) fn preopen(builder: &mut WasiCtxBuilder, mounts: &[Mount]) -> wasmtime::Result<()> {
    for mount in mounts {
        let handle = OwnedFd::from(open(mount)?);
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        builder
            .preopened_dir(path, &mount.target, permissions(mount).0)
            .map_err(|error| error.context(format!("mount {} cannot be opened by its handle", mount.target)))?;
    }
    Ok(())
}
