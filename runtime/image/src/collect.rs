//! Lists and removes images, and collects unused ones.

use crate::{
    Digest, Error, Images, Reference,
    content::{Content, Lock, Record, blocking},
    error::Fault,
    removal::{clear, remove, remove_all},
};
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    path::Path,
    time::SystemTime,
};

/// A stored image, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its full names, sorted; empty if all of them now name other images.
    pub names: Vec<String>,
    /// Its digest.
    pub digest: Digest,
    /// Bytes that it takes: of its blobs, and of its layers if they are unpacked; images may share some.
    pub size: u64,
    /// Which of the known layouts it has.
    pub layout: &'static str,
    /// When it was last pulled or loaded.
    pub added: Option<SystemTime>,
}

/// The result of a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// An image was being pulled or loaded: nothing was collected.
    pub busy: bool,
    /// The images that were deleted.
    pub images: Vec<Digest>,
    /// Bytes that were freed.
    pub freed: u64,
}

impl Images {
    /// All stored images.
    pub async fn list(&self) -> Result<Vec<Listed>, Error> {
        let content = self.0.content.clone();
        let listed = blocking(move || {
            let mut names: HashMap<Digest, Vec<String>> = HashMap::new();
            for name in content.names()? {
                names.entry(name.image).or_default().push(name.name);
            }
            let added =
                |digest: &Digest| fs::metadata(content.record_path(digest)).and_then(|file| file.modified()).ok();
            let list = content.images()?.into_iter().map(|(digest, record)| Listed {
                names: names.remove(&digest).unwrap_or_default(),
                added: added(&digest),
                digest,
                size: size(&content, &record),
                layout: record.layout.text(),
            });
            Ok(list.collect::<Vec<_>>())
        });
        Ok(listed.await?)
    }

    /// Adds a name to an image, given by name or digest. The name is kept like one given by [`Images::load`].
    pub async fn tag(&self, image: &str, name: &str) -> Result<(), Error> {
        let by_digest = image.parse::<Digest>().ok();
        let reference = if by_digest.is_none() { Some(Reference::parse(image)?.to_string()) } else { None };
        let name = Reference::parse(name)?.to_string();
        let _lock = self.0.content.shared().await?;
        let content = self.0.content.clone();
        let tagged = blocking(move || {
            let names = content.names()?;
            let found = names.iter().find(|found| Some(&found.name) == reference.as_ref()).map(|found| found.image);
            let Some(digest) = by_digest.or(found) else { return Ok(None) };
            if content.record(&digest)?.is_none() {
                return Ok(None);
            }
            content.set_name(&name, digest, true).map(Some)
        });
        tagged.await?.ok_or_else(|| Error::Refused(format!("{image}: no such image in the store")))
    }

    /// Removes a name, or all names of an image given by its digest, and the image itself once it has no name. Waits for pulls. Returns the
    /// freed bytes: what no other image has.
    pub async fn remove(&self, image: &str) -> Result<u64, Error> {
        let by_digest = image.parse::<Digest>().ok();
        let reference = if by_digest.is_none() { Some(Reference::parse(image)?) } else { None };
        let lock = self.0.content.exclusive().await?;
        let (content, shown) = (self.0.content.clone(), image.to_owned());
        let removed = blocking(move || {
            let names = content.names()?;
            let name = reference.map(|reference| reference.to_string());
            let found = names.iter().find(|found| Some(&found.name) == name.as_ref()).map(|found| found.image);
            let Some(digest) = by_digest.or(found) else { return Ok(None) };
            let known = content.record(&digest)?.is_some();
            let (gone, kept): (Vec<_>, Vec<_>) = names
                .into_iter()
                .filter(|found| found.image == digest)
                .partition(|found| name.as_ref().is_none_or(|name| *name == found.name));
            for found in &gone {
                content.forget_name(&found.name)?;
            }
            if kept.is_empty() {
                remove(&content.record_path(&digest))?;
            }
            let freed = sweep(&content, &lock, false)?;
            Ok(known.then_some(freed))
        });
        removed.await?.ok_or_else(|| Error::Refused(format!("{shown}: no such image in the store")))
    }

    /// Deletes images that are not in `in_use`, the least recently pulled first, until `free` bytes are freed, and blobs that no image has;
    /// with `free` 0 only such blobs. An image that was loaded from a file stays while it has its name, because it cannot be pulled again.
    /// Does nothing while an image is being pulled or loaded.
    pub async fn collect(&self, in_use: HashSet<Digest>, free: u64) -> Result<Collected, Error> {
        let Some(lock) = self.0.content.try_exclusive()? else {
            return Ok(Collected { busy: true, ..Default::default() });
        };
        let content = self.0.content.clone();
        Ok(blocking(move || collect(&content, &lock, &in_use, free)).await?)
    }

