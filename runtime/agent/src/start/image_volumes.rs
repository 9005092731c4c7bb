//! The images that a container mounts as volumes. They are pulled when it starts, as its own is: what fails is told of the container, and waits for
//! the back-off of the image.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/volumes/#image> (KEP-4639).

use super::{Result, Retry, Start, StartError};
use crate::{
    images::Policy,
    pod,
    volumes::{Owner, SyncedVolume},
};
use k8s_openapi::api::core::v1::Container;
use std::sync::Arc;

impl Start {
    /// Pulls these images, and puts their folders in the place of the volumes. Returns their ids.
    pub(super) async fn image_volumes(&mut self, container: &Container) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        let pod = self.pod.clone();
        for (volume, source) in pod::image_volumes(&pod, container) {
            let image = source.reference.as_deref().unwrap_or_default();
            let policy = Policy::of(image, source.pull_policy.as_deref());
            let of_volume = |error| StartError { image: Some(image.to_owned()), ..error };
            let pulled = self.image(image, policy).await.map_err(of_volume)?;
            let failed = |text: String| StartError::new("CreateContainerError", text, Retry::Later);
            let folder = self.shared.images.folder(&pulled.image_id).await;
            let folder = folder.map_err(|error| failed(format!("failed to mount image {image:?}: {error}")))?;
            let path = folder.ok_or_else(|| failed(format!("failed to mount image {image:?}: it has no files")))?;
            let synced = SyncedVolume { path, owner: Owner::Image, read_only: true, resync_at: None, notice: None };
            Arc::make_mut(&mut self.volumes).insert(volume.to_owned(), synced);
            ids.push(pulled.image_id);
        }
        Ok(ids)
    }
}
