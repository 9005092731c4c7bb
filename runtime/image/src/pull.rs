//! Pulling: resolves the name, fetches and verifies the required blobs, recognises the image, and records it.

use crate::{
    Credential, Digest, Error, Images, Keyring, Pulled, Reference,
    access::Origin,
    content::{Content, DiskReservation, Record, blocking},
    error::Fault,
    images::{Inner, short},
    layer,
    manifest::{self, Descriptor, Document, Manifest},
    recognise::{self, Layout, Plan},
    registry::{Session, is_loopback},
};
use futures::{FutureExt as _, future::Shared};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// How often a blob is requested when the connection breaks.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

impl Images {
    /// Pulls an image, even if it is stored. Calls for the same image with the same credentials share one pull, which continues as long as
    /// one of them waits. The next pull uses what an interrupted one has received.
    pub async fn pull(&self, image: &str, keyring: &Keyring) -> Result<Pulled, Error> {
        let reference = Reference::parse(image)?;
        self.shared_pull(reference, keyring).await
    }

    fn shared_pull(&self, reference: Reference, keyring: &Keyring) -> Shared<crate::images::Pull> {
        let mut pulls = self.0.pulls.lock();
        pulls.retain(|_, pull| pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        let key = (reference, keyring.clone());
        if let Some(pull) = pulls.get(&key).and_then(|pull| pull.upgrade()) {
            return pull;
        }
        let pull = run(self.0.clone(), key.0.clone(), key.1.clone()).boxed().shared();
        if let Some(weak) = pull.downgrade() {
            pulls.insert(key, weak);
        }
        pull
    }
}

async fn run(inner: Arc<Inner>, reference: Reference, keyring: Keyring) -> Result<Pulled, Error> {
    let _slot = inner.slots.acquire().await.map_err(|_| Error::Store("closed".into()))?;
    let limit = inner.options.limits.pull;
    let result = match timeout(limit, fetch(&inner, &reference, &keyring)).await {
        Ok(result) => result,
        Err(_) => Err(Fault::Network(format!("the pull did not end in {limit:?}"))),
    };
    match result {
        Ok(pulled) => {
            tracing::info!(image = %reference, digest = %pulled.digest, layout = pulled.layout, size = pulled.size, "pulled");
            Ok(pulled)
        }
        Err(fault) => Err(explain(&inner, &reference, &keyring, fault)),
    }
}

async fn fetch(inner: &Arc<Inner>, reference: &Reference, keyring: &Keyring) -> Result<Pulled, Fault> {
    let (session, bytes) = resolve(inner, reference, keyring).await?;
    let _lock = inner.content.shared().await?;
    let (image, record) = assemble(inner, &Source::Registry(&session, reference), bytes).await?;
    keep(inner, reference, image, record, Origin::Pulled(session.admitted())).await
}

/// Records a complete image, and its name.
pub(crate) async fn keep(
    inner: &Arc<Inner>,
    reference: &Reference,
    image: Digest,
    mut record: Record,
    origin: Origin,
) -> Result<Pulled, Fault> {
    let (this, reference) = (inner.clone(), reference.clone());
    blocking(move || {
        // the existing record of the image is extended; an unreadable one is replaced
        if let Ok(Some(known)) = this.content.record(&image) {
            record.access = known.access;
        }
        record.access.grant(&reference, &origin);
        this.content.set_record(&image, &record)?;
        this.content.set_name(&reference.to_string(), image, matches!(origin, Origin::Loaded))?;
        Ok(this.pulled(&reference, image, record))
    })
    .await
}

/// The document of the name, with the first credential that the registry accepts.
async fn resolve(inner: &Inner, reference: &Reference, keyring: &Keyring) -> Result<(Session, Vec<u8>), Fault> {
    let http = inner.http().await?;
    let mut credentials: Vec<Option<Credential>> =
        keyring.lookup(&reference.repository()).into_iter().map(Some).collect();
    if credentials.is_empty() {
        credentials.push(None);
    }
    let mut denied = Fault::Denied(String::new());
    for credential in credentials {
        let session = Session::open(http.clone(), inner.options.limits.clone(), reference, credential).await?;
        match session.manifest(reference, None).await {
            Ok(bytes) => return Ok((session, bytes)),
            Err(fault @ Fault::Denied(_)) => denied = fault,
            Err(fault) => return Err(fault),
        }
    }
    Err(denied)
}

/// The source of the blobs of an image.
pub(crate) enum Source<'a> {
    Registry(&'a Session, &'a Reference),
    /// All blobs are in the store already.
    Stored,
}

