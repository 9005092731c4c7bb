//! Resolves a container's volume mounts to folders for the runtime.
//!
//! Every path is resolved with open folders (see [`super::beneath`]) and becomes a [`Mount`], which the runtime resolves in the same way at
//! each open. What a runtime cannot mount directly is copied into a folder of the container: single files, and folders of volumes whose old
//! versions are removed. Like upstream, a container with a `subPath` of a ConfigMap keeps the version that it started with.

use super::{
    Owner, PrivateDir, SyncedVolume,
    beneath::{self, Found},
    tree,
};
use crate::{expand::expand, linux::propagation, pod};
use container::{FileId, Mount};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use rustix::{
    fs::{FileType, Mode, OFlags, openat},
    process::geteuid,
};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{File, Metadata, OpenOptions, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};

/// The input of a container's mounts.
pub struct MountRequest<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its container.
    pub container: &'a Container,
    /// The pod's volumes by name.
    pub volumes: &'a BTreeMap<String, SyncedVolume>,
    /// The variables that `subPathExpr` may reference.
    pub variables: &'a [(String, String)],
    /// A folder for the container's copies. It is emptied first.
    pub scratch: &'a Path,
    /// The folder that no mount may expose.
    pub private: &'a PrivateDir,
    /// Whether single files are mounted by themselves: a WebAssembly guest sees whole folders.
    pub single_files: bool,
}

/// Single files with the same parent folder of `mountPath`.
struct Files {
    folder: PathBuf,
    read_only: bool,
}

/// Resolves the mounts of a container. Blocks on the disk. The error is the message of `CreateContainerConfigError`.
pub fn mounts(request: &MountRequest<'_>) -> Result<Vec<Mount>, String> {
    let MountRequest { pod, container, volumes, scratch, .. } = *request;
    tree::remove(scratch).map_err(|error| format!("failed to prepare subPath: {error}"))?;
    let mut out: Vec<Mount> = Vec::new();
    let mut files: BTreeMap<String, Files> = BTreeMap::new();
    for (number, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let Some(volume) = volumes.get(&mount.name) else {
            let name = pod::full_name(pod);
            return Err(format!(
                "cannot find volume {:?} to mount into container {:?} of pod {name}",
                mount.name, container.name
            ));
        };
        let sub = sub_path(mount, request.variables)?;
        let read_only = mount.read_only == Some(true) || volume.read_only;
        let failed = |e: &dyn std::fmt::Display| match sub.is_empty() {
            true => format!("failed to mount volume {:?} into container {:?}: {e}", mount.name, container.name),
            false => {
                format!(
                    "failed to prepare subPath for volumeMount {:?} of container {:?}: {e}",
                    mount.name, container.name
                )
            }
        };
        let (root, found) = find(volume, Path::new(&sub), request.private).map_err(|e| failed(&e))?;
        let (root, below) = match found {
            Found::File(file) if request.single_files => {
                let made = single_file(mount, volume, file, read_only, &scratch.join(format!("file-{number}")));
                out.push(as_asked(made.map_err(|e| failed(&e))?, mount, volume));
                continue;
            }
            Found::File(file) => {
                let number = files.len();
                add_file(mount, file, read_only, &scratch.join(format!("files-{number}")), &mut files)?;
                continue;
            }
            Found::Folder(_, handle) if volume.owner == Owner::Agent && !sub.is_empty() => {
                let copy = scratch.join(format!("folder-{number}"));
                copy_folder(&handle, &copy).map_err(|e| failed(&e))?;
                (copy, PathBuf::new())
            }
            Found::Folder(below, _) => (root, below),
        };
        let made = Mount::new(root, below, &*mount.mount_path, read_only).map_err(|e| failed(&e))?;
        out.push(as_asked(made, mount, volume));
    }
    for (target, Files { folder, read_only }) in files {
        if out.iter().any(|m| m.target == target) {
            return Err(format!(
                "a single file cannot be mounted into {target}, which is a volume itself: a Wasm guest sees whole folders"
            ));
        }
        out.push(
            Mount::new(folder, "", &*target, read_only).map_err(|e| format!("failed to mount into {target}: {e}"))?,
        );
    }
    Ok(out)
}

/// Adds what only Linux containers know. As with upstream's runtimes, nobody runs the programs of an image that is a volume.
fn as_asked(made: Mount, mount: &VolumeMount, volume: &SyncedVolume) -> Mount {
    Mount { propagation: propagation(mount), no_exec: volume.owner == Owner::Image, ..made }
}

/// Mounts a file by itself. Of a volume whose old versions are removed, a copy is mounted.
fn single_file(
    mount: &VolumeMount,
    volume: &SyncedVolume,
    file: File,
    read_only: bool,
    folder: &Path,
) -> Result<Mount, String> {
    let target = &*mount.mount_path;
    if volume.owner == Owner::Agent {
        std::fs::create_dir_all(folder)
            .and_then(|()| copy_file(file, &folder.join("file")))
            .map_err(|e| format!("failed to copy the file: {e}"))?;
        return Mount::file(folder, "file", target, read_only).map_err(|e| e.to_string());
    }
    // where it is without links; what is mounted must be this very file
    let found = FileId::of(&file).map_err(|e| e.to_string())?;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|e| e.to_string())?;
    let real = volume.path.canonicalize().map_err(|e| format!("the volume is not there: {e}"))?;
    let (root, below) = match path.strip_prefix(&real) {
        Ok(below) if !below.as_os_str().is_empty() => (real, below.to_owned()),
        // the volume is the file itself
        _ => (path.parent().unwrap_or(Path::new("/")).to_owned(), path.file_name().unwrap_or_default().into()),
    };
    let made = Mount::file(root, below, target, read_only).map_err(|e| e.to_string())?;
    if made.id == found { Ok(made) } else { Err("the file was replaced meanwhile".into()) }
}

