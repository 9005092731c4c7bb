//! A store with one Linux image.

use super::{Blobs, GZIP, store};
use image::{Error, Images, Options, Pulled};
use rustix::fs::lgetxattr;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::{TempDir, tempdir};

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[allow(clippy::disallowed_methods, reason = "a test is told by its environment what it must not skip")]
pub fn skip(what: &str) -> bool {
    let text = format!("SKIPPED: {what}");
    assert!(std::env::var("SAMPAN_TEST_REQUIRE").as_deref() != Ok("all"), "{text}");
    eprintln!("{text}");
    true
}

/// A store with a Linux image of these layers.
pub struct Scene {
    pub folder: TempDir,
    pub images: Images,
}

impl Scene {
    pub fn new(change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempdir().unwrap();
        let images = store(&folder.path().join("store"), change);
        Self { folder, images }
    }

    pub async fn load(&self, name: &str, layers: &[(&'static str, Vec<u8>)]) -> Result<Pulled, Error> {
        let mut blobs = Blobs::default();
        let top = blobs.linux(layers);
        let layout = self.folder.path().join("layout");
        blobs.layout(&layout, &top);
        self.images.load(&layout, Some(name)).await
    }

    pub async fn layers(&self, layers: &[Vec<u8>]) -> Result<Vec<PathBuf>, Error> {
        let layers: Vec<_> = layers.iter().map(|layer| (GZIP, layer.clone())).collect();
        let loaded = self.load("a:1", &layers).await?;
        Ok(self.images.layers(&loaded).await?.expect("a Linux image"))
    }

    pub async fn folder(&self, layers: &[Vec<u8>]) -> Result<PathBuf, Error> {
        let layers: Vec<_> = layers.iter().map(|layer| (GZIP, layer.clone())).collect();
        let loaded = self.load("a:1", &layers).await?;
        Ok(self.images.folder(&loaded).await?.expect("an image with files"))
    }

    pub fn left(&self, folder: &str) -> usize {
        fs::read_dir(self.folder.path().join("store").join(folder)).unwrap().count()
    }
}

pub fn me() -> (u32, u32) {
    (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
}

pub fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let length = lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

/// Whether this test has a mount namespace of its own; if not, it is run again in one.
#[allow(clippy::disallowed_methods, reason = "a test finds out where it runs")]
pub fn alone(name: &str) -> bool {
    const INSIDE: &str = "SAMPAN_TEST_MOUNTS";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let kind = if is_root() { "-m" } else { "-Urm" };
    if !Command::new("unshare").args([kind, "true"]).status().is_ok_and(|status| status.success()) {
        skip("no mount namespace");
        return false;
    }
    let mut command = Command::new("unshare");
    command.arg(kind).arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    assert!(command.env(INSIDE, "1").status().unwrap().success(), "{name} failed in its mount namespace");
    false
}
