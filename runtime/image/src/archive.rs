//! Imports OCI layout folders, OCI archives and archives of `docker save`.

use crate::{
    Digest,
    content::Content,
    error::Fault,
    images::Inner,
    layer::{Budget, Entry, clean, walk},
    manifest::{self, DOCKER_CONFIG, Descriptor, Document, Index, Manifest, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST},
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::Read,
    path::Path,
};
use tar::EntryType;

const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Most descriptors that are followed in a layout.
const MAX_DESCRIPTORS: usize = 10_000;

/// A manifest or index whose blobs are in the store, and its name if it has one.
pub(crate) struct Imported {
    pub document: Vec<u8>,
    pub name: Option<String>,
}

/// Imports an OCI layout folder.
pub(crate) fn folder(inner: &Inner, folder: &Path) -> Result<Imported, Fault> {
    let limit = inner.options.limits.manifest;
    let root = folder.canonicalize().map_err(|error| Fault::content(error.to_string()))?;
    let index = read(&root, &folder.join("index.json"), limit).map_err(|fault| match fault {
        Fault::Store(_) => Fault::content("the folder is no OCI layout"),
        other => other,
    })?;
    let blob = |digest: &Digest| folder.join("blobs/sha256").join(digest.hex());
    let mut todo: Vec<Descriptor> = descriptors(&index)?;
    let mut seen = HashSet::new();
    let mut left = inner.options.limits.unpacked;
    while let Some(descriptor) = todo.pop() {
        if !seen.insert(descriptor.digest)
            || inner.content.has(&descriptor.digest, descriptor.size) && !is_document(&descriptor)
        {
            continue;
        }
        if seen.len() > MAX_DESCRIPTORS {
            return Err(Fault::content("the layout has too many blobs"));
        }
        let path = blob(&descriptor.digest);
        // Blobs of other platforms may be missing; a required blob that is missing is reported later.
        let mut file = match open(&root, &path) {
            Ok(file) => file,
            Err(Fault::Store(_)) => continue,
            Err(fault) => return Err(fault),
        };
        left = left.checked_sub(descriptor.size).ok_or_else(|| Fault::content("the layout is too large"))?;
        inner.content.receive(&mut file, descriptor.size, descriptor.size)?.commit(Some(descriptor.digest))?;
        if is_document(&descriptor) {
            todo.extend(descriptors(&read(&root, &path, limit)?)?);
        }
    }
    from_index(&inner.content, index, limit)
}

fn is_document(descriptor: &Descriptor) -> bool {
    manifest::ACCEPT.contains(&descriptor.media_type.as_str())
}

fn descriptors(document: &[u8]) -> Result<Vec<Descriptor>, Fault> {
    Ok(match manifest::read(document).map_err(Fault::Content)? {
        Document::Index(index) => index.manifests,
        Document::Manifest(manifest) => manifest.layers.into_iter().chain([manifest.config]).collect(),
    })
}

/// Opens a file of a layout folder; a missing one is a fault of the store. A link must not lead out of the folder, because the user only
/// gave the folder.
fn open(root: &Path, path: &Path) -> Result<File, Fault> {
    let real = path.canonicalize()?;
    if !real.starts_with(root) {
        return Err(Fault::content(format!("{} leads out of the folder", path.display())));
    }
    if !std::fs::metadata(&real)?.is_file() {
        return Err(Fault::content(format!("{} is no file", path.display())));
    }
    Ok(File::open(real)?)
}

fn read(root: &Path, path: &Path, limit: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    open(root, path)?.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(Fault::content(format!("{} is longer than {limit} bytes", path.display()))),
        false => Ok(bytes),
    }
}

/// The image of a layout: its only one, or all as the platforms of one.
fn from_index(content: &Content, bytes: Vec<u8>, limit: u64) -> Result<Imported, Fault> {
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| Fault::content(format!("the index cannot be read: {error}")))?;
    let [only] = &index.manifests[..] else {
        return match index.manifests.is_empty() {
            true => Err(Fault::content("the layout holds no image")),
            false => Ok(Imported { document: bytes, name: None }),
        };
    };
    let document = content
        .bytes(&only.digest, limit)
        .map_err(|_| Fault::content(format!("the layout lacks its manifest {}", only.digest)))?;
    let name = only.annotations.get(NAME).or(only.annotations.get(REF_NAME)).filter(|name| name.contains(['/', ':']));
    Ok(Imported { document, name: name.cloned() })
}

