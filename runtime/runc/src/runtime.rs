//! [`Runc`]: what the node knows of its Linux containers, and its calls to their shims.

use crate::{
    call::{Call, connect},
    node::{Container, Inner, Pod, Shim},
    options::Options,
    protocol::{CONTAINERS, Present, Reply, Request},
    streams,
};
use async_trait::async_trait;
use container::{
    Artifact, ContainerId, ContainerSpec, ContainerState, Error, Event, Exec, Limits, Prepared, Progress, Result,
    Runtime, SandboxId, SandboxSpec, Stats, Status, Streams, net::Sockets, tree,
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{sync::broadcast, time::timeout};
use tokio_util::sync::CancellationToken;

/// Runs Linux containers by an OCI runtime. Cheap to clone.
#[derive(Clone)]
pub struct Runc(Arc<Inner>);

impl Runc {
    /// A runtime, which costs nothing until there is a pod. What a former process left is found by its first call.
    pub fn new(options: Options) -> Self {
        Self(Arc::new(Inner::new(options)))
    }

    async fn inner(&self) -> &Arc<Inner> {
        self.0.found.get_or_init(|| self.0.find()).await;
        &self.0
    }
}

/// A Linux image: its layers are on disk.
#[derive(Debug)]
struct Ready(Artifact);

impl Prepared for Ready {
    fn artifact(&self) -> &Artifact {
        &self.0
    }

    fn target(&self) -> &'static str {
        "linux"
    }
}

fn unknown(id: &ContainerId) -> Error {
    Error::NotFound(format!("container {id}"))
}

fn not_running(id: &ContainerId) -> Error {
    Error::NotFound(format!("container {id} is not running"))
}

impl Inner {
    fn pod(&self, id: &SandboxId) -> Result<Arc<Pod>> {
        self.pods.lock().get(id).cloned().ok_or_else(|| Error::NotFound(format!("sandbox {id}")))
    }

    /// The pod of a container, with its state.
    fn of(&self, id: &ContainerId) -> Result<(Arc<Pod>, ContainerState)> {
        let containers = self.containers.lock();
        let container = containers.get(id).ok_or_else(|| unknown(id))?;
        Ok((self.pod(&container.sandbox)?, container.state.clone()))
    }

    fn running(&self, id: &ContainerId) -> Result<Arc<Pod>> {
        match self.of(id).map_err(|_| not_running(id))? {
            (pod, ContainerState::Running { .. }) => Ok(pod),
            _ => Err(not_running(id)),
        }
    }

    /// The shim of a pod; `None` if it has ended.
    async fn shim(&self, pod: &Pod) -> Option<Arc<Shim>> {
        pod.shim.lock().await.clone().filter(|shim| shim.is_alive())
    }

    /// Calls the shim of a pod, and returns when the node knows what it changed.
    async fn call(&self, pod: &Pod, request: Request, within: Duration) -> Result<()> {
        let ended = || Error::Exhausted("the shim of the pod has ended".into());
        let shim = self.shim(pod).await.ok_or_else(ended)?;
        let call = async {
            let (result, seq) = Call::start(&pod.folder, &request, Vec::new()).await?.done().await?;
            shim.knows(seq).await;
            result.map(drop).map_err(Error::from)
        };
        timeout(within, call)
            .await
            .unwrap_or_else(|_| Err(Error::Exhausted(format!("the shim of the pod did not answer within {within:?}"))))
    }

    fn make_pod(&self, spec: &SandboxSpec) -> Result<Arc<Pod>> {
        let id = &spec.id;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if id.is_empty() || id.len() > 64 || !id.bytes().all(is_name) {
            return Err(Error::Invalid(format!("{id:?} is no id of a pod")));
        }
        let folder =
            std::path::absolute(self.options.folder.join(&**id)).map_err(|error| Error::Other(error.into()))?;
        let class = Some(&spec.linux.cgroup).filter(|class| !class.is_empty());
        let parent =
            class.map_or_else(|| self.options.cgroup.clone(), |class| format!("{}/{class}", self.options.cgroup));
        let cgroup = self.cgroups.as_ref().map(|_| format!("{parent}/pod{id}"));
        let made = || Arc::new(Pod { id: id.clone(), folder, cgroup, shim: tokio::sync::Mutex::default() });
        Ok(self.pods.lock().entry(id.clone()).or_insert_with(made).clone())
    }

