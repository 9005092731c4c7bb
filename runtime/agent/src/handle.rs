//! The mailbox of a pod's worker. Other tasks send messages, and the worker receives them when it wakes.

use crate::state::PodState;
use container::ContainerState;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};
use tokio::sync::Notify;

/// A value that is shared until its owner changes it.
#[derive(Debug)]
pub(crate) struct CopyOnWrite<T>(Arc<T>);

impl<T> CopyOnWrite<T> {
    /// The value as it is now.
    pub(crate) fn share(&self) -> Arc<T> {
        self.0.clone()
    }
}

impl<T> From<Arc<T>> for CopyOnWrite<T> {
    fn from(value: Arc<T>) -> Self {
        Self(value)
    }
}

impl<T> Deref for CopyOnWrite<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for CopyOnWrite<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

/// The kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Delays the other probes until it succeeds once.
    Startup,
    /// Restarts the container when it fails.
    Liveness,
    /// Decides whether the pod receives traffic.
    Readiness,
}

impl ProbeKind {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// An eviction of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Eviction {
    /// The status message, with upstream's text.
    pub(crate) message: String,
    /// The node is low on a resource: the pod gets the DisruptionTarget condition.
    pub(crate) pressure: bool,
}

/// A message to a worker.
#[derive(Debug)]
pub(crate) enum Message {
    /// The runtime reports a container's state.
    ContainerState(Arc<str>, ContainerState),
    /// The runtime does not know a container that should run.
    ContainerLost(Arc<str>),
    /// A probe of an attempt reached its success or failure threshold.
    ProbeResult { container: String, id: String, kind: ProbeKind, passed: bool },
    /// The progress of a start that takes long.
    StartProgress { container: String, message: String },
    /// An image whose pull failed is on the node now.
    ImagePresent(String),
    /// A ConfigMap or Secret that the pod references changed.
    ConfigChanged,
    /// The pod exceeds a limit, or the node is low on a resource.
    Evict(Eviction),
}

struct Inbox {
    /// The newest state of the pod.
    newest: Arc<Pod>,
    /// The worker has not received it.
    has_changed: bool,
    gone: bool,
    drain: bool,
    messages: Vec<Message>,
}

/// The messages that a worker receives at once.
pub(crate) struct Mail {
    pub(crate) pod: Option<Arc<Pod>>,
    pub(crate) gone: bool,
    pub(crate) drain: bool,
    pub(crate) messages: Vec<Message>,
}

/// The other tasks' view of a worker.
pub(crate) struct Handle {
    /// The pod's uid.
    pub(crate) uid: Arc<str>,
    inbox: Mutex<Inbox>,
    wake: Notify,
    /// The latest state, for logs and statistics, and whether the state file has it.
    state: Mutex<(Arc<PodState>, bool)>,
}

impl Handle {
    /// `saved`: the state comes from the state file. Attempts that are lost count as unchanged, because a restart finds that again.
    pub(crate) fn new(uid: Arc<str>, pod: Arc<Pod>, state: PodState, saved: bool) -> Self {
        let inbox = Inbox { newest: pod, has_changed: false, gone: false, drain: false, messages: Vec::new() };
        Self { uid, inbox: Mutex::new(inbox), wake: Notify::new(), state: Mutex::new((Arc::new(state), saved)) }
    }

    /// The newest state of the pod.
    pub(crate) fn newest(&self) -> Arc<Pod> {
        self.inbox.lock().newest.clone()
    }

    /// Sends a newer Pod. It replaces one that was not received yet.
    pub(crate) fn update(&self, pod: Arc<Pod>) {
        let mut inbox = self.inbox.lock();
        (inbox.newest, inbox.has_changed) = (pod, true);
        drop(inbox);
        self.wake.notify_one();
    }

    /// Reports that the pod is deleted from the API.
    pub(crate) fn gone(&self) {
        self.inbox.lock().gone = true;
        self.wake.notify_one();
    }

    /// Reports that the process ends.
    pub(crate) fn drain(&self) {
        self.inbox.lock().drain = true;
        self.wake.notify_one();
    }

    /// Sends a message. The queue is bounded by what the pod's containers can do between two wake-ups.
    pub(crate) fn send(&self, message: Message) {
        self.inbox.lock().messages.push(message);
        self.wake.notify_one();
    }

    /// Takes all messages.
    pub(crate) fn receive(&self) -> Mail {
        let mut inbox = self.inbox.lock();
        let messages = std::mem::take(&mut inbox.messages);
        let pod = std::mem::take(&mut inbox.has_changed).then(|| inbox.newest.clone());
        Mail { pod, gone: inbox.gone, drain: inbox.drain, messages }
    }

    /// Waits for messages. Cancel-safe.
    pub(crate) async fn notified(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn publish(&self, state: Arc<PodState>, saved: bool) {
        *self.state.lock() = (state, saved);
    }

    /// The latest published state.
    pub(crate) fn state(&self) -> Arc<PodState> {
        self.state.lock().0.clone()
    }

    /// Whether the state file has it.
    pub(crate) fn is_saved(&self) -> bool {
        self.state.lock().1
    }
}
