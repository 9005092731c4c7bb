//! Images that pods wait for after a failed pull. If an image arrives in another way (`sampan image load`, which is another process, or the
//! pull of another pod), the waiting pods start at once and do not wait for their back-off.

use crate::{
    handle::{Handle, Message},
    images::{Images, Keyring},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often the awaited images are looked up. A lookup reads two small files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The pods that wait for images, by image. Bounded by the pods of the node: each waits for an image once.
#[derive(Default)]
pub(crate) struct AwaitedImages {
    images: Mutex<HashMap<String, Vec<Weak<Handle>>>>,
    added: Notify,
}

impl AwaitedImages {
    /// Registers a pod as waiting for an image. It is notified once.
    pub(crate) fn add(&self, image: &str, handle: &Arc<Handle>) {
        let mut images = self.images.lock();
        let waiting = images.entry(image.to_owned()).or_default();
        if !waiting.iter().any(|other| other.as_ptr() == Arc::as_ptr(handle)) {
            waiting.push(Arc::downgrade(handle));
        }
        self.added.notify_one();
    }

    /// The images that pods wait for. Forgets pods that no longer exist.
    fn names(&self) -> Vec<String> {
        let mut images = self.images.lock();
        images.retain(|_, waiting| {
            waiting.retain(|handle| handle.strong_count() > 0);
            !waiting.is_empty()
        });
        images.keys().cloned().collect()
    }

    fn notify(&self, image: &str) {
        for handle in self.images.lock().remove(image).into_iter().flatten().filter_map(|handle| handle.upgrade()) {
            handle.send(Message::ImagePresent(image.to_owned()));
        }
    }
}

/// Looks up awaited images until `token` is cancelled.
pub(crate) async fn run(awaited: Arc<AwaitedImages>, images: Arc<dyn Images>, token: CancellationToken) {
    let poll = async {
        loop {
            let names = awaited.names();
            if names.is_empty() {
                awaited.added.notified().await;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
            for image in names {
                // An image that requires credentials is found at the pod's next attempt.
                if matches!(images.present(&image, &Keyring::new()).await, Ok(Some(_))) {
                    awaited.notify(&image);
                }
            }
        }
    };
    tokio::select! {
        () = token.cancelled() => {}
        () = poll => {}
    }
}
