//! Imports OCI layout folders, OCI archives and archives of `docker save`.

use crate::{
    Digest,
    content::Content,
    decompress::suffix,
    error::Fault,
    images::Inner,
    manifest::{self, DOCKER_CONFIG, Descriptor, Document, Index, Manifest, OCI_INDEX, OCI_LAYER, OCI_MANIFEST},
    walk::{Budget, Entry, clean_text, walk},
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
/// Most images of one file.
const MAX_IMAGES: usize = 256;

/// A manifest or index whose blobs are in the store, and its names if it has any.
pub(crate) struct Imported {
    pub document: Vec<u8>,
    pub names: Vec<String>,
}

/// Imports an OCI layout folder.
pub(crate) fn folder(inner: &Inner, folder: &Path) -> Result<Vec<Imported>, Fault> {
    let limit = inner.options.limits.manifest;
    let root = folder.canonicalize().map_err(|error| Fault::content(error.to_string()))?;
    let index = read(&root, &folder.join("index.json"), limit).map_err(|fault| match fault {
        Fault::Store(_) => Fault::content("the folder is no OCI layout"),
        other => other,
    })?;
    let blob = |digest: &Digest| folder.join("blobs/sha256").join(digest.hex());
    let mut todo: Vec<Descriptor> = descriptors(&index)?;
    let mut seen = HashSet::new();
    let mut left = inner.options.limits.linux().unpacked;
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

/// The images of a layout: those that have names, or else its only one, or all as the platforms of one. Descriptors of one name are the
/// platforms of one, too.
fn from_index(content: &Content, bytes: Vec<u8>, limit: u64) -> Result<Vec<Imported>, Fault> {
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| Fault::content(format!("the index cannot be read: {error}")))?;
    let document = |only: &Descriptor| {
        let lacks = |_| Fault::content(format!("the layout lacks its manifest {}", only.digest));
        content.bytes(&only.digest, limit).map_err(lacks)
    };
    let mut by_name: BTreeMap<&String, Vec<&Descriptor>> = BTreeMap::new();
    for descriptor in &index.manifests {
        let told = descriptor.annotations.get(NAME).or(descriptor.annotations.get(REF_NAME));
        if let Some(name) = told.filter(|name| name.contains(['/', ':'])) {
            by_name.entry(name).or_default().push(descriptor);
        }
    }
    if by_name.is_empty() {
        let document = match &index.manifests[..] {
            [] => return Err(Fault::content("the layout holds no image")),
            [only] => document(only)?,
            _ => bytes,
        };
        return Ok(vec![Imported { document, names: Vec::new() }]);
    }
    let mut images: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    for (name, descriptors) in by_name {
        let document = match descriptors[..] {
            [only] => document(only)?,
            ref platforms => {
                let index = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": platforms});
                serde_json::to_vec(&index).map_err(std::io::Error::other)?
            }
        };
        images.entry(document).or_default().push(name.clone());
        few(images.len())?;
    }
    Ok(images.into_iter().map(|(document, names)| Imported { document, names }).collect())
}

fn few(images: usize) -> Result<(), Fault> {
    match images > MAX_IMAGES {
        true => Err(Fault::content(format!("it holds more than {MAX_IMAGES} images"))),
        false => Ok(()),
    }
}

/// The files of an archive by path.
#[derive(Default)]
struct Files {
    blobs: HashMap<String, (Digest, u64)>,
    links: BTreeMap<String, String>,
    small: HashMap<String, Vec<u8>>,
}

impl Files {
    fn take(&mut self, inner: &Inner, entry: Entry, data: &mut dyn Read) -> Result<(), Fault> {
        let limits = &inner.options.limits;
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        match entry.kind {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Symlink | EntryType::Link => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let from = if entry.kind == EntryType::Link { "" } else { folder };
                let link = String::from_utf8_lossy(&entry.link);
                let climbs = || Fault::content(format!("the archive holds a link that climbs out: {link:?}"));
                let to = clean_text(from, &link).ok_or_else(climbs)?;
                self.links.insert(path, to);
                return Ok(());
            }
            _ => return Ok(()),
        }
        if matches!(&*path, "index.json" | "manifest.json") {
            let mut bytes = Vec::new();
            if entry.size > limits.manifest {
                return Err(Fault::content(format!("{} is longer than {} bytes", path, limits.manifest)));
            }
            data.read_to_end(&mut bytes).map_err(crate::error::damaged)?;
            self.small.insert(path, bytes);
            return Ok(());
        }
        let expected = path.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse().ok());
        let stored = inner.content.receive(data, entry.size, limits.linux().unpacked)?.commit(expected)?;
        self.blobs.insert(path, stored);
        Ok(())
    }

    fn blob(&self, path: &str) -> Result<(Digest, u64), Fault> {
        let missing = || Fault::content(format!("the archive lacks {path:?}"));
        let mut path = clean_text("", path).ok_or_else(missing)?;
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
pub(crate) fn file(inner: &Inner, path: &Path) -> Result<Vec<Imported>, Fault> {
    let mut files = Files::default();
    let mut budget = Budget::new(&inner.options.limits.linux());
    let opened = File::open(path).map_err(|error| Fault::content(error.to_string()))?;
    let unknown = "it is none of: .wasm, .wat, an OCI layout folder, an OCI archive, a docker-save archive";
    let walked = walk(opened, &mut budget, |entry, data| files.take(inner, entry, data));
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
        (Some(index), list) => match (from_index(&inner.content, index, limit), list) {
            // Some versions of Docker forget manifests of their own.
            (Err(Fault::Content(_)), Some(list)) => from_docker(inner, &files, &list),
            (images, _) => images,
        },
        (None, Some(list)) => from_docker(inner, &files, &list),
        (None, None) => Err(Fault::content(unknown)),
    }
}

/// The images of a `docker save` archive, each as an OCI manifest.
fn from_docker(inner: &Inner, files: &Files, list: &[u8]) -> Result<Vec<Imported>, Fault> {
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
    if list.is_empty() {
        return Err(Fault::content("the archive holds 0 images"));
    }
    few(list.len())?;
    let descriptor = |path: &str, media_type: Option<&str>| {
        let (digest, size) = files.blob(path)?;
        let media_type = match media_type {
            Some(media_type) => media_type.to_owned(),
            None => format!("{OCI_LAYER}{}", suffix(&inner.content.start(&digest)?)),
        };
        Ok(Descriptor { media_type, digest, size, platform: None, annotations: BTreeMap::new() })
    };
    let image = |saved: Saved| {
        if saved.layers.len() > inner.options.limits.layers {
            return Err(Fault::content(format!("it has {} layers", saved.layers.len())));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.into()),
            config: descriptor(&saved.config, Some(DOCKER_CONFIG))?,
            layers: saved.layers.iter().map(|path| descriptor(path, None)).collect::<Result<_, Fault>>()?,
            annotations: BTreeMap::new(),
        };
        let document = serde_json::to_vec(&manifest).map_err(std::io::Error::other)?;
        Ok(Imported { document, names: saved.repo_tags.unwrap_or_default() })
    };
    list.into_iter().map(image).collect()
}
