//! What the API server knows about images for its warnings: that the node of this process has an image that it cannot run. A module is read
//! once, by its imports and exports, and never compiled.

use image::{Artifact, Digest, Images, Keyring};
use kinds::ImageFacts;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// The largest module that is read, in bytes. Larger ones are reported by their pods.
const MAX_MODULE: u64 = 128 << 20;
/// Modules whose answer is remembered.
const MAX_KNOWN: usize = 1024;

/// Why a module can never run on this node, if that is so and the module is not too large.
pub(crate) fn never_runs(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let size = file.metadata().ok().map(|metadata| metadata.len()).filter(|size| *size <= MAX_MODULE)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    file.take(MAX_MODULE).read_to_end(&mut bytes).ok()?;
    wasm::inspect::never_runs(&bytes)
}

/// Knows the images of a content store.
#[derive(Clone)]
pub(crate) struct Advice(Arc<Inner>);

struct Inner {
    images: Images,
    /// The OCI runtime, without which Linux images wait.
    oci_runtime: PathBuf,
    /// Why a module never runs, by its digest.
    known: Mutex<HashMap<Digest, Option<String>>>,
    /// Held while a module is read: one at a time, because each is in memory then.
    reading: Arc<Semaphore>,
}

/// What is known of an image without reading its module.
enum Known {
    Nothing,
    /// And why its pods wait.
    Linux(Option<String>),
    /// And why it never runs.
    Wasm(Option<String>),
    Unread(PathBuf, Digest),
}

impl Advice {
    pub(crate) fn new(images: Images, oci_runtime: PathBuf) -> Self {
        Self(Arc::new(Inner { images, oci_runtime, known: Mutex::default(), reading: Arc::new(Semaphore::new(1)) }))
    }

    /// Asks the store, on a thread that may wait for the disk. Images that need credentials are not told, because nobody has shown any.
    async fn known(&self, image: &str) -> Known {
        let (this, name) = (self.0.clone(), image.to_owned());
        let look = move || {
            let Ok(Some(found)) = this.images.usable(&name, &Keyring::new()) else { return Known::Nothing };
            match found.artifact {
                Artifact::Linux { platform, .. } => Known::Linux(
                    runc::find(&this.oci_runtime)
                        .err()
                        .map(|why| format!("{name:?} is a Linux image ({platform}): its pods will wait, since {why}")),
                ),
                Artifact::Wasm { path, digest } => match this.known.lock().get(&digest) {
                    Some(why) => Known::Wasm(why.clone()),
                    None => Known::Unread(path, digest),
                },
            }
        };
        spawn_blocking(look).await.unwrap_or(Known::Nothing)
    }

    /// Reads a module and remembers the answer, even if nobody waits for it any more.
    async fn read(&self, path: PathBuf, digest: Digest) -> Option<String> {
        let turn = self.0.reading.clone().acquire_owned().await.ok()?;
        let this = self.0.clone();
        let read = move || {
            let _turn = turn;
            // Whoever had the turn before may have read it.
            if let Some(known) = this.known.lock().get(&digest) {
                return known.clone();
            }
            let why = never_runs(&path);
            let mut known = this.known.lock();
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(digest, why.clone());
            why
        };
        spawn_blocking(read).await.ok()?
    }
}

fn cannot_run(image: &str, why: &str) -> String {
    format!("{image:?}, as this node has it, cannot run: {why}")
}

#[async_trait::async_trait]
impl kinds::ImageAdvice for Advice {
    async fn about(&self, image: &str) -> ImageFacts {
        match self.known(image).await {
            Known::Nothing => ImageFacts::default(),
            Known::Linux(problem) => ImageFacts { is_wasm: false, problem },
            Known::Wasm(why) => ImageFacts { is_wasm: true, problem: why.map(|why| cannot_run(image, &why)) },
            Known::Unread(path, digest) => {
                let why = self.read(path, digest).await;
                ImageFacts { is_wasm: true, problem: why.map(|why| cannot_run(image, &why)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinds::ImageAdvice as _;

    #[tokio::test]
    async fn a_module_is_read_once_and_what_is_wrong_is_told_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let images = Images::open(folder.path().join("images"), image::Options::default()).expect("a store");
        for (name, text) in [
            (
                "nn:1",
                r#"(component (import "wasi:nn/graph@0.2.0" (instance)) (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
            ),
            ("fine:1", r#"(module (func (export "_start")))"#),
        ] {
            let file = folder.path().join("it.wat");
            std::fs::write(&file, text).expect("written");
            images.load(&file, Some(name)).await.expect("loaded");
        }
        let advice = Advice::new(images.clone(), "runc".into());
        assert_eq!(advice.about("fine:1").await, ImageFacts { is_wasm: true, problem: None });
        assert_eq!(advice.about("absent:1").await, ImageFacts::default());
        assert_eq!(advice.about("Not A Name").await, ImageFacts::default());
        let told = advice.about("nn:1").await.problem.expect("it cannot run");
        assert!(told.starts_with(r#""nn:1", as this node has it, cannot run: it imports what this node"#), "{told}");
        assert!(told.ends_with(": wasi:nn/graph@0.2.0"), "{told}");
        assert_eq!(advice.0.known.lock().len(), 2);
        // Remembered by its digest, whatever the name is.
        let Known::Unread(_, digest) = Advice::new(images.clone(), "runc".into()).known("nn:1").await else {
            panic!("it was read")
        };
        advice.0.known.lock().insert(digest, Some("remembered".into()));
        images.tag("nn:1", "other:1").await.expect("tagged");
        assert_eq!(
            advice.about("other:1").await.problem.as_deref(),
            Some(r#""other:1", as this node has it, cannot run: remembered"#)
        );
    }

    #[test]
    fn a_module_that_is_too_large_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("large.wasm");
        std::fs::write(&path, b"\0asm\x01\0\0\0").expect("written");
        assert!(never_runs(&path).is_some(), "it exports nothing");
        File::options().write(true).open(&path).and_then(|file| file.set_len(MAX_MODULE + 1)).expect("longer");
        assert_eq!(never_runs(&path), None);
    }
}
