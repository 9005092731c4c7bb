//! The node's persistent state of each pod (see `runtime/README.md`): attempts, ids, restart counts, times, the log file, the address. One small
//! JSON file per pod, replaced atomically, so that the pod continues after a restart of the process.
//!
//! It is neither the observed state ([`container::Runtime::list`]) nor the desired state (the Pod).

use crate::{
    backoff::Backoff,
    resize::{self, Allocated, Given},
    volumes::{VolumeRecord, blocking},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Semaphore;

/// The reason of a container whose exit was not observed.
pub const LOST_REASON: &str = "ContainerStatusUnknown";
/// Its exit code, as upstream's.
pub const LOST_CODE: i32 = 137;
/// Its message.
pub const LOST_MESSAGE: &str =
    "The node agent was restarted and the container, which used to be Running, ended with it";

/// The persistent state of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodState {
    /// Namespace, name and uid, to clean up pods that were deleted while the agent did not run.
    pub namespace: String,
    /// See `namespace`.
    pub name: String,
    /// See `namespace`.
    pub uid: String,
    /// `status.startTime`.
    pub started: Option<Timestamp>,
    /// The pod's address, kept over restarts.
    pub address: Option<IpAddr>,
    /// It was attached with a network namespace of the kernel, or asked for one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub kernel: bool,
    /// By container name, including init containers.
    pub containers: BTreeMap<String, Record>,
    /// The resources that the containers were given. A resize that waits for room leaves them as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allocated: Vec<Allocated>,
    /// Why the node failed the pod, if it did.
    pub failure: Option<Failure>,
    /// The volumes that are set up, completely or partly. Written before the setup, and cleared after all are removed. The teardown uses this list
    /// and not the Pod, which may be deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeRecord>,
}

/// Why the node failed the pod as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Such as `DeadlineExceeded`.
    pub reason: String,
    /// The message of the status.
    pub message: String,
    /// The node rejected the pod: none of its containers ever ran.
    #[serde(default, rename = "refused")]
    pub rejected: bool,
    /// The node lacked a resource: the pod gets the DisruptionTarget condition.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pressure: bool,
}

/// A container with all its attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Record {
    /// The restart count. It excludes restarts of containers that the agent stopped because its process ended.
    pub restarts: i32,
    /// The latest attempt. Boxed, since a map has room for eleven records from the first one on.
    pub current: Option<Box<Attempt>>,
    /// The termination of the attempt before it.
    pub last: Option<Box<Terminated>>,
    /// The restart back-off.
    pub backoff: Option<Backoff>,
}

/// An attempt to run a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// The container id in the runtime.
    pub id: String,
    /// The name of the runtime, which is the scheme of `containerID`.
    pub runtime: String,
    /// `spec.image` when it was created.
    pub image: String,
    /// The id of the resolved image.
    pub image_id: String,
    /// The ids of the images that it mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_images: Vec<String>,
    /// The number of its log file.
    pub log: i32,
    /// Whether it runs.
    pub state: AttemptState,
    /// The resources that it runs with; unknown of one that an older version has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Box<Given>>,
}

/// The state of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AttemptState {
    /// It runs.
    Running {
        /// The start time.
        started_at: Timestamp,
    },
    /// It exited.
    Exited(Terminated),
}

/// The termination of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminated {
    /// `containerID` of the status, with its scheme.
    pub container_id: String,
    /// The exit code.
    pub code: i32,
    /// Such as `Completed`, `Error` or `OOMKilled`.
    pub reason: String,
    /// The message of the status.
    #[serde(default)]
    pub message: String,
    /// The start time.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// The time of the exit. `None` if the exit was not observed.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// The agent stopped the container because its process ended. This is no crash, so that no back-off applies.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
}

impl Attempt {
    /// `containerID` of the status: `RUNTIME://ID`.
    pub fn container_id(&self) -> String {
        format!("{}://{}", self.runtime, self.id)
    }
}

impl Terminated {
    /// Whether it ended together with the agent's process.
    pub(crate) fn ended_with_agent(&self) -> bool {
        self.drained || self.reason == LOST_REASON
    }

    /// Marks the exit as not observed.
    pub(crate) fn mark_lost(&mut self) {
        self.code = LOST_CODE;
        self.reason = LOST_REASON.into();
        self.message = LOST_MESSAGE.into();
    }
}

impl Record {
    /// Whether the latest attempt runs.
    pub fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(|attempt| matches!(attempt.state, AttemptState::Running { .. }))
    }

    /// The termination of the latest attempt, unless it runs.
    pub fn terminated(&self) -> Option<&Terminated> {
        match self.current.as_ref().map(|attempt| &attempt.state) {
            Some(AttemptState::Exited(ended)) => Some(ended),
            _ => None,
        }
    }
}