impl Source<'_> {
    async fn manifest(&self, inner: &Inner, digest: &Digest) -> Result<Vec<u8>, Fault> {
        match self {
            Source::Stored => stored(inner, digest),
            Source::Registry(session, reference) => {
                session.manifest(reference, Some(*digest)).await.map_err(lacks(digest))
            }
        }
    }

    async fn blob(&self, inner: &Inner, blob: &Descriptor) -> Result<(), Fault> {
        if inner.content.has(&blob.digest, blob.size) {
            return Ok(());
        }
        match self {
            Source::Stored => {
                Err(Fault::content(format!("the blob {} of {} bytes is missing", blob.digest, blob.size)))
            }
            Source::Registry(session, _) => download(&inner.content, session, blob).await.map_err(lacks(&blob.digest)),
        }
    }
}

fn stored(inner: &Inner, digest: &Digest) -> Result<Vec<u8>, Fault> {
    inner.content.bytes(digest, inner.options.limits.manifest).map_err(|fault| match fault {
        Fault::Store(_) => Fault::content(format!("the blob {digest} is missing")),
        other => other,
    })
}

/// The fault for a missing blob, which differs from a missing image.
fn lacks(digest: &Digest) -> impl Fn(Fault) -> Fault + '_ {
    move |fault| match fault {
        Fault::NotFound(said) => Fault::content(format!("the registry lacks {digest}, which the image needs: {said}")),
        other => other,
    }
}

/// Stores everything that is required to run an image. `bytes`: its index or manifest.
pub(crate) async fn assemble(
    inner: &Arc<Inner>,
    source: &Source<'_>,
    bytes: Vec<u8>,
) -> Result<(Digest, Record), Fault> {
    let image = Digest::of(&bytes);
    let mut blobs = vec![(image, bytes.len() as u64)];
    let (descriptor, bytes, manifest) = match manifest::read(&bytes).map_err(Fault::Content)? {
        Document::Manifest(manifest) => (as_descriptor(image, &bytes, &manifest), bytes, manifest),
        Document::Index(index) => {
            inner.content.put(&bytes)?;
            let chosen = recognise::choose(&index).map_err(Fault::Content)?.clone();
            let bytes = source.manifest(inner, &chosen.digest).await?;
            blobs.push((chosen.digest, bytes.len() as u64));
            match manifest::read(&bytes).map_err(Fault::Content)? {
                Document::Manifest(manifest) => (chosen, bytes, manifest),
                Document::Index(_) => return Err(Fault::content("the image is an index within an index")),
            }
        }
    };
    inner.content.put(&bytes)?;
    check(inner, &manifest)?;
    source.blob(inner, &manifest.config).await?;
    blobs.push((manifest.config.digest, manifest.config.size));
    let config = match recognise::needs_config(&manifest) {
        true => stored(inner, &manifest.config.digest)?,
        false => Vec::new(),
    };
    let plan = recognise::recognise(&manifest, &config).map_err(Fault::Content)?;
    let mut record = realise(inner, source, &manifest, plan).await?;
    record.manifest = descriptor;
    blobs.append(&mut record.blobs);
    blobs.sort_unstable();
    blobs.dedup();
    record.blobs = blobs;
    Ok((image, record))
}

fn as_descriptor(digest: Digest, bytes: &[u8], manifest: &Manifest) -> Descriptor {
    Descriptor {
        media_type: manifest.media_type.clone().unwrap_or_else(|| manifest::OCI_MANIFEST.into()),
        digest,
        size: bytes.len() as u64,
        platform: None,
        annotations: Default::default(),
    }
}

/// Refuses an image that is too large, before anything is fetched.
fn check(inner: &Inner, manifest: &Manifest) -> Result<(), Fault> {
    let limits = &inner.options.limits;
    if manifest.layers.len() > limits.layers {
        return Err(Fault::content(format!("it has {} layers, {} are allowed", manifest.layers.len(), limits.layers)));
    }
    if manifest.config.size > limits.manifest {
        return Err(Fault::content(format!(
            "its config has {} bytes, {} are allowed",
            manifest.config.size, limits.manifest
        )));
    }
    let size = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
    if size > limits.image {
        return Err(Fault::content(format!("its layers have {size} bytes, {} are allowed", limits.image)));
    }
    Ok(())
}

