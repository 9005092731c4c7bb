//! The certificate authorities that a container trusts: those of the file that `SSL_CERT_FILE` of its environment names, else those of the
//! bundle in its files where the common systems have it, else those of the machine. A file that is there and cannot be used is an error:
//! another choice than the container's would be a surprise.

use super::machine::{BUNDLES, MAX_BUNDLE, MachineRoots, VARIABLE, client_config, pem};
use crate::{
    memory::{InstanceMemory, MemoryAccount},
    tools::tree::Tree,
};
use parking_lot::Mutex;
use rustls::ClientConfig;
use std::{fs::File, io, os::unix::fs::MetadataExt, path::Path, sync::Arc};

/// The authorities that a container trusts at the moment.
pub(crate) struct Trusted {
    pub(crate) config: Arc<ClientConfig>,
    /// Where they are from, for messages.
    pub(crate) of: String,
}

/// Where a container's authorities are.
pub(crate) struct Trust {
    tree: Tree,
    /// The value of [`VARIABLE`].
    named: Option<String>,
}

/// The bundle of a container as it was last read.
pub(crate) type ReadBundle = Mutex<Option<Bundle>>;

/// A bundle that was read.
pub(crate) struct Bundle {
    path: String,
    version: Version,
    config: Arc<ClientConfig>,
    _memory: InstanceMemory,
}

/// Identifies the content of a file: device, inode, length, times of the last change.
type Version = [i64; 5];

impl Trust {
    pub(crate) fn new(tree: Tree, env: &[(String, String)]) -> Self {
        let named = env.iter().find(|(name, value)| name == VARIABLE && !value.is_empty());
        Self { tree, named: named.map(|(_, path)| path.clone()) }
    }

    /// What is trusted now. Blocks on the disk.
    pub(crate) fn now(
        &self,
        bundle: &ReadBundle,
        machine: &MachineRoots,
        memory: &Arc<MemoryAccount>,
    ) -> Result<Trusted, String> {
        if let Some(path) = &self.named {
            let read = self.tree.read(Path::new(path)).map_err(|error| error.to_string());
            let trusted = read.and_then(|(file, _)| trusted(bundle, memory, path, &file));
            return trusted.map_err(|error| format!("{VARIABLE} is {path}: {error}"));
        }
        for path in BUNDLES {
            match self.tree.read(Path::new(path)) {
                Ok((file, _)) => {
                    return trusted(bundle, memory, path, &file).map_err(|error| format!("{path}: {error}"));
                }
                Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {}
                Err(error) => return Err(format!("{path}: {error}")),
            }
        }
        Ok(Trusted { config: machine.config()?, of: "the machine".into() })
    }
}

/// Trusts the authorities in a file, which is read if it is not the one that was read last.
fn trusted(bundle: &ReadBundle, memory: &Arc<MemoryAccount>, path: &str, file: &File) -> Result<Trusted, String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    let version = [
        metadata.dev() as i64,
        metadata.ino() as i64,
        metadata.len() as i64,
        nanos(metadata.mtime(), metadata.mtime_nsec()),
        nanos(metadata.ctime(), metadata.ctime_nsec()),
    ];
    let mut bundle = bundle.lock();
    let config = match &*bundle {
        Some(known) if known.path == path && known.version == version => known.config.clone(),
        _ => {
            *bundle = None;
            let mut memory = InstanceMemory::new(memory.clone());
            memory.set_host_bytes(metadata.len().min(MAX_BUNDLE)).map_err(|full| full.to_string())?;
            let config = client_config(&pem(file)?)?;
            *bundle = Some(Bundle { path: path.to_owned(), version, config: config.clone(), _memory: memory });
            config
        }
    };
    Ok(Trusted { config, of: path.to_owned() })
}
