//! The mailbox of a pod's worker: everybody else leaves notes here, the worker reads them when it wakes.

use crate::state::PodState;
use container::ContainerState;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

/// The three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Holds the others back until it passes once.
    Startup,
    /// Restarts the container when it fails.
    Liveness,
    /// Decides whether the pod gets traffic.
    Readiness,
}

impl ProbeKind {
    /// As in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// Why a pod is evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Eviction {
    /// For people: upstream's text.
    pub(crate) message: String,
    /// The node needs the room: no fault of the pod's own.
    pub(crate) pressure: bool,
}

/// A note.
#[derive(Debug)]
pub(crate) enum Message {
    /// The runtime says that a container entered a state.
    ContainerState(Arc<str>, ContainerState),
    /// The runtime does not know a container that should run.
    ContainerLost(Arc<str>),
    /// A probe's verdict on an attempt changed.
    ProbeResult { container: String, id: String, kind: ProbeKind, passed: bool },
    /// What a start that takes long is doing.
    StartProgress { container: String, message: String },
    /// An image that could not be pulled is on the node now.
    ImagePresent(String),
    /// A ConfigMap or Secret of the pod changed.
    ConfigChanged,
    /// The pod takes too much of the node, or the node has too little.
    Evict(Eviction),
}

#[derive(Default)]
struct Inbox {
    pod: Option<Arc<Pod>>,
    gone: bool,
    drain: bool,
    messages: Vec<Message>,
}

/// What the worker finds when it wakes.
pub(crate) struct Mail {
    pub(crate) pod: Option<Arc<Pod>>,
    pub(crate) gone: bool,
    pub(crate) drain: bool,
    pub(crate) messages: Vec<Message>,
}

/// A worker as others see it.
pub(crate) struct Handle {
    /// The pod's uid.
    pub(crate) uid: Arc<str>,
    inbox: Mutex<Inbox>,
    wake: Notify,
    /// The latest saved state, for logs and statistics.
    state: Mutex<Arc<PodState>>,
}

impl Handle {
    pub(crate) fn new(uid: Arc<str>, state: &PodState) -> Self {
        Self { uid, inbox: Mutex::default(), wake: Notify::new(), state: Mutex::new(Arc::new(state.clone())) }
    }

    /// A newer pod; replaces one that was not yet read.
    pub(crate) fn update(&self, pod: Arc<Pod>) {
        self.inbox.lock().pod = Some(pod);
        self.wake.notify_one();
    }

    /// The pod is gone from the API.
    pub(crate) fn gone(&self) {
        self.inbox.lock().gone = true;
        self.wake.notify_one();
    }

    /// The process is going down.
    pub(crate) fn drain(&self) {
        self.inbox.lock().drain = true;
        self.wake.notify_one();
    }

    /// Leaves a note. The notes of one pod are bounded by what its containers can do between two wake-ups.
    pub(crate) fn send(&self, message: Message) {
        self.inbox.lock().messages.push(message);
        self.wake.notify_one();
    }

    /// Takes everything.
    pub(crate) fn receive(&self) -> Mail {
        let mut inbox = self.inbox.lock();
        let messages = std::mem::take(&mut inbox.messages);
        Mail { pod: inbox.pod.take(), gone: inbox.gone, drain: inbox.drain, messages }
    }

    /// Waits for mail. Cancel-safe.
    pub(crate) async fn notified(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn publish(&self, state: &PodState) {
        *self.state.lock() = Arc::new(state.clone());
    }

    /// The latest saved state.
    pub(crate) fn state(&self) -> Arc<PodState> {
        self.state.lock().clone()
    }
}
