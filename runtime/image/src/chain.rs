//! The layers of Linux images, as their documents tell them.
//!
//! A chain ID (OCI image specification, "Layer ChainID") stands for the content of a layer and of all below it.

use crate::{Digest, manifest::Manifest};
use serde::{Deserialize, Serialize};

/// What archives of files may be called.
const TYPES: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// A layer of a Linux image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// The archive, as it was fetched.
    pub(crate) blob: Digest,
    /// The digest of the archive without compression.
    pub(crate) diff: Digest,
    /// The digest of it and all below.
    pub(crate) chain: Digest,
}

/// The layers of a manifest, the lowest first, by the diff IDs of its config.
pub(crate) fn layers(manifest: &Manifest, diffs: &[String]) -> Result<Vec<Layer>, String> {
    if manifest.layers.len() != diffs.len() {
        let (layers, diffs) = (manifest.layers.len(), diffs.len());
        return Err(format!("its manifest has {layers} layers, and its config {diffs} of them"));
    }
    let mut chain: Option<Digest> = None;
    let mut layers = Vec::new();
    for (descriptor, diff) in manifest.layers.iter().zip(diffs) {
        let media_type = descriptor.media_type.as_str();
        let known = ["", "+gzip", "+zstd", ".gzip", ".zstd"];
        if !TYPES.iter().any(|plain| media_type.strip_prefix(plain).is_some_and(|rest| known.contains(&rest))) {
            return Err(format!("a layer has the unknown type {media_type:?}"));
        }
        let diff: Digest = diff.parse().map_err(|error| format!("a diff ID of its config cannot be read: {error}"))?;
        let own = chain.map_or(diff, |below| Digest::of(format!("{below} {diff}").as_bytes()));
        layers.push(Layer { blob: descriptor.digest, diff, chain: own });
        chain = Some(own);
    }
    Ok(layers)
}

/// An unpacked layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    /// Bytes of the archive, without compression.
    pub(crate) bytes: u64,
    /// Entries of the archive.
    pub(crate) entries: usize,
    /// Bytes on the disk, about.
    pub(crate) taken: u64,
    /// It hides everything below.
    pub(crate) opaque: bool,
}
