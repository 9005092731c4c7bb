//! The documents of an image: index, manifest and config, as far as they are used here.

use crate::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
#[cfg(test)]
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The media types in the `Accept` header.
pub(crate) const ACCEPT: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// Content by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub schema_version: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Index {
    pub manifests: Vec<Descriptor>,
}

/// The document of a name.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// Parses an index or a manifest. The fields decide which, not the media type of the server.
pub(crate) fn read(bytes: &[u8]) -> Result<Document, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        schema_version: Option<u8>,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let bad = |error: serde_json::Error| format!("the manifest cannot be read: {error}");
    let probe: Probe = serde_json::from_slice(bytes).map_err(bad)?;
    if probe.schema_version != Some(2) {
        return Err("the manifest does not have schemaVersion 2".into());
    }
    if let Some(media_type) = probe.media_type.filter(|found| !ACCEPT.contains(&found.as_str())) {
        return Err(format!("unknown manifest type {media_type:?}"));
    }
    match (probe.manifests.is_some(), probe.config.is_some()) {
        (true, false) => serde_json::from_slice(bytes).map(Document::Index).map_err(bad),
        (false, true) => serde_json::from_slice(bytes).map(Document::Manifest).map_err(bad),
        _ => Err("the manifest is neither an image nor an index".into()),
    }
}

/// How an image is run, as it says itself: nothing is checked, and paths may climb. All fields are empty for plain Wasm artifacts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Config {
    /// The command. The first word of a Wasm image names the module inside it.
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// The default arguments.
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// Environment variables, `NAME=value`.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// The directory to start in.
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    /// User and group, as names or numbers.
    #[serde(deserialize_with = "nullable")]
    pub user: String,
    /// Ports on which the image listens by its own account, such as `8080/tcp`.
    #[serde(deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Folders that are volumes by the image's own account. Who makes them resolves each beneath the root: `/../../x` is a name too.
    #[serde(deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops the process; empty for the default.
    #[serde(deserialize_with = "nullable")]
    pub stop_signal: String,
}

fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// An image config: the platform, and how to run it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(flatten)]
    pub platform: Platform,
    #[serde(default, deserialize_with = "nullable")]
    pub config: Config,
    #[serde(default, deserialize_with = "nullable")]
    pub rootfs: RootFs,
}

/// What the layers of an image are without compression.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Go writes what is empty.
    #[test]
    fn nothing_may_be_null() {
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{}","size":1,"annotations":null,"platform":null}},
                "layers":null,"annotations":null}}"#,
            Digest::of(b"")
        );
        let Ok(Document::Manifest(manifest)) = read(text.as_bytes()) else { panic!("it is read") };
        assert!(manifest.layers.is_empty() && manifest.annotations.is_empty());
    }

    #[test]
    fn a_config_is_what_docker_writes_and_no_more() {
        let text = r#"{"architecture":"arm64","variant":"v8","os":"linux","os.version":"x","created":"2024-01-01T00:00:00Z","author":null,
            "config":{"Hostname":"","User":"app:web","AttachStdin":false,"ExposedPorts":{"80/tcp":{},"53/udp":{}},"Tty":false,
                "Env":["PATH=/bin","A=b=c"],"Cmd":["-x"],"Healthcheck":{"Test":["CMD","true"],"Interval":1},"ArgsEscaped":true,
                "Image":"sha256:0","Volumes":{"/data":{}},"WorkingDir":"/srv","Entrypoint":["/run"],"OnBuild":["RUN x"],
                "Labels":{"a":"b"},"StopSignal":"SIGQUIT","Shell":["sh"]},
            "rootfs":{"type":"layers","diff_ids":["sha256:1"]},"history":[{"empty_layer":true}]}"#;
        let image: ImageConfig = serde_json::from_str(text).expect("a config");
        assert_eq!(image.platform.to_string(), "linux/arm64/v8");
        assert_eq!(image.rootfs.diff_ids, ["sha256:1"]);
        let Config { entrypoint, cmd, env, working_dir, user, exposed_ports, volumes, labels, stop_signal } =
            image.config;
        assert_eq!((entrypoint, cmd), (vec!["/run".to_owned()], vec!["-x".to_owned()]));
        assert_eq!(env, ["PATH=/bin", "A=b=c"]);
        assert_eq!((&*working_dir, &*user, &*stop_signal), ("/srv", "app:web", "SIGQUIT"));
        assert_eq!(exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!((volumes.keys().next().map(String::as_str), labels["a"].as_str()), (Some("/data"), "b"));
        for empty in [
            r#"{"architecture":"amd64","os":"linux"}"#,
            r#"{"config":null,"rootfs":null}"#,
            r#"{"config":{"Entrypoint":null,"Cmd":null,"Env":null,"Volumes":null,"Labels":null,"ExposedPorts":null,"User":null},
                "rootfs":{"diff_ids":null}}"#,
        ] {
            let image: ImageConfig = serde_json::from_str(empty).expect("a config");
            assert_eq!((image.config, image.rootfs), (Config::default(), RootFs::default()), "{empty}");
        }
    }
}
