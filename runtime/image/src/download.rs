//! Fetches blobs: verified while they arrive, resumed where an earlier attempt ended, each by one at a time.

use crate::{
    Digest,
    content::{Content, DiskReservation, blocking},
    error::Fault,
    manifest::Descriptor,
    registry::Session,
};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Duration,
};
use tokio::time::sleep;

/// How often a blob is requested when the connection breaks.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Fetches one blob: verified while it arrives, resumed where an earlier attempt ended.
pub(crate) async fn download(content: &Content, session: &Session, blob: &Descriptor) -> Result<(), Fault> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match attempt_download(content, session, blob).await {
            Err(fault @ (Fault::Network(_) | Fault::Unavailable(_))) if attempt < ATTEMPTS => {
                tracing::debug!(blob = %blob.digest, ?fault, attempt, "a download broke off");
                sleep(pause).await;
                pause *= 2;
            }
            result => return result,
        }
    }
    unreachable!("the last attempt returns")
}

async fn attempt_download(content: &Content, session: &Session, blob: &Descriptor) -> Result<(), Fault> {
    let Some(mut partial) = Partial::open(content, blob).await? else { return Ok(()) };
    if partial.size < blob.size {
        let (mut response, start) = match session.blob(&blob.digest, partial.size).await {
            Err(Fault::Content(_)) if partial.size > 0 => {
                partial.restart()?; // the registry refuses the offset
                session.blob(&blob.digest, 0).await?
            }
            other => other?,
        };
        match start {
            start if start == partial.size => {}
            0 => partial.restart()?,
            start => return Err(Fault::content(format!("the registry sent byte {start} on, not {}", partial.size))),
        }
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => partial.write(&chunk)?,
                Ok(None) => break,
                Err(error) => {
                    let text = crate::registry::chain(&error);
                    return Err(Fault::Network(format!("the download of {} broke off: {text}", blob.digest)));
                }
            }
        }
    }
    if partial.size < blob.size {
        let text = format!("the download of {} ended after {} of {} bytes", blob.digest, partial.size, blob.size);
        return Err(Fault::Network(text));
    }
    blocking(move || partial.finish()).await
}

/// A blob that is being downloaded, locked against other downloads of it.
struct Partial {
    content: Content,
    file: File,
    path: PathBuf,
    hasher: Sha256,
    size: u64,
    expected: Digest,
    limit: u64,
    /// For the bytes that have not arrived.
    room: DiskReservation,
}

impl Partial {
    /// Opens the file of an earlier attempt, once no other download has its lock. `None`: the blob is stored by now.
    async fn open(content: &Content, blob: &Descriptor) -> Result<Option<Self>, Fault> {
        let (content, expected, limit) = (content.clone(), blob.digest, blob.size);
        blocking(move || {
            let path = content.partial(&expected);
            loop {
                let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
                if let Err(error) = file.try_lock() {
                    match error {
                        TryLockError::WouldBlock => file.lock()?,
                        TryLockError::Error(error) => return Err(error.into()),
                    }
                }
                if content.has(&expected, limit) {
                    let _ = fs::remove_file(&path);
                    return Ok(None);
                }
                // The previous holder of the lock may have moved or removed the file.
                if !fs::metadata(&path).is_ok_and(|found| file.metadata().is_ok_and(|own| own.ino() == found.ino())) {
                    continue;
                }
                let mut hasher = Sha256::new();
                let size = io::copy(&mut file, &mut hasher)?;
                let room = content.reserve(limit.saturating_sub(size));
                let room = room.inspect_err(|_| drop(fs::remove_file(&path)))?;
                let mut partial = Self { content, file, path, hasher, size, expected, limit, room };
                if size > limit {
                    partial.restart()?;
                }
                return Ok(Some(partial));
            }
        })
        .await
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)?;
        self.hasher = Sha256::new();
        self.size = 0;
        self.room.spend(self.limit);
        self.room = self.content.reserve(self.limit).inspect_err(|_| self.give_up())?;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.size += bytes.len() as u64;
        if self.size > self.limit {
            self.give_up();
            return Err(Fault::content(format!("the blob {} has more than its {} bytes", self.expected, self.limit)));
        }
        self.hasher.update(bytes);
        // A full disk needs the space, and the last write may be incomplete.
        self.file.write_all(bytes).inspect_err(|_| self.give_up())?;
        self.room.spend(bytes.len() as u64);
        Ok(())
    }

    /// Removes the received bytes.
    fn give_up(&self) {
        let _ = fs::remove_file(&self.path);
    }

    fn finish(self) -> Result<(), Fault> {
        let found = Digest::finish(self.hasher);
        if found != self.expected {
            fs::remove_file(&self.path)?;
            return Err(Fault::content(format!("the content of {} has digest {found}", self.expected)));
        }
        self.file.sync_data()?;
        Ok(crate::content::rename(&self.path, &self.content.blob(&self.expected))?)
    }
}
