//! `sampan image load`: makes images of local files.

use crate::{
    Error, Images, Pulled, Reference,
    access::Origin,
    archive::{self, Imported},
    content::blocking,
    error::Fault,
    images::Inner,
    manifest::{Descriptor, Manifest, OCI_MANIFEST},
    pull::{Source, assemble, keep},
    registry::printable,
};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

impl Images {
    /// Loads a `.wasm` or `.wat` file, an OCI layout folder, or an OCI or Docker archive (plain or compressed) of one image. Without `name`
    /// the image has the names in the archive, of which the first is returned; a bare module is `localhost/` and the name of its file. A
    /// cluster may use the store at the same time.
    pub async fn load(&self, path: impl AsRef<Path>, name: Option<&str>) -> Result<Pulled, Error> {
        let path = path.as_ref();
        let given = name.map(Reference::parse).transpose()?;
        let loaded = self.load_images(path, given, true).await?;
        loaded.into_iter().next().ok_or_else(|| Error::Refused(format!("{}: it holds no image", path.display())))
    }

    /// Loads all images of a file or folder, as [`Images::load`] does, under all names that it gives them.
    pub async fn load_all(&self, path: impl AsRef<Path>) -> Result<Vec<Pulled>, Error> {
        self.load_images(path.as_ref(), None, false).await
    }

    async fn load_images(&self, path: &Path, given: Option<Reference>, one: bool) -> Result<Vec<Pulled>, Error> {
        let refused = |fault: Fault| match fault {
            Fault::Store(text) => Error::Store(text),
            other => match Error::from(other) {
                Error::Refused(text) => Error::Refused(format!("{}: {text}", path.display())),
                error => error,
            },
        };
        let _lock = self.0.content.shared().await?;
        let (this, from) = (self.0.clone(), path.to_owned());
        let images = blocking(move || import(&this, &from)).await.map_err(refused)?;
        if one && images.len() > 1 {
            let names: Vec<_> = images.iter().flat_map(|image| &image.names).map(|name| printable(name)).collect();
            let text = format!("it holds {} images ({}), one is expected", images.len(), names.join(", "));
            return Err(refused(Fault::content(text)));
        }
        let mut loaded = Vec::new();
        for imported in images {
            let names = match &given {
                Some(given) => vec![given.clone()],
                None => imported.names.iter().map(|name| Reference::parse(name)).collect::<Result<_, _>>()?,
            };
            if names.is_empty() {
                return Err(refused(Fault::content("the image has no name, give one")));
            }
            let (image, record) = assemble(&self.0, &Source::Stored, imported.document).await.map_err(refused)?;
            for name in names {
                // A module without a given name is also found by its digest alone.
                loaded.push(keep(&self.0, &name, image, record.clone(), Origin::Loaded).await?);
            }
        }
        Ok(loaded)
    }
}

/// Stores the content of the file.
fn import(inner: &Arc<Inner>, path: &PathBuf) -> Result<Vec<Imported>, Fault> {
    let unreadable = |error: std::io::Error| Fault::content(error.to_string());
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return archive::folder(inner, path);
    }
    let mut start = Vec::new();
    File::open(path).map_err(unreadable)?.take(512).read_to_end(&mut start).map_err(unreadable)?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let text = start.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| matches!(byte, b'(' | b';'));
    if !start.starts_with(b"\0asm") && !text && !matches!(extension, "wasm" | "wat") {
        return archive::file(inner, path);
    }
    let limit = inner.options.limits.module;
    if metadata.len() > limit {
        return Err(Fault::content(format!("it has {} bytes, {limit} are allowed", metadata.len())));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let bytes = match bytes.starts_with(b"\0asm") {
        true => bytes,
        false if extension == "wasm" => return Err(Fault::content("it is not WebAssembly")),
        false => wat::parse_bytes(&bytes).map_err(|error| Fault::content(error.to_string()))?.into_owned(),
    };
    let name = format!("localhost/{}", file_name(path));
    Ok(vec![Imported { document: package(inner, &bytes)?, names: vec![name] }])
}

/// The name of a file as a component of an image's name.
fn file_name(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let parts = stem.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit()).filter(|part| !part.is_empty());
    let name = parts.collect::<Vec<_>>().join("-");
    if name.is_empty() { "module".into() } else { name }
}

/// Packages a module or component in the CNCF Wasm artifact layout, without time stamps, so that the same bytes give the same digest.
/// Returns the manifest.
fn package(inner: &Inner, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let component = bytes.get(4..8) == Some(&[0x0d, 0, 1, 0]);
    let layer = inner.content.put(bytes)?;
    let os = if component { "wasip2" } else { "wasip1" };
    let config = serde_json::json!({ "architecture": "wasm", "os": os, "layerDigests": [layer] });
    let config = serde_json::to_vec(&config).map_err(std::io::Error::other)?;
    let descriptor = |media_type: &str, digest, size: usize| Descriptor {
        media_type: media_type.into(),
        digest,
        size: size as u64,
        platform: None,
        annotations: Default::default(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.into()),
        config: descriptor("application/vnd.wasm.config.v0+json", inner.content.put(&config)?, config.len()),
        layers: vec![descriptor("application/wasm", layer, bytes.len())],
        annotations: Default::default(),
    };
    Ok(serde_json::to_vec(&manifest).map_err(std::io::Error::other)?)
}
