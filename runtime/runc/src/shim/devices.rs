//! Devices of the host.

use crate::oci::Device;
use rustix::fs::{AtFlags, CWD, FileType, Stat, major, minor, statat};
use std::{fs, path::Path};

/// Most devices of a privileged container.
const MAX_DEVICES: usize = 4096;
/// What every container has of its own below `/dev`.
const OWN: &[&str] = &["pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts", ".udev"];

fn device(path: &str, stat: &Stat) -> Option<Device> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => "c",
        FileType::BlockDevice => "b",
        _ => return None,
    };
    let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
    let file_mode = stat.st_mode & 0o7777;
    Some(Device { path: path.into(), kind, major, minor, file_mode, uid: stat.st_uid, gid: stat.st_gid })
}

/// One device, which gets another path in the container.
pub(crate) fn one(host: &Path, container: &str) -> Result<Device, String> {
    let stat = statat(CWD, host, AtFlags::empty()).map_err(|error| format!("device {}: {error}", host.display()))?;
    device(container, &stat).ok_or_else(|| format!("{} is no device", host.display()))
}

/// All devices of the host.
pub(crate) fn all() -> Vec<Device> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), 0, &mut found);
    found
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<Device>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if found.len() >= MAX_DEVICES || depth == 0 && OWN.iter().any(|own| name == *own) {
            continue;
        }
        let Ok(stat) = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && depth < 8 {
            walk(&path, depth + 1, found);
        } else if let Some(device) = path.to_str().and_then(|path| device(path, &stat)) {
            found.push(device);
        }
    }
}
