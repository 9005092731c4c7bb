//! Images: names, registries, and the content store of a node.
//!
//! [`Images`] pulls an image by tag or digest, recognises its content ([`Artifact`]) by manifest and config, and stores it as plain files
//! that are verified while they arrive and appear by atomic renames, so that `sampan image load` works with the cluster up or down. It
//! collects unused images.
//!
//! It compiles and runs nothing, and knows no Pod. Images are hostile input: every size, count and time is limited ([`Limits`]). Native code
//! beside a module is never used; layers of Linux images are unpacked for the runtime that runs them ([`Images::layers`]), or merged to one folder for those who only read
//! them ([`Images::folder`]).
//!
//! It follows the pages *Images* (names, pull policies, imagePullSecrets) and *Garbage Collection* of the Kubernetes
//! documentation, the OCI image and distribution specifications, and the CNCF "Wasm OCI artifact layout".

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod access;
mod archive;
mod auth;
mod below;
mod cached;
mod chain;
mod collect;
mod content;
mod decompress;
mod digest;
mod download;
mod error;
mod images;
mod layer;
mod layers;
mod load;
mod lower;
mod manifest;
mod merged;
mod options;
mod owner;
mod pax;
mod platform;
mod pull;
mod push;
mod recognise;
mod reference;
mod registry;
mod removal;
mod tree;
mod turns;
mod unpack;
mod walk;

pub use auth::{Credential, Keyring};
pub use collect::{Collected, Listed};
pub use digest::Digest;
pub use error::Error;
pub use images::{Images, Kind, Policy};
pub use manifest::Config;
pub use options::{Limits, Options, Proxies};
pub use reference::Reference;

use std::path::PathBuf;

/// An image that is in the content store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The full name by which it was requested, with defaults: `docker.io/library/hello:latest`.
    pub name: String,
    /// The digest of the index if the name has one, else of the manifest.
    pub digest: Digest,
    /// The runnable content.
    pub artifact: Artifact,
    /// The image config.
    pub config: Config,
    /// Bytes of all its blobs that are stored.
    pub size: u64,
    /// Which of the known layouts the image has, in a word or two, for people.
    pub layout: &'static str,
    /// The manifest whose layers are archives of files with the module in them: [`Images::files`] unpacks them.
    pub files: Option<Digest>,
}

impl Pulled {
    /// The name of the image by content, as Kubernetes shows it in `status.containerStatuses[].imageID`.
    pub fn id(&self) -> String {
        let name = self.name.split('@').next().unwrap_or_default();
        let start = name.rfind('/').map_or(0, |at| at + 1);
        let end = name[start..].find(':').map_or(name.len(), |at| start + at);
        format!("{}@{}", &name[..end], self.digest)
    }
}

/// The content of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// One WebAssembly module or component, a verified plain file.
    Wasm {
        /// The file. It stays as long as the image is stored.
        path: PathBuf,
        /// The digest of the file's content: the key for caches of what is made from it.
        digest: Digest,
    },
    /// A Linux image: [`Images::layers`] unpacks its layers.
    Linux {
        /// `linux/amd64`, with a variant if it has one.
        platform: String,
    },
}
