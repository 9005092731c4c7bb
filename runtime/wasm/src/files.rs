//! Files of guests: their preopened folders, and the limits of open files and disk.
//!
//! Each instance opens its folders itself, from [`Mount`]s and never by a path that a guest may have changed. A folder is opened at its first
//! use, so that requests without files and idle commands hold no descriptors: with one token volume per pod, a node has more pods than
//! descriptors. Programs list their folders at the start; until the first use, each folder of a command is the [`placeholder`].

pub(crate) mod budget;
pub(crate) mod lazy;
pub(crate) mod streams;

use budget::InstanceFiles;
use container::{
    ContainerSpec, Mount, MountError,
    log::{Log, Source},
};
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

/// Counts the entries of a component's table that may keep a file open: a stream outlives the file's own entry.
pub(crate) fn count(table: &mut ResourceTable) -> usize {
    let holds = |entry: &&mut (dyn std::any::Any + Send)| {
        entry.is::<Descriptor>() || entry.is::<DynInputStream>() || entry.is::<DynOutputStream>()
    };
    table.iter_mut().filter(holds).count()
}

/// Opens a deleted folder, in which nothing exists and nothing can be created. All guests share it.
pub(crate) fn placeholder(beside: &Path) -> io::Result<Dir> {
    let path = beside.join(format!("placeholder-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    let handle = File::open(&path)?;
    std::fs::remove_dir(&path)?;
    Ok(Dir::new(handle, FsPerms::ReadOnly, OpenMode::READ, false))
}

/// Additional mounts by which relative paths resolve in the working directory. WASI has none: wasi-libc resolves relative paths against the
/// preopen `.` and preopens with relative names. It would resolve absolute paths against `.` too, so that there is none where the root is mounted.
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

/// Sets the working directory of a container: by mounts for relative paths, and by `PWD` for programs that read it (Go).
pub(crate) fn set_working_directory(spec: &mut ContainerSpec, log: &Log) {
    let cwd = spec.cwd.clone().unwrap_or_else(|| "/".into());
    match relative(&spec.mounts, &cwd) {
        Ok(relative) => spec.mounts.extend(relative),
        Err(error) => {
            let text =
                format!("sampan: the working directory {cwd} cannot be opened: {error}: relative names begin at /");
            log.lines(Source::Stderr, &text);
        }
    }
    let asks = spec.cwd.is_some() || !spec.mounts.is_empty();
    if asks && !spec.env.iter().any(|(name, _)| name == "PWD") {
        spec.env.push(("PWD".into(), cwd));
    }
}

/// Tells which mounts a program cannot see that looks for folders by WASI 0.3: its file functions are not held to the limits of files and disk
/// yet, so that they have no folders.
pub(crate) fn log_invisible(mounts: &[Mount], log: &Log) {
    if !mounts.is_empty() {
        let names: Vec<_> = mounts.iter().map(|mount| mount.target.as_str()).collect();
        let text = format!("sampan: volumes are not visible to programs of WASI 0.3 yet: {}", names.join(", "));
        log.lines(Source::Stderr, &text);
    }
}

/// The context of a guest whose file calls block the calling thread.
pub(crate) fn in_place() -> WasiFilesystemCtx {
    let mut context = WasiCtxBuilder::new().allow_blocking_current_thread(true).build();
    std::mem::take(context.filesystem())
}

/// Why a folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The pod, or all guests together, have too many open files.
    #[error("the volumes cannot be opened: guests of this node hold too many files open")]
    Full,
    /// The folder was removed or replaced.
    #[error("mount {0} cannot be opened: {1}")]
    Mount(String, MountError),
}

fn open(mount: &Mount) -> Result<File, Refused> {
    mount.open().map_err(|error| Refused::Mount(mount.target.clone(), error))
}

/// Whether all mounts can be opened now.
pub(crate) fn check_mounts(mounts: &[Mount]) -> wasmtime::Result<()> {
    Ok(mounts.iter().try_for_each(|mount| open(mount).map(drop))?)
}

/// Opens one folder. `count` counts the open files of the guest; `in_place`: calls block the calling thread.
pub(crate) fn open_folder(
    mount: &Mount,
    in_place: bool,
    held: &mut InstanceFiles,
    count: impl FnOnce() -> usize,
) -> Result<Dir, Refused> {
    if !held.open(1, count) {
        return Err(Refused::Full);
    }
    let (perms, mode) = permissions(mount);
    Ok(Dir::new(open(mount)?, perms, mode, in_place))
}

/// A folder that a guest has listed and not used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unopened {
    /// Its descriptor in preview 1.
    pub(crate) number: i32,
    /// Its entry in the instance's table.
    pub(crate) entry: u32,
    pub(crate) mount: usize,
}

/// Preopens the placeholder for each mount of a core module. wasmtime-wasi opens the preopens of preview 1 by path at once, so that the mounts
/// themselves cannot be given to it before their first use.
pub(crate) fn preopen_placeholders(
    mut builder: WasiCtxBuilder,
    mounts: &[Mount],
    placeholder: &Dir,
) -> wasmtime::Result<(WasiP1Ctx, Vec<Unopened>)> {
    let path = format!("/proc/self/fd/{}", placeholder.dir.as_raw_fd());
    for mount in mounts {
        builder.preopened_dir(&path, &mount.target, permissions(mount).0)?;
    }
    let mut wasi = builder.build_p1();
    // any call creates the descriptor table; the result is not needed
    let _ = p1::fd_prestat_get(&mut wasi, &mut wiggle::GuestMemory::Unshared(&mut []), FIRST_FOLDER, 0);
    drop(std::mem::take(wasi.ctx().ctx.filesystem()));
    let table = wasi.ctx().table;
    let mut unopened = Vec::with_capacity(mounts.len());
    for entry in 0..u32::try_from(mounts.len())? + FIRST_FOLDER.cast_unsigned() {
        let Ok(Descriptor::Dir(dir)) = table.get_mut(&Resource::new_borrow(entry)) else { continue };
        *dir = placeholder.clone();
        let mount = unopened.len();
        unopened.push(Unopened { number: FIRST_FOLDER + i32::try_from(mount)?, entry, mount });
    }
    if unopened.len() != mounts.len() {
        wasmtime::bail!("{} of {} folders are in the table of preview 1", unopened.len(), mounts.len());
    }
    Ok((wasi, unopened))
}

/// Replaces a placeholder with the open folder.
pub(crate) fn replace_placeholder(table: &mut ResourceTable, entry: u32, dir: Dir) {
    // the next call on a removed entry reports the error
    if let Ok(shown) = table.get_mut(&Resource::new_borrow(entry)) {
        *shown = Descriptor::Dir(dir);
    }
}

/// Opens all folders of a core module at once. `/proc/self/fd` leads to the open folder, whatever its original path names by now.
pub(crate) fn preopen(
    builder: &mut WasiCtxBuilder,
    mounts: &[Mount],
    held: &mut InstanceFiles,
) -> wasmtime::Result<()> {
    for mount in mounts {
        let dir = open_folder(mount, false, held, || 0)?;
        let path = format!("/proc/self/fd/{}", dir.dir.as_raw_fd());
        builder
            .preopened_dir(path, &mount.target, permissions(mount).0)
            .map_err(|error| error.context(format!("mount {} cannot be opened by its handle", mount.target)))?;
    }
    Ok(())
}