impl PodState {
    /// The state of a pod without a file. If its status shows that it already ran here, the restart counts are taken from the status.
    pub fn adopt(pod: &Pod) -> Self {
        let mut state = Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            ..Self::default()
        };
        state.allocated = resize::adopt(pod);
        let Some(status) = &pod.status else { return state };
        state.started = status.start_time.as_ref().map(|t| t.0);
        state.address = status.pod_ip.as_ref().and_then(|ip| ip.parse().ok());
        let all = status.init_container_statuses.iter().chain(&status.container_statuses);
        let all = all.chain(&status.ephemeral_container_statuses).flatten();
        state.containers = all.filter_map(|c| Some((c.name.clone(), adopt_container(c)?))).collect();
        state
    }

    /// Whether the file is older than the pod's status in the API. Only a power failure causes this: otherwise the file is written before the
    /// status is sent.
    pub fn is_behind(&self, pod: &Pod) -> bool {
        Self::adopt(pod).containers.iter().any(|(name, told)| {
            let Some(known) = self.containers.get(name) else { return true };
            let other = |told: &Terminated| known.terminated().is_some_and(|known| is_other_end(known, told));
            told.restarts > known.restarts || told.restarts == known.restarts && told.terminated().is_some_and(other)
        })
    }

    /// Marks running attempts for which `alive` returns false as lost.
    pub fn mark_lost(&mut self, alive: impl Fn(&str) -> bool) {
        for record in self.containers.values_mut() {
            let Some(attempt) = &mut record.current else { continue };
            let AttemptState::Running { started_at } = attempt.state else { continue };
            if !alive(&attempt.id) {
                attempt.state = AttemptState::Exited(Terminated {
                    container_id: attempt.container_id(),
                    code: LOST_CODE,
                    reason: LOST_REASON.into(),
                    message: LOST_MESSAGE.into(),
                    started_at: Some(started_at),
                    finished_at: None,
                    drained: false,
                });
            }
        }
    }
}

/// Whether `told` is the actual termination of an attempt that is recorded as lost.
fn is_other_end(known: &Terminated, told: &Terminated) -> bool {
    known.container_id == told.container_id && known.reason == LOST_REASON && told.reason != LOST_REASON
}

fn adopt_container(status: &ContainerStatus) -> Option<Record> {
    let id = status.container_id.clone()?;
    let (runtime, raw) = id.split_once("://")?;
    let state = status.state.as_ref()?;
    let ended = |t: &k8s_openapi::api::core::v1::ContainerStateTerminated| Terminated {
        container_id: t.container_id.clone().unwrap_or_else(|| id.clone()),
        code: t.exit_code,
        reason: t.reason.clone().unwrap_or_default(),
        message: t.message.clone().unwrap_or_default(),
        started_at: t.started_at.as_ref().map(|t| t.0),
        finished_at: t.finished_at.as_ref().map(|t| t.0),
        drained: false,
    };
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref()).map(ended);
    let (current, last) = match (&state.terminated, &state.running) {
        (Some(terminated), _) => (AttemptState::Exited(ended(terminated)), last),
        (None, Some(running)) => {
            let lost = Terminated {
                container_id: id.clone(),
                code: LOST_CODE,
                reason: LOST_REASON.into(),
                message: LOST_MESSAGE.into(),
                started_at: running.started_at.as_ref().map(|t| t.0),
                finished_at: None,
                drained: false,
            };
            (AttemptState::Exited(lost), last)
        }
        (None, None) => (AttemptState::Exited(last?), None),
    };
    let current = Attempt {
        id: raw.to_owned(),
        runtime: runtime.to_owned(),
        image: status.image.clone(),
        image_id: status.image_id.clone(),
        volume_images: Vec::new(),
        log: status.restart_count,
        state: current,
        given: None,
    };
    let (current, last) = (Some(Box::new(current)), last.map(Box::new));
    Some(Record { restarts: status.restart_count, current, last, backoff: None })
}

/// The extension of temporary files.
const TEMPORARY_EXTENSION: &str = "tmp";

/// The folder of the files `DIR/<uid>.json`. Operations run on blocking threads, one at a time and in order, so that thousands of starting pods
/// occupy one such thread and not hundreds.
#[derive(Clone, Debug)]
pub struct StateDir {
    dir: Arc<Path>,
    permit: Arc<Semaphore>,
}

