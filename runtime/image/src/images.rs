//! [`Images`], the handle of a node's images: look-up and pull under a pull policy.

use crate::{
    Artifact, Config, Digest, Error, Keyring, Pulled, Reference,
    content::{self, Content, Record, blocking},
    error::Fault,
    manifest::{self, Document},
    options::Options,
    registry,
    removal::remove_all,
    turns::Turns,
    unpack,
};
use futures::future::{BoxFuture, WeakShared};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{OnceCell, Semaphore};

/// When an image is pulled: a container's `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Each time a container starts.
    Always,
    /// If it is not in the store.
    IfNotPresent,
    /// Never: it must be in the store.
    Never,
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A module or component.
    Wasm,
    /// The files of a Linux system.
    Linux,
}

pub(crate) type Pull = BoxFuture<'static, Result<Pulled, Error>>;

/// A node's images. A clone is the same.
#[derive(Clone)]
pub struct Images(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub content: Content,
    pub options: Options,
    pub http: OnceCell<reqwest::Client>,
    /// Running pulls, by name and credentials: the secret of one pod must not pull for another.
    pub pulls: Mutex<HashMap<(Reference, Keyring), WeakShared<Pull>>>,
    pub slots: Semaphore,
    /// Held while the files of an image are unpacked.
    pub unpacking: Arc<tokio::sync::Mutex<()>>,
    /// Who unpacks layers of Linux images.
    pub turns: Turns,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Images({})", self.0.content.root().display())
    }
}

impl Images {
    /// Opens or creates the content store in `folder`, without network access.
    pub fn open(folder: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let content = Content::open(folder.as_ref())
            .map_err(|error| Error::Store(format!("{}: {error}", folder.as_ref().display())))?;
        let cleared = content.clear_leftovers();
        cleared.unwrap_or_else(|fault| tracing::warn!(?fault, "half-made files cannot be removed"));
        let slots = Semaphore::new(options.limits.pulls.max(1));
        Ok(Self(Arc::new(Inner {
            content,
            options,
            http: OnceCell::new(),
            pulls: Mutex::default(),
            slots,
            unpacking: Default::default(),
            turns: Turns::default(),
        })))
    }

    /// The image of a container under its pull policy; it is pulled if necessary.
    pub async fn ensure(&self, image: &str, policy: Policy, keyring: &Keyring) -> Result<Pulled, Error> {
        let reference = Reference::parse(image)?;
        match policy {
            Policy::Always => self.pull(image, keyring).await,
            Policy::IfNotPresent => match self.usable(image, keyring)? {
                Some(pulled) => Ok(pulled),
                None => self.pull(image, keyring).await,
            },
            Policy::Never => self.usable(image, keyring)?.ok_or_else(|| Error::ErrImageNeverPull {
                image: image.into(),
                hint: format!("; load it with: sampan image load FILE -t {}", short(&reference)),
            }),
        }
    }

    /// The image, if it is complete in the store. Reads two small files, without network access.
    pub fn get(&self, image: &str) -> Result<Option<Pulled>, Error> {
        let reference = Reference::parse(image)?;
        self.0.local(&reference).map_err(|fault| match fault {
            Fault::Store(cause) => Error::ImageInspectError { image: image.into(), cause },
            other => other.into(),
        })
    }

    /// As [`Images::get`], if a pod with these credentials may use the image: it was loaded by hand, or pulled without a credential or with
    /// one of these. (KEP-2535. Other pods do not learn that the image is stored.)
    pub fn usable(&self, image: &str, keyring: &Keyring) -> Result<Option<Pulled>, Error> {
        let Some(pulled) = self.get(image)? else { return Ok(None) };
        let permitted = self.0.permits(&Reference::parse(image)?, &pulled.digest, keyring)?;
        Ok(Some(pulled).filter(|_| permitted))
    }

    /// The folder with all files of an image of files, which are unpacked now if they are not; `None` for an artifact, which is a module only.
    /// Nobody may change them. They stay as long as the image is stored.
    pub async fn files(&self, image: &Pulled) -> Result<Option<PathBuf>, Error> {
        let Some(manifest) = image.files else { return Ok(None) };
        let target = self.0.content.files(&manifest);
        if target.is_dir() {
            return Ok(Some(target));
        }
        let held = (self.0.unpacking.clone().lock_owned().await, self.0.content.shared().await?);
        let (this, to) = (self.0.clone(), target.clone());
        let unpack = move || {
            // Whoever asked may be gone before it is done.
            let _held = held;
            this.unpack(&manifest, &to)
        };
        let unpacked = blocking(unpack).await;
        unpacked.map(|()| Some(target)).map_err(|fault| match fault {
            Fault::Store(text) => Error::Store(text),
            Fault::Content(cause) => Error::ErrImagePull { image: image.name.clone(), cause, hint: String::new() },
            other => other.into(),
        })
    }

