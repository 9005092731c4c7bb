//! Volumes: folders of the node that a pod's containers see. One plugin per kind of source; a plugin brings a folder up to date
//! again and again, so that changed ConfigMaps, Secrets, labels and tokens reach running containers.
//!
//! Not here: persistent volumes (their issue). Follows <https://kubernetes.io/docs/concepts/storage/volumes/>.
//!
//! A Wasm guest sees folders only. A `subPath` that names a folder is mounted as it is; one that names a file, and a `hostPath` that
//! is a file, are copied into a folder of their own when the container starts, which is mounted at the parent of `mountPath`.

mod atomic;
mod beneath;
mod mounts;
mod payload;
mod private;
mod token;
pub(crate) mod tree;

pub use atomic::{File, write};
pub use mounts::{MountRequest, mounts};
pub use private::PrivateDir;
pub use token::{TokenSource, Tokens};

use crate::{config::Configs, downward::Facts, pod};
use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{HostPathVolumeSource, Pod, Volume},
    apimachinery::pkg::api::resource::Quantity,
};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    io,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What a plugin may read while it works.
#[derive(Clone)]
pub struct Context {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its ConfigMaps and Secrets.
    pub configs: Arc<Configs>,
    /// Names and addresses.
    pub facts: Arc<Facts>,
    /// The node's allocatable amounts.
    pub allocatable: Arc<BTreeMap<String, Quantity>>,
    /// Service account tokens.
    pub tokens: Arc<Tokens>,
    /// The time.
    pub now: Timestamp,
    /// The volume's own folder; made by the plugin if it needs it.
    pub dir: PathBuf,
    /// What no volume may show.
    pub private: PrivateDir,
    /// What the pod's files that come from the API may still take.
    pub budget: FileBudget,
}

/// Bytes that the files of a pod's configMap, secret, downwardAPI and projected volumes may take together. One object may stand behind
/// thousands of files: without a bound a short pod would take the memory and the disk of its node.
const MAX_API_FILE_BYTES: usize = 64 << 20;

/// What is left of a pod's bound. A clone is the same room.
#[derive(Clone, Debug)]
pub struct FileBudget(Arc<AtomicUsize>);

impl Default for FileBudget {
    fn default() -> Self {
        Self(Arc::new(MAX_API_FILE_BYTES.into()))
    }
}

impl FileBudget {
    /// Takes the room of a file.
    ///
    /// # Errors
    /// There is not as much left.
    pub fn charge(&self, bytes: usize) -> Result<(), Error> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        let text = || format!("the pod's files from the API take more than {} MiB together", MAX_API_FILE_BYTES >> 20);
        left.map(drop).map_err(|_| Error::Source(text()))
    }
}

/// A volume that is up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncedVolume {
    /// What containers mount.
    pub path: PathBuf,
    /// Whose it is.
    pub owner: Owner,
    /// Sync again at the latest then.
    pub resync_at: Option<Timestamp>,
}

/// Whose a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The pod's: its containers may write.
    Pod,
    /// The agent's: its files are replaced as a whole and old versions are swept (see [`write()`]). Containers only read, whatever their
    /// mount says.
    Agent,
    /// The node's.
    Host,
}

/// Why a volume is not there. The text goes into the event of reason `FailedMount`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something it refers to is missing or wrong.
    #[error("{0}")]
    Source(String),
    /// The API did not give what it needs.
    #[error(transparent)]
    Api(#[from] client::Error),
    /// The node's disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One kind of volume source.
#[async_trait]
pub trait VolumePlugin: Send + Sync + 'static {
    /// Upstream's name of it. It is [recorded](VolumeRecord) with each volume, so it never changes.
    fn name(&self) -> &'static str;
    /// Whether the volume is of this kind.
    fn handles(&self, volume: &Volume) -> bool;
    /// Makes the volume or brings it up to date. Idempotent.
    async fn sync(&self, cx: &Context, volume: &Volume) -> Result<SyncedVolume, Error>;
    /// Removes what `sync` made, also where that was broken off. Idempotent. When it fails, nothing else touches the folder, and it is
    /// tried again.
    async fn teardown(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(move || tree::remove(&dir)).await
    }
}

/// A volume as it is recorded before it is made: what removes it must be known also when the pod is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its name in the pod.
    pub volume: String,
    /// Its plugin's name.
    pub plugin: Cow<'static, str>,
}

/// The plugins of this node, the first that handles a volume wins.
pub fn plugins() -> Vec<Box<dyn VolumePlugin>> {
    vec![Box::new(EmptyDir), Box::new(HostPath), Box::new(payload::Payloads)]
}

/// What to record of a pod's volumes. One that no plugin handles is never made.
pub fn record(plugins: &[Box<dyn VolumePlugin>], pod: &Pod) -> Vec<VolumeRecord> {
    let volumes = pod::spec(pod).volumes.iter().flatten();
    let recorded = volumes.filter_map(|v| {
        let plugin = plugins.iter().find(|p| p.handles(v))?.name();
        Some(VolumeRecord { volume: v.name.clone(), plugin: plugin.into() })
    });
    recorded.collect()
}