    /// Sets the limits of a pod, if it has any.
    fn limit_pod(&self, pod: &Pod, limits: &Limits) -> Result<()> {
        match self.cgroups.as_ref().zip(pod.cgroup.as_ref()) {
            Some((cgroups, path)) if *limits != Limits::default() => cgroups
                .limit_pod(path, limits)
                .map_err(|error| Error::Exhausted(format!("the pod cannot be limited: {error}"))),
            _ => Ok(()),
        }
    }

    /// Forgets a pod that was removed, and its cgroups.
    fn forget(&self, pod: &Pod) {
        let mut pods = self.pods.lock();
        pods.remove(&pod.id);
        self.containers.lock().retain(|_, container| container.sandbox != pod.id);
        let Some((cgroups, path)) = self.cgroups.as_ref().zip(pod.cgroup.as_ref()) else { return };
        if !cgroups.remove(path) {
            tracing::warn!(pod = %pod.id, cgroup = path, "the cgroup of a pod cannot be removed");
        }
        // while locked: no other pod makes one below it meanwhile
        if pods.is_empty() {
            cgroups.remove(&self.options.cgroup);
        }
    }
}

/// Copies a client's streams while a call goes on, and then until all output is with the client.
async fn with_streams<T>(
    call: impl Future<Output = T>,
    input: impl Future<Output = ()>,
    output: impl Future<Output = ()>,
    ended: &CancellationToken,
) -> T {
    let call = async {
        let outcome = call.await;
        ended.cancel();
        outcome
    };
    let input = async {
        input.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        (outcome, ()) = async { tokio::join!(call, output) } => outcome,
        never = input => match never {},
    }
}

