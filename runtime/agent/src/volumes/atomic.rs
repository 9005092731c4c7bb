//! Replaces the files of a folder atomically: they are in a folder that is named after its time, the symbolic link `..data` points to it,
//! and each visible name is a symbolic link through `..data`. A reader sees the old files or the new ones, never a mixture.
//!
//! The layout is upstream's `AtomicWriter`: programs watch `..data` for changes. Nothing is flushed to the disk. The files are compared
//! with the desired ones whenever a pod starts, and those that a power failure damaged are written again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path},
};

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Makes `dir` contain exactly `files`, by relative path. Does nothing if it already does. `stamp` names the new version and must differ
/// from the previous one's.
pub fn write(dir: &Path, files: &BTreeMap<String, File>, stamp: &str) -> io::Result<()> {
    for path in files.keys() {
        check(path)?;
    }
    let data = dir.join("..data");
    let version = format!("..{stamp}");
    if create(dir)? {
        fill(&dir.join(&version), files)?;
        symlink(&version, &data)?;
        return tops(files).into_iter().try_for_each(|name| symlink(Path::new("..data").join(name), dir.join(name)));
    }
    // A folder that is right is not written to: each write is one more for the journal of the disk.
    if dir.symlink_metadata()?.permissions().mode() & 0o7777 != MODE {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(MODE))?;
    }
    let old = std::fs::read_link(&data).ok();
    if let Some(old) = &old
        && same(&dir.join(old), files)
    {
        return links(dir, files);
    }
    let mut version = version;
    while old.as_deref() == Some(Path::new(&version)) || dir.join(&version).exists() {
        version.push('_');
    }
    fill(&dir.join(&version), files)?;
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
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(dir)?,
        Err(error) => return Err(error),
    }
    std::fs::set_permissions(dir, PermissionsExt::from_mode(MODE))?;
    Ok(true)
}

/// Makes the folder of a version, with its files.
fn fill(version: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    std::fs::create_dir(version)?;
    for (path, file) in files {
        let path = version.join(path);
        if let Some(parent) = path.parent().filter(|parent| *parent != version) {
            std::fs::create_dir_all(parent)?;
        }
        let mut made = std::fs::File::create(&path)?;
        made.write_all(&file.data)?;
        made.set_permissions(PermissionsExt::from_mode(file.mode))?;
    }
    std::fs::set_permissions(version, PermissionsExt::from_mode(MODE))
}

fn check(path: &str) -> io::Result<()> {
    let parts: Vec<_> = Path::new(path).components().collect();
    let plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
    if parts.is_empty() || !plain || path.starts_with("..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is not a path inside the volume")));
    }
    Ok(())
}

fn same(version: &Path, files: &BTreeMap<String, File>) -> bool {
    let mut found = 0;
    let mut folders = vec![version.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { return false };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { return false };
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(version).ok().and_then(Path::to_str);
            let Some(file) = name.and_then(|name| files.get(name)) else { return false };
            if meta.permissions().mode() & 0o7777 != file.mode || std::fs::read(&path).ok().as_ref() != Some(&file.data)
            {
                return false;
            }
            found += 1;
        }
    }
    found == files.len()
}

fn tops(files: &BTreeMap<String, File>) -> BTreeSet<&str> {
    files.keys().filter_map(|path| path.split('/').next()).collect()
}

/// Creates the symbolic links of the visible names.
fn links(dir: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
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
        list.iter().map(|(k, v)| ((*k).to_owned(), File { data: v.as_bytes().to_vec(), mode: 0o640 })).collect()
    }

    #[test]
    fn a_new_set_replaces_the_old_at_once() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("v");
        write(&dir, &files(&[("a", "1"), ("sub/b", "2")]), "one").unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(std::fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(dir.join("a").metadata().unwrap().permissions().mode() & 0o777, 0o640);
        write(&dir, &files(&[("a", "3")]), "two").unwrap();
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
                fill(&dir.join("..one"), if step > 1 { &wanted } else { &begun }).unwrap();
            }
            if step > 2 {
                symlink("..one", dir.join("..data")).unwrap();
            }
            // the clock of the next process may say the same
            write(&dir, &wanted, "one").unwrap();
            assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "1", "{step}");
            assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2", "{step}");
            assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o755, "{step}");
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 4, "{step}: a version, ..data and two names");
        }
    }

    #[test]
    fn an_unchanged_set_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &files(&[("a", "1")]), "one").unwrap();
        write(root.path(), &files(&[("a", "1")]), "two").unwrap();
        assert_eq!(std::fs::read_link(root.path().join("..data")).unwrap(), Path::new("..one"));
        write(root.path(), &BTreeMap::new(), "three").unwrap();
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
            write(dir, &wanted, "one").unwrap();
            damage();
            write(dir, &wanted, "one").unwrap();
            assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "1", "damage {n}");
            assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2", "damage {n}");
        }
    }

    #[test]
    fn a_path_out_of_the_volume_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "..x", ""] {
            assert!(write(root.path(), &files(&[(path, "1")]), "one").is_err(), "{path}");
        }
    }
}
