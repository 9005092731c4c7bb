//! `sampan image push`: pushes a stored image to a registry.

use crate::{
    Credential, Digest, Error, Images, Keyring, Reference,
    content::blocking,
    error::Fault,
    manifest::{self, Descriptor, Document},
    registry::Session,
};
use std::{fs::File, io::Read};

impl Images {
    /// Pushes the image `name` to the registry in `to`, or else in its own name. Returns the digest there. Of an image with several
    /// platforms the stored one is pushed.
    pub async fn push(&self, name: &str, to: Option<&str>, keyring: &Keyring) -> Result<Digest, Error> {
        let source = Reference::parse(name)?;
        let target = to.map_or(Ok(source.clone()), Reference::parse)?;
        let _lock = self.0.content.shared().await?;
        let image = self.get(name)?.ok_or_else(|| Error::Refused(format!("{source}: no such image in the store")))?;
        let record = self.0.content.record(&image.digest)?;
        let record = record.ok_or_else(|| Error::Refused(format!("{source}: no such image in the store")))?;
        let bytes = self.0.content.bytes(&record.manifest.digest, self.0.options.limits.manifest)?;
        let Document::Manifest(manifest) = manifest::read(&bytes).map_err(Error::Refused)? else {
            return Err(Error::Refused(format!("{source}: its record is damaged")));
        };
        let blobs: Vec<_> = manifest.layers.iter().chain([&manifest.config]).collect();
        if blobs.iter().any(|blob| !self.0.content.has(&blob.digest, blob.size)) {
            return Err(Error::Refused(format!(
                "{source}: not all of its layers are stored (it is a {})",
                image.layout
            )));
        }
        let failed = |fault: Fault| match fault {
            Fault::Store(text) => Error::Store(text),
            fault => Error::Refused(format!("failed to push {target}: {}", told(fault))),
        };
        let http = self.0.http().await.map_err(failed)?;
        let mut credentials: Vec<Option<Credential>> =
            keyring.lookup(&target.repository()).into_iter().map(Some).collect();
        credentials.push(None);
        let mut result = Ok(());
        for credential in credentials {
            let limits = self.0.options.limits.clone();
            let session = Session::open(http.clone(), limits, &target, credential).await.map_err(failed)?;
            result = self.push_all(&session, &blobs, &target, &record.manifest, &bytes).await;
            if !matches!(result, Err(Fault::Denied(_))) {
                break;
            }
        }
        result.map(|()| record.manifest.digest).map_err(failed)
    }

    async fn push_all(
        &self,
        session: &Session,
        blobs: &[&Descriptor],
        target: &Reference,
        manifest: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        for blob in blobs {
            if session.has_blob(&blob.digest).await? {
                continue;
            }
            let mut file = Some(File::open(self.0.content.blob(&blob.digest))?);
            let read = async |size: usize| {
                let mut open = file.take().expect("each read puts it back");
                let (piece, open) = blocking(move || {
                    let mut piece = Vec::new();
                    (&mut open).take(size as u64).read_to_end(&mut piece)?;
                    Ok((piece, open))
                })
                .await?;
                file = Some(open);
                Ok(piece)
            };
            session.push_blob(&blob.digest, read).await?;
        }
        let reference = target.tag.clone().unwrap_or_else(|| manifest.digest.to_string());
        session.push_manifest(&reference, &manifest.media_type, bytes).await
    }
}

fn told(fault: Fault) -> String {
    match fault {
        Fault::Denied(text) => format!("access denied: {text}"),
        Fault::NotFound(text)
        | Fault::Unavailable(text)
        | Fault::Network(text)
        | Fault::Content(text)
        | Fault::Store(text) => text,
    }
}
