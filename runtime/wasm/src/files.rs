//! Files of guests: their preopened folders, and the limits of open files and disk.
//!
//! Each instance opens its folders itself, from [`Mount`]s and never by a path that a guest may have changed. A folder is opened at its first
//! use, so that requests without files and idle commands hold no descriptors: with one token volume per pod, a node has more pods than
//! descriptors. Programs list their folders at the start; until the first use, each folder of a command is the [`placeholder`].

pub(crate) mod budget;
mod copy;
pub(crate) mod lazy;
pub(crate) mod p3;
pub(crate) mod p3_streams;
mod refused;
pub(crate) mod root;
pub(crate) mod streams;

use budget::{DiskSpace, InstanceFiles};
use container::{
    ContainerSpec, Mount, MountError,
    log::{Log, Source},
};
pub(crate) use refused::Refused;
use root::Root;
use std::{
    any::Any,
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
use wasmtime_wasi_tls::p2::{HostClientConnection, HostClientHandshake, HostFutureClientStreams};

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
    let files = |entry: &mut (dyn Any + Send)| {
        let one = entry.is::<Descriptor>() || entry.is::<DynInputStream>() || entry.is::<DynOutputStream>();
        // two streams are below a TLS connection, and may be those of files
        let two = entry.is::<HostClientHandshake>()
            || entry.is::<HostFutureClientStreams>()
            || entry.is::<HostClientConnection>();
        usize::from(one) + 2 * usize::from(two)
    };
    table.iter_mut().map(files).sum()
}

