//! The images of a node: each artifact is prepared once, and forgotten when no container uses it.

use crate::{
    compile::Compilers,
    config,
    image::Image,
    load,
    pool::{self, LazyPool, Pool},
};
use container::{Artifact, Error, Progress, Result};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs::File,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::OnceCell, time::Instant};

/// Delay before an artifact is compiled again that failed for lack of resources.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The images by digest.
pub(crate) struct PreparedImages {
    compilers: Compilers,
    compatibility: OnceCell<String>,
    images: Mutex<HashMap<String, Arc<Slot>>>,
}

/// One artifact. The lock is held during compilation, so that concurrent callers wait for the result.
#[derive(Default)]
struct Slot(tokio::sync::Mutex<Preparation>);

#[derive(Default)]
enum Preparation {
    #[default]
    Nothing,
    Image(Weak<Image>),
    /// Final: the digest identifies the bytes.
    Invalid(String),
    /// Not retried before this time.
    Exhausted(String, Instant),
}

impl PreparedImages {
    pub(crate) fn new(compilers: Compilers) -> Self {
        Self { compilers, compatibility: OnceCell::new(), images: Mutex::default() }
    }

    /// Identifies the code that this node runs ([`config::compatibility`]). Opens the cache's folder before its first use.
    pub(crate) async fn compatibility(&self) -> Result<&str> {
        let make = async || {
            let cache = self.compilers.cache.clone();
            pool::blocking(move || {
                cache.open()?;
                Ok(config::compatibility(&config::compiler(None)?))
            })
            .await
        };
        self.compatibility.get_or_try_init(make).await.map(String::as_str)
    }

    /// Returns the image of an artifact, which is compiled once for concurrent callers. `scope` is that of [`container::Runtime::prepare`].
    pub(crate) async fn prepare(
        &self,
        pool: &LazyPool,
        artifact: &Artifact,
        scope: &str,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Arc<Image>> {
        let compatibility = self.compatibility().await?;
        let slot = self.images.lock().entry(artifact.digest().to_string()).or_default().clone();
        let mut preparation = slot.0.lock().await;
        match &*preparation {
            Preparation::Image(image) => {
                if let Some(image) = image.upgrade() {
                    return Ok(image);
                }
            }
            Preparation::Invalid(text) => return Err(Error::Invalid(text.clone())),
            Preparation::Exhausted(text, until) if Instant::now() < *until => {
                return Err(Error::Exhausted(text.clone()));
            }
            Preparation::Exhausted(..) | Preparation::Nothing => {}
        }
        let result = self.compilers.image(compatibility, pool, artifact, scope, progress).await;
        match result {
            Ok(image) => {
                let image = Arc::new(image);
                *preparation = Preparation::Image(Arc::downgrade(&image));
                Ok(image)
            }
            Err(error) => {
                *preparation = match &error {
                    Error::Invalid(text) => Preparation::Invalid(text.clone()),
                    Error::Exhausted(text) => Preparation::Exhausted(text.clone(), Instant::now() + RETRY_DELAY),
                    _ => Preparation::Nothing,
                };
                Err(error)
            }
        }
    }

    /// The code of an artifact that is prepared, as [`Compilers::sealed`].
    pub(crate) async fn sealed(&self, artifact: &Artifact) -> Result<OwnedFd> {
        self.compilers.sealed(self.compatibility().await?, artifact).await
    }

    /// Makes the image of an artifact from its code in an open file ([`load::open`]), if it is not prepared.
    pub(crate) async fn open(&self, pool: &Arc<Pool>, artifact: &Artifact, code: File) -> Result<Arc<Image>> {
        let slot = self.images.lock().entry(artifact.digest().to_string()).or_default().clone();
        let mut preparation = slot.0.lock().await;
        if let Preparation::Image(image) = &*preparation
            && let Some(image) = image.upgrade()
        {
            return Ok(image);
        }
        let (pool, artifact) = (pool.clone(), artifact.clone());
        let image = pool::blocking(move || Ok(load::open(&pool, artifact, &code))).await??;
        let image = Arc::new(image);
        *preparation = Preparation::Image(Arc::downgrade(&image));
        Ok(image)
    }

    /// Returns the image of a digest if it is prepared and in use.
    pub(crate) fn get(&self, digest: &str) -> Option<Arc<Image>> {
        let slot = self.images.lock().get(digest).cloned()?;
        match &*slot.0.try_lock().ok()? {
            Preparation::Image(image) => image.upgrade(),
            _ => None,
        }
    }

    /// Removes entries of artifacts whose image is gone and whose preparation did not fail.
    pub(crate) fn forget_unused(&self) {
        self.images.lock().retain(|_, slot| {
            Arc::strong_count(slot) > 1
                || slot.0.try_lock().map_or(true, |preparation| match &*preparation {
                    Preparation::Image(image) => image.strong_count() > 0,
                    Preparation::Nothing => false,
                    Preparation::Invalid(_) | Preparation::Exhausted(..) => true,
                })
        });
    }
}
