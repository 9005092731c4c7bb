//! Volumes: folders of the node that a pod's containers mount. Each kind of source has a plugin, which syncs the folder repeatedly, so that
//! changed ConfigMaps, Secrets, labels and tokens reach running containers.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/volumes/>.
//!
//! Wasm guests mount folders only. A `subPath` of a folder is mounted directly. A `subPath` of a file, and a `hostPath` of a file, are
//! copied when the container starts into a folder of their own, which is mounted at the parent of `mountPath`.

mod atomic;
mod beneath;
mod empty_dir;
mod kept_token;
mod memory;
mod mounts;
mod ownership;
mod payload;
mod persistent;
mod private;
mod token;

pub use atomic::{File, write};
pub use mounts::{MountRequest, mounts};
pub use ownership::Ownership;
pub use persistent::{LOCAL_VOLUMES, PersistentVolumes};
pub(crate) use persistent::{local_folder, local_handle, local_selector};
pub use private::PrivateDir;
pub use token::{TokenSource, Tokens};

use crate::{config::Configs, downward::Facts, pod};
use async_trait::async_trait;
pub(crate) use container::tree;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{HostPathVolumeSource, Pod, Volume},
    apimachinery::pkg::api::resource::Quantity,
};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The input of a plugin.
#[derive(Clone)]
pub struct Context {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its ConfigMaps, Secrets and Services.
    pub configs: Arc<Configs>,
    /// The values of the downward API.
    pub facts: Arc<Facts>,
    /// The node's allocatable resources.
    pub allocatable: Arc<BTreeMap<String, Quantity>>,
    /// Service account tokens.
    pub tokens: Arc<Tokens>,
    /// The PersistentVolumes of its claims.
    pub persistent: Arc<PersistentVolumes>,
    /// Whether processes run in the pod: WebAssembly has neither users nor a memory of its own for files.
    pub linux: bool,
    /// Whether the pod is set up, and not only brought up to date.
    pub first: bool,
    /// To whom its volumes belong.
    pub ownership: Ownership,
    /// The current time.
    pub now: Timestamp,
    /// The volume's folder. The plugin creates it if it needs one.
    pub dir: PathBuf,
    /// The folder that no volume may expose.
    pub private: PrivateDir,
    /// The remaining size of the pod's files from the API.
    pub budget: FileBudget,
}

/// The maximum size of the files of a pod's configMap, secret, downwardAPI and projected volumes together, in bytes. One object can have
/// thousands of files, so that without a limit a small pod could exhaust the memory and disk of its node.
const MAX_API_FILE_BYTES: usize = 64 << 20;

/// The remaining size of a pod's files from the API. Clones share it.
#[derive(Clone, Debug)]
pub struct FileBudget(Arc<AtomicUsize>);

impl Default for FileBudget {
    fn default() -> Self {
        Self(Arc::new(MAX_API_FILE_BYTES.into()))
    }
}

impl FileBudget {
    /// Charges the size of a file.
    ///
    /// # Errors
    /// The size exceeds what remains.
    pub fn charge(&self, bytes: usize) -> Result<(), Error> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        let text = || format!("the pod's files from the API take more than {} MiB together", MAX_API_FILE_BYTES >> 20);
        left.map(drop).map_err(|_| Error::Source(text()))
    }
}

/// A synced volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncedVolume {
    /// The path that containers mount.
    pub path: PathBuf,
    /// Who writes to it.
    pub owner: Owner,
    /// Whether all mounts are read-only.
    pub read_only: bool,
    /// When it must be synced again.
    pub resync_at: Option<Timestamp>,
    /// What of it is not as the pod asks for.
    pub notice: Option<Notice>,
}

/// What of a volume is not as the pod asks for, and no reason to do without it: an event of the pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub text: String,
}

/// Who writes to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The containers of the pod.
    Pod,
    /// The agent: it replaces all files at once and removes old versions (see [`write()`]). Mounts are read-only, whatever they specify.
    Agent,
    /// The node: a hostPath.
    Host,
    /// Nobody: an image.
    Image,
}

