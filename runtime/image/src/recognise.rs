//! Which layout an image has. Manifest and config decide; no annotation or label is needed.
//!
//! | layout | sign | what runs |
//! | --- | --- | --- |
//! | CNCF Wasm artifact (also `wkg`, Spin) | a layer `application/wasm` | that layer |
//! | older and draft Wasm artifacts | a layer of one of [`WASM_LAYERS`] | that layer |
//! | WASI platform image | config with architecture `wasm` | the file that the entry point names |
//! | Wasm in a Linux image ("compat") | a `.wasm` entry point, the compat annotation, or only `plugin.wasm` | that file |
//! | Linux image | `linux/amd64` otherwise | its files, by another runtime |

use crate::{
    manifest::{Config, DOCKER_CONFIG, Descriptor, ImageConfig, Index, Manifest, OCI_CONFIG, Platform},
    platform::fit,
};
use serde::{Deserialize, Serialize};

/// Media types of layers that are a module or component.
const WASM_LAYERS: [&str; 8] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.bytecodealliance.component.layer.v0+wasm",
    "application/vnd.bytecodealliance.module.v1+wasm",
    "application/vnd.bytecodealliance.component.v1+wasm",
    "application/vnd.w3c.wasm.module.v1+wasm",
];
/// The file of "compat" images whose entry point names no other.
const PLUGIN: &str = "plugin.wasm";
const VARIANT: &str = "module.wasm.image/variant";
/// Most layers of an image without an entry point that may be a "compat" image.
const FEW_LAYERS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Layout {
    Artifact,
    OlderArtifact,
    Platform,
    Compat,
    Linux,
}

impl Layout {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Artifact => "Wasm artifact",
            Self::OlderArtifact => "older Wasm artifact",
            Self::Platform => "WASI platform image",
            Self::Compat => "Wasm in a Linux image",
            Self::Linux => "Linux image",
        }
    }
}

/// What must be fetched and found.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan {
    /// This layer is the module.
    Layer(Descriptor, Layout),
    /// The module is this file in the unpacked layers.
    File { path: String, layout: Layout, platform: String, config: Config },
    /// As above, but a Linux image if the file is not there.
    Perhaps { path: String, linux: LinuxPlan },
    /// A Linux image.
    Linux(LinuxPlan),
}

/// A Linux image.
#[derive(Debug, PartialEq)]
pub(crate) struct LinuxPlan {
    pub(crate) platform: Platform,
    pub(crate) config: Config,
    pub(crate) diffs: Vec<String>,
}

impl LinuxPlan {
    /// Refuses what this machine does not run.
    pub(crate) fn check(&self) -> Result<(), String> {
        match fit(&self.platform) {
            Some(_) => Ok(()),
            None => Err(format!("no match for platform in manifest: the image is for {}", self.platform)),
        }
    }
}

/// Whether the config is required to recognise the image.
pub(crate) fn needs_config(manifest: &Manifest) -> bool {
    !manifest.layers.iter().any(is_wasm)
}

/// Recognises an image; `config` are the bytes of its config if they are required.
pub(crate) fn recognise(manifest: &Manifest, config: &[u8]) -> Result<Plan, String> {
    let wasm: Vec<_> = manifest.layers.iter().filter(|layer| is_wasm(layer)).collect();
    match wasm[..] {
        [] => {}
        [layer] => {
            let layout = if layer.media_type == WASM_LAYERS[0] { Layout::Artifact } else { Layout::OlderArtifact };
            return Ok(Plan::Layer(layer.clone(), layout));
        }
        _ => return Err(format!("it has {} Wasm layers, one is expected", wasm.len())),
    }
    let media_type = manifest.config.media_type.as_str();
    if media_type != OCI_CONFIG && media_type != DOCKER_CONFIG {
        let layers: Vec<_> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        return Err(format!(
            "unknown type: config {media_type:?}, layers {layers:?}; known are Wasm artifacts and OCI or Docker images"
        ));
    }
    let image: ImageConfig =
        serde_json::from_slice(config).map_err(|error| format!("the image config cannot be read: {error}"))?;
    image_plan(manifest, image)
}

