//! The credentials of a pod for registries.

use crate::{config, images::Keyring, pod, shared::Shared};
use client::EventType;
use k8s_openapi::api::core::v1::{Pod, Secret};

/// The credentials of the pod's image pull secrets. One that is missing or cannot be read is told by an event.
pub(crate) async fn keyring(shared: &Shared, pod: &Pod) -> Keyring {
    let mut keyring = Keyring::new();
    for reference in pod::spec(pod).image_pull_secrets.iter().flatten() {
        let name = &reference.name;
        let added = match shared.cluster.client.find::<Secret>(pod::namespace(pod), name).await {
            Ok(Some(secret)) => add_secret(&mut keyring, &secret).map_err(|e| format!("{name}: {e}")),
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

/// Adds the credentials of an image pull secret. The error is for the user and contains no secret.
fn add_secret(keyring: &mut Keyring, secret: &Secret) -> Result<(), String> {
    let values = config::secret_values(secret);
    match (values.get(".dockerconfigjson"), values.get(".dockercfg")) {
        (Some(config), _) => keyring.add_docker_config_json(config),
        (None, Some(config)) => keyring.add_dockercfg(config),
        (None, None) => Err("it has neither .dockerconfigjson nor .dockercfg".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pull_secrets_of_both_forms_are_read() {
        use base64::Engine;
        let encode = |t: &str| base64::engine::general_purpose::STANDARD.encode(t);
        let auth = json!({"r:5000": {"auth": encode("u:p:w")}});
        let mut expected = Keyring::new();
        expected.add_dockercfg(auth.to_string().as_bytes()).unwrap();
        for (key, value) in [(".dockerconfigjson", json!({"auths": auth})), (".dockercfg", auth.clone())] {
            let secret = serde_json::from_value(json!({"data": {key: encode(&value.to_string())}})).unwrap();
            let mut keyring = Keyring::new();
            add_secret(&mut keyring, &secret).unwrap();
            assert_eq!(keyring, expected);
        }
        assert!(add_secret(&mut Keyring::new(), &Secret::default()).is_err());
    }
}
