//! Replaces the files of a folder atomically: they are in a folder that is named after its time, the symbolic link `..data` points to it,
//! and each visible name is a symbolic link through `..data`. A reader sees the old files or the new ones, never a mixture.
//!
//! The layout is upstream's `AtomicWriter`: programs watch `..data` for changes. Nothing is flushed to the disk. The files are compared
//! with the desired ones whenever a pod starts, and those that a power failure damaged are written again.

use super::ownership;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink},
    path::{Component, Path},
};

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its user, if that is not the one of this process.
    pub user: Option<u32>,
}

type Files = BTreeMap<String, File>;

/// Makes `dir` contain exactly `files`, by relative path. Does nothing if it already does. `stamp` names the new version and must differ
/// from the previous one's. All of it is of `group` if that is set, which may then read it (`super::ownership`).
pub fn write(dir: &Path, files: &Files, stamp: &str, group: Option<u32>) -> io::Result<()> {
    for path in files.keys() {
        check(path)?;
    }
    let data = dir.join("..data");
    let version = format!("..{stamp}");
    if create(dir)? {
        permit(dir, MODE, None, group)?;
        fill(&dir.join(&version), files, group)?;
        symlink(&version, &data)?;
        return tops(files).into_iter().try_for_each(|name| symlink(Path::new("..data").join(name), dir.join(name)));
    }
    permit(dir, MODE, None, group)?;
    let old = std::fs::read_link(&data).ok();
    if let Some(old) = &old
        && same(&dir.join(old), files)
    {
        permit_all(&dir.join(old), files, group)?;
        return links(dir, files);
    }
    let mut version = version;
    while old.as_deref() == Some(Path::new(&version)) || dir.join(&version).exists() {
        version.push('_');
    }
    fill(&dir.join(&version), files, group)?;
    let next = dir.join("..data_tmp");
    remove(&next)?;
    symlink(&version, &next)?;
    std::fs::rename(&next, &data)?;
    links(dir, files)?;
    sweep(dir, &version)
}

/// The permission bits of folders.
const MODE: u32 = 0o755;

/// Creates a folder, and those above it. Returns whether it is new: then nobody has left anything in it.
fn create(dir: &Path) -> io::Result<bool> {
    match std::fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(dir).map(|()| true),
        Err(error) => Err(error),
    }
}

/// Makes the folder of a version, with its files.
fn fill(version: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir(version)?;
    for (path, file) in files {
        let path = version.join(path);
        if let Some(parent) = path.parent().filter(|parent| *parent != version) {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::File::create(&path)?.write_all(&file.data)?;
    }
    permit_all(version, files, group)
}

/// Gives the files and folders of a version their modes, users and groups.
fn permit_all(version: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    let mut folders = BTreeSet::new();
    for (path, file) in files {
        let path = Path::new(path);
        permit(&version.join(path), file.mode, file.user, group)?;
        folders.extend(path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()));
    }
    folders.into_iter().try_for_each(|folder| permit(&version.join(folder), MODE, None, group))?;
    permit(version, MODE, None, group)
}

/// Gives a file or folder its mode, user and group, whatever the mask of this process is. What is right is not written to: each write is one more
/// for the journal of the disk. Nobody but the agent writes to these folders.
fn permit(path: &Path, mode: u32, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    let found = path.symlink_metadata()?;
    let mode = if group.is_some() { ownership::with_group(mode, found.is_dir(), true) } else { mode };
    if user.is_some_and(|user| user != found.uid()) || group.is_some_and(|group| group != found.gid()) {
        // As upstream's: a kernel that refuses an id is no reason to do without the volume.
        let _ = lchown(path, user, group);
    }
    if found.mode() & 0o7777 != mode {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    }
    Ok(())
}

fn check(path: &str) -> io::Result<()> {
    let parts: Vec<_> = Path::new(path).components().collect();
    let plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
    if parts.is_empty() || !plain || path.starts_with("..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is not a path inside the volume")));
    }
    Ok(())
}

/// Whether a version has these files, whatever their modes are.
fn same(version: &Path, files: &Files) -> bool {
    let mut found = 0;
    let mut folders = vec![version.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { return false };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { return false };
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(version).ok().and_then(Path::to_str);
            let Some(file) = name.and_then(|name| files.get(name)) else { return false };
            if !kind.is_file() || std::fs::read(&path).ok().as_ref() != Some(&file.data) {
                return false;
            }
            found += 1;
        }
    }
    found == files.len()
}

fn tops(files: &Files) -> BTreeSet<&str> {
    files.keys().filter_map(|path| path.split('/').next()).collect()
}

