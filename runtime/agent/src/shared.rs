//! What all workers of a node share.

use crate::{
    admission::AdmittedPods,
    awaited::AwaitedImages,
    cluster::Cluster,
    downward::Facts,
    handle::Handle,
    images::Images,
    metrics::Metrics,
    options::{Options, Runtimes},
    pod,
    prober::Prober,
    readings::Readings,
    reporter::Reporter,
    state::{PodState, StateDir},
    volumes::{PrivateDir, Tokens, VolumePlugin},
};
use client::{EventType, Recorder};
use container::net::{Dialer, Network};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::api::resource::Quantity};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) allocatable: Arc<BTreeMap<String, Quantity>>,
    pub(crate) runtimes: Runtimes,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) images: Arc<dyn Images>,
    pub(crate) cluster: Cluster,
    pub(crate) recorder: Recorder,
    pub(crate) plugins: Vec<Box<dyn VolumePlugin>>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) private: PrivateDir,
    pub(crate) states: StateDir,
    pub(crate) reporter: Reporter,
    pub(crate) prober: Prober,
    pub(crate) awaited: Arc<AwaitedImages>,
    pub(crate) admitted: Mutex<AdmittedPods>,
    /// Changes when a pod leaves room on the node, for resizes that wait for it.
    pub(crate) room: watch::Sender<()>,
    /// Cancelled when the Node is registered, or the agent has ended.
    pub(crate) registered: CancellationToken,
    pub(crate) rng: Mutex<fastrand::Rng>,
    pub(crate) pods: Mutex<HashMap<Arc<str>, Arc<Handle>>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) metrics: Metrics,
    pub(crate) readings: Readings,
    /// Containers that a drain killed.
    pub(crate) killed: AtomicUsize,
}

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// Releases the resources of a pod that ended or was deleted.
    pub(crate) fn release(&self, uid: &str) {
        self.admitted.lock().remove(uid);
        self.room.send_replace(());
    }

    /// Records an event about a pod or one of its containers.
    pub(crate) fn event(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let container = container.and_then(|name| Some((name, pod::container(pod, name)?.1)));
        self.recorder.event(&pod::reference(pod, container), kind, reason, message);
    }

    pub(crate) fn volumes_dir(&self, uid: &str) -> PathBuf {
        self.options.data_dir.join("volumes").join(uid)
    }

    /// The folder of the volumes that outlive pods: `DATA/persistent/<handle>`.
    pub(crate) fn persistent_dir(&self) -> PathBuf {
        self.options.data_dir.join("persistent")
    }

    /// The folder of a pod's logs: `DATA/logs/<namespace>_<name>_<uid>`.
    pub(crate) fn logs_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.options.data_dir.join("logs").join(format!("{namespace}_{name}_{uid}"))
    }

    /// The log file of an attempt: `…/<container>/<n>.log`.
    pub(crate) fn log_file(&self, pod: &Pod, container: &str, number: i32) -> PathBuf {
        let dir = self.logs_dir(pod::namespace(pod), pod::name(pod), pod::uid(pod));
        dir.join(container).join(format!("{number}.log"))
    }

    /// The number of pods with a running container, and the number of running containers.
    pub(crate) fn running(&self) -> (usize, usize) {
        let handles: Vec<_> = self.pods.lock().values().cloned().collect();
        let of = |state: &PodState| state.containers.values().filter(|record| record.is_running()).count();
        let counts: Vec<_> = handles.iter().map(|handle| of(&handle.state())).filter(|count| *count > 0).collect();
        (counts.len(), counts.iter().sum())
    }

    /// Garbage-collects images that no pod of the node uses.
    pub(crate) async fn collect_images(&self) {
        let mut used = Vec::new();
        for pod in self.cluster.pods.list() {
            for (container, _) in pod::all_containers(&pod) {
                used.extend(pod::images(&pod, &container).map(|(image, _)| image.to_owned()));
            }
        }
        for handle in self.pods.lock().values() {
            let state = handle.state();
            for attempt in state.containers.values().filter_map(|record| record.current.as_ref()) {
                used.push(attempt.image_id.clone());
                used.extend(attempt.volume_images.iter().cloned());
            }
        }
        // Each is looked up, and thousands of pods have one image.
        used.sort_unstable();
        used.dedup();
        self.images.collect(&used).await;
    }

    pub(crate) fn facts(&self, addresses: &[IpAddr]) -> Facts {
        Facts { node: self.options.node.clone(), host: self.options.addresses.clone(), addresses: addresses.to_vec() }
    }

    /// A new container id: 64 hexadecimal digits, like other container runtimes.
    pub(crate) fn new_id(&self) -> String {
        let mut rng = self.rng.lock();
        (0..4).map(|_| format!("{:016x}", rng.u64(..))).collect()
    }

    /// A random number between 0 and 1.
    pub(crate) fn jitter(&self) -> f64 {
        self.rng.lock().f64()
    }
}
