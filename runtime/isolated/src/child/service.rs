//! What a child does for the node: the calls of `container::Runtime`, for its one pod.

use crate::{
    child::sockets::PodSockets,
    link::{Answer, Link, Service},
    protocol::{CallError, NoticeToChild, NoticeToNode, RuntimeReply, StreamsPresent, ToChild},
    streams,
};
use container::{ContainerId, ContainerSpec, Error, Event, Result, Runtime, SandboxId, Streams};
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    fs::File,
    future::Future,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, OnceLock},
};
use tokio::sync::broadcast::{self, error::TryRecvError};
use wasm::Wasmtime;

/// The pod of this process.
pub(super) struct Pod {
    wasm: Wasmtime,
    sandbox: SandboxId,
    link: OnceLock<Link>,
    sockets: OnceLock<PodSockets>,
    events: tokio::sync::Mutex<broadcast::Receiver<Event>>,
    /// Wakes who tells the states.
    wake: Mutex<Option<broadcast::Receiver<Event>>>,
}

impl Pod {
    pub(super) fn new(wasm: Wasmtime, sandbox: SandboxId) -> Arc<Self> {
        Arc::new(Self {
            sandbox,
            link: OnceLock::new(),
            sockets: OnceLock::new(),
            events: tokio::sync::Mutex::new(wasm.events()),
            wake: Mutex::new(Some(wasm.events())),
            wasm,
        })
    }

    pub(super) fn set_link(&self, link: Link) {
        let _ = self.link.set(link);
    }

    pub(super) fn set_sockets(&self, sockets: PodSockets) {
        let _ = self.sockets.set(sockets);
    }

    /// Tells the node every state that containers enter.
    pub(super) fn tell_states(self: Arc<Self>) -> impl Future<Output = ()> + Send {
        let wake = self.wake.lock().take();
        async move {
            let Some(mut wake) = wake else { return };
            while !matches!(wake.recv().await, Err(broadcast::error::RecvError::Closed)) {
                self.tell().await;
            }
        }
    }

    /// Tells the state that a call has led to, before its reply: a container enters a state a moment before its event is sent.
    async fn tell_of(&self, id: &ContainerId) {
        let now = self.wasm.list().await.unwrap_or_default();
        // the events of earlier states were sent before; the node knows what it was told twice
        self.tell().await;
        if let Some(status) = now.into_iter().find(|status| status.id == *id) {
            self.notice(&NoticeToNode::State(status.id, status.state)).await;
        }
    }

    /// Tells what has happened until now.
    async fn tell(&self) {
        let mut events = self.events.lock().await;
        loop {
            match events.try_recv() {
                Ok(event) => self.notice(&NoticeToNode::State(event.id, event.state)).await,
                Err(TryRecvError::Lagged(_)) => {
                    for status in self.wasm.list().await.unwrap_or_default() {
                        self.notice(&NoticeToNode::State(status.id, status.state)).await;
                    }
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    async fn notice(&self, notice: &NoticeToNode) {
        if let Some(link) = self.link.get() {
            link.notice(notice).await;
        }
    }

    async fn create(&self, spec: ContainerSpec, mut descriptors: Vec<OwnedFd>) -> Result<()> {
        let code = descriptors.pop().ok_or_else(|| Error::Invalid("the code is missing".into()))?;
        // the container holds it
        let _prepared = self.wasm.open(&spec.artifact, File::from(code)).await?;
        let id = spec.id.clone();
        let created = self.wasm.create(&self.sandbox, spec).await;
        self.tell_of(&id).await;
        created
    }

    async fn answer(&self, bytes: &[u8], descriptors: Vec<OwnedFd>) -> Answer {
        let wasm = &self.wasm;
        match serde_json::from_slice(bytes) {
            Err(error) => encode::<()>(Err(Error::Invalid(error.to_string()))),
            Ok(ToChild::Create(spec)) => encode(self.create(*spec, descriptors).await),
            Ok(ToChild::Start(id)) => {
                let started = wasm.start(&id).await;
                self.tell_of(&id).await;
                encode(started)
            }
            Ok(ToChild::Stop(id, grace)) => {
                let stopped = wasm.stop(&id, grace).await;
                self.tell_of(&id).await;
                encode(stopped)
            }
            Ok(ToChild::Remove(id)) => encode(wasm.remove(&id).await),
            Ok(ToChild::Stats(id)) => encode(wasm.stats(&id).await),
            Ok(ToChild::Limits(id, limits)) => encode(wasm.update_limits(&id, limits).await),
            Ok(ToChild::Exec(id, exec, present)) => encode(match streams(present, descriptors) {
                Ok(streams) => wasm.exec(&id, exec, streams).await,
                Err(error) => Err(error),
            }),
            Ok(ToChild::Attach(id, present)) => encode(match streams(present, descriptors) {
                Ok(streams) => wasm.attach(&id, streams).await,
                Err(error) => Err(error),
            }),
        }
    }
}

fn streams(present: StreamsPresent, descriptors: Vec<OwnedFd>) -> Result<Streams> {
    streams::receive(present, descriptors).ok_or_else(|| Error::Invalid("a stream is missing".into()))
}

fn encode<T: Serialize>(reply: Result<T>) -> Answer {
    let reply: RuntimeReply<T> = reply.map_err(CallError::from);
    (serde_json::to_vec(&reply).unwrap_or_default(), Vec::new())
}

impl Service for Pod {
    fn call(
        self: Arc<Self>,
        bytes: Vec<u8>,
        descriptors: Vec<OwnedFd>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        Box::pin(async move { self.answer(&bytes, descriptors).await })
    }

    fn notice(&self, bytes: &[u8], mut descriptors: Vec<OwnedFd>) {
        match serde_json::from_slice(bytes) {
            Ok(NoticeToChild::Retire(id)) => self.wasm.retire(&id),
            Ok(NoticeToChild::Connection { handler, tcp, peer }) => {
                if let (Some(sockets), Some(descriptor)) = (self.sockets.get(), descriptors.pop()) {
                    sockets.connection(handler, tcp, descriptor, peer);
                }
            }
            Err(_) => {}
        }
    }
}
