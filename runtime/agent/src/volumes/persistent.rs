//! Volumes of claims: PersistentVolumes that are a path of the host, or a folder of the agent that outlives the pods.

use super::{Context, Error, Owner, SyncedVolume, VolumePlugin, beneath::FOLDER, blocking, host_path, ownership};
use async_trait::async_trait;
use client::fit::volumes::node_label;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, PersistentVolume, Volume};
use rustix::fs::{Mode, OFlags, open};
use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

/// The driver of volumes that are folders of a node, in `spec.csi` of a PersistentVolume and as the provisioner of a StorageClass. The handle
/// of a volume is the name of its folder.
pub const LOCAL_VOLUMES: &str = "local.sampan.dev";

/// The PersistentVolumes of a pod's claims.
#[derive(Clone, Debug, Default)]
pub struct PersistentVolumes {
    /// By the name of the pod's volume.
    pub volumes: BTreeMap<String, PersistentVolume>,
    /// The folder of the agent's volumes.
    pub root: PathBuf,
}

/// The selector of the volumes that are folders of a node.
pub(crate) fn local_selector(node: &str) -> String {
    let (label, value) = node_label(LOCAL_VOLUMES, node);
    format!("{label}={value}")
}

/// The folder of a volume of [`LOCAL_VOLUMES`]. `None`: the handle is no name of a folder.
pub(crate) fn local_folder(root: &Path, handle: &str) -> Option<PathBuf> {
    let mut parts = Path::new(handle).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !handle.ends_with('/');
    plain.then(|| root.join(handle))
}

/// The handle of a volume that is a folder of the agent.
pub(crate) fn local_handle(volume: &PersistentVolume) -> Option<&str> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    (csi.driver == LOCAL_VOLUMES).then_some(&csi.volume_handle)
}

/// The plugin of volumes of claims.
pub(super) struct Persistent;

#[async_trait]
impl VolumePlugin for Persistent {
    fn name(&self) -> &'static str {
        "sampan.dev/persistent-volume-claim"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn sync(&self, cx: &Context, volume: &Volume) -> Result<SyncedVolume, Error> {
        let claim = volume.persistent_volume_claim.as_ref();
        let found = cx.persistent.volumes.get(&volume.name);
        let found = found.ok_or_else(|| Error::Source("its PersistentVolume is not known".to_owned()))?;
        let spec = found.spec.clone().unwrap_or_default();
        let read_only = claim.is_some_and(|claim| claim.read_only == Some(true))
            || spec.csi.as_ref().is_some_and(|csi| csi.read_only == Some(true));
        if let Some(handle) = local_handle(found) {
            let folder = local_folder(&cx.persistent.root, handle);
            let path = folder.ok_or_else(|| Error::Source(format!("{handle:?} is no name of a folder")))?;
            let (made, ownership) = (path.clone(), cx.ownership);
            let group = ownership.group.filter(|_| cx.first && !read_only);
            blocking(move || {
                make(&made)?;
                let Some(group) = group else { return Ok(()) };
                let root = open(&made, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
                ownership::give(&root, group, ownership.on_root_mismatch)
            })
            .await?;
            return Ok(SyncedVolume { path, owner: Owner::Pod, read_only, resync_at: None, notice: None });
        }
        let source = match (spec.host_path, spec.local) {
            (Some(host), _) => host,
            (None, Some(local)) => HostPathVolumeSource { path: local.path, type_: Some("Directory".to_owned()) },
            (None, None) => {
                return Err(Error::Source(format!(
                    "no volume plugin matched: this node mounts PersistentVolumes of hostPath, local and csi driver {LOCAL_VOLUMES}"
                )));
            }
        };
        let (path, private) = (PathBuf::from(&source.path), cx.private.clone());
        blocking(move || Ok(host_path(&source, &private))).await?.map_err(Error::Source)?;
        Ok(SyncedVolume { path, owner: Owner::Host, read_only, resync_at: None, notice: None })
    }

    /// The data outlives the pod.
    async fn teardown(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the folder of a volume, which all users of containers may write, as it is with upstream's local provisioners.
fn make(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir_all(folder.parent().unwrap_or(folder)).and_then(|()| std::fs::create_dir(folder)) {
        Ok(()) => std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_one_folder() {
        let root = Path::new("/r");
        assert_eq!(local_folder(root, "pvc-1"), Some("/r/pvc-1".into()));
        for wrong in ["", ".", "..", "a/b", "../a", "/a", "a/", "a/.."] {
            assert_eq!(local_folder(root, wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_label_of_a_node_fits() {
        assert_eq!(local_selector("n1"), "local.sampan.dev/node=n1");
        let long = format!("{}.example", "n".repeat(62));
        assert_eq!(local_selector(&long), format!("local.sampan.dev/node={}", "n".repeat(62)));
    }
}