/// Fetches the blobs of the plan. The caller sets the manifest of the record.
async fn realise(inner: &Arc<Inner>, source: &Source<'_>, manifest: &Manifest, plan: Plan) -> Result<Record, Fault> {
    let mut record = Record {
        manifest: manifest.config.clone(),
        wasm: None,
        platform: String::new(),
        layout: Layout::Linux,
        config: Default::default(),
        blobs: Vec::new(),
        access: Default::default(),
    };
    let (path, platform, config, layout) = match plan {
        Plan::Linux { platform, config } => return Ok(Record { platform, config, ..record }),
        Plan::Layer(layer, layout) => {
            let limit = inner.options.limits.module;
            if layer.size > limit {
                return Err(Fault::content(format!("its module has {} bytes, {limit} are allowed", layer.size)));
            }
            source.blob(inner, &layer).await?;
            record.blobs.push((layer.digest, layer.size));
            is_wasm(&inner.content, &layer.digest)?;
            return Ok(Record { wasm: Some(layer.digest), layout, platform: "wasi/wasm".into(), ..record });
        }
        Plan::File { path, layout, platform, config } => (path, platform, config, Some(layout)),
        Plan::Perhaps { path, platform, config } => (path, platform, config, None),
    };
    for layer in &manifest.layers {
        source.blob(inner, layer).await?;
        record.blobs.push((layer.digest, layer.size));
    }
    let layers: Vec<_> = manifest.layers.iter().map(|layer| inner.content.blob(&layer.digest)).collect();
    let (this, wanted) = (inner.clone(), path.clone());
    let find = move || layer::find(&this.content, &layers, &wanted, &this.options.limits);
    match (blocking(find).await?, layout) {
        (Some((digest, size)), layout) => {
            is_wasm(&inner.content, &digest)?;
            record.blobs.push((digest, size));
            Ok(Record { wasm: Some(digest), layout: layout.unwrap_or(Layout::Compat), platform, config, ..record })
        }
        (None, Some(_)) => {
            let layers: Vec<_> = manifest.layers.iter().map(|layer| inner.content.blob(&layer.digest)).collect();
            let this = inner.clone();
            let held = blocking(move || layer::names(layers, &this.options.limits)).await?;
            let text = format!("the image has no file {path:?}, which its entry point names; it holds {held}");
            Err(Fault::content(text))
        }
        (None, None) => Ok(Record { platform, config, ..record }),
    }
}

/// Refuses content that is not WebAssembly, such as code that was compiled elsewhere.
fn is_wasm(content: &Content, digest: &Digest) -> Result<(), Fault> {
    let mut start = [0; 8];
    let read = File::open(content.blob(digest))?.read_exact(&mut start);
    match (read, &start[..4], &start[4..]) {
        (Ok(()), b"\0asm", [1, 0, 0, 0] | [0x0d, 0, 1, 0]) => Ok(()),
        (Ok(()), b"\0asm", version) => {
            Err(Fault::content(format!("the module has the unknown version {version:02x?}")))
        }
        _ => Err(Fault::content("the module is not WebAssembly")),
    }
}

/// Fetches one blob: verified while it arrives, resumed where an earlier attempt ended.
async fn download(content: &Content, session: &Session, blob: &Descriptor) -> Result<(), Fault> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match attempt_download(content, session, blob).await {
            Err(fault @ (Fault::Network(_) | Fault::Unavailable(_))) if attempt < ATTEMPTS => {
                tracing::debug!(blob = %blob.digest, ?fault, attempt, "a download broke off");
                sleep(pause).await;
                pause *= 2;
            }
            result => return result,
        }
    }
    unreachable!("the last attempt returns")
}

async fn attempt_download(content: &Content, session: &Session, blob: &Descriptor) -> Result<(), Fault> {
    let Some(mut partial) = Partial::open(content, blob).await? else { return Ok(()) };
    if partial.size < blob.size {
        let (mut response, start) = match session.blob(&blob.digest, partial.size).await {
            Err(Fault::Content(_)) if partial.size > 0 => {
                partial.restart()?; // the registry refuses the offset
                session.blob(&blob.digest, 0).await?
            }
            other => other?,
        };
        match start {
            start if start == partial.size => {}
            0 => partial.restart()?,
            start => return Err(Fault::content(format!("the registry sent byte {start} on, not {}", partial.size))),
        }
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => partial.write(&chunk)?,
                Ok(None) => break,
                Err(error) => {
                    let text = crate::registry::chain(&error);
                    return Err(Fault::Network(format!("the download of {} broke off: {text}", blob.digest)));
                }
            }
        }
    }
    if partial.size < blob.size {
        let text = format!("the download of {} ended after {} of {} bytes", blob.digest, partial.size, blob.size);
        return Err(Fault::Network(text));
    }
    blocking(move || partial.finish()).await
}

/// A blob that is being downloaded, locked against other downloads of it.
struct Partial {
    content: Content,
    file: File,
    path: PathBuf,
    hasher: Sha256,
    size: u64,
    expected: Digest,
    limit: u64,
    /// For the bytes that have not arrived.
    room: DiskReservation,
}

