//! Options of the store: registries, proxies, limits.

use std::time::Duration;

/// Options of a store.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Certificate authorities beside those of the system, each a PEM bundle.
    pub roots: Vec<Vec<u8>>,
    /// Proxies.
    pub proxies: Proxies,
    /// Bounds.
    pub limits: Limits,
}

/// Proxies for registries. Loopback registries are always reached directly.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// URL of the proxy for https registries.
    pub https: Option<String>,
    /// URL of the proxy for http registries.
    pub http: Option<String>,
    /// Hosts, suffixes and networks reached directly, separated by commas.
    pub no_proxy: Option<String>,
}

/// Limits on an image. An image that exceeds them is refused.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a manifest, index or config.
    pub manifest: u64,
    /// Layers of an image.
    pub layers: usize,
    /// Bytes of all layers of an image as they are transferred.
    pub image: u64,
    /// The same of a Linux image.
    pub linux_image: u64,
    /// Bytes of one module or component.
    pub module: u64,
    /// Bytes that the layers of an image, or an archive, may unpack to.
    pub unpacked: u64,
    /// The same of a Linux image.
    pub linux_unpacked: u64,
    /// Entries of all tar archives of an image.
    pub entries: usize,
    /// The same of a Linux image.
    pub linux_entries: usize,
    /// Concurrent pulls; further ones wait.
    pub pulls: usize,
    /// Time to connect.
    pub connect: Duration,
    /// Time until a response begins, and until a document is complete.
    pub answer: Duration,
    /// Time between two chunks of a blob.
    pub idle: Duration,
    /// Time for a pull, and for unpacking a layer.
    pub pull: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest: 4 << 20,
            layers: 128,
            image: 4 << 30,
            linux_image: 16 << 30,
            module: 512 << 20,
            unpacked: 4 << 30,
            linux_unpacked: 32 << 30,
            entries: 100_000,
            linux_entries: 500_000,
            pulls: 4,
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            pull: Duration::from_secs(1800),
        }
    }
}

impl Limits {
    /// Those of Linux images: whole systems, not single programs.
    pub(crate) fn linux(&self) -> Self {
        let (image, unpacked, entries) = (self.linux_image, self.linux_unpacked, self.linux_entries);
        Self { image, unpacked, entries, ..self.clone() }
    }
}
