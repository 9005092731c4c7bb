//! Starts an attempt of a container: image, preparation, environment, mounts, create, start. Each failure has upstream's waiting reason.

mod image_volumes;

use crate::{
    config::Configs,
    env::{self, Environment, Sources},
    handle::{Handle, Message},
    images::{self, Keyring, Policy, Pulled},
    kernel::Namespace,
    linux,
    pod::{self, Role},
    policy,
    resize::Given,
    resolver::{self, ClusterDns},
    resources, secrets,
    shared::Shared,
    termination::{self, TerminationMessage},
    volumes::{self, MountRequest, PrivateDir, SyncedVolume, mounts},
};
use client::EventType;
use container::{
    Artifact, ContainerSpec, DEFAULT_HTTP_PORT, Folder, LinuxContainer, Mount, Port, Prepared, Progress, Protocol,
    RootFolder, Runtime, SandboxSpec, Stdin,
    net::{Attachment, Sandbox},
};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// The file with the names that a Linux container knows by itself.
const HOSTS: &str = "/etc/hosts";
/// The file that says whom it asks for others.
const RESOLVER: &str = "/etc/resolv.conf";

/// The input of a start.
pub(crate) struct Start {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handle: Arc<Handle>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: String,
    pub(crate) id: String,
    pub(crate) log: i32,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) attachment: Attachment,
    pub(crate) namespace: Namespace,
    pub(crate) volumes: Arc<BTreeMap<String, SyncedVolume>>,
    pub(crate) token: CancellationToken,
}

/// A started container. Its further state arrives as runtime events.
pub(crate) struct Started {
    pub(crate) runtime: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    /// The ids of the images that it mounts.
    pub(crate) volume_images: Vec<String>,
    pub(crate) prepared: Arc<dyn Prepared>,
    /// The file with its termination message.
    pub(crate) termination_message: Option<TerminationMessage>,
    /// The resources that it was started with.
    pub(crate) given: Given,
}

/// A failed start.
#[derive(Debug)]
pub(crate) struct StartError {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) retry: Retry,
    /// The image that it is about, if that is one of a volume, and not of the container.
    pub(crate) image: Option<String>,
}

/// When to retry a failed start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// After the back-off of the image.
    Pull,
    /// After a short delay, or when a referenced object changes.
    Soon,
    /// After the back-off of the container.
    Later,
    /// When the pod is attached again, with a network namespace.
    Attach,
    /// Never: the start was cancelled.
    Cancelled,
}

/// What the files of a Linux container say of names.
struct Names {
    /// The text of [`HOSTS`], unless that of the host is seen.
    hosts: Option<String>,
    dns: ClusterDns,
    node_resolver: Arc<dyn Fn() -> String + Send + Sync>,
}

/// What is done on the disk for the mounts of a container.
struct MakeMounts {
    pod: Arc<Pod>,
    container: String,
    volumes: Arc<BTreeMap<String, SyncedVolume>>,
    variables: Vec<(String, String)>,
    private: PrivateDir,
    scratch: PathBuf,
    messages: PathBuf,
    written: PathBuf,
    single_files: bool,
    /// The names of a Linux container.
    names: Option<Names>,
}

impl MakeMounts {
    fn make(self) -> std::result::Result<(Vec<Mount>, Option<TerminationMessage>), String> {
        let Self { pod, container: name, volumes, variables, private, scratch, messages, written, .. } = &self;
        let (container, _) = pod::container(pod, name).ok_or_else(|| format!("container {name} not found"))?;
        volumes::tree::remove(written)
            .map_err(|error| format!("failed to remove what an earlier attempt has written: {error}"))?;
        let (container, single_files) = (&*container, self.single_files);
        let mut mounts = mounts(&MountRequest { pod, container, volumes, variables, scratch, private, single_files })?;
        if let Some(names) = &self.names {
            let resolver = resolver::file(pod, &names.dns, &(names.node_resolver)());
            let files = [(HOSTS, names.hosts.as_ref()), (RESOLVER, Some(&resolver))];
            for (target, text) in files.into_iter().filter_map(|(target, text)| Some((target, text?))) {
                if mounts.iter().any(|mount| mount.target == target) {
                    continue;
                }
                let made = file(scratch, target, text);
                mounts.push(made.map_err(|error| format!("failed to prepare {target}: {error}"))?);
            }
        }
        let message = termination::prepare(container, &mut mounts, messages, single_files);
        Ok((mounts, message.map_err(|e| format!("failed to prepare the termination message file: {e}"))?))
    }
}

