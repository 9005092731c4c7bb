//! The interface to images, and pull policies. Registry protocol and content store are in the crate `image`.
//!
//! Follows <https://kubernetes.io/docs/concepts/containers/images/>.

use container::Artifact;
use std::{collections::HashSet, path::PathBuf};

pub use image::{Error, Keyring};

/// The image configuration for starting a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Entry point. Empty if the image has none.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// `user[:group]`, each a name or a number; empty for user 0. Of Linux images.
    pub user: String,
    /// The signal that stops the program, such as `SIGQUIT`; empty for SIGTERM. Of Linux images.
    pub stop_signal: String,
}

/// An image on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The program.
    pub artifact: Artifact,
    /// `imageID` of the status: `repository@sha256:…`, or only the digest.
    pub image_id: String,
    /// The image's size in bytes.
    pub size: u64,
    /// The entry point, arguments and environment.
    pub command: Command,
    /// The platform for messages, such as `linux/amd64` or `wasm`.
    pub platform: String,
}

/// An image in the node's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// All names, by tag and by digest.
    pub names: Vec<String>,
    /// The size in bytes.
    pub size: u64,
}

/// The images of the node.
#[async_trait::async_trait]
pub trait Images: Send + Sync + 'static {
    /// Returns the image if it is on the node and a pod with these credentials may use it. Never contacts a registry.
    async fn present(&self, image: &str, keyring: &Keyring) -> Result<Option<Pulled>, Error>;
    /// Whether it is a Linux image, whoever may use it. `None` if it is not on the node, unless credentials are given: then its registry is
    /// asked, of which the manifest is enough.
    async fn is_linux(&self, image: &str, credentials: Option<&Keyring>) -> Result<Option<bool>, Error>;
    /// Resolves the image at the registry and downloads missing content. Concurrent pulls of an image share one download. Cancel-safe.
    async fn pull(&self, image: &str, keyring: &Keyring) -> Result<Pulled, Error>;
    /// The folder with all files of an image on the node, given by its id: read-only, and there as long as the image is. `None` for one that is a
    /// module only.
    async fn folder(&self, image_id: &str) -> Result<Option<PathBuf>, Error>;
    /// All images on the node.
    async fn list(&self) -> Vec<Listed>;
    /// If disk usage exceeds the high threshold, removes unused images, the oldest first. `used` has the names and ids of images in use.
    async fn collect(&self, used: &[String]);
}

/// Upstream's `imageGCHighThresholdPercent` and `imageGCLowThresholdPercent`.
const GC_THRESHOLD_PERCENT: (u8, u8) = (85, 80);

#[async_trait::async_trait]
impl Images for image::Images {
    async fn present(&self, image: &str, keyring: &Keyring) -> Result<Option<Pulled>, Error> {
        match self.usable(image, keyring)? {
            Some(pulled) => Ok(Some(unpacked(self, pulled).await?)),
            None => Ok(None),
        }
    }

    async fn is_linux(&self, image: &str, credentials: Option<&Keyring>) -> Result<Option<bool>, Error> {
        Ok(self.kind(image, credentials).await?.map(|kind| kind == image::Kind::Linux))
    }

    async fn pull(&self, image: &str, keyring: &Keyring) -> Result<Pulled, Error> {
        let pulled = Self::pull(self, image, keyring).await?;
        unpacked(self, pulled).await
    }

    async fn folder(&self, image_id: &str) -> Result<Option<PathBuf>, Error> {
        match self.get(image_id)? {
            Some(pulled) => Self::folder(self, &pulled).await,
            None => Err(Error::Refused(format!("{image_id}: no such image in the store"))),
        }
    }

    async fn list(&self) -> Vec<Listed> {
        let listed = Self::list(self).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list images");
            Vec::new()
        });
        listed.into_iter().map(|one| Listed { names: one.names, size: one.size }).collect()
    }

    async fn collect(&self, used: &[String]) {
        let (high, low) = GC_THRESHOLD_PERCENT;
        let digests: HashSet<_> = used.iter().filter_map(|name| Some(self.get(name).ok()??.digest)).collect();
        let result = match self.to_free(high, low) {
            Ok(0) => return,
            Ok(bytes) => Self::collect(self, digests, bytes).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(done) => tracing::info!(images = done.images.len(), bytes = done.freed, "removed unused images"),
            Err(error) => tracing::warn!(%error, "cannot remove unused images"),
        }
    }
}

/// The image with its files, which are unpacked if they are not yet.
async fn unpacked(images: &image::Images, pulled: image::Pulled) -> Result<Pulled, Error> {
    let (files, layers) = (images.files(&pulled).await?, images.layers(&pulled).await?);
    Ok(Pulled::new(pulled, files, layers.unwrap_or_default()))
}

impl Pulled {
    fn new(pulled: image::Pulled, files: Option<PathBuf>, layers: Vec<PathBuf>) -> Self {
        let image_id = pulled.id();
        let (artifact, platform) = match pulled.artifact {
            image::Artifact::Wasm { path, digest } => {
                (Artifact::Wasm { path, digest: digest.to_string(), files }, pulled.layout.to_owned())
            }
            image::Artifact::Linux { platform } => {
                (Artifact::Linux { layers, digest: pulled.digest.to_string() }, platform)
            }
        };
        let pair = |entry: String| entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let command = Command {
            entrypoint: pulled.config.entrypoint,
            arguments: pulled.config.cmd,
            env: pulled.config.env.into_iter().filter_map(pair).collect(),
            working_dir: Some(pulled.config.working_dir).filter(|folder| !folder.is_empty()),
            user: pulled.config.user,
            stop_signal: pulled.config.stop_signal,
        };
        Self { artifact, image_id, size: pulled.size, command, platform }
    }
}

/// Returns whose image it is: versions of one repository in one namespace share what the compiler keeps of them, others never do. Empty for a
/// name that cannot be parsed.
pub fn preparation_scope(namespace: &str, image: &str) -> String {
    image::Reference::parse(image).map_or(String::new(), |name| format!("{namespace}/{}", name.repository()))
}

/// The image pull policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Resolve the image at the registry at each start.
    Always,
    /// Pull the image if it is not on the node.
    IfNotPresent,
    /// Never pull the image.
    Never,
}

impl Policy {
    /// The policy of a container. Like upstream, the default is Always for the tag `latest` or none, and else IfNotPresent.
    pub fn of(image: &str, policy: Option<&str>) -> Self {
        match policy {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some(_) => Self::IfNotPresent,
            None if image.contains('@') => Self::IfNotPresent,
            None => match image.rsplit('/').next().and_then(|last| last.split_once(':')) {
                Some((_, "latest")) | None => Self::Always,
                Some(_) => Self::IfNotPresent,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_policy_follows_the_tag() {
        for (image, expected) in [
            ("nginx", Policy::Always),
            ("nginx:latest", Policy::Always),
            ("nginx:1", Policy::IfNotPresent),
            ("host:5000/nginx", Policy::Always),
            ("host:5000/nginx:1", Policy::IfNotPresent),
            ("nginx@sha256:00", Policy::IfNotPresent),
        ] {
            assert_eq!(Policy::of(image, None), expected, "{image}");
        }
        assert_eq!(Policy::of("nginx", Some("Never")), Policy::Never);
    }
}
