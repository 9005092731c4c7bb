//! Functions on Pods that several modules of the agent use. Those that other crates use too are in [`client::pod`]. Pure.

use crate::images::Policy as PullPolicy;
pub use client::pod::{
    condition, init_containers, is_deleting, is_finished, is_sidecar, name, namespace, phase, qos_class, spec, uid,
};
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, ImageVolumeSource, ObjectReference, Pod, Volume};
use std::{borrow::Cow, time::Duration};

/// The restart policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Restart after any exit.
    Always,
    /// Restart after a non-zero exit code.
    OnFailure,
    /// Do not restart.
    Never,
}

impl Policy {
    fn parse(text: &str) -> Self {
        match text {
            "Never" => Self::Never,
            "OnFailure" => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Whether a container that exited with `code` is restarted.
    pub fn restarts(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// The role of a container in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A regular init container. It must complete before the next one starts.
    Init,
    /// A restartable init container (sidecar). It starts in the order of the init containers and runs as long as the pod.
    Sidecar,
    /// An app container.
    App,
    /// An ephemeral container. It is added to a running pod for debugging and never restarted.
    Ephemeral,
}

/// Whether the node has not admitted or rejected the pod yet.
pub(crate) fn is_new(pod: &Pod) -> bool {
    let started = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    !started && !is_deleting(pod) && !is_finished(pod)
}

/// `name_namespace(uid)`, as upstream's messages name a pod.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The role of a container of `spec.initContainers`.
pub fn init_role(container: &Container) -> Role {
    if is_sidecar(container) { Role::Sidecar } else { Role::Init }
}

/// All containers except ephemeral ones, with their roles, in start order.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (&Container, Role)> {
    let init = init_containers(pod).iter().map(|c| (c, init_role(c)));
    init.chain(spec(pod).containers.iter().map(|c| (c, Role::App)))
}

/// The ephemeral containers.
pub fn ephemeral(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

/// Converts an ephemeral container to a container without the fields that ephemeral containers do not have.
pub fn as_container(c: &EphemeralContainer) -> Container {
    Container {
        name: c.name.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        volume_mounts: c.volume_mounts.clone(),
        security_context: c.security_context.clone(),
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        ..Container::default()
    }
}

/// All containers with their roles.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = (Cow<'_, Container>, Role)> {
    let ephemeral = ephemeral(pod).iter().map(|c| (Cow::Owned(as_container(c)), Role::Ephemeral));
    containers(pod).map(|(c, role)| (Cow::Borrowed(c), role)).chain(ephemeral)
}

/// The volumes that are images and that a container mounts, by name.
pub fn image_volumes<'a>(
    pod: &'a Pod,
    container: &'a Container,
) -> impl Iterator<Item = (&'a str, &'a ImageVolumeSource)> {
    let is_mounted = |volume: &&Volume| container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
    let volumes = spec(pod).volumes.iter().flatten().filter(is_mounted);
    volumes.filter_map(|volume| Some((&*volume.name, volume.image.as_ref()?)))
}

/// The images that a container needs, each with its pull policy: its own, and those that it mounts.
pub fn images<'a>(pod: &'a Pod, container: &'a Container) -> impl Iterator<Item = (&'a str, PullPolicy)> {
    let mounted = image_volumes(pod, container).map(|(_, it)| (it.reference.as_deref(), it.pull_policy.as_deref()));
    let own = (container.image.as_deref(), container.image_pull_policy.as_deref());
    std::iter::once(own).chain(mounted).map(|(image, policy)| {
        let image = image.unwrap_or_default();
        (image, PullPolicy::of(image, policy))
    })
}

/// Finds a container by name.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<(Cow<'a, Container>, Role)> {
    let lasting = containers(pod).find(|(c, _)| c.name == name);
    lasting.map(|(c, role)| (Cow::Borrowed(c), role)).or_else(|| {
        let found = ephemeral(pod).iter().find(|c| c.name == name)?;
        Some((Cow::Owned(as_container(found)), Role::Ephemeral))
    })
}

/// The restart policy of a container: its own or the pod's. Init containers have OnFailure unless the pod has Never. Ephemeral containers
/// have Never.
pub fn policy(pod: &Pod, container: &Container, role: Role) -> Policy {
    let of_pod = Policy::parse(spec(pod).restart_policy.as_deref().unwrap_or("Always"));
    match (role, container.restart_policy.as_deref(), of_pod) {
        (Role::Sidecar, ..) => Policy::Always,
        (Role::Ephemeral, ..) => Policy::Never,
        (_, Some(own), _) => Policy::parse(own),
        (Role::Init, None, Policy::Never) => Policy::Never,
        (Role::Init, None, _) => Policy::OnFailure,
        (Role::App, None, of_pod) => of_pod,
    }
}

/// The grace period: the deletion's, else the spec's, and at least one second, as upstream's.
pub fn grace(pod: &Pod) -> Duration {
    let own = spec(pod).termination_grace_period_seconds.unwrap_or(30);
    let seconds = if is_deleting(pod) { pod.metadata.deletion_grace_period_seconds.unwrap_or(own) } else { own };
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}

/// An object reference to the pod, or to one of its containers, for events.
pub fn reference(pod: &Pod, container: Option<(&str, Role)>) -> ObjectReference {
    let field_path = container.map(|(name, role)| match role {
        Role::App => format!("spec.containers{{{name}}}"),
        Role::Init | Role::Sidecar => format!("spec.initContainers{{{name}}}"),
        Role::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
    });
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

/// The pod's host name.
pub fn hostname(pod: &Pod) -> String {
    let spec = spec(pod);
    let own = spec.hostname_override.as_ref().or(spec.hostname.as_ref()).filter(|h| !h.is_empty());
    let full = own.cloned().unwrap_or_else(|| name(pod).to_owned());
    // Linux allows 63 bytes, and a truncated name must not end in a separator.
    full.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}
