//! From a container's volume mounts to the folders a runtime shows it.

use super::Synced;
use crate::{expand::expand, pod};
use container::Mount;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

/// Makes the mounts of one start. `scratch` is a folder of this container for copies of single files; it is emptied first. Blocks on
/// the disk. The error is the message of `CreateContainerConfigError`.
pub fn mounts(
    pod: &Pod,
    container: &Container,
    volumes: &BTreeMap<String, Synced>,
    variables: &[(String, String)],
    scratch: &Path,
) -> Result<Vec<Mount>, String> {
    if scratch.exists() {
        std::fs::remove_dir_all(scratch).map_err(|e| format!("failed to prepare subPath: {e}"))?;
    }
    let mut out: Vec<Mount> = Vec::new();
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for mount in container.volume_mounts.iter().flatten() {
        let Some(volume) = volumes.get(&mount.name) else {
            let name = pod::full_name(pod);
            return Err(format!(
                "cannot find volume {:?} to mount into container {:?} of pod {name}",
                mount.name, container.name
            ));
        };
        let source = source(container, mount, volume, variables)?;
        let read_only = mount.read_only == Some(true) || volume.read_only;
        if source.is_file() {
            copy(mount, &source, scratch, &mut files)?;
        } else {
            out.push(Mount { source, target: mount.mount_path.clone(), read_only });
        }
    }
    for (target, folder) in files {
        if out.iter().any(|m| m.target == target) {
            return Err(format!(
                "a single file cannot be mounted into {target}, which is a volume itself: a Wasm guest sees whole folders"
            ));
        }
        out.push(Mount { source: folder, target, read_only: false });
    }
    Ok(out)
}

fn source(
    container: &Container,
    mount: &VolumeMount,
    volume: &Synced,
    variables: &[(String, String)],
) -> Result<PathBuf, String> {
    let lookup = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let sub = match (&mount.sub_path_expr, &mount.sub_path) {
        (Some(text), _) if !text.is_empty() => expand(text, lookup),
        (_, Some(text)) => text.clone(),
        _ => String::new(),
    };
    if sub.is_empty() {
        return Ok(volume.path.clone());
    }
    let failed = |e: &dyn std::fmt::Display| {
        format!("failed to prepare subPath for volumeMount {:?} of container {:?}: {e}", mount.name, container.name)
    };
    let inside = Path::new(&sub).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside {
        return Err(failed(&"it must stay inside the volume"));
    }
    walk(&volume.path, Path::new(&sub), !volume.read_only).map_err(|e| failed(&e))
}

/// The real path of `sub` below `root`, part by part; what is not there is made if it may be. Guests write into volumes: a link of theirs
/// must not lead out, nor may anything be made where it leads.
fn walk(root: &Path, sub: &Path, make: bool) -> Result<PathBuf, String> {
    let root = root.canonicalize().map_err(|e| e.to_string())?;
    let mut at = root.clone();
    for part in sub.components().filter(|c| matches!(c, Component::Normal(_))) {
        let next = at.join(part);
        match next.canonicalize() {
            Ok(real) if real.starts_with(&root) => at = real,
            Ok(_) => return Err("it leads out of the volume".into()),
            Err(_) if next.is_symlink() => return Err("it leads nowhere".into()),
            Err(e) if e.kind() == ErrorKind::NotFound && make => {
                std::fs::create_dir(&next).map_err(|e| e.to_string())?;
                at = next;
            }
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(format!("{} does not exist", sub.display())),
            Err(e) => return Err(e.to_string()),
        }
    }
    Ok(at)
}

/// Copies one file into the folder that stands for the parent of its mount path.
fn copy(
    mount: &VolumeMount,
    source: &Path,
    scratch: &Path,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), String> {
    let target = Path::new(&mount.mount_path);
    let (Some(parent), Some(name)) = (target.parent().and_then(Path::to_str), target.file_name()) else {
        return Err(format!("{} cannot hold a file", mount.mount_path));
    };
    let next = scratch.join(files.len().to_string());
    let folder = files.entry(parent.to_owned()).or_insert(next);
    std::fs::create_dir_all(&*folder)
        .and_then(|()| std::fs::copy(source, folder.join(name)).map(drop))
        .map_err(|e| format!("failed to copy {} for {}: {e}", source.display(), mount.mount_path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_in_a_volume_lead_nowhere_else_and_nothing_is_made_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let (volume, outside) = (folder.path().join("volume"), folder.path().join("outside"));
        std::fs::create_dir_all(volume.join("real")).expect("made");
        std::fs::create_dir(&outside).expect("made");
        symlink(&outside, volume.join("out")).expect("made");
        symlink("../outside/new", volume.join("dangling")).expect("made");
        symlink("real", volume.join("in")).expect("made");
        let root = volume.canonicalize().expect("there");
        let real = |sub: &str, make| walk(&volume, Path::new(sub), make);
        assert_eq!(real("a/./b", true), Ok(root.join("a/b")));
        assert_eq!(real("in/c", true), Ok(root.join("real/c")));
        assert_eq!(real("absent", false), Err("absent does not exist".into()));
        for sub in ["out", "out/EVIL/deep", "dangling", "dangling/deep"] {
            assert!(real(sub, true).is_err(), "{sub}");
        }
        assert_eq!(std::fs::read_dir(&outside).expect("there").count(), 0);
    }
}