impl StateDir {
    /// Creates the folder, private to the user, and removes temporary files of a killed process.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        for entry in std::fs::read_dir(dir)?.flatten() {
            if entry.path().extension().is_some_and(|e| e == TEMPORARY_EXTENSION) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir: dir.into(), permit: Arc::new(Semaphore::new(1)) })
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.dir.join(format!("{uid}.json"))
    }

    /// Runs an operation. A started operation completes even if the caller is cancelled; the next one waits for it.
    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let permit = self.permit.clone().acquire_owned().await.map_err(io::Error::other)?;
        blocking(move || {
            let _permit = permit;
            work()
        })
        .await
    }

    /// Replaces the content of a pod's file atomically, without a sync, which would delay each container start by milliseconds. After a power failure the
    /// containers are gone too; a file may be truncated or [behind](PodState::is_behind), and the status in the API replaces it.
    pub async fn save(&self, state: &PodState) -> io::Result<()> {
        let path = self.path(&state.uid);
        let bytes = serde_json::to_vec(state).map_err(io::Error::other)?;
        self.work(move || {
            if overwrite(&path, &bytes)? {
                return Ok(());
            }
            let temporary = path.with_extension(TEMPORARY_EXTENSION);
            std::fs::File::create(&temporary)?.write_all(&bytes)?;
            replace(&temporary, &path)
        })
        .await
    }

    /// Removes a pod's file. Idempotent.
    pub async fn remove(&self, uid: &str) -> io::Result<()> {
        let path = self.path(uid);
        self.work(move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    /// The states of all pods by uid. An unreadable file is skipped with a warning: the pod's status replaces it.
    pub async fn load(&self) -> io::Result<BTreeMap<String, PodState>> {
        let this = self.clone();
        self.work(move || this.read()).await
    }

    fn read(&self) -> io::Result<BTreeMap<String, PodState>> {
        let mut states = BTreeMap::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let read = std::fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
            match read
                .and_then(|state: PodState| if self.path(&state.uid) == path { Ok(state) } else { Err(wrong_uid()) })
            {
                Ok(state) => drop(states.insert(state.uid.clone(), state)),
                Err(error) => tracing::warn!(path = %path.display(), %error, "unreadable pod state, ignored"),
            }
        }
        Ok(states)
    }
}

/// What the kernel writes at once, bytes: a killed process has written all of it or nothing.
const PAGE: u64 = 4096;

/// Writes over a file where that is atomic, because both contents fit into a page: a new file for each step of a starting pod costs more than the
/// step. The rest of a longer file becomes spaces. Returns false if it is not, or there is no file yet.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let known = match path.symlink_metadata() {
        Ok(known) => known,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !known.is_file() || known.len() > PAGE || bytes.len() as u64 > PAGE {
        return Ok(false);
    }
    let mut page = bytes.to_vec();
    page.resize(bytes.len().max(usize::try_from(known.len()).unwrap_or_default()), b' ');
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(&page)?;
    Ok(true)
}

/// Puts a temporary file in the place of another. The two change places if both exist: a rename over a file makes ext4 write the new one to the
/// disk at once (`auto_da_alloc`), which delays all that wait for the disk.
fn replace(temporary: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, temporary, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => std::fs::remove_file(temporary),
        // the first file of the pod, or a file system that cannot
        Err(_) => std::fs::rename(temporary, path),
    }
}

