//! From a container's volume mounts to the folders a runtime shows it.

use super::Synced;
use crate::{expand::expand, pod};
use container::Mount;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use std::{
    collections::BTreeMap,
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
    let path = volume.path.join(&sub);
    if !path.exists() {
        if volume.read_only {
            return Err(failed(&format!("{sub} does not exist")));
        }
        std::fs::create_dir_all(&path).map_err(|e| failed(&e))?;
    }
    // a link inside the volume must not lead out of it
    let real = path.canonicalize().map_err(|e| failed(&e))?;
    let root = volume.path.canonicalize().map_err(|e| failed(&e))?;
    if real.starts_with(&root) { Ok(real) } else { Err(failed(&"it leads out of the volume")) }
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
