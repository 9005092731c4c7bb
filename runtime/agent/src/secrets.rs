//! The credentials of a pod for registries.

use crate::{
    images::{self, Keyring},
    pod,
    shared::Shared,
};
use client::EventType;
use k8s_openapi::api::core::v1::{Pod, Secret};

/// The credentials of the pod's image pull secrets. One that is missing or cannot be read is told by an event.
pub(crate) async fn keyring(shared: &Shared, pod: &Pod) -> Keyring {
    let mut keyring = Keyring::new();
    for reference in pod::spec(pod).image_pull_secrets.iter().flatten() {
        let name = &reference.name;
        let added = match shared.cluster.client.find::<Secret>(pod::namespace(pod), name).await {
            Ok(Some(secret)) => images::add_secret(&mut keyring, &secret).map_err(|e| format!("{name}: {e}")),
            Ok(None) | Err(_) => Err(name.clone()),
        };
        if let Err(which) = added {
            let text = format!(
                "Unable to retrieve some image pull secrets ({which}); attempting to pull the image may not succeed."
            );
            shared.event(pod, None, EventType::Warning, "FailedToRetrieveImagePullSecret", text);
        }
    }
    keyring
}