/// Writes a file that a container sees at `target`.
fn file(scratch: &Path, target: &str, text: &str) -> std::result::Result<Mount, String> {
    let name = target.rsplit('/').next().unwrap_or(target);
    let path = scratch.join(name);
    let written = std::fs::create_dir_all(scratch).and_then(|()| std::fs::write(&path, text));
    // every user of the container reads it
    let written = written.and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)));
    written.map_err(|error| error.to_string())?;
    Mount::file(scratch, name, target, false).map_err(|error| error.to_string())
}

impl StartError {
    fn new(reason: &'static str, message: impl Into<String>, retry: Retry) -> Self {
        Self { reason, message: message.into(), retry, image: None }
    }

    fn cancelled() -> Self {
        Self::new("ContainerCreating", "", Retry::Cancelled)
    }
}

type Result<T> = std::result::Result<T, StartError>;

impl Start {
    /// Starts the container. Can be cancelled until the container is created.
    pub(crate) async fn run(mut self) -> Result<Started> {
        let (pod, token) = (self.pod.clone(), self.token.clone());
        let Some((container, role)) = pod::container(&pod, &self.container) else {
            return Err(StartError::cancelled());
        };
        let ready = tokio::select! {
            () = token.cancelled() => return Err(StartError::cancelled()),
            ready = self.make_ready(&container, role) => ready,
        };
        match ready {
            Ok((runtime, spec, started)) => self.launch(&runtime, spec, started).await,
            Err(error) if error.retry == Retry::Attach => Err(error),
            Err(error) => {
                let text = match error.retry {
                    Retry::Pull => error.reason,
                    _ if matches!(error.reason, "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError") => {
                        error.reason
                    }
                    _ => &error.message,
                };
                self.event(EventType::Warning, "Failed", format!("Error: {text}"));
                Err(error)
            }
        }
    }

    fn event(&self, kind: EventType, reason: &str, message: impl Into<String>) {
        self.shared.event(&self.pod, Some(&self.container), kind, reason, message);
    }

    fn progress(&self, message: String) {
        self.handle.send(Message::StartProgress { container: self.container.clone(), message });
    }

    async fn make_ready(
        &mut self,
        container: &Container,
        role: Role,
    ) -> Result<(Arc<dyn Runtime>, ContainerSpec, Started)> {
        let image = container.image.clone().unwrap_or_default();
        let volume_images = self.image_volumes(container).await?;
        let pulled = self.image(&image, Policy::of(&image, container.image_pull_policy.as_deref())).await?;
        let handler = self.handler()?;
        let runtime = self.shared.runtimes.choose(&pulled.artifact, handler.as_deref(), &pulled.platform);
        let runtime = runtime.map_err(|text| {
            StartError::new("ImageUnsupported", format!("cannot run image {image:?}: {text}"), Retry::Later)
        })?;
        if self.namespace == Namespace::NotNeeded && self.shared.runtimes.is_linux(runtime) {
            self.without_namespace(&image, role)?;
        }
        let configs = self.shared.cluster.configs(&self.pod).await;
        let configs = configs.map_err(|e| StartError::new("CreateContainerConfigError", e.to_string(), Retry::Soon))?;
        let environment = self.environment(container, &pulled, &configs)?;
        let scope = images::preparation_scope(pod::namespace(&self.pod), &image);
        let prepared = runtime.prepare(&pulled.artifact, &scope, &|progress| self.progress(describe(&progress))).await;
        let prepared = prepared.map_err(|e| {
            StartError::new("CreateContainerError", format!("failed to prepare image {image:?}: {e}"), Retry::Later)
        })?;
        for warning in prepared.warnings() {
            self.event(EventType::Warning, "ImageAdvice", warning);
        }
        let (spec, termination_message) = self.spec(container, &pulled, environment).await?;
        if prepared.target() == "http" && !spec.ports.iter().any(|port| port.protocol == Protocol::Tcp) {
            let text = format!(
                "Container {} serves HTTP but declares no containerPort: it is served on port {DEFAULT_HTTP_PORT}",
                self.container
            );
            self.event(EventType::Warning, "DefaultPort", text);
        }
        let (name, image_id, given) = (runtime.name().to_owned(), pulled.image_id, Given::of(container));
        let started = Started { runtime: name, image, image_id, volume_images, prepared, termination_message, given };
        Ok((runtime.clone(), spec, started))
    }