#[async_trait]
impl Runtime for Runc {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    async fn prepare(
        &self,
        artifact: &Artifact,
        _scope: &str,
        _progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Arc<dyn Prepared>> {
        match artifact {
            Artifact::Linux { .. } => {
                self.0.tool()?;
                Ok(Arc::new(Ready(artifact.clone())))
            }
            Artifact::Wasm { .. } => {
                Err(Error::Invalid("this is a WebAssembly image, which an OCI runtime cannot run".into()))
            }
        }
    }

    async fn sandbox(&self, spec: SandboxSpec, _sockets: Arc<dyn Sockets>) -> Result<()> {
        let inner = self.inner().await;
        let pod = inner.make_pod(&spec)?;
        let mut held = pod.shim.lock().await;
        inner.limit_pod(&pod, &spec.limits)?;
        if let Some(shim) = held.as_ref().filter(|shim| shim.is_alive()) {
            if connect(&pod.folder).await.is_ok() {
                return Ok(());
            }
            // it has just ended: first all of it ends
            let gone = timeout(inner.patience(), shim.gone.cancelled()).await;
            gone.map_err(|_| Error::Exhausted("the former shim of the pod has not ended".into()))?;
        }
        inner.start_shim(&pod, &mut held, spec).await
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let inner = self.inner().await;
        let Ok(pod) = inner.pod(id) else { return Ok(()) };
        let mut held = pod.shim.lock().await;
        inner.end(&pod, &mut held).await?;
        inner.forget(&pod);
        Ok(())
    }

    async fn create(&self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<()> {
        let inner = self.inner().await;
        let pod = inner.pod(sandbox)?;
        if inner.containers.lock().contains_key(&spec.id) {
            return Err(Error::Other(anyhow::anyhow!("container {} exists already", spec.id)));
        }
        inner.call(&pod, Request::Create(Box::new(spec)), inner.patience()).await
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        let inner = self.inner().await;
        let (pod, _) = inner.of(id)?;
        inner.call(&pod, Request::Start(id.clone()), inner.patience()).await
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let inner = self.inner().await;
        let Ok((pod, state)) = inner.of(id) else { return Ok(()) };
        if matches!(state, ContainerState::Exited(_)) {
            return Ok(());
        }
        inner.call(&pod, Request::Stop(id.clone(), grace), inner.patience().saturating_add(grace)).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<()> {
        let inner = self.inner().await;
        let Ok((pod, _)) = inner.of(id) else { return Ok(()) };
        if inner.shim(&pod).await.is_some() {
            inner.call(&pod, Request::Remove(id.clone()), inner.patience()).await?;
        } else {
            tree::remove(&pod.folder.join(CONTAINERS).join(&**id)).map_err(|error| Error::Other(error.into()))?;
        }
        inner.containers.lock().remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Status>> {
        let containers = self.inner().await.containers.lock();
        let status = |(id, container): (&ContainerId, &Container)| Status {
            id: id.clone(),
            sandbox: container.sandbox.clone(),
            name: container.name.clone(),
            state: container.state.clone(),
        };
        Ok(containers.iter().map(status).collect())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats> {
        let inner = self.inner().await;
        let (pod, _) = inner.of(id)?;
        let own = pod.cgroup.as_ref().map(|cgroup| format!("{cgroup}/{id}"));
        Ok(inner.cgroups.as_ref().zip(own).and_then(|(cgroups, own)| cgroups.stats(&own)).unwrap_or_default())
    }

    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<()> {
        let inner = self.inner().await;
        let pod = inner.running(id)?;
        let Some((cgroups, of_pod)) = inner.cgroups.as_ref().zip(pod.cgroup.as_ref()) else {
            return Err(Error::Unsupported("this node may not limit containers: it has no cgroups".into()));
        };
        cgroups
            .limit(&format!("{of_pod}/{id}"), &limits)
            .map_err(|error| Error::Other(anyhow::Error::new(error).context("failed to update the limits")))
    }

    async fn exec(&self, id: &ContainerId, exec: Exec, streams: Streams) -> Result<i32> {
        let inner = self.inner().await;
        let pod = inner.running(id)?;
        let failed = |error: std::io::Error| Error::Exhausted(error.to_string());
        let ended = CancellationToken::new();
        if exec.tty {
            let request = Request::Exec(id.clone(), exec, Present { stdin: false, stdout: false, stderr: false });
            let call = Call::start(&pod.folder, &request, Vec::new()).await?;
            let terminal = match call.next().await? {
                (Reply::Started, Some(terminal)) => terminal,
                (Reply::Done { result, .. }, _) => return result.map_err(Error::from),
                _ => return Err(Error::Exhausted("the shim of the pod sent no terminal".into())),
            };
            let (input, output) = streams::terminal(terminal, streams, &ended).map_err(failed)?;
            let (result, _) = with_streams(call.done(), input, output, &ended).await?;
            return result.map_err(Error::from);
        }
        let pipes = streams::pipes(streams, &ended).map_err(failed)?;
        let request = Request::Exec(id.clone(), exec, pipes.present);
        let call = Call::start(&pod.folder, &request, pipes.descriptors).await?;
        let (result, _) = with_streams(call.done(), pipes.input, pipes.output, &ended).await?;
        result.map_err(Error::from)
    }

    async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<()> {
        let inner = self.inner().await;
        let pod = inner.running(id)?;
        let ended = CancellationToken::new();
        let pipes = streams::pipes(streams, &ended).map_err(|error| Error::Exhausted(error.to_string()))?;
        let request = Request::Attach(id.clone(), pipes.present);
        let call = Call::start(&pod.folder, &request, pipes.descriptors).await?;
        let terminal = match call.next().await? {
            (Reply::Started, terminal) => terminal,
            (Reply::Done { result, .. }, _) => return result.map(drop).map_err(Error::from),
            _ => return Err(Error::Exhausted("the shim of the pod says what nobody asked for".into())),
        };
        let input = async {
            tokio::join!(pipes.input, streams::resizes(terminal, pipes.resize));
        };
        match with_streams(call.done(), input, pipes.output, &ended).await {
            Ok((result, _)) => result.map(drop).map_err(Error::from),
            // with the shim, the program has ended
            Err(_) => Ok(()),
        }
    }

    fn health(&self) -> Option<String> {
        self.0.options.tool().err()
    }
}
