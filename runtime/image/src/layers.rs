//! Unpacks the layers of Linux images in the store.
//!
//! ```text
//! layers/HEX/fs/           the files of a layer, a lower folder of overlays
//! layers/HEX/layer.json    what it takes ([`Unpacked`])
//! ```
//!
//! HEX is of the chain ID, of the layer and all below: what an archive leaves open, such as the mode of a folder of which it only has a
//! file, comes from below. Images with the same lowest layers share them.

use crate::{
    Error, Images, Limits, Pulled,
    chain::{Layer, Unpacked},
    content::{Content, blocking, rename},
    error::Fault,
    images::Inner,
    lower,
    removal::remove_all,
    walk::Budget,
};
use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::Arc,
};

impl Images {
    /// The layers of a Linux image as folders, the lowest first, to be mounted as an overlay with the option `userxattr`; those that are not
    /// there are unpacked now. `None` for an image of Wasm. Layers that others hide altogether are left out.
    ///
    /// Nobody may change them. They stay as long as an image has them, or somebody holds a shared lock (`flock`) of the folder.
    pub async fn layers(&self, image: &Pulled) -> Result<Option<Vec<PathBuf>>, Error> {
        let refused = |fault: Fault| match fault {
            Fault::Store(text) => Error::Store(text),
            Fault::Content(cause) => Error::ErrImagePull { image: image.name.clone(), cause, hint: String::new() },
            other => other.into(),
        };
        let Some(record) = self.0.content.record(&image.digest)? else {
            return Err(refused(Fault::content("it is no longer in the store")));
        };
        if record.wasm.is_some() {
            return Ok(None);
        }
        let Some(layers) = record.layers else {
            return Err(refused(Fault::content("its layers were not fetched: pull or load the image again")));
        };
        let mut folders = Vec::new();
        let mut budget = Budget::new(&self.0.options.limits.linux());
        for layer in layers {
            let unpacked = self.0.unpacked(&layer, &folders, &mut budget).await.map_err(refused)?;
            if unpacked.opaque {
                folders.clear();
            }
            folders.push(self.0.content.layer(&layer.chain).join("fs"));
        }
        Ok(Some(folders))
    }
}

impl Inner {
    /// A layer, unpacked now if it is not.
    async fn unpacked(
        self: &Arc<Self>,
        layer: &Layer,
        below: &[PathBuf],
        budget: &mut Budget,
    ) -> Result<Unpacked, Fault> {
        let known = |content: &Content, budget: &mut Budget| -> Result<Option<Unpacked>, Fault> {
            let Some(known) = content.unpacked(&layer.chain)? else { return Ok(None) };
            budget.spend(known.bytes, known.entries)?;
            Ok(Some(known))
        };
        if let Some(known) = known(&self.content, budget)? {
            return Ok(known);
        }
        let turn = self.turns.of(layer.chain).lock_owned().await;
        if let Some(known) = known(&self.content, budget)? {
            return Ok(known);
        }
        let held = (turn, self.turns.slots.clone().acquire_owned().await, self.content.shared().await?);
        let (this, layer, below, mut rest) = (self.clone(), *layer, below.to_vec(), budget.clone());
        let (unpacked, rest) = blocking(move || {
            // Whoever asked may be gone before it is done.
            let _held = held;
            let unpacked = this.content.unpack_layer(&layer, &below, &this.options.limits.linux(), &mut rest)?;
            Ok((unpacked, rest))
        })
        .await?;
        *budget = rest;
        Ok(unpacked)
    }
}

impl Content {
    fn unpack_layer(
        &self,
        layer: &Layer,
        below: &[PathBuf],
        limits: &Limits,
        budget: &mut Budget,
    ) -> Result<Unpacked, Fault> {
        let blob = self.blob(&layer.blob);
        if !blob.is_file() {
            return Err(Fault::content(format!("the blob {} is missing: pull or load the image again", layer.blob)));
        }
        let ((), path) = self.temporary(|path| DirBuilder::new().mode(0o700).create(path))?;
        let mut unpack = || {
            let target = path.join("fs");
            DirBuilder::new().mode(0o700).create(&target)?;
            let unpacked = lower::unpack(self, &blob, &layer.diff, below, &target, limits, budget)?;
            let note = path.join("layer.json");
            fs::write(&note, serde_json::to_vec(&unpacked).map_err(std::io::Error::other)?)?;
            File::open(&note)?.sync_all()?;
            File::open(&path)?.sync_all()?;
            match rename(&path, &self.layer(&layer.chain)) {
                // another process was faster
                Err(_) if self.unpacked(&layer.chain)?.is_some() => remove_all(&path)?,
                placed => placed?,
            }
            Ok(unpacked)
        };
        unpack().inspect_err(|_| drop(remove_all(&path)))
    }
}