    /// How many bytes to free so that the disk under the store is used to at most `low` percent, if it is used to more
    /// than `high` percent: upstream's imageGCHighThresholdPercent (85) and imageGCLowThresholdPercent (80).
    pub fn to_free(&self, high: u8, low: u8) -> Result<u64, Error> {
        let disk = rustix::fs::statvfs(self.0.content.root()).map_err(std::io::Error::from)?;
        // As df: reserved blocks (for root, by a quota) are neither used nor free.
        let usable = disk.f_blocks.saturating_sub(disk.f_bfree).saturating_add(disk.f_bavail);
        Ok(excess(usable * disk.f_frsize, disk.f_bavail * disk.f_frsize, high, low))
    }
}

fn excess(capacity: u64, available: u64, high: u8, low: u8) -> u64 {
    let used = capacity.saturating_sub(available);
    let percent = |percent: u8| (u128::from(capacity) * u128::from(percent.min(100)) / 100) as u64;
    if used <= percent(high) { 0 } else { used - percent(low.min(high)) }
}

fn collect(content: &Content, lock: &Lock, in_use: &HashSet<Digest>, free: u64) -> Result<Collected, Fault> {
    let mut collected = Collected { freed: sweep(content, lock, free > 0)?, ..Default::default() };
    let mut candidates = Vec::new();
    for (digest, _) in content.images()? {
        let pulled = fs::metadata(content.record_path(&digest)).and_then(|file| file.modified());
        candidates.push((pulled.ok(), digest));
    }
    candidates.sort_unstable();
    let loaded: HashSet<_> = content.names()?.into_iter().filter(|name| name.loaded).map(|name| name.image).collect();
    let spared = |digest: &Digest| in_use.contains(digest) || loaded.contains(digest);
    for (_, digest) in candidates.into_iter().filter(|(_, digest)| !spared(digest)) {
        if collected.freed >= free {
            break;
        }
        for name in content.names()?.into_iter().filter(|name| name.image == digest) {
            content.forget_name(&name.name)?;
        }
        remove(&content.record_path(&digest))?;
        collected.freed += sweep(content, lock, false)?;
        collected.images.push(digest);
        tracing::info!(%digest, "an unused image was deleted");
    }
    Ok(collected)
}

/// What an image takes, bytes.
fn size(content: &Content, record: &Record) -> u64 {
    let layers = record.layers.iter().flatten();
    let unpacked = layers.filter_map(|layer| content.unpacked(&layer.chain).ok().flatten());
    record.blobs.iter().map(|(_, size)| size).sum::<u64>() + unpacked.map(|layer| layer.taken).sum::<u64>()
}

/// Deletes blobs and layers that no image has, and files of interrupted writes; `partials`: also interrupted downloads. The exclusive lock guarantees that
/// nothing else writes. Returns the freed bytes.
fn sweep(content: &Content, _: &Lock, partials: bool) -> Result<u64, Fault> {
    let images = content.images()?;
    let used: HashSet<String> =
        images.iter().flat_map(|(_, record)| &record.blobs).map(|(digest, _)| digest.hex()).collect();
    let manifests: HashSet<String> = images.iter().map(|(_, record)| record.manifest.digest.hex()).collect();
    let root = content.root();
    let mut freed = clear(&root.join("blobs/sha256"), |name| used.contains(name), remove)?;
    freed += clear(&root.join("files"), |name| manifests.contains(name), |files| discard(content, files))?;
    freed += clear_layers(content, &images)?;
    freed += clear(&root.join("tmp"), |_| false, remove_all)?;
    if partials {
        freed += clear(&root.join("partial"), |_| false, remove)?;
    }
    Ok(freed)
}

/// Removes the layers that no image has, but those that somebody uses. Returns the freed bytes.
fn clear_layers(content: &Content, images: &[(Digest, Record)]) -> Result<u64, Fault> {
    let used: HashSet<String> =
        images.iter().flat_map(|(_, record)| record.layers.iter().flatten()).map(|one| one.chain.hex()).collect();
    let mut freed = 0;
    for entry in fs::read_dir(content.root().join("layers"))? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !used.contains(*name)) else { continue };
        let folder = File::open(entry.path().join("fs"));
        if folder.is_ok_and(|folder| flock(folder, FlockOperation::NonBlockingLockExclusive).is_err()) {
            tracing::debug!(layer = name, "a layer without an image is in use");
            continue;
        }
        let known = format!("sha256:{name}").parse().ok().and_then(|chain| content.unpacked(&chain).ok().flatten());
        discard(content, &entry.path())?;
        freed += known.map_or(0, |known| known.taken);
    }
    Ok(freed)
}

/// Removes a folder, its name before its content: what is left by a crash is not taken for all of it.
fn discard(content: &Content, path: &Path) -> Result<(), Fault> {
    let ((), doomed) = content.temporary(|path| fs::create_dir(path))?;
    // An empty folder is replaced.
    fs::rename(path, &doomed)?;
    remove_all(&doomed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disk_above_the_high_mark_is_freed_to_the_low_one() {
        for (available, high, low, want) in
            [(200, 85, 80, 0), (150, 85, 80, 0), (149, 85, 80, 51), (0, 85, 80, 200), (0, 80, 90, 200), (0, 100, 50, 0)]
        {
            assert_eq!(excess(1000, available, high, low), want, "{available} {high} {low}");
        }
    }
}