    /// What becomes of a Linux container of a pod that was attached as one of WebAssembly. One that joins what runs has no network.
    fn without_namespace(&self, image: &str, role: Role) -> Result<()> {
        if role != Role::Ephemeral {
            let text = format!(
                "image {image:?} is a Linux image, and the pod was set up before that was known; delete the pod, so that it is made anew"
            );
            return Err(StartError::new("ContainerCreating", text, Retry::Attach));
        }
        let text = format!("Container {} has no network: its pod runs WebAssembly only", self.container);
        self.event(EventType::Warning, "NetworkUnavailable", text);
        Ok(())
    }

    /// The handler that the pod's RuntimeClass requires.
    fn handler(&self) -> Result<Option<String>> {
        let Some(class) = pod::spec(&self.pod).runtime_class_name.as_deref().filter(|c| !c.is_empty()) else {
            return Ok(None);
        };
        match self.shared.cluster.classes.get("", class) {
            Some(class) => Ok(Some(class.handler.clone())),
            None => Err(StartError::new(
                "CreateContainerError",
                format!("runtimeclass.node.k8s.io {class:?} not found"),
                Retry::Later,
            )),
        }
    }

    async fn image(&self, image: &str, policy: Policy) -> Result<Pulled> {
        let mut present = self.present(image, &Keyring::new()).await?;
        let secrets = pod::spec(&self.pod).image_pull_secrets.as_ref().is_some_and(|s| !s.is_empty());
        if present.is_none() && secrets && policy != Policy::Always {
            present = self.present(image, &secrets::keyring(&self.shared, &self.pod).await).await?;
        }
        match (policy, present) {
            (Policy::Never | Policy::IfNotPresent, Some(pulled)) => {
                let text =
                    format!("Container image {image:?} already present on machine and can be accessed by the pod");
                self.event(EventType::Normal, "Pulled", text);
                Ok(pulled)
            }
            (Policy::Never, None) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.event(EventType::Warning, "ErrImageNeverPull", &*message);
                let hint = format!("; load it with: sampan image load FILE -t {image}");
                Err(StartError::new("ErrImageNeverPull", message + &hint, Retry::Later))
            }
            (Policy::Always, _) | (Policy::IfNotPresent, None) => self.pull(image).await,
        }
    }

    async fn present(&self, image: &str, keyring: &Keyring) -> Result<Option<Pulled>> {
        self.shared.images.present(image, keyring).await.map_err(|error| {
            self.event(EventType::Warning, "InspectFailed", error.to_string());
            StartError::new(error.reason(), error.to_string(), Retry::Later)
        })
    }

    async fn pull(&self, image: &str) -> Result<Pulled> {
        self.event(EventType::Normal, "Pulling", format!("Pulling image {image:?}"));
        let keyring = secrets::keyring(&self.shared, &self.pod).await;
        let begin = tokio::time::Instant::now();
        match self.shared.images.pull(image, &keyring).await {
            Ok(pulled) => {
                let took = crate::backoff::go_duration(begin.elapsed());
                let text = format!(
                    "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {} bytes.",
                    pulled.size
                );
                self.event(EventType::Normal, "Pulled", text);
                Ok(pulled)
            }
            Err(error) => {
                self.event(EventType::Warning, "Failed", format!("Failed to pull image {image:?}: {error}"));
                Err(StartError::new(error.reason(), error.to_string(), Retry::Pull))
            }
        }
    }

    fn environment(&self, container: &Container, pulled: &Pulled, configs: &Configs) -> Result<Environment> {
        let facts = self.shared.facts(&self.addresses);
        let sources = Sources { configs, facts: &facts, allocatable: &self.shared.allocatable };
        let made = env::environment(&self.pod, container, &pulled.command.env, sources);
        let made = made.map_err(|text| StartError::new("CreateContainerConfigError", text, Retry::Soon))?;
        for text in &made.skipped {
            self.event(EventType::Warning, "InvalidEnvironmentVariableNames", &**text);
        }
        Ok(made)
    }

    async fn spec(
        &self,
        container: &Container,
        pulled: &Pulled,
        environment: Environment,
    ) -> Result<(ContainerSpec, Option<TerminationMessage>)> {
        let is_linux = matches!(pulled.artifact, Artifact::Linux { .. });
        let args = env::command_line(container, &pulled.command, is_linux, &environment)
            .map_err(|text| StartError::new("CreateContainerConfigError", text, Retry::Soon))?;
        let invalid = |text| StartError::new("CreateContainerConfigError", text, Retry::Soon);
        let annotations = self.pod.metadata.annotations.as_ref();
        let http = policy::http(annotations, &self.container).map_err(invalid)?;
        let core_dump = policy::core_dump(annotations, &self.container).map_err(invalid)?;
        let root = self.shared.volumes_dir(pod::uid(&self.pod));
        let scratch = volumes::files_dir(&root).join(&self.container);
        let messages = volumes::messages_dir(&root).join(&self.container);
        let written = volumes::roots_dir(&root).join(&self.container);
        let root = match container.security_context.as_ref().and_then(|context| context.read_only_root_filesystem) {
            Some(true) => RootFolder::ReadOnly,
            _ => RootFolder::Writable(written.join(self.log.to_string())),
        };
        let linux = match pulled.artifact {
            Artifact::Linux { .. } => Some(Box::new(self.linux(container, pulled).map_err(invalid)?)),
            Artifact::Wasm { .. } => None,
        };
        let single_files = linux.is_some();
        let names = linux.as_ref().map(|_| self.names());
        let made = MakeMounts {
            pod: self.pod.clone(),
            container: self.container.clone(),
            volumes: self.volumes.clone(),
            variables: environment.variables.clone(),
            private: self.shared.private.clone(),
            scratch,
            messages,
            written,
            single_files,
            names,
        };
        let made = tokio::task::spawn_blocking(move || made.make());
        let made = made.await.map_err(|e| e.to_string()).and_then(|made| made);
        let (mounts, termination_message) =
            made.map_err(|text| StartError::new("CreateContainerConfigError", text, Retry::Soon))?;
        let spec = ContainerSpec {
            id: self.id.as_str().into(),
            name: self.container.clone(),
            artifact: pulled.artifact.clone(),
            args,
            env: env::with_hostname(self.hostname(), environment),
            cwd: container.working_dir.clone().filter(|d| !d.is_empty()).or_else(|| pulled.command.working_dir.clone()),
            root,
            mounts,
            ports: container.ports.iter().flatten().filter_map(declared).collect(),
            limits: resources::limits(container),
            log: self.shared.log_file(&self.pod, &self.container, self.log),
            core_dump,
            http,
            stdin: stdin(container),
            tty: container.tty.unwrap_or(false),
            linux,
        };
        Ok((spec, termination_message))
    }

    /// What the pod asks for a Linux container.
    fn linux(&self, container: &Container, pulled: &Pulled) -> std::result::Result<LinuxContainer, String> {
        let profiles = self.shared.options.data_dir.join("seccomp");
        let memory = self.shared.allocatable.get("memory").and_then(resources::quantity).map_or(0, |it| it.value());
        linux::container(&self.pod, container, &pulled.command, &profiles, memory)
    }

    /// The host name of the pod; that of the node where it sees the node's network.
    fn hostname(&self) -> String {
        match self.attachment.sandbox {
            Sandbox::Host => self.shared.options.machine.hostname.clone(),
            _ => pod::hostname(&self.pod),
        }
    }

    fn names(&self) -> Names {
        let (spec, options) = (pod::spec(&self.pod), &self.shared.options);
        let aliases = spec.host_aliases.as_deref().unwrap_or_default();
        let domain = resolver::domain(&self.pod, &options.dns);
        let hosts = || linux::hosts(&self.addresses, &pod::hostname(&self.pod), domain.as_deref(), aliases);
        Names {
            hosts: (spec.host_network != Some(true)).then(hosts),
            dns: options.dns.clone(),
            node_resolver: options.resolver.clone(),
        }
    }

    async fn launch(&self, runtime: &Arc<dyn Runtime>, spec: ContainerSpec, started: Started) -> Result<Started> {
        let sandbox = self.handle.uid.clone();
        let id = spec.id.clone();
        let labels = [("pod", pod::name(&self.pod)), ("namespace", pod::namespace(&self.pod))];
        let room = SandboxSpec {
            id: sandbox.clone(),
            hostname: self.hostname(),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            limits: resources::pod_limits(&self.pod),
            network: self.attachment.sandbox.clone(),
            folders: self.folders(&spec.artifact),
            linux: linux::sandbox(&self.pod),
        };
        if let Err(error) = runtime.sandbox(room, self.attachment.sockets.clone()).await {
            let message = format!("Failed to create pod sandbox: {error}");
            self.shared.event(&self.pod, None, EventType::Warning, "FailedCreatePodSandBox", &*message);
            return Err(StartError::new("CreateContainerError", message, Retry::Later));
        }
        if let Err(error) = runtime.create(&sandbox, spec).await {
            self.event(EventType::Warning, "Failed", format!("Error: {error}"));
            return Err(StartError::new("CreateContainerError", error.to_string(), Retry::Later));
        }
        self.event(EventType::Normal, "Created", "Container created");
        if let Err(error) = runtime.start(&id).await {
            self.event(EventType::Warning, "Failed", format!("Error: {error}"));
            if !self.is_known(runtime, &id).await {
                let _ = runtime.remove(&id).await;
                return Err(StartError::new("RunContainerError", error.to_string(), Retry::Later));
            }
            return Ok(started);
        }
        self.event(EventType::Normal, "Started", "Container started");
        Ok(started)
    }

    /// The folders of the pod: its volumes, its own copies and messages, its logs, the files of the container's image. Of a path of the host, nobody may write to what all
    /// containers mount read-only. The agent opens logs, copies and messages by their paths: they hold no links.
    fn folders(&self, artifact: &Artifact) -> Vec<Folder> {
        let root = self.shared.volumes_dir(pod::uid(&self.pod));
        let logs = self.shared.logs_dir(pod::namespace(&self.pod), pod::name(&self.pod), pod::uid(&self.pod));
        let own = [logs, volumes::files_dir(&root), volumes::messages_dir(&root)];
        let own = own.into_iter().map(|path| Folder { path, read_only: false, links: false });
        let is_written = |name: &str| {
            let writes = |mount: &VolumeMount| mount.name == name && mount.read_only != Some(true);
            pod::all_containers(&self.pod).any(|(container, _)| container.volume_mounts.iter().flatten().any(writes))
        };
        let volumes = self.volumes.iter().map(|(name, volume)| Folder {
            path: volume.path.clone(),
            read_only: volume.read_only || !is_written(name),
            links: true,
        });
        let written = Folder { path: volumes::roots_dir(&root), read_only: false, links: true };
        let image = match artifact {
            Artifact::Wasm { files, .. } => files.clone(),
            Artifact::Linux { .. } => None,
        };
        let image = image.map(|path| Folder { path, read_only: true, links: true });
        own.chain([written]).chain(volumes).chain(image).collect()
    }

    /// Whether the container has already exited. Then its exit is reported, and not the error of the start.
    async fn is_known(&self, runtime: &Arc<dyn Runtime>, id: &Arc<str>) -> bool {
        let Ok(list) = runtime.list().await else { return false };
        let Some(status) = list.into_iter().find(|status| status.id == *id) else { return false };
        let ended = matches!(status.state, container::ContainerState::Exited(_));
        if ended {
            self.handle.send(Message::ContainerState(id.clone(), status.state));
        }
        ended
    }
}