fn image_plan(manifest: &Manifest, image: ImageConfig) -> Result<Plan, String> {
    let ImageConfig { platform, config, rootfs } = image;
    let entry = config.entrypoint.first().or(config.cmd.first()).cloned();
    let compat = manifest.annotations.get(VARIANT).or(config.labels.get(VARIANT)).is_some();
    let text = platform.to_string();
    if is_wasm_platform(&platform) {
        let path = entry.ok_or("its config names no module: it has neither Entrypoint nor Cmd")?;
        return Ok(Plan::File { path, layout: Layout::Platform, platform: text, config });
    }
    match entry {
        Some(path) if compat || path.to_ascii_lowercase().ends_with(".wasm") => {
            Ok(Plan::File { path, layout: Layout::Compat, platform: text, config })
        }
        None if compat => Ok(Plan::File { path: PLUGIN.into(), layout: Layout::Compat, platform: text, config }),
        entry => {
            let linux = LinuxPlan { platform, config, diffs: rootfs.diff_ids };
            if entry.is_none() && (1..=FEW_LAYERS).contains(&manifest.layers.len()) {
                return Ok(Plan::Perhaps { path: PLUGIN.into(), linux });
            }
            linux.check()?;
            Ok(Plan::Linux(linux))
        }
    }
}

/// Chooses from an index: Wasm first, newest interface first, then Linux on this architecture.
pub(crate) fn choose(index: &Index) -> Result<&Descriptor, String> {
    let real = |entry: &&Descriptor| !entry.annotations.contains_key("vnd.docker.reference.type");
    let ranked = index.manifests.iter().filter(real).filter_map(|entry| Some((rank(entry)?, entry)));
    if let Some((_, entry)) = ranked.min_by_key(|(rank, _)| *rank) {
        return Ok(entry);
    }
    let platforms: Vec<_> =
        index.manifests.iter().filter_map(|entry| Some(entry.platform.as_ref()?.to_string())).collect();
    Err(format!("no match for platform in manifest: the image is for {}", platforms.join(", ")))
}

fn rank(entry: &Descriptor) -> Option<u8> {
    let Some(platform) = &entry.platform else { return Some(u8::MAX) };
    match platform.os.as_str() {
        "wasip2" if is_wasm_platform(platform) => Some(0),
        "wasip1" if is_wasm_platform(platform) => Some(1),
        "wasi" if is_wasm_platform(platform) => Some(2),
        _ if is_wasm_platform(platform) => Some(3),
        _ => fit(platform).map(|fit| 4 + fit),
    }
}

fn is_wasm(layer: &Descriptor) -> bool {
    WASM_LAYERS.contains(&layer.media_type.as_str())
}