/// Opens a deleted folder, in which nothing exists and nothing can be created. All guests share it.
pub(crate) fn placeholder(beside: &Path) -> io::Result<Dir> {
    let path = beside.join(format!("placeholder-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    let handle = File::open(&path)?;
    std::fs::remove_dir(&path)?;
    Ok(Dir::new(handle, FsPerms::ReadOnly, OpenMode::READ, false))
}

/// A folder that programs list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Folder {
    Mount(Mount),
    /// A folder of the container's root.
    Root {
        /// The path below the root, possibly empty.
        below: PathBuf,
        target: String,
    },
}

impl Folder {
    pub(crate) fn target(&self) -> &str {
        match self {
            Self::Mount(mount) => &mount.target,
            Self::Root { target, .. } => target,
        }
    }
}

/// Most folders at the top of an image that are listed by themselves, for absolute names beside a working directory.
const MAX_TOP_FOLDERS: usize = 32;

/// The folders that a container's programs list: its root, its mounts, and those by which relative names begin in the working directory. Sets
/// `PWD` for programs that read it (Go).
pub(crate) fn folders(spec: &mut ContainerSpec, root: Option<&Root>, log: &Log) -> Vec<Folder> {
    let cwd = spec.cwd.clone().unwrap_or_else(|| "/".into());
    let mut folders = Vec::new();
    if root.is_some() {
        folders.push(Folder::Root { below: PathBuf::new(), target: "/".into() });
    }
    folders.extend(spec.mounts.iter().cloned().map(Folder::Mount));
    match relative(&spec.mounts, &cwd, root) {
        Ok(relative) => folders.extend(relative),
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
    folders
}

/// Additional folders by which relative paths resolve in the working directory. WASI has none: wasi-libc resolves relative paths against the
/// preopen `.` and preopens with relative names. It resolves absolute paths against `.` too, so that there is none where a volume is mounted at the root, and that the folders at the
/// top of an image are listed by themselves where there is one.
fn relative(mounts: &[Mount], cwd: &str, image: Option<&Root>) -> Result<Vec<Folder>, MountError> {
    let cwd: PathBuf = Path::new("/").components().chain(Path::new(cwd).components().filter(is_name)).collect();
    let root = Path::new("/");
    if cwd == root || mounts.iter().any(|mount| Path::new(&mount.target) == root) {
        return Ok(Vec::new());
    }
    let within = mounts.iter().filter(|mount| cwd.starts_with(&mount.target));
    let deepest = within.max_by_key(|mount| Path::new(&mount.target).components().count());
    let below_root = cwd.strip_prefix(root).unwrap_or(Path::new(""));
    let here = match (deepest, image) {
        (Some(mount), _) => {
            let rest = cwd.strip_prefix(&mount.target).unwrap_or(Path::new(""));
            Some(Folder::Mount(Mount::new(&mount.root, mount.below.join(rest), ".", mount.read_only)?))
        }
        (None, Some(image)) if image.is_writable() || image.has_folder(below_root) => {
            Some(Folder::Root { below: below_root.to_owned(), target: ".".into() })
        }
        (None, Some(_)) => {
            return Err(MountError::Io { what: cwd.display().to_string(), error: io::ErrorKind::NotFound.into() });
        }
        (None, None) => None,
    };
    let mounted = |name: &Path| mounts.iter().any(|mount| Path::new(&mount.target) == root.join(name));
    let top = image.filter(|_| here.is_some()).map_or(Vec::new(), |image| image.top_folders(MAX_TOP_FOLDERS));
    let top = top.into_iter().filter(|name| !mounted(name)).map(|name| {
        let target = root.join(&name).display().to_string();
        Folder::Root { below: name, target }
    });
    let taken = |name: &Path| mounts.iter().any(|mount| Path::new(&mount.target) == root.join(name));
    let below = mounts.iter().filter_map(|mount| {
        let name = Path::new(&mount.target).strip_prefix(&cwd).ok()?;
        let named = !name.as_os_str().is_empty() && !taken(name);
        named.then(|| Folder::Mount(Mount { target: name.display().to_string(), ..mount.clone() }))
    });
    Ok(top.chain(here).chain(below).collect())
}

fn is_name(part: &Component<'_>) -> bool {
    matches!(part, Component::Normal(_))
}

/// The context of a guest whose file calls block the calling thread.
pub(crate) fn in_place() -> WasiFilesystemCtx {
    let mut context = WasiCtxBuilder::new().allow_blocking_current_thread(true).build();
    std::mem::take(context.filesystem())
}

fn open(mount: &Mount) -> Result<File, Refused> {
    mount.open().map_err(|error| Refused::Mount(mount.target.clone(), error))
}

/// Whether all mounts can be opened now.
pub(crate) fn check_mounts(mounts: &[Mount]) -> wasmtime::Result<()> {
    Ok(mounts.iter().try_for_each(|mount| open(mount).map(drop))?)
}

/// What opens the folders of a container.
pub(crate) struct Opener<'a> {
    pub(crate) root: Option<&'a Root>,
    pub(crate) space: &'a DiskSpace,
    /// Calls block the calling thread.
    pub(crate) in_place: bool,
}

impl Opener<'_> {
    /// Opens one folder. `count` counts the open files of the guest.
    pub(crate) fn open(
        &self,
        folder: &Folder,
        held: &mut InstanceFiles,
        count: impl FnOnce() -> usize,
    ) -> Result<Dir, Refused> {
        if !held.open(1, count) {
            return Err(Refused::Full);
        }
        match (folder, self.root) {
            (Folder::Mount(mount), _) => {
                let (perms, mode) = permissions(mount);
                Ok(Dir::new(open(mount)?, perms, mode, self.in_place))
            }
            (Folder::Root { below, .. }, Some(root)) => root.open(below, self.in_place, self.space),
            (Folder::Root { .. }, None) => Err(Refused::Root(io::ErrorKind::NotFound.into())),
        }
    }
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
    folders: &[Folder],
    placeholder: &Dir,
) -> wasmtime::Result<(WasiP1Ctx, Vec<Unopened>)> {
    let path = format!("/proc/self/fd/{}", placeholder.dir.as_raw_fd());
    for folder in folders {
        builder.preopened_dir(&path, folder.target(), FsPerms::ReadOnly)?;
    }
    let mut wasi = builder.build_p1();
    // any call creates the descriptor table; the result is not needed
    let _ = p1::fd_prestat_get(&mut wasi, &mut wiggle::GuestMemory::Unshared(&mut []), FIRST_FOLDER, 0);
    drop(std::mem::take(wasi.ctx().ctx.filesystem()));
    let table = wasi.ctx().table;
    let mut unopened = Vec::with_capacity(folders.len());
    for entry in 0..u32::try_from(folders.len())? + FIRST_FOLDER.cast_unsigned() {
        let Ok(Descriptor::Dir(dir)) = table.get_mut(&Resource::new_borrow(entry)) else { continue };
        *dir = placeholder.clone();
        let mount = unopened.len();
        unopened.push(Unopened { number: FIRST_FOLDER + i32::try_from(mount)?, entry, mount });
    }
    if unopened.len() != folders.len() {
        wasmtime::bail!("{} of {} folders are in the table of preview 1", unopened.len(), folders.len());
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

/// Opens all folders of a core module at once. `/proc/self/fd` leads to the open folder, whatever its original path names by now. A root that is
/// writable is copied before, since its folders cannot be replaced later.
pub(crate) fn preopen(
    builder: &mut WasiCtxBuilder,
    folders: &[Folder],
    opener: &Opener<'_>,
    held: &mut InstanceFiles,
) -> wasmtime::Result<()> {
    if let Some(root) = opener.root.filter(|root| root.is_writable()) {
        root.copy(opener.space)?;
    }
    for folder in folders {
        let dir = opener.open(folder, held, || 0)?;
        let path = format!("/proc/self/fd/{}", dir.dir.as_raw_fd());
        builder
            .preopened_dir(path, folder.target(), dir.perms)
            .map_err(|error| error.context(format!("{} cannot be opened by its handle", folder.target())))?;
    }
    Ok(())
}
