//! An empty folder with the lifetime of the pod. [`crate::eviction`] checks its size.

use super::{Context, Error, Notice, Owner, SyncedVolume, VolumePlugin, blocking, memory, ownership, tree};
use crate::resources;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Volume};
use rustix::fs::{Mode, OFlags, open};
use std::{io, os::unix::fs::PermissionsExt, path::Path};

/// All users of containers may write.
const MODE: u32 = 0o777;

/// The plugin of these volumes.
pub(super) struct EmptyDir;

#[async_trait]
impl VolumePlugin for EmptyDir {
    fn name(&self) -> &'static str {
        "kubernetes.io/empty-dir"
    }

    fn handles(&self, volume: &Volume) -> bool {
        // The API server sets emptyDir if a volume has no source. A volume without a known source here has one that this version does not
        // know.
        volume.empty_dir.is_some()
    }

    async fn sync(&self, cx: &Context, volume: &Volume) -> Result<SyncedVolume, Error> {
        let source = volume.empty_dir.clone().unwrap_or_default();
        let memory = (cx.linux && source.medium.as_deref() == Some("Memory")).then(|| size(cx, &source));
        let (dir, group, first) = (cx.dir.clone(), cx.ownership.group, cx.first);
        let refused = blocking(move || if first { make(&dir, memory, group) } else { Ok(None) }).await?;
        let notice = refused.map(|error| Notice {
            reason: "MemoryVolumeOnDisk",
            text: format!("emptyDir volume {:?} is on the disk: this node may mount no tmpfs: {error}", volume.name),
        });
        Ok(SyncedVolume { path: cx.dir.clone(), owner: Owner::Pod, read_only: false, resync_at: None, notice })
    }

    async fn teardown(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(move || match tree::remove(&dir) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => match memory::unmount(&dir)? {
                true => tree::remove(&dir),
                false => Err(error),
            },
            other => other,
        })
        .await
    }
}

/// The bytes that a volume of memory holds at most, as upstream's: the least of its limit, that of the pod, and what the node has.
pub(super) fn size(cx: &Context, source: &EmptyDirVolumeSource) -> Option<u64> {
    let bytes = |text| resources::quantity(text).and_then(|amount| u64::try_from(amount.value()).ok());
    let of_node = cx.allocatable.get("memory").and_then(bytes);
    let all = [of_node, resources::memory_limit(&cx.pod), source.size_limit.as_ref().and_then(bytes)];
    all.into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

/// Makes the folder. `memory` is set if it is to be a tmpfs, with its most bytes. Returns why it is none.
///
/// The modes of a folder with files are left alone: a container may have changed them.
fn make(dir: &Path, memory: Option<Option<u64>>, group: Option<u32>) -> io::Result<Option<io::Error>> {
    std::fs::create_dir_all(dir)?;
    if std::fs::read_dir(dir)?.next().is_some() {
        return Ok(None);
    }
    let mut refused = None;
    if let Some(size) = memory
        && !memory::is_mounted(dir)?
        && let Err(error) = memory::mount(dir, size)
    {
        match error.kind() {
            io::ErrorKind::PermissionDenied => refused = Some(error),
            _ => return Err(error),
        }
    }
    let mode = dir.metadata()?.permissions().mode() & 0o7777;
    let wanted = group.map_or(MODE, |_| ownership::with_group(MODE, true, false));
    if mode != wanted {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(MODE))?;
    }
    if let Some(group) = group {
        let opened = open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // As upstream's: a kernel that refuses an id is no reason to do without the volume.
        let _ = ownership::give_one(&opened, group);
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{fs::statfs, process::geteuid};
    use std::os::unix::fs::MetadataExt;

    /// The magic number of tmpfs, which the conformance tests of upstream look for.
    const TMPFS: i64 = 0x0102_1994;

    fn mounts() -> usize {
        std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
    }

    fn is_tmpfs(path: &Path) -> bool {
        #[allow(clippy::unnecessary_cast)] // the types differ between systems
        let kind = statfs(path).unwrap().f_type as i64;
        kind == TMPFS
    }

    /// Whether this process may mount.
    fn may_mount(root: &Path) -> bool {
        let dir = root.join("try");
        std::fs::create_dir(&dir).unwrap();
        memory::mount(&dir, None).is_ok() && memory::unmount(&dir).unwrap()
    }

    #[test]
    fn a_folder_is_open_to_all_until_a_container_changes_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("pod/v");
        let mode = || dir.metadata().unwrap().mode() & 0o7777;
        for group in [None, Some(1001).filter(|_| geteuid().is_root())] {
            assert!(make(&dir, None, group).unwrap().is_none());
            assert_eq!(mode(), if group.is_some() { 0o2777 } else { 0o777 });
            assert_eq!(dir.metadata().unwrap().gid() == 1001, group.is_some());
        }
        std::fs::write(dir.join("file"), "").unwrap();
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
        make(&dir, None, None).unwrap();
        assert_eq!(mode(), 0o700, "a database is particular about it");
    }

    #[tokio::test]
    async fn a_volume_of_memory_is_a_tmpfs_and_leaves_no_mount_behind() {
        let root = tempfile::tempdir().unwrap();
        if !may_mount(root.path()) {
            return;
        }
        let dir = root.path().join("v");
        // what an ended process has begun or made, a second process goes on with
        for size in [Some(1 << 20), None] {
            for _ in 0..2 {
                assert!(make(&dir, Some(size), Some(1001)).unwrap().is_none());
                assert!(is_tmpfs(&dir));
                let found = dir.metadata().unwrap();
                assert_eq!((found.mode() & 0o7777, found.gid()), (0o2777, 1001));
            }
            let full = std::fs::write(dir.join("file"), vec![1; 2 << 20]);
            assert_eq!(full.is_err(), size.is_some(), "{full:?}");
            make(&dir, Some(size), Some(1001)).unwrap();
            assert!(dir.join("file").exists());
            assert!(tree::usage(root.path()).unwrap().bytes < 1 << 16, "it is not on the disk");
            EmptyDir.teardown(&dir).await.unwrap();
            EmptyDir.teardown(&dir).await.unwrap();
            assert!(!dir.exists());
        }
        // the folder is made, the mount not yet
        std::fs::create_dir(&dir).unwrap();
        assert!(make(&dir, Some(None), None).unwrap().is_none());
        assert!(is_tmpfs(&dir));
        EmptyDir.teardown(&dir).await.unwrap();
        let left = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!left.contains(&*root.path().to_string_lossy()), "{left}");
    }

    #[tokio::test]
    async fn what_a_user_has_mounted_there_stays() {
        use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
        let root = tempfile::tempdir().unwrap();
        if !may_mount(root.path()) {
            return;
        }
        let dir = root.path().join("v");
        make(&dir, Some(None), None).unwrap();
        let own = |at: &Path| mount("tmpfs", at, "tmpfs", MountFlags::empty(), c"size=4096").unwrap();
        let before = mounts();
        for at in [dir.clone(), dir.join("inner")] {
            std::fs::create_dir_all(&at).unwrap();
            own(&at);
            assert!(EmptyDir.teardown(&dir).await.is_err(), "{}", at.display());
            assert!(is_tmpfs(&at));
            assert!(mounts() > before);
            unmount(&at, UnmountFlags::empty()).unwrap();
        }
        EmptyDir.teardown(&dir).await.unwrap();
        assert!(!dir.exists());
    }
}