/// `subPath`, or the expanded `subPathExpr`. The messages are those of upstream's `makeMounts` and `ExpandContainerVolumeMounts`.
fn sub_path(mount: &VolumeMount, variables: &[(String, String)]) -> Result<String, String> {
    let sub = match (&mount.sub_path_expr, &mount.sub_path) {
        (Some(text), _) if !text.is_empty() => expand_all(text, variables)?,
        (_, text) => text.clone().unwrap_or_default(),
    };
    if sub.starts_with('/') {
        return Err(format!("error SubPath `{sub}` must not be an absolute path"));
    }
    if sub.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{sub}`: must not contain '..'"));
    }
    Ok(sub)
}

/// `PATH_MAX` of Linux.
const MAX_PATH: usize = 4096;

/// An unset or empty variable is an error, so that pods do not share a folder by mistake.
fn expand_all(text: &str, variables: &[(String, String)]) -> Result<String, String> {
    let mut missing = std::collections::BTreeSet::new();
    let sub = expand(text, MAX_PATH, |name| {
        let value = variables.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        if value.is_none_or(str::is_empty) {
            missing.insert(name.to_owned());
        }
        value
    });
    if missing.is_empty() {
        return sub.ok_or_else(|| format!("unable to provision SubPath: it is longer than {MAX_PATH} bytes"));
    }
    Err(format!("missing value for {}", Vec::from_iter(missing).join(", ")))
}

/// Resolves a mount. Returns the root that its path is relative to, and what is there.
fn find(volume: &SyncedVolume, sub: &Path, private: &PrivateDir) -> Result<(PathBuf, Found), String> {
    let path = &volume.path;
    let metadata = path.metadata().map_err(|e| format!("the volume is not there: {e}"))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_dir() {
        let make =
            matches!(volume.owner, Owner::Pod | Owner::Host).then(|| Mode::from_raw_mode(mode as rustix::fs::RawMode));
        let accept = |root: &OwnedFd| if volume.owner == Owner::Host { private.check(root) } else { Ok(()) };
        let found = beneath::find(path, sub, make, accept)?;
        return Ok((path.clone(), found));
    }
    // A hostPath of a file is opened relative to its folder, which must not be private either.
    let real = path.canonicalize().map_err(|e| format!("the volume is not there: {e}"))?;
    let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else { return Err("it is not a folder".into()) };
    if !sub.as_os_str().is_empty() {
        return Err("the volume is a single file".into());
    }
    let parent = beneath::root(parent)?;
    private.check_not_inside(&parent)?;
    Ok((real.clone(), beneath::file(&parent, name)?))
}

/// Copies a file into the folder that is mounted at the parent of its mount path.
fn add_file(
    mount: &VolumeMount,
    source: File,
    read_only: bool,
    folder: &Path,
    files: &mut BTreeMap<String, Files>,
) -> Result<(), String> {
    let target = Path::new(&mount.mount_path);
    let (Some(parent), Some(name)) = (target.parent().and_then(Path::to_str), target.file_name()) else {
        return Err(format!("{} cannot hold a file", mount.mount_path));
    };
    let files = files.entry(parent.to_owned()).or_insert_with(|| Files { folder: folder.to_owned(), read_only });
    if files.read_only != read_only {
        return Err(format!(
            "single files of {parent} cannot be mounted some read-only and some not: a Wasm guest sees whole folders"
        ));
    }
    std::fs::create_dir_all(&files.folder)
        .and_then(|()| copy_file(source, &files.folder.join(name)))
        .map_err(|e| format!("failed to copy the file for {}: {e}", mount.mount_path))
}

/// Copies an open file to a new file, so that no symbolic link is followed on either side.
fn copy_file(mut source: File, target: &Path) -> io::Result<()> {
    let metadata = source.metadata()?;
    let disk = rustix::fs::statvfs(target.parent().unwrap_or(target))?;
    if metadata.len() > disk.f_bavail.saturating_mul(disk.f_frsize) / 2 {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "it is larger than half of what is free on the disk"));
    }
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?;
    io::copy(&mut io::Read::take(&mut source, metadata.len()), &mut copy)?;
    own(&copy, &metadata);
    copy.set_permissions(Permissions::from_mode(metadata.permissions().mode() & 0o777))
}

/// Gives a copy the user and group of what it is a copy of, where this process may.
fn own(copy: &File, of: &Metadata) {
    if geteuid().is_root() {
        let _ = fchown(copy, Some(of.uid()), Some(of.gid()));
    }
}

/// Copies the files and folders of a volume that only the agent writes. Such a volume has no symbolic links below a version.
fn copy_folder(source: &OwnedFd, target: &Path) -> io::Result<()> {
    std::fs::create_dir_all(target)?;
    let (metadata, copy) = (File::from(source.try_clone()?).metadata()?, File::open(target)?);
    own(&copy, &metadata);
    copy.set_permissions(Permissions::from_mode(metadata.permissions().mode() & 0o7777))?;
    for entry in rustix::fs::Dir::read_from(source)? {
        let entry = entry?;
        let name = OsStr::new(entry.file_name().to_str().map_err(io::Error::other)?);
        if name == "." || name == ".." {
            continue;
        }
        let path = target.join(name);
        match FileType::from_raw_mode(rustix::fs::statat(source, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
        {
            FileType::Directory => {
                copy_folder(&openat(source, name, beneath::FOLDER | OFlags::NOFOLLOW, Mode::empty())?, &path)?
            }
            FileType::RegularFile => copy_file(openat(source, name, beneath::FILE, Mode::empty())?.into(), &path)?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