/// The files of an archive by path.
#[derive(Default)]
struct Files {
    blobs: HashMap<String, (Digest, u64)>,
    links: BTreeMap<String, String>,
    small: HashMap<String, Vec<u8>>,
}

impl Files {
    fn take(&mut self, inner: &Inner, entry: Entry<'_>) -> Result<(), Fault> {
        let limits = &inner.options.limits;
        match entry.kind {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Symlink | EntryType::Link => {
                let folder = entry.path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let from = if entry.kind == EntryType::Link { "" } else { folder };
                let climbs = || Fault::content(format!("the archive holds a link that climbs out: {:?}", entry.link));
                let to = clean(from, &entry.link).ok_or_else(climbs)?;
                self.links.insert(entry.path, to);
                return Ok(());
            }
            _ => return Ok(()),
        }
        if matches!(&*entry.path, "index.json" | "manifest.json") {
            let mut bytes = Vec::new();
            if entry.size > limits.manifest {
                return Err(Fault::content(format!("{} is longer than {} bytes", entry.path, limits.manifest)));
            }
            entry.data.read_to_end(&mut bytes).map_err(crate::error::damaged)?;
            self.small.insert(entry.path, bytes);
            return Ok(());
        }
        let expected = entry.path.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse().ok());
        let stored = inner.content.receive(entry.data, entry.size, limits.unpacked)?.commit(expected)?;
        self.blobs.insert(entry.path, stored);
        Ok(())
    }

    fn blob(&self, path: &str) -> Result<(Digest, u64), Fault> {
        let missing = || Fault::content(format!("the archive lacks {path:?}"));
        let mut path = clean("", path).ok_or_else(missing)?;
        for _ in 0..8 {
            match (self.blobs.get(&path), self.links.get(&path)) {
                (Some(found), _) => return Ok(*found),
                (None, Some(to)) => path.clone_from(to),
                (None, None) => break,
            }
        }
        Err(missing())
    }
}

/// Imports an archive.
pub(crate) fn file(inner: &Inner, path: &Path) -> Result<Imported, Fault> {
    let mut files = Files::default();
    let mut budget = Budget::new(&inner.options.limits);
    let opened = File::open(path).map_err(|error| Fault::content(error.to_string()))?;
    let unknown = "it is none of: .wasm, .wat, an OCI layout folder, an OCI archive, a docker-save archive";
    let walked = walk(opened, &mut budget, |entry| files.take(inner, entry));
    if let Err(fault) = walked {
        return match fault {
            Fault::Content(text) if files.blobs.is_empty() && files.small.is_empty() => {
                Err(Fault::content(format!("{unknown} ({text})")))
            }
            other => Err(other),
        };
    }
    let limit = inner.options.limits.manifest;
    match (files.small.remove("index.json"), files.small.remove("manifest.json")) {
        (Some(index), _) => from_index(&inner.content, index, limit),
        (None, Some(list)) => from_docker(inner, &files, &list),
        (None, None) => Err(Fault::content(unknown)),
    }
}

/// The one image of a `docker save` archive, as an OCI manifest.
fn from_docker(inner: &Inner, files: &Files, list: &[u8]) -> Result<Imported, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Saved {
        config: String,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        layers: Vec<String>,
    }
    let list: Vec<Saved> = serde_json::from_slice(list)
        .map_err(|error| Fault::content(format!("its manifest.json cannot be read: {error}")))?;
    let [saved] = &list[..] else {
        return Err(Fault::content(format!("the archive holds {} images, one is expected", list.len())));
    };
    if saved.layers.len() > inner.options.limits.layers {
        return Err(Fault::content(format!("it has {} layers", saved.layers.len())));
    }
    let descriptor = |path: &str, media_type: Option<&str>| {
        let (digest, size) = files.blob(path)?;
        let media_type = match media_type {
            Some(media_type) => media_type,
            None if inner.content.starts_with(&digest, &[0x1f, 0x8b])? => OCI_LAYER_GZIP,
            None => OCI_LAYER,
        };
        Ok(Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations: BTreeMap::new() })
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.into()),
        config: descriptor(&saved.config, Some(DOCKER_CONFIG))?,
        layers: saved.layers.iter().map(|path| descriptor(path, None)).collect::<Result<_, Fault>>()?,
        annotations: BTreeMap::new(),
    };
    let document = serde_json::to_vec(&manifest).map_err(std::io::Error::other)?;
    Ok(Imported { document, name: saved.repo_tags.as_ref().and_then(|tags| tags.first().cloned()) })
}