fn is_wasm_platform(platform: &Platform) -> bool {
    platform.architecture.starts_with("wasm")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn manifest(config: &str, layers: &[&str], annotation: Option<&str>) -> Manifest {
        let descriptor = |media_type: &str| Descriptor {
            media_type: media_type.into(),
            digest: Digest::of(media_type.as_bytes()),
            size: 1,
            platform: None,
            annotations: Default::default(),
        };
        Manifest {
            schema_version: 2,
            media_type: None,
            config: descriptor(config),
            layers: layers.iter().map(|layer| descriptor(layer)).collect(),
            annotations: annotation.map(|value| (VARIANT.to_owned(), value.to_owned())).into_iter().collect(),
        }
    }

    fn plan(manifest: &Manifest, config: &str) -> String {
        match recognise(manifest, config.as_bytes()) {
            Ok(Plan::Layer(layer, layout)) => format!("{}: {}", layout.text(), layer.media_type),
            Ok(Plan::File { path, layout, platform, .. }) => format!("{}: {path} {platform}", layout.text()),
            Ok(Plan::Perhaps { path, linux }) => format!("perhaps {path} {}", linux.platform),
            Ok(Plan::Linux(linux)) => format!("Linux image: {}", linux.platform),
            Err(error) => error,
        }
    }

    #[test]
    fn every_artifact_layout_is_recognised_by_its_layer() {
        let config = "application/vnd.wasm.config.v0+json";
        for (layer, want) in WASM_LAYERS.iter().zip([Layout::Artifact].into_iter().chain([Layout::OlderArtifact; 7])) {
            for config in [config, "application/vnd.wasm.config.v1+json", OCI_CONFIG, "application/anything"] {
                let manifest = manifest(config, &[layer], None);
                assert_eq!(plan(&manifest, ""), format!("{}: {layer}", want.text()));
                assert!(!needs_config(&manifest));
            }
        }
        let two = manifest(config, &["application/wasm", "application/wasm"], None);
        assert_eq!(plan(&two, ""), "it has 2 Wasm layers, one is expected");
    }

    #[test]
    fn images_are_recognised_by_platform_and_entry_point() {
        let wasi =
            r#"{"os":"wasi","architecture":"wasm","config":{"Entrypoint":["/app.wasm"],"Cmd":null,"Env":["A=b"]}}"#;
        let linux = |rest: &str| format!(r#"{{"os":"linux","architecture":"amd64","config":{{{rest}}}}}"#);
        let one = &[crate::manifest::OCI_LAYER_GZIP][..];
        let three = &[crate::manifest::OCI_LAYER_GZIP; 3][..];
        let cases = [
            (manifest(OCI_CONFIG, one, None), wasi.to_owned(), "WASI platform image: /app.wasm wasi/wasm"),
            (
                manifest(DOCKER_CONFIG, one, None),
                wasi.replace("wasi\"", "wasip2\""),
                "WASI platform image: /app.wasm wasip2/wasm",
            ),
            (
                manifest(OCI_CONFIG, one, None),
                r#"{"os":"wasi","architecture":"wasm"}"#.into(),
                "its config names no module: it has neither Entrypoint nor Cmd",
            ),
            (
                manifest(OCI_CONFIG, one, None),
                linux(r#""Entrypoint":["/hello.wasm"]"#),
                "Wasm in a Linux image: /hello.wasm linux/amd64",
            ),
            (
                manifest(OCI_CONFIG, one, None),
                linux(r#""Cmd":["x.wasm"]"#),
                "Wasm in a Linux image: x.wasm linux/amd64",
            ),
            (manifest(OCI_CONFIG, three, Some("compat")), linux(""), "Wasm in a Linux image: plugin.wasm linux/amd64"),
            (
                manifest(OCI_CONFIG, three, Some("compat-smart")),
                linux(r#""Entrypoint":["/run"]"#),
                "Wasm in a Linux image: /run linux/amd64",
            ),
            (manifest(OCI_CONFIG, one, None), linux(""), "perhaps plugin.wasm linux/amd64"),
            (manifest(OCI_CONFIG, three, None), linux(""), "Linux image: linux/amd64"),
            (manifest(OCI_CONFIG, one, None), linux(r#""Cmd":["nginx","-g"]"#), "Linux image: linux/amd64"),
            (
                manifest(OCI_CONFIG, one, None),
                r#"{"os":"linux","architecture":"s390x","config":{"Cmd":["sh"]}}"#.into(),
                "no match for platform in manifest: the image is for linux/s390x",
            ),
            (
                manifest("application/x", &["application/y"], None),
                String::new(),
                "unknown type: config \"application/x\", layers [\"application/y\"]; known are Wasm artifacts and OCI or Docker images",
            ),
        ];
        for (manifest, config, want) in cases {
            // The architecture of the machine that runs the test is the one that counts.
            let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
            assert_eq!(plan(&manifest, &config.replace("amd64", here)).replace(here, "amd64"), want, "{config}");
        }
    }

    #[test]
    fn an_index_prefers_wasm_and_skips_attestations() {
        let entry = |platform: &str, attestation: bool| {
            let (os, architecture) = platform.split_once('/').unwrap_or_default();
            let (architecture, variant) = architecture.split_once('/').unwrap_or((architecture, ""));
            let platform = Platform { os: os.into(), architecture: architecture.into(), variant: variant.into() };
            Descriptor {
                media_type: crate::manifest::OCI_MANIFEST.into(),
                digest: Digest::of(b""),
                size: 1,
                annotations: attestation
                    .then(|| ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned()))
                    .into_iter()
                    .collect(),
                platform: (!os.is_empty()).then_some(platform),
            }
        };
        let here = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
        let (baseline, better) = if cfg!(target_arch = "aarch64") { ("v8", "v9") } else { ("v1", "v2") };
        let (baseline, better) = (format!("{here}/{baseline}"), format!("{here}/{better}"));
        let cases: [(&[&str], Result<&str, &str>); 7] = [
            (&["linux/arm/v7", &better, &baseline, "linux/s390x"], Ok(&baseline)),
            (&[&better, "", here], Ok(here)),
            (&[here, "wasi/wasm", "wasip2/wasm", "wasip1/wasm"], Ok("wasip2/wasm")),
            (&[here, "wasi/wasm"], Ok("wasi/wasm")),
            (&["linux/s390x", here], Ok(here)),
            (&[""], Ok("")),
            (
                &["linux/s390x", "windows/amd64"],
                Err("no match for platform in manifest: the image is for linux/s390x, windows/amd64"),
            ),
        ];
        for (platforms, want) in cases {
            let mut manifests: Vec<_> = platforms.iter().map(|platform| entry(platform, false)).collect();
            manifests.insert(0, entry("unknown/unknown", true));
            let index = Index { manifests };
            let got = choose(&index).map(|entry| entry.platform.as_ref().map(Platform::to_string).unwrap_or_default());
            match want {
                Ok(want) => assert_eq!(got.unwrap(), want),
                Err(want) => assert!(got.unwrap_err().ends_with(want.split("for ").last().unwrap())),
            }
        }
    }
}
