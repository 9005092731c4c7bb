//! Whether processes will run in a pod: then it needs a network namespace of the kernel, from before its first container.
//!
//! The images decide. Those that are not on the node are asked for at their registries, of which a manifest is enough. What stays unknown counts as
//! WebAssembly; where it turns out to be Linux, the pod is attached again ([`crate::start::Retry::Attach`]).

use crate::{images::Policy, pod, secrets, shared::Shared};
use container::net::Sandbox;
use futures::future;
use k8s_openapi::api::core::v1::Pod;
use std::{collections::BTreeSet, time::Duration};
use tokio::time::timeout;

/// How long registries may take to say what images are.
const ASK: Duration = Duration::from_secs(10);

/// A pod's network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// It has none, since nothing is known to need it.
    #[default]
    NotNeeded,
    /// It has one, or that of the host, for which it asked.
    There,
    /// This machine refuses it: its processes have no network.
    Refused,
}

impl Namespace {
    /// What a pod has got that asked for one, or did not.
    pub(crate) fn of(asked: bool, sandbox: &Sandbox) -> Self {
        match (asked, sandbox) {
            (_, Sandbox::Namespace(_) | Sandbox::Host) => Self::There,
            (true, Sandbox::Virtual) => Self::Refused,
            (false, Sandbox::Virtual) => Self::NotNeeded,
        }
    }
}

/// Whether processes will run in the pod, as far as it is known.
pub(crate) async fn is_needed(shared: &Shared, pod: &Pod) -> bool {
    if shared.runtimes.linux().is_none() {
        return false;
    }
    if let Some(class) = pod::spec(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty()) {
        let handler = shared.cluster.classes.get("", class).map(|class| class.handler.clone());
        return handler.and_then(|name| shared.runtimes.get(&name)).is_some_and(|it| shared.runtimes.is_linux(it));
    }
    let mut unknown = BTreeSet::new();
    for (container, _) in pod::all_containers(pod) {
        let image = container.image.clone().unwrap_or_default();
        match shared.images.is_linux(&image, None).await {
            Ok(Some(true)) => return true,
            Ok(Some(false)) => {}
            // the start of the container tells what is wrong with it
            Ok(None) | Err(_) if Policy::of(&image, container.image_pull_policy.as_deref()) == Policy::Never => {}
            Ok(None) | Err(_) => drop(unknown.insert(image)),
        }
    }
    if unknown.is_empty() {
        return false;
    }
    let keyring = secrets::keyring(shared, pod).await;
    let ask = future::join_all(unknown.iter().map(|image| shared.images.is_linux(image, Some(&keyring))));
    timeout(ASK, ask).await.is_ok_and(|told| told.iter().any(|kind| matches!(kind, Ok(Some(true)))))
}