fn declared(port: &k8s_openapi::api::core::v1::ContainerPort) -> Option<Port> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some(_) => return None,
    };
    let number = u16::try_from(port.container_port).ok()?;
    Some(Port { name: port.name.clone().unwrap_or_default(), number, protocol })
}

fn stdin(container: &Container) -> Stdin {
    match (container.stdin, container.stdin_once) {
        (Some(true), Some(true)) => Stdin::Once,
        (Some(true), _) => Stdin::Open,
        _ => Stdin::Empty,
    }
}

fn describe(progress: &Progress) -> String {
    match progress {
        Progress::Queued => "waiting for a compiler".into(),
        Progress::Compiling { bytes } => {
            let size = *bytes as f64;
            match size < f64::from(1 << 20) {
                true => format!("compiling {:.1} kB of WebAssembly", size / 1e3),
                false => format!("compiling {:.1} MiB of WebAssembly", size / f64::from(1 << 20)),
            }
        }
        Progress::Unpacking => "unpacking the image".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compiled_has_a_size_that_says_something() {
        let told = |bytes| describe(&Progress::Compiling { bytes });
        assert_eq!(told(23_456), "compiling 23.5 kB of WebAssembly");
        assert_eq!(told(18 << 20), "compiling 18.0 MiB of WebAssembly");
    }
}
