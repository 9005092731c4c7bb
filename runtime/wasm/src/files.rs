//! Files of guests: the folders that they see, and their share of the node's open files and disk.
//!
//! Folders are opened for each instance anew, from [`Mount`]s and never by a path that a guest may have changed meanwhile; and only when it
//! uses them, so that a request which needs no files, and a command that waits, cost nothing: a node has fewer descriptors than room for pods
//! with a token each. Guests list their folders when they begin, so that what a command is shown of each until then is [`nowhere`].

pub(crate) mod budget;
pub(crate) mod shown;

use budget::Held;
use container::{Mount, MountError};
use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Component, Path, PathBuf},
};
use wasmtime::component::Resource;
use wasmtime_wasi::{
    FsPerms, OpenMode, ResourceTable, WasiCtxBuilder, WasiView,
    filesystem::{Descriptor, Dir, WasiFilesystemCtx},
    p1::{WasiP1Ctx, wasi_snapshot_preview1 as p1},
    p2::{DynInputStream, DynOutputStream},
};

/// Preview 1's number of the first folder.
const FIRST_FOLDER: i32 = 3;

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

/// The folders that relative names lead into. Programs of WASI have no working directory: they take for it what is listed as `.`, and for a
/// folder below it what is listed by its relative name. They would take it for the root as well, so there is none where the root is mounted.
pub(crate) fn relative(mounts: &[Mount], cwd: &str) -> Result<Vec<Mount>, MountError> {
    let cwd: PathBuf = Path::new("/").components().chain(Path::new(cwd).components().filter(is_name)).collect();
    let root = Path::new("/");
    if cwd == root || mounts.iter().any(|mount| Path::new(&mount.target) == root) {
        return Ok(Vec::new());
    }
    let within = mounts.iter().filter(|mount| cwd.starts_with(&mount.target));
    let deepest = within.max_by_key(|mount| Path::new(&mount.target).components().count());
    let here = deepest.map(|mount| {
        let rest = cwd.strip_prefix(&mount.target).unwrap_or(Path::new(""));
        Mount::new(&mount.root, mount.below.join(rest), ".", mount.read_only)
    });
    let taken = |name: &Path| mounts.iter().any(|mount| Path::new(&mount.target) == root.join(name));
    let below = mounts.iter().filter_map(|mount| {
        let name = Path::new(&mount.target).strip_prefix(&cwd).ok()?;
        let named = !name.as_os_str().is_empty() && !taken(name);
        named.then(|| Mount { target: name.display().to_string(), ..mount.clone() })
    });
    Ok(here.transpose()?.into_iter().chain(below).collect())
}

fn is_name(part: &Component<'_>) -> bool {
    matches!(part, Component::Normal(_))
}

/// Of a guest whose files block who uses them.
pub(crate) fn in_place() -> WasiFilesystemCtx {
    let mut context = WasiCtxBuilder::new().allow_blocking_current_thread(true).build();
    std::mem::take(context.filesystem())
}

/// Why a folder is not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The pod, or all guests together, hold too many files open.
    #[error("the volumes cannot be opened: guests of this node hold too many files open")]
    Full,
    /// The folder is gone, or another one is in its place.
    #[error("mount {0} cannot be opened: {1}")]
    Mount(String, MountError),
}

fn open(mount: &Mount) -> Result<File, Refused> {
    mount.open().map_err(|error| Refused::Mount(mount.target.clone(), error))
}

/// Whether all mounts can be opened now.
pub(crate) fn check(mounts: &[Mount]) -> wasmtime::Result<()> {
    Ok(mounts.iter().try_for_each(|mount| open(mount).map(drop))?)
}

/// Opens one folder. `count` counts what the guest has open; `in_place`: who uses it may block.
pub(crate) fn folder(
    mount: &Mount,
    in_place: bool,
    held: &mut Held,
    count: impl FnOnce() -> usize,
) -> Result<Dir, Refused> {
    if !held.open(1, count) {
        return Err(Refused::Full);
    }
    let (perms, mode) = permissions(mount);
    Ok(Dir::new(open(mount)?, perms, mode, in_place))
}

/// A folder that a guest was shown and has not used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unopened {
    /// The number by which a core module knows it.
    pub(crate) number: i32,
    /// Where it is in the instance's table.
    pub(crate) entry: u32,
    pub(crate) mount: usize,
}

/// Shows a core module its folders. Preview 1 takes them by path only, and opens what is there: so it is shown none, in as many places.
pub(crate) fn show(
    mut builder: WasiCtxBuilder,
    mounts: &[Mount],
    nowhere: &Dir,
) -> wasmtime::Result<(WasiP1Ctx, Vec<Unopened>)> {
    let path = format!("/proc/self/fd/{}", nowhere.dir.as_raw_fd());
    for mount in mounts {
        builder.preopened_dir(&path, &mount.target, permissions(mount).0)?;
    }
    let mut wasi = builder.build_p1();
    // Any question about numbers makes the table of them; the answer has no place to go.
    let _ = p1::fd_prestat_get(&mut wasi, &mut wiggle::GuestMemory::Unshared(&mut []), FIRST_FOLDER, 0);
    drop(std::mem::take(wasi.ctx().ctx.filesystem()));
    let table = wasi.ctx().table;
    let mut unopened = Vec::with_capacity(mounts.len());
    for entry in 0..u32::try_from(mounts.len())? + FIRST_FOLDER.cast_unsigned() {
        let Ok(Descriptor::Dir(dir)) = table.get_mut(&Resource::new_borrow(entry)) else { continue };
        *dir = nowhere.clone();
        let mount = unopened.len();
        unopened.push(Unopened { number: FIRST_FOLDER + i32::try_from(mount)?, entry, mount });
    }
    if unopened.len() != mounts.len() {
        wasmtime::bail!("{} of {} folders are in the table of preview 1", unopened.len(), mounts.len());
    }
    Ok((wasi, unopened))
}

/// Opens one of them where it was shown.
pub(crate) fn put(table: &mut ResourceTable, entry: u32, dir: Dir) {
    // an entry that is gone is an error of whatever is done with it next
    if let Ok(shown) = table.get_mut(&Resource::new_borrow(entry)) {
        *shown = Descriptor::Dir(dir);
    }
}

/// Opens the folders of a core module all at once. The path of an open handle leads to what is open, whatever stands at its name by now.
pub(crate) fn preopen(builder: &mut WasiCtxBuilder, mounts: &[Mount], held: &mut Held) -> wasmtime::Result<()> {
    for mount in mounts {
        let dir = folder(mount, false, held, || 0)?;
        let path = format!("/proc/self/fd/{}", dir.dir.as_raw_fd());
        builder
            .preopened_dir(path, &mount.target, permissions(mount).0)
            .map_err(|error| error.context(format!("mount {} cannot be opened by its handle", mount.target)))?;
    }
    Ok(())
}
