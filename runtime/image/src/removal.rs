//! Removes files and folders of the store.

use crate::error::Fault;
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// Removes a file, if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Removes a folder of this store with its content, or a file, if it exists.
pub(crate) fn remove_all(path: &Path) -> Result<(), Fault> {
    let remove = || match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    let removed = match remove() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            remove()
        }
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Lets the owner into all folders below, which images may forbid. Unpackers limit their depth.
fn open_up(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(path)? {
            open_up(&entry?.path())?;
        }
    }
    Ok(())
}

/// The bytes of the files in a folder of this store, which is no deeper than its unpackers allow.
fn size(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    if !found.is_dir() {
        return found.len() / found.nlink().max(1);
    }
    fs::read_dir(path).map_or(0, |entries| entries.flatten().map(|entry| size(&entry.path())).sum())
}

/// Empties a folder of the store, but for the names to keep, by `discard`. Returns the freed bytes.
pub(crate) fn clear(
    folder: &Path,
    keep: impl Fn(&str) -> bool,
    discard: impl Fn(&Path) -> Result<(), Fault>,
) -> Result<u64, Fault> {
    let mut freed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(&keep) {
            let size = size(&entry.path());
            discard(&entry.path())?;
            freed += size;
        }
    }
    Ok(freed)
}