/// The error of a file whose uid does not match its name. Its volumes must not be torn down.
fn wrong_uid() -> io::Error {
    io::Error::other("it is not of the pod that it is named after")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn running() -> PodState {
        let attempt = Attempt {
            id: "a".into(),
            runtime: "wasmtime".into(),
            image: "i".into(),
            image_id: "sha256:1".into(),
            volume_images: Vec::new(),
            log: 2,
            state: AttemptState::Running { started_at: Timestamp::UNIX_EPOCH },
            given: None,
        };
        let record = Record { restarts: 2, current: Some(Box::new(attempt)), ..Record::default() };
        PodState { uid: "u".into(), containers: [("c".to_owned(), record)].into(), ..PodState::default() }
    }

    #[tokio::test]
    async fn files_round_trip_and_bad_ones_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateDir::open(dir.path()).unwrap();
        store.save(&running()).await.unwrap();
        std::fs::write(dir.path().join("bad.json"), "{").unwrap();
        for (name, uid) in [("nobody", ""), ("other", "u"), ("up", "../u")] {
            let text = json!({"uid": uid, "volumes": [{"volume": "v", "plugin": "kubernetes.io/empty-dir"}]});
            std::fs::write(dir.path().join(format!("{name}.json")), text.to_string()).unwrap();
        }
        std::fs::write(dir.path().join("u.tmp"), "{").unwrap();
        let store = StateDir::open(dir.path()).unwrap();
        assert!(!dir.path().join("u.tmp").exists(), "a kill left it");
        assert_eq!(store.load().await.unwrap(), [("u".to_owned(), running())].into());
        store.remove("u").await.unwrap();
        store.remove("u").await.unwrap();
        assert!(store.load().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_shorter_state_leaves_nothing_of_a_longer_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateDir::open(dir.path()).unwrap();
        let failed = |length: usize| {
            let failure =
                Failure { reason: "Evicted".into(), message: "x".repeat(length), rejected: false, pressure: true };
            PodState { failure: Some(failure), ..running() }
        };
        for state in [running(), failed(2000), running(), failed(5000), failed(10), running(), failed(3500)] {
            store.save(&state).await.unwrap();
            assert_eq!(store.load().await.unwrap(), [("u".to_owned(), state)].into());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    /// The disk takes nothing of the first file until somebody reads it: it is a pipe.
    #[tokio::test]
    async fn a_slow_disk_holds_up_no_thread_and_the_order_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateDir::open(dir.path()).unwrap();
        let pipe = dir.path().join("u.tmp");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let save = |state: PodState| {
            let store = store.clone();
            tokio::spawn(async move { store.save(&state).await })
        };
        let first = save(running());
        let second = save(PodState { started: Some(Timestamp::UNIX_EPOCH), ..running() });
        let (release, released) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let released = released.recv_timeout(std::time::Duration::from_secs(20)).is_ok();
            (released, std::fs::read_to_string(pipe).unwrap())
        });
        // there is one thread: a save that blocked it would leave none for this
        tokio::task::yield_now().await;
        assert!(!first.is_finished() && !second.is_finished());
        release.send(()).unwrap();
        let (released, text) = tokio::task::spawn_blocking(move || reader.join().unwrap()).await.unwrap();
        assert!(released, "the thread was blocked");
        assert_eq!(serde_json::from_str::<PodState>(&text).unwrap(), running());
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        assert_eq!(store.load().await.unwrap()["u"].started, Some(Timestamp::UNIX_EPOCH), "the later one is there");
    }

    #[test]
    fn running_attempts_that_are_gone_are_lost_with_137() {
        let mut state = running();
        state.mark_lost(|id| id == "a");
        assert!(state.containers["c"].is_running());
        state.mark_lost(|_| false);
        let ended = state.containers["c"].terminated().unwrap();
        assert_eq!((ended.code, ended.reason.as_str(), ended.finished_at), (137, "ContainerStatusUnknown", None));
        assert_eq!(ended.container_id, "wasmtime://a");
    }

    #[test]
    fn a_file_that_a_power_cut_left_behind_the_status_is_noticed() {
        let told = |restarts: i32, state: serde_json::Value| -> Pod {
            let id = format!("wasmtime://{}", if restarts == 2 { "a" } else { "other" });
            let status = json!({"name": "c", "image": "i", "imageID": "x", "ready": true, "restartCount": restarts, "containerID": id, "state": state});
            let pod = json!({"metadata": {"name": "p", "uid": "u"}, "status": {"containerStatuses": [status]}});
            serde_json::from_value(pod).unwrap()
        };
        let runs = || json!({"running": {"startedAt": "2026-01-01T00:00:01Z"}});
        let ended =
            |reason: &str| json!({"terminated": {"exitCode": 0, "reason": reason, "containerID": "wasmtime://a"}});
        let mut known = running();
        known.mark_lost(|_| false);
        assert!(!known.is_behind(&told(1, runs())), "the file is written first");
        assert!(!known.is_behind(&told(2, runs())));
        assert!(!known.is_behind(&told(2, ended(LOST_REASON))));
        assert!(known.is_behind(&told(2, ended("Completed"))), "a Job's pod must not run twice");
        assert!(known.is_behind(&told(3, runs())), "a restart count never falls");
        assert!(PodState::default().is_behind(&told(2, runs())));
        assert!(!PodState::default().is_behind(&Pod::default()));
    }

    #[test]
    fn a_lost_file_is_replaced_by_what_the_status_says() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": "p", "uid": "u"},
            "status": {"podIP": "10.32.0.9", "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
                {"name": "c", "image": "i", "imageID": "x", "ready": true, "restartCount": 4, "containerID": "wasmtime://z",
                 "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}},
                {"name": "w", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"waiting": {"reason": "ContainerCreating"}}}]}
        }))
        .unwrap();
        let state = PodState::adopt(&pod);
        assert_eq!(state.address, Some("10.32.0.9".parse().unwrap()));
        assert_eq!(state.containers.len(), 1, "a container that never ran has no record");
        assert_eq!(state.containers["c"].restarts, 4);
        assert_eq!(state.containers["c"].terminated().unwrap().code, 137);
    }
}