/// Creates the symbolic links of the visible names.
fn links(dir: &Path, files: &Files) -> io::Result<()> {
    for name in tops(files) {
        let target = Path::new("..data").join(name);
        let link = dir.join(name);
        if std::fs::read_link(&link).ok().as_ref() == Some(&target) {
            continue;
        }
        remove(&link)?;
        symlink(&target, &link)?;
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops(files).contains(name.as_ref()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes older versions.
fn sweep(dir: &Path, version: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("..") && name != "..data" && name != version {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let result = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => super::tree::remove(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, File> {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), File { data: v.as_bytes().to_vec(), mode: 0o640, user: None }))
            .collect()
    }

    #[test]
    fn a_new_set_replaces_the_old_at_once() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("v");
        write(&dir, &files(&[("a", "1"), ("sub/b", "2")]), "one", None).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(std::fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(dir.join("a").metadata().unwrap().permissions().mode() & 0o777, 0o640);
        write(&dir, &files(&[("a", "3")]), "two", None).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join("sub").exists());
        assert_eq!(std::fs::read_link(dir.join("..data")).unwrap(), Path::new("..two"));
        assert!(!dir.join("..one").exists());
    }

    #[test]
    fn what_a_killed_process_has_begun_is_finished() {
        let root = tempfile::tempdir().unwrap();
        let (wanted, begun) = (files(&[("a", "1"), ("sub/b", "2")]), files(&[("a", "1")]));
        for step in 0..4 {
            let dir = root.path().join(step.to_string());
            std::fs::create_dir(&dir).unwrap();
            std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
            if step > 0 {
                fill(&dir.join("..one"), if step > 1 { &wanted } else { &begun }, None).unwrap();
            }
            if step > 2 {
                symlink("..one", dir.join("..data")).unwrap();
            }
            // the clock of the next process may say the same
            write(&dir, &wanted, "one", None).unwrap();
            assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "1", "{step}");
            assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2", "{step}");
            assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o755, "{step}");
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 4, "{step}: a version, ..data and two names");
        }
    }

    #[test]
    fn an_unchanged_set_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &files(&[("a", "1")]), "one", None).unwrap();
        write(root.path(), &files(&[("a", "1")]), "two", None).unwrap();
        assert_eq!(std::fs::read_link(root.path().join("..data")).unwrap(), Path::new("..one"));
        write(root.path(), &BTreeMap::new(), "three", None).unwrap();
        assert!(!root.path().join("a").exists());
    }

    #[test]
    fn what_a_power_cut_has_left_is_written_anew() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        let wanted = files(&[("a", "1"), ("sub/b", "2")]);
        let damages: [&dyn Fn(); 4] = [
            &|| std::fs::write(dir.join("a"), "").unwrap(),
            &|| std::fs::remove_file(dir.join("sub/b")).unwrap(),
            &|| std::fs::remove_file(dir.join("..data")).unwrap(),
            &|| std::fs::remove_file(dir.join("a")).unwrap(),
        ];
        for (n, damage) in damages.iter().enumerate() {
            write(dir, &wanted, "one", None).unwrap();
            damage();
            write(dir, &wanted, "one", None).unwrap();
            assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "1", "damage {n}");
            assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2", "damage {n}");
        }
    }

    #[test]
    fn a_path_out_of_the_volume_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "..x", ""] {
            assert!(write(root.path(), &files(&[(path, "1")]), "one", None).is_err(), "{path}");
        }
    }

    #[test]
    fn folders_are_open_to_all_and_those_of_an_older_program_are_mended() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("v");
        let wanted = files(&[("a/b/c", "1"), ("a/d", "2")]);
        let mode = |path: &str| dir.join("..data").join(path).metadata().unwrap().permissions().mode() & 0o7777;
        let shown = || ["", "a", "a/b", "a/b/c", "a/d"].map(mode);
        write(&dir, &wanted, "one", None).unwrap();
        assert_eq!(shown(), [0o755, 0o755, 0o755, 0o640, 0o640]);
        for path in ["", "a", "a/b"] {
            std::fs::set_permissions(dir.join("..one").join(path), PermissionsExt::from_mode(0o700)).unwrap();
        }
        write(&dir, &wanted, "two", None).unwrap();
        assert_eq!(shown(), [0o755, 0o755, 0o755, 0o640, 0o640]);
        assert_eq!(std::fs::read_link(dir.join("..data")).unwrap(), Path::new("..one"), "no reader sees a change");
    }

    #[test]
    fn a_group_reads_everything_and_a_user_owns_its_file() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("v");
        let mut wanted = files(&[("a/b", "1"), ("token", "2")]);
        let file = wanted.get_mut("token").unwrap();
        (file.mode, file.user) = (0o600, Some(1000));
        let shown = |path: &str| {
            let found = dir.join(path).metadata().unwrap();
            (found.mode() & 0o7777, found.uid(), found.gid())
        };
        write(&dir, &wanted, "one", None).unwrap();
        assert_eq!(shown("token"), (0o600, 1000, 0));
        for stamp in ["two", "three"] {
            write(&dir, &wanted, stamp, Some(1001)).unwrap();
            assert_eq!(shown("token"), (0o640, 1000, 1001));
            assert_eq!(shown("a/b"), (0o640, 0, 1001));
            for folder in ["", "..data", "a"] {
                assert_eq!(shown(folder), (0o2755, 0, 1001), "{folder}");
            }
            assert_eq!(std::fs::read_link(dir.join("..data")).unwrap(), Path::new("..one"));
        }
    }
}
