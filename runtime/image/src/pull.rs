//! Pulling: resolves the name, fetches and verifies the required blobs, recognises the image, and records it.

use crate::{
    Artifact, Credential, Digest, Error, Images, Keyring, Limits, Pulled, Reference,
    access::Origin,
    chain,
    content::{Content, Record, blocking},
    download::download,
    error::Fault,
    images::{Inner, Kind, short},
    layer,
    manifest::{self, Descriptor, Document, Manifest},
    recognise::{self, Layout, LinuxPlan, Plan},
    registry::{Session, is_loopback},
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::Shared, stream};
use std::{fs::File, io::Read, path::PathBuf, sync::Arc};
use tokio::time::timeout;

/// How many layers of an image are fetched at a time, as other runtimes do.
const LAYERS: usize = 3;

impl Images {
    /// Pulls an image, even if it is stored. Calls for the same image with the same credentials share one pull, which continues as long as
    /// one of them waits. The next pull uses what an interrupted one has received.
    pub async fn pull(&self, image: &str, keyring: &Keyring) -> Result<Pulled, Error> {
        let reference = Reference::parse(image)?;
        self.shared_pull(reference, keyring).await
    }

    /// What an image is, whoever may use it; `None` if it is not stored and nobody may ask. With credentials, the manifest at its registry says
    /// it of one that is not stored. No layer is fetched: one of which only the layers would show it counts as Linux.
    pub async fn kind(&self, image: &str, credentials: Option<&Keyring>) -> Result<Option<Kind>, Error> {
        match (self.get(image)?.map(|stored| stored.artifact), credentials) {
            (Some(Artifact::Wasm { .. }), _) => Ok(Some(Kind::Wasm)),
            (Some(Artifact::Linux { .. }), _) => Ok(Some(Kind::Linux)),
            (None, Some(keyring)) => kind(&self.0, &Reference::parse(image)?, keyring).await.map(Some),
            (None, None) => Ok(None),
        }
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

/// What the manifest at the registry says that an image is. Fetches no layer.
async fn kind(inner: &Arc<Inner>, reference: &Reference, keyring: &Keyring) -> Result<Kind, Error> {
    let ask = async {
        let (session, bytes) = resolve(inner, reference, keyring).await?;
        let _lock = inner.content.shared().await?;
        outline(inner, &Source::Registry(&session, reference), bytes).await
    };
    match ask.await {
        // of one that may be either, only its layers show it
        Ok(Outline { plan: Plan::Linux(_) | Plan::Perhaps { .. }, .. }) => Ok(Kind::Linux),
        Ok(_) => Ok(Kind::Wasm),
        Err(fault) => Err(explain(inner, reference, keyring, fault)),
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

/// What is known of an image before its layers are fetched.
struct Outline {
    image: Digest,
    descriptor: Descriptor,
    manifest: Manifest,
    plan: Plan,
    /// Index, manifest and config.
    blobs: Vec<(Digest, u64)>,
}

/// Reads and stores what says what an image is. `bytes`: its index or manifest.
async fn outline(inner: &Arc<Inner>, source: &Source<'_>, bytes: Vec<u8>) -> Result<Outline, Fault> {
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
    Ok(Outline { image, descriptor, manifest, plan, blobs })
}

/// Stores everything that is required to run an image. `bytes`: its index or manifest.
pub(crate) async fn assemble(
    inner: &Arc<Inner>,
    source: &Source<'_>,
    bytes: Vec<u8>,
) -> Result<(Digest, Record), Fault> {
    let Outline { image, descriptor, manifest, plan, mut blobs } = outline(inner, source, bytes).await?;
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
    check_layers(manifest, limits.image.max(limits.linux_image))
}

/// Refuses layers that are too large.
fn check_layers(manifest: &Manifest, limit: u64) -> Result<(), Fault> {
    let size = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
    match size > limit {
        true => Err(Fault::content(format!("its layers have {size} bytes, {limit} are allowed"))),
        false => Ok(()),
    }
}

/// Fetches the blobs of the plan. The caller sets the manifest of the record.
async fn realise(inner: &Arc<Inner>, source: &Source<'_>, manifest: &Manifest, plan: Plan) -> Result<Record, Fault> {
    let limits = &inner.options.limits;
    let mut record = Record {
        manifest: manifest.config.clone(),
        wasm: None,
        platform: String::new(),
        layout: Layout::Linux,
        config: Default::default(),
        blobs: Vec::new(),
        layers: None,
        access: Default::default(),
    };
    let (path, platform, config, layout) = match plan {
        Plan::Linux(linux) => return realise_linux(inner, source, manifest, linux, record).await,
        Plan::Perhaps { path, linux } => {
            check_layers(manifest, limits.linux_image)?;
            fetch_layers(inner, source, manifest).await?;
            let Some(found) = find(inner, manifest, &path, &limits.linux()).await? else {
                linux.check().map_err(Fault::Content)?;
                return realise_linux(inner, source, manifest, linux, record).await;
            };
            is_wasm(&inner.content, &found.0)?;
            record.blobs = manifest.layers.iter().map(|layer| (layer.digest, layer.size)).chain([found]).collect();
            let (platform, config, layout) = (linux.platform.to_string(), linux.config, Layout::Compat);
            return Ok(Record { wasm: Some(found.0), layout, platform, config, ..record });
        }
        Plan::Layer(layer, layout) => {
            check_layers(manifest, limits.image)?;
            let limit = limits.module;
            if layer.size > limit {
                return Err(Fault::content(format!("its module has {} bytes, {limit} are allowed", layer.size)));
            }
            source.blob(inner, &layer).await?;
            record.blobs.push((layer.digest, layer.size));
            is_wasm(&inner.content, &layer.digest)?;
            return Ok(Record { wasm: Some(layer.digest), layout, platform: "wasi/wasm".into(), ..record });
        }
        Plan::File { path, layout, platform, config } => (path, platform, config, layout),
    };
    check_layers(manifest, limits.image)?;
    fetch_layers(inner, source, manifest).await?;
    record.blobs = manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
    let Some((digest, size)) = find(inner, manifest, &path, limits).await? else {
        let (this, layers) = (inner.clone(), paths(inner, manifest));
        let held = blocking(move || layer::names(layers, &this.options.limits)).await?;
        let text = format!("the image has no file {path:?}, which its entry point names; it holds {held}");
        return Err(Fault::content(text));
    };
    is_wasm(&inner.content, &digest)?;
    record.blobs.push((digest, size));
    Ok(Record { wasm: Some(digest), layout, platform, config, ..record })
}

/// A Linux image is complete with its layers; they are unpacked when they are asked for.
async fn realise_linux(
    inner: &Arc<Inner>,
    source: &Source<'_>,
    manifest: &Manifest,
    linux: LinuxPlan,
    record: Record,
) -> Result<Record, Fault> {
    check_layers(manifest, inner.options.limits.linux_image)?;
    let layers = chain::layers(manifest, &linux.diffs).map_err(Fault::Content)?;
    fetch_layers(inner, source, manifest).await?;
    let blobs = manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
    let (platform, config) = (linux.platform.to_string(), linux.config);
    Ok(Record { platform, config, blobs, layers: Some(layers), ..record })
}

async fn fetch_layers(inner: &Inner, source: &Source<'_>, manifest: &Manifest) -> Result<(), Fault> {
    let mut fetches = Vec::new();
    for layer in &manifest.layers {
        fetches.push(source.blob(inner, layer).boxed());
    }
    stream::iter(fetches).buffer_unordered(LAYERS).try_collect().await
}

fn paths(inner: &Inner, manifest: &Manifest) -> Vec<PathBuf> {
    manifest.layers.iter().map(|layer| inner.content.blob(&layer.digest)).collect()
}

/// Finds the module in the layers.
async fn find(
    inner: &Arc<Inner>,
    manifest: &Manifest,
    path: &str,
    limits: &Limits,
) -> Result<Option<(Digest, u64)>, Fault> {
    let (this, layers, path, limits) = (inner.clone(), paths(inner, manifest), path.to_owned(), limits.clone());
    blocking(move || layer::find(&this.content, &layers, &path, &limits)).await
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
