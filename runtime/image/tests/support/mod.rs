//! Images made by hand, and registries.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the answer")]
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod fake;
pub mod scene;

use flate2::{Compression, write::GzEncoder};
use image::{Digest, Images, Limits, Options};
use serde_json::{Value, json};
use std::{fs, io::Write, path::Path};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// A module that is like no other: `mark` is in it.
pub fn module(mark: &str) -> Vec<u8> {
    wat::parse_str(format!(r#"(module (func (export "_start")) (memory 256) (data (i32.const 0) "{mark}"))"#)).unwrap()
}

pub fn component() -> Vec<u8> {
    wat::parse_str("(component)").unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A tar entry: a name, and its content or what it links to.
pub enum Item<'a> {
    File(&'a str, &'a [u8]),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Folder(&'a str),
    Other(&'a str, tar::EntryType),
}

pub fn tar(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for item in items {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        let (name, data, kind) = match item {
            Item::File(name, data) => (name, *data, tar::EntryType::Regular),
            Item::Symlink(name, _) => (name, &b""[..], tar::EntryType::Symlink),
            Item::HardLink(name, _) => (name, &b""[..], tar::EntryType::Link),
            Item::Folder(name) => (name, &b""[..], tar::EntryType::Directory),
            Item::Other(name, kind) => (name, &b""[..], *kind),
        };
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        if let Item::Symlink(_, to) | Item::HardLink(_, to) = item {
            header.set_link_name_literal(to).unwrap();
        }
        // Hostile names are the point: past the checks of the builder.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An entry of an archive, to the letter.
#[derive(Clone)]
pub struct Raw<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub link: &'a [u8],
    pub mode: u32,
    pub owner: (u64, u64),
    pub modified: u64,
    pub device: (u32, u32),
    pub data: &'a [u8],
    /// Records of an extended header before it.
    pub pax: &'a [(&'a str, &'a [u8])],
}

impl<'a> Raw<'a> {
    pub fn new(name: &'a str, kind: u8) -> Self {
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        let (owner, modified, device) = ((0, 0), 1_000_000_000, (0, 0));
        Self { name: name.as_bytes(), kind, link: b"", mode, owner, modified, device, data: b"", pax: &[] }
    }

    pub fn file(name: &'a str, data: &'a [u8]) -> Self {
        Self { data, ..Self::new(name, b'0') }
    }

    pub fn folder(name: &'a str) -> Self {
        Self::new(name, b'5')
    }

    pub fn symlink(name: &'a str, link: &'a str) -> Self {
        Self { link: link.as_bytes(), ..Self::new(name, b'2') }
    }

    pub fn hard_link(name: &'a str, link: &'a str) -> Self {
        Self { link: link.as_bytes(), ..Self::new(name, b'1') }
    }
}

/// A record of an extended header.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).find(|length: &usize| length.to_string().len() + rest == *length).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// An archive of these entries. Names beyond 100 bytes get a header of their own.
pub fn raw(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let mut records: Vec<u8> = entry.pax.iter().flat_map(|(key, value)| record(key, value)).collect();
        if entry.name.len() > 100 {
            records.extend(record("path", entry.name));
        }
        if entry.link.len() > 100 {
            records.extend(record("linkpath", entry.link));
        }
        if !records.is_empty() {
            block(&mut archive, &Raw { data: &records, ..Raw::new("pax", b'x') });
        }
        block(&mut archive, entry);
    }
    archive.extend([0; 1024]);
    archive
}

fn block(archive: &mut Vec<u8>, entry: &Raw<'_>) {
    let mut header = tar::Header::new_ustar();
    header.set_mode(entry.mode);
    header.set_uid(entry.owner.0);
    header.set_gid(entry.owner.1);
    header.set_mtime(entry.modified);
    header.set_size(entry.data.len() as u64);
    header.set_device_major(entry.device.0).unwrap();
    header.set_device_minor(entry.device.1).unwrap();
    let old = header.as_old_mut();
    old.linkflag = [entry.kind];
    let length = entry.name.len().min(100);
    old.name[..length].copy_from_slice(&entry.name[..length]);
    let linked = entry.link.len().min(100);
    old.linkname[..linked].copy_from_slice(&entry.link[..linked]);
    header.set_cksum();
    archive.extend(header.as_bytes());
    archive.extend(entry.data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// The architecture of this machine, as images call it.
pub fn here() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }
}

/// Content-addressed documents, to be written as a layout or served.
#[derive(Clone, Default)]
pub struct Blobs(pub Vec<(Digest, Vec<u8>)>);

impl Blobs {
    pub fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = Digest::of(&bytes);
        let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        self.0.push((digest, bytes));
        descriptor
    }

    pub fn image(&mut self, config: (&str, Value), layers: &[(&str, Vec<u8>)]) -> Value {
        let config = self.add(config.0, config.1.to_string().into_bytes());
        let layers: Vec<_> = layers.iter().map(|(media_type, bytes)| self.add(media_type, bytes.clone())).collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.add(MANIFEST, manifest.to_string().into_bytes())
    }

    /// A Linux image of these archives, packed as their type says.
    pub fn linux(&mut self, layers: &[(&'static str, Vec<u8>)]) -> Value {
        let (media_type, mut config) = config(here(), &["/bin/sh"]);
        config["rootfs"]["diff_ids"] = layers.iter().map(|(_, plain)| json!(Digest::of(plain))).collect();
        let pack = |(media_type, plain): &(&'static str, Vec<u8>)| match *media_type {
            GZIP => (GZIP, gzip(plain)),
            ZSTD => (ZSTD, zstd(plain)),
            other => (other, plain.clone()),
        };
        let layers: Vec<_> = layers.iter().map(pack).collect();
        self.image((media_type, config), &layers)
    }

    /// A plain artifact of the CNCF layout.
    pub fn artifact(&mut self, wasm: Vec<u8>) -> Value {
        let config = json!({"architecture": "wasm", "os": "wasip1", "layerDigests": [Digest::of(&wasm)]});
        self.image((WASM_CONFIG, config), &[("application/wasm", wasm)])
    }

    pub fn index(&mut self, entries: &[(&str, Value)]) -> Value {
        let entries: Vec<_> = entries
            .iter()
            .map(|(platform, descriptor)| {
                let (os, architecture) = platform.split_once('/').unwrap();
                let mut descriptor = descriptor.clone();
                descriptor["platform"] = json!({"os": os, "architecture": architecture});
                descriptor
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        self.add(INDEX, index.to_string().into_bytes())
    }

    pub fn layout(&self, folder: &Path, top: &Value) {
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        for (digest, bytes) in &self.0 {
            fs::write(folder.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        }
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]});
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
    }
}

pub fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

/// A config of an image for a platform.
pub fn config(platform: &str, entrypoint: &[&str]) -> (&'static str, Value) {
    let (os, architecture) = platform.split_once('/').unwrap();
    let rest = json!({"Entrypoint": entrypoint, "Env": ["A=b"], "WorkingDir": "/w", "Cmd": null});
    let rootfs = json!({"type": "layers", "diff_ids": []});
    (CONFIG, json!({"os": os, "architecture": architecture, "config": rest, "rootfs": rootfs}))
}

pub fn store(folder: &Path, change: impl FnOnce(&mut Options)) -> Images {
    // Every binary that uses TLS installs the one provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut options = Options::default();
    change(&mut options);
    Images::open(folder, options).unwrap()
}

pub fn small() -> Limits {
    Limits { unpacked: 1 << 20, linux_unpacked: 1 << 20, module: 1 << 19, entries: 100, ..Limits::default() }
}