    /// The digests of stored images and their content, for caches.
    pub fn digests(&self) -> Result<Vec<Digest>, Error> {
        Ok(self.0.content.images()?.into_iter().map(|(digest, _)| digest).collect())
    }
}

impl Inner {
    pub(crate) fn local(&self, reference: &Reference) -> Result<Option<Pulled>, Fault> {
        let image = match reference.digest {
            Some(digest) => digest,
            None => match self.content.name(&reference.to_string())? {
                Some(name) => name.image,
                None => return Ok(None),
            },
        };
        let Some(record) = self.content.record(&image)? else { return Ok(None) };
        if let Some(wasm) = &record.wasm
            && !record.blobs.iter().any(|(digest, size)| digest == wasm && self.content.has(digest, *size))
        {
            tracing::warn!(image = %reference, module = %wasm, "the module of a stored image is missing");
            return Ok(None);
        }
        if record.wasm.is_none() && !self.has_layers(&record)? {
            tracing::debug!(image = %reference, "a Linux image is stored without its layers");
            return Ok(None);
        }
        Ok(Some(self.pulled(reference, image, record)))
    }

    /// Unpacks the layers of a manifest to `target`, which appears when it is complete.
    fn unpack(&self, manifest: &Digest, target: &Path) -> Result<(), Fault> {
        if target.is_dir() {
            return Ok(());
        }
        let limits = &self.options.limits;
        let bytes = self.content.bytes(manifest, limits.manifest)?;
        let Document::Manifest(document) = manifest::read(&bytes).map_err(Fault::Content)? else {
            return Err(Fault::content(format!("{manifest} is no manifest")));
        };
        if let Some(lost) = document.layers.iter().find(|layer| !self.content.has(&layer.digest, layer.size)) {
            return Err(Fault::content(format!("the blob {} is missing: pull or load the image again", lost.digest)));
        }
        let layers: Vec<_> = document.layers.iter().map(|layer| self.content.blob(&layer.digest)).collect();
        let (made, path) = self.content.temporary(|path| DirBuilder::new().mode(0o755).create(path))?;
        let () = made;
        let unpacked = unpack::unpack(&self.content, &layers, &path, limits);
        let placed = unpacked.and_then(|()| match content::rename(&path, target) {
            // another process was faster
            Err(_) if target.is_dir() => remove_all(&path),
            placed => Ok(placed?),
        });
        placed.inspect_err(|_| drop(remove_all(&path)))
    }

    /// Whether all layers of a Linux image are unpacked, or can be.
    fn has_layers(&self, record: &Record) -> Result<bool, Fault> {
        let Some(layers) = &record.layers else { return Ok(false) };
        for layer in layers {
            if self.content.unpacked(&layer.chain)?.is_none() && !self.content.blob(&layer.blob).is_file() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn permits(&self, reference: &Reference, image: &Digest, keyring: &Keyring) -> Result<bool, Fault> {
        Ok(self.content.record(image)?.is_some_and(|record| record.access.permits(reference, keyring)))
    }

    pub(crate) fn pulled(&self, reference: &Reference, digest: Digest, record: Record) -> Pulled {
        let files = record.has_files().then_some(record.manifest.digest);
        let artifact = match record.wasm {
            Some(digest) => Artifact::Wasm { path: self.content.blob(&digest), digest },
            None => Artifact::Linux { platform: record.platform },
        };
        let size = record.blobs.iter().map(|(_, size)| size).sum();
        let (config, layout): (Config, _) = (record.config, record.layout.text());
        Pulled { name: reference.to_string(), digest, artifact, config, size, layout, files }
    }

    /// The HTTP client, created on first use, because loading the system's certificates takes a moment.
    pub(crate) async fn http(&self) -> Result<reqwest::Client, Fault> {
        let make = || async {
            let Options { roots, proxies, limits } = self.options.clone();
            let made = tokio::task::spawn_blocking(move || registry::client(&roots, &proxies, &limits)).await;
            made.map_err(|error| error.to_string()).and_then(|client| client)
        };
        let client = self.http.get_or_try_init(make).await;
        client.cloned().map_err(|text| Fault::Network(format!("no connection can be made: {text}")))
    }
}

/// The name in its short form.
pub(crate) fn short(reference: &Reference) -> String {
    let text = reference.to_string();
    let text =
        text.strip_prefix("docker.io/").map_or(text.as_str(), |rest| rest.strip_prefix("library/").unwrap_or(rest));
    text.split('@').next().unwrap_or_default().to_owned()
}
