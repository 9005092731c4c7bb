//! Removes folders that containers have filled. They may nest folders arbitrarily deep: nested ones are moved up before they are emptied, so that
//! neither stack nor descriptors run out. No link is followed and no mount entered: what is mounted below is somebody's data.

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, chmod, open, openat, openat2, renameat, statat, unlinkat,
    },
    io::Errno,
    path::Arg,
};
use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a folder with its content. It is fine if it does not exist.
///
/// # Errors
/// Something is mounted in it, or the disk fails; then some of it may be left.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(own)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no parent"));
    };
    let opened = open(parent, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty());
    let opened = opened.map_err(io::Error::from).and_then(|parent| Ok((enter(&parent, own)?, parent)));
    let (top, parent) = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut fresh = 0;
    loop {
        let found = entries(&top)?;
        if found.is_empty() {
            break;
        }
        for (name, is_folder) in found {
            if is_folder {
                empty(&top, &name, &mut fresh)?;
                unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
            } else {
                unlinkat(&top, &name, AtFlags::empty())?;
            }
        }
    }
    drop(top);
    match unlinkat(&parent, own, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

fn enter<P: Arg + Copy>(at: &OwnedFd, name: P) -> io::Result<OwnedFd> {
    let stay = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let open = || openat2(at, name, FOLDER, Mode::empty(), stay);
    let opened = match open() {
        Err(Errno::ACCESS) => permit(at, name).and_then(|()| open()),
        opened => opened,
    };
    opened.map_err(|errno| match errno {
        Errno::XDEV => io::Error::new(io::ErrorKind::CrossesDevices, "something is mounted there"),
        other => other.into(),
    })
}

/// Lets this user into a folder of its own: an overlay makes some that only root may read, write and move.
fn permit<P: Arg>(at: &OwnedFd, name: P) -> rustix::io::Result<()> {
    let handle = openat(at, name, FOLDER | OFlags::PATH, Mode::empty())?;
    chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)
}

/// The names in a folder, and whether each is a folder.
fn entries(folder: &OwnedFd) -> io::Result<Vec<(CString, bool)>> {
    let mut all = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_owned();
        if name.as_c_str() == c"." || name.as_c_str() == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
            known => known,
        };
        all.push((name, kind == FileType::Directory));
    }
    Ok(all)
}

/// Empties a folder in `top`: removes its files, and moves its folders to `top`.
fn empty(top: &OwnedFd, name: &CString, fresh: &mut u64) -> io::Result<()> {
    let folder = enter(top, name)?;
    for (name, is_folder) in entries(&folder)? {
        if !is_folder {
            unlinkat(&folder, &name, AtFlags::empty())?;
            continue;
        }
        loop {
            *fresh += 1;
            let to = format!("..{fresh}");
            match statat(top, &to, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    break match renameat(&folder, &name, top, &to) {
                        Err(Errno::ACCESS) => {
                            permit(&folder, &name)?;
                            renameat(&folder, &name, top, &to)?;
                        }
                        moved => moved?,
                    };
                }
                // a container may have taken some of the names
                taken => drop(taken?),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn everything_goes_but_what_links_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let (outside, own) = (folder.path().join("outside"), folder.path().join("own"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        fs::create_dir_all(own.join("a/b/c/..1")).unwrap();
        fs::create_dir_all(own.join("..1/x")).unwrap();
        fs::write(own.join("a/b/file"), "").unwrap();
        symlink(&outside, own.join("a/link")).unwrap();
        let mut deep = rustix::fs::openat(rustix::fs::CWD, &own, FOLDER, Mode::empty()).unwrap();
        for _ in 0..300 {
            rustix::fs::mkdirat(&deep, "d", Mode::RWXU).unwrap();
            deep = enter(&deep, c"d").unwrap();
        }
        remove(&own).unwrap();
        remove(&own).unwrap();
        assert!(!own.exists() && outside.join("kept").exists());
    }
}
