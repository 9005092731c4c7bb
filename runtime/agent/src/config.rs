//! The ConfigMaps, Secrets and Services of a pod. They are read once per start or sync, so that the code that uses them is pure.

use crate::pod;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Pod, Secret, Service},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The objects that a pod references, by name in its namespace. `None` means that the object does not exist.
#[derive(Clone, Debug, Default)]
pub struct Configs {
    /// ConfigMaps.
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets.
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
    /// Services of the pod's namespace and `default/kubernetes`.
    pub services: Vec<Arc<Service>>,
}

/// Names of referenced ConfigMaps and Secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
}

/// The ConfigMaps and Secrets that a pod's containers and volumes reference.
pub fn references(pod: &Pod) -> References {
    let mut out = References::default();
    for (container, _) in pod::all_containers(pod) {
        for from in container.env_from.iter().flatten() {
            out.config_maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
            out.secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            out.config_maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
            out.secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
        }
    }
    for volume in pod::spec(pod).volumes.iter().flatten() {
        out.config_maps.extend(volume.config_map.iter().map(|v| v.name.clone()));
        out.secrets.extend(volume.secret.iter().filter_map(|v| v.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            out.config_maps.extend(source.config_map.iter().map(|v| v.name.clone()));
            out.secrets.extend(source.secret.iter().map(|v| v.name.clone()));
        }
    }
    out
}

/// A value of a ConfigMap, text or binary.
pub fn config_map_value<'a>(map: &'a ConfigMap, key: &str) -> Option<&'a [u8]> {
    let text = map.data.as_ref().and_then(|d| d.get(key)).map(String::as_bytes);
    text.or_else(|| map.binary_data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice()))
}

/// All values of a ConfigMap, text and binary.
pub fn config_map_values(map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, ByteString(v))| (k.as_str(), v.as_slice()));
    text.chain(binary).collect()
}

/// All values of a Secret.
pub fn secret_values(secret: &Secret) -> BTreeMap<&str, &[u8]> {
    secret.data.iter().flatten().map(|(k, ByteString(v))| (k.as_str(), v.as_slice())).collect()
}