impl Partial {
    /// Opens the file of an earlier attempt, once no other download has its lock. `None`: the blob is stored by now.
    async fn open(content: &Content, blob: &Descriptor) -> Result<Option<Self>, Fault> {
        let (content, expected, limit) = (content.clone(), blob.digest, blob.size);
        blocking(move || {
            let path = content.partial(&expected);
            loop {
                let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
                if let Err(error) = file.try_lock() {
                    match error {
                        TryLockError::WouldBlock => file.lock()?,
                        TryLockError::Error(error) => return Err(error.into()),
                    }
                }
                if content.has(&expected, limit) {
                    let _ = fs::remove_file(&path);
                    return Ok(None);
                }
                // The previous holder of the lock may have moved or removed the file.
                if !fs::metadata(&path).is_ok_and(|found| file.metadata().is_ok_and(|own| own.ino() == found.ino())) {
                    continue;
                }
                let mut hasher = Sha256::new();
                let size = io::copy(&mut file, &mut hasher)?;
                let room = content.reserve(limit.saturating_sub(size));
                let room = room.inspect_err(|_| drop(fs::remove_file(&path)))?;
                let mut partial = Self { content, file, path, hasher, size, expected, limit, room };
                if size > limit {
                    partial.restart()?;
                }
                return Ok(Some(partial));
            }
        })
        .await
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)?;
        self.hasher = Sha256::new();
        self.size = 0;
        self.room.spend(self.limit);
        self.room = self.content.reserve(self.limit).inspect_err(|_| self.give_up())?;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.size += bytes.len() as u64;
        if self.size > self.limit {
            self.give_up();
            return Err(Fault::content(format!("the blob {} has more than its {} bytes", self.expected, self.limit)));
        }
        self.hasher.update(bytes);
        // A full disk needs the space, and the last write may be incomplete.
        self.file.write_all(bytes).inspect_err(|_| self.give_up())?;
        self.room.spend(bytes.len() as u64);
        Ok(())
    }

    /// Removes the received bytes.
    fn give_up(&self) {
        let _ = fs::remove_file(&self.path);
    }

    fn finish(self) -> Result<(), Fault> {
        let found = Digest::finish(self.hasher);
        if found != self.expected {
            fs::remove_file(&self.path)?;
            return Err(Fault::content(format!("the content of {} has digest {found}", self.expected)));
        }
        self.file.sync_data()?;
        Ok(crate::content::rename(&self.path, &self.content.blob(&self.expected))?)
    }
}

/// The error of a pull with the texts of container runtimes, and a hint for the user.
fn explain(inner: &Inner, reference: &Reference, keyring: &Keyring, fault: Fault) -> Error {
    let image = reference.to_string();
    let resolving = |text: String| format!("failed to resolve reference \"{image}\": {text}");
    let hint = local_hint(inner, reference, keyring);
    let cause = match fault {
        Fault::Store(text) => return Error::Store(text),
        Fault::Unavailable(cause) => return Error::RegistryUnavailable { image, cause, hint },
        Fault::NotFound(_) => resolving(format!("{image}: not found")),
        Fault::Network(text) => resolving(text),
        Fault::Content(cause) => return Error::ErrImagePull { image, cause, hint: String::new() },
        Fault::Denied(text) => {
            let secret = match keyring.lookup(&reference.repository()).is_empty() {
                true => format!(" (no imagePullSecret of the pod is for {})", reference.domain),
                false => format!(" (the imagePullSecrets of the pod for {} were refused)", reference.domain),
            };
            resolving(format!(
                "pull access denied, repository does not exist or may require authorization: {text}{secret}"
            ))
        }
    };
    Error::ErrImagePull { image, cause, hint }
}

/// The hint for an image that may have been meant as a local one.
fn local_hint(inner: &Inner, reference: &Reference, keyring: &Keyring) -> String {
    let name = short(reference);
    let latest = if reference.is_latest() { ", because :latest and no tag mean Always" } else { "" };
    let usable = |image: &Pulled| inner.permits(reference, &image.digest, keyring).unwrap_or(false);
    let present = inner.local(reference).is_ok_and(|found| found.as_ref().is_some_and(usable));
    let host = reference.domain.rsplit_once(':').map_or(reference.domain.as_str(), |(host, _)| host);
    if present {
        format!("; a local image of this name exists: imagePullPolicy: IfNotPresent uses it{latest}")
    } else if reference.domain == "docker.io" || is_loopback(host) {
        let policy =
            if latest.is_empty() { String::new() } else { format!(" and set imagePullPolicy: IfNotPresent{latest}") };
        format!("; if it is a local image, load it with: sampan image load FILE -t {name}{policy}")
    } else {
        String::new()
    }
}