/// Removes the volumes that were recorded, each by its own plugin, then the pod's folder. What a plugin could not remove stays as it is, and
/// what nobody recorded stays too: the error names all of it. Idempotent.
pub async fn tear_down(
    plugins: &[Box<dyn VolumePlugin>],
    recorded: &[VolumeRecord],
    root: &Path,
) -> Result<(), String> {
    let mut errors = Vec::new();
    for VolumeRecord { volume, plugin } in recorded {
        let mut parts = Path::new(volume).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        let torn = match plugins.iter().find(|p| p.name() == plugin) {
            Some(known) if plain => known.teardown(&root.join(volume)).await.map_err(|e| e.to_string()),
            Some(_) => Err("this is no name of a volume".to_owned()),
            None => Err(format!("this node has no volume plugin {plugin}")),
        };
        if let Err(error) = torn {
            errors.push(format!("UnmountVolume.TearDown failed for volume {volume:?} : {error}"));
        }
    }
    let folder = root.to_owned();
    if let Err(error) = blocking(move || remove_own(&folder)).await
        && errors.is_empty()
    {
        errors.push(format!("{}: {error}", root.display()));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

/// Removes the agent's own folders of a pod, and the pod's if nothing else is in it.
fn remove_own(root: &Path) -> io::Result<()> {
    tree::remove(&files_dir(root))?;
    tree::remove(&messages_dir(root))?;
    match std::fs::remove_dir(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where a pod's containers have their copies of single files. No volume can be called so.
pub(crate) fn files_dir(root: &Path) -> PathBuf {
    root.join("..files")
}

/// Where they have their termination messages.
pub(crate) fn messages_dir(root: &Path) -> PathBuf {
    root.join("..termination")
}

/// Brings all volumes of a pod up to date. Returns them by name.
pub async fn sync_all(
    plugins: &[Box<dyn VolumePlugin>],
    cx: &Context,
    root: &Path,
) -> Result<BTreeMap<String, SyncedVolume>, String> {
    let mut out = BTreeMap::new();
    for volume in pod::spec(&cx.pod).volumes.iter().flatten() {
        let Some(plugin) = plugins.iter().find(|p| p.handles(volume)) else {
            return Err(format!(
                "MountVolume.SetUp failed for volume {:?} : no volume plugin matched: this node supports emptyDir, configMap, \
                 secret, downwardAPI, projected and hostPath",
                volume.name
            ));
        };
        let cx = Context { dir: root.join(&volume.name), ..cx.clone() };
        let synced = plugin.sync(&cx, volume).await;
        let synced = synced.map_err(|e| format!("MountVolume.SetUp failed for volume {:?} : {e}", volume.name))?;
        out.insert(volume.name.clone(), synced);
    }
    Ok(out)
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// An empty folder that lives as long as the pod. How much is in it, [`crate::eviction`] watches; `medium: Memory` is a folder like any other.
struct EmptyDir;

#[async_trait]
impl VolumePlugin for EmptyDir {
    fn name(&self) -> &'static str {
        "kubernetes.io/empty-dir"
    }

    fn handles(&self, volume: &Volume) -> bool {
        // The API writes it where no source is given: one that has none here has one that this program does not know.
        volume.empty_dir.is_some()
    }

    async fn sync(&self, cx: &Context, _volume: &Volume) -> Result<SyncedVolume, Error> {
        let dir = cx.dir.clone();
        blocking(move || {
            std::fs::create_dir_all(&dir)?;
            std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        })
        .await?;
        Ok(SyncedVolume { path: cx.dir.clone(), owner: Owner::Pod, resync_at: None })
    }
}

/// A path of the node.
struct HostPath;

#[async_trait]
impl VolumePlugin for HostPath {
    fn name(&self) -> &'static str {
        "kubernetes.io/host-path"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn sync(&self, cx: &Context, volume: &Volume) -> Result<SyncedVolume, Error> {
        let source = volume.host_path.clone().unwrap_or_default();
        let (path, private) = (PathBuf::from(&source.path), cx.private.clone());
        blocking(move || Ok(host_path(&source, &private))).await?.map_err(Error::Source)?;
        Ok(SyncedVolume { path, owner: Owner::Host, resync_at: None })
    }

    async fn teardown(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Checks or makes a host path as its type says. Looked at again whenever a container mounts it: by then something else may be there.
fn host_path(source: &HostPathVolumeSource, private: &PrivateDir) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let path = Path::new(&source.path);
    // what is to be made must not be made in there either
    if let Some(handle) = path.ancestors().find_map(|folder| beneath::root(folder).ok()) {
        let refused = if path.is_dir() { private.check(&handle) } else { private.check_not_inside(&handle) };
        refused.map_err(|why| format!("hostPath {} is refused: {why}", source.path))?;
    }
    let kind = path.metadata().ok().map(|m| m.file_type());
    let wrong = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", source.path));
    let failed = |e: io::Error| format!("cannot make {}: {e}", source.path);
    match (source.type_.as_deref().unwrap_or_default(), kind) {
        ("", _) => Ok(()),
        ("DirectoryOrCreate", None) => std::fs::create_dir_all(path).map_err(failed),
        ("FileOrCreate", None) => std::fs::File::create(path).map(drop).map_err(failed),
        ("Directory" | "DirectoryOrCreate", Some(kind)) if kind.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Some(kind)) if kind.is_file() => Ok(()),
        ("Socket", Some(kind)) if kind.is_socket() => Ok(()),
        ("CharDevice", Some(kind)) if kind.is_char_device() => Ok(()),
        ("BlockDevice", Some(kind)) if kind.is_block_device() => Ok(()),
        ("Directory" | "DirectoryOrCreate", _) => wrong("a directory"),
        ("File" | "FileOrCreate", _) => wrong("a file"),
        ("Socket", _) => wrong("a socket file"),
        ("CharDevice", _) => wrong("a character device"),
        ("BlockDevice", _) => wrong("a block device"),
        (other, _) => Err(format!("{other:?} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests;