/// Why a volume cannot be set up. The text is part of the message of the event `FailedMount`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A referenced object or path is missing or invalid.
    #[error("{0}")]
    Source(String),
    /// The API server did not return what the volume needs.
    #[error(transparent)]
    Api(#[from] client::Error),
    /// An I/O error of the node's disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The plugin of a kind of volume source.
#[async_trait]
pub trait VolumePlugin: Send + Sync + 'static {
    /// Upstream's plugin name. It is [recorded](VolumeRecord) with each volume and must never change.
    fn name(&self) -> &'static str;
    /// Whether the plugin handles the volume.
    fn handles(&self, volume: &Volume) -> bool;
    /// Sets up or updates the volume. Idempotent.
    async fn sync(&self, cx: &Context, volume: &Volume) -> Result<SyncedVolume, Error>;
    /// Removes what `sync` created, even partly. Idempotent. After a failure, nothing else touches the folder, and the teardown is retried.
    async fn teardown(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(move || tree::remove(&dir)).await
    }
}

/// The record of a volume. It is saved before the setup, because the teardown must not depend on the Pod, which may be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// The volume's name in the pod.
    pub volume: String,
    /// The plugin's name.
    pub plugin: Cow<'static, str>,
}

/// The plugins of this node. The first that handles a volume is used.
pub fn plugins() -> Vec<Box<dyn VolumePlugin>> {
    vec![
        Box::new(empty_dir::EmptyDir),
        Box::new(HostPath),
        Box::new(Image),
        Box::new(payload::Payloads),
        Box::new(persistent::Persistent),
    ]
}

/// The records of a pod's volumes. A volume without a plugin is never set up.
pub fn record(plugins: &[Box<dyn VolumePlugin>], pod: &Pod) -> Vec<VolumeRecord> {
    let volumes = pod::spec(pod).volumes.iter().flatten();
    let recorded = volumes.filter_map(|v| {
        let plugin = plugins.iter().find(|p| p.handles(v))?.name();
        Some(VolumeRecord { volume: v.name.clone(), plugin: plugin.into() })
    });
    recorded.collect()
}

/// Tears down the recorded volumes with their plugins, and removes the pod's folder. Keeps what a plugin could not remove and what is not
/// recorded; the error names all of it. Idempotent.
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

/// Removes the agent's own folders of a pod, and the pod's folder if it is empty then.
fn remove_own(root: &Path) -> io::Result<()> {
    tree::remove(&files_dir(root))?;
    tree::remove(&messages_dir(root))?;
    tree::remove(&roots_dir(root))?;
    match std::fs::remove_dir(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The folder of the containers' copies of single files. No volume can have this name.
pub(crate) fn files_dir(root: &Path) -> PathBuf {
    root.join("..files")
}

/// The folder of the containers' termination messages.
pub(crate) fn messages_dir(root: &Path) -> PathBuf {
    root.join("..termination")
}

/// The folder of the files that containers have written beside their volumes: one for each attempt, made by the runtime at the first write.
pub(crate) fn roots_dir(root: &Path) -> PathBuf {
    root.join("..root")
}

/// Syncs all volumes of a pod. Returns them by name. The error is the message of the event `FailedMount`.
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
                 secret, downwardAPI, projected, hostPath, image, persistentVolumeClaim and ephemeral",
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

/// What of a pod's volumes is not as it asks for, each once.
pub(crate) fn notices(ownership: &Ownership, volumes: &BTreeMap<String, SyncedVolume>) -> BTreeSet<Notice> {
    let refused = ownership.refused.then(|| Notice {
        reason: "FSGroupNotGiven",
        text: "The volumes do not get the group fsGroup: this node is not root, and all files belong to its one user"
            .into(),
    });
    volumes.values().filter_map(|volume| volume.notice.clone()).chain(refused).collect()
}

/// Runs blocking file operations on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// A path of the host.
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
        Ok(SyncedVolume { path, owner: Owner::Host, read_only: false, resync_at: None, notice: None })
    }

    async fn teardown(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// The files of an image. They are found when a container that mounts them starts ([`crate::start`]), with the reasons and the back-off of its own
/// image.
struct Image;

#[async_trait]
impl VolumePlugin for Image {
    fn name(&self) -> &'static str {
        "kubernetes.io/image"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    async fn sync(&self, cx: &Context, _volume: &Volume) -> Result<SyncedVolume, Error> {
        let path = cx.dir.clone();
        Ok(SyncedVolume { path, owner: Owner::Image, read_only: true, resync_at: None, notice: None })
    }

    async fn teardown(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Checks or creates a host path as its type requires. Each mount checks the path again, because the host may have changed it.
fn host_path(source: &HostPathVolumeSource, private: &PrivateDir) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let path = Path::new(&source.path);
    // Nothing may be created inside the private folder either.
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
