//! The form of a snapshot: the store's file, its SHA-256, and a mark with the number of this form.

use anyhow::{Context, bail};
use ring::digest::{Context as Hasher, Digest, SHA256, SHA256_OUTPUT_LEN};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

const MARK: &[u8; 16] = b"sampan.snapshot1";
const BUFFER: usize = 1 << 16;

/// Appends digest and mark to a store's file, durably.
pub(super) fn seal(path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let digest = copy(&mut file, &mut std::io::sink(), length)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(digest.as_ref())?;
    file.write_all(MARK)?;
    file.sync_all()
}

/// Writes the store's file of a snapshot to `to`, which must not exist. Other users cannot read it.
///
/// # Errors
/// The file is no snapshot, is damaged, or cannot be read; `to` cannot be written.
pub(super) fn unseal(from: &Path, to: &Path) -> anyhow::Result<()> {
    let trailer = SHA256_OUTPUT_LEN + MARK.len();
    let mut file = File::open(from)?;
    let mut end = vec![0; trailer];
    let length = file.metadata()?.len().saturating_sub(trailer as u64);
    if length > 0 {
        file.seek(SeekFrom::Start(length))?;
        file.read_exact(&mut end)?;
        file.rewind()?;
    }
    let (digest, mark) = end.split_at(SHA256_OUTPUT_LEN);
    if mark != MARK {
        bail!("it is not a snapshot that `sampan snapshot save` has written, or it is cut short");
    }
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    if copy(&mut file, &mut target, length)?.as_ref() != digest {
        bail!("it is damaged: its SHA-256 is not the one that was written with it");
    }
    target.sync_all().context("it cannot be written to the disk")
}

/// Copies so many bytes, and gives their digest.
fn copy(from: &mut impl Read, to: &mut impl Write, length: u64) -> std::io::Result<Digest> {
    let (mut hasher, mut buffer, mut left) = (Hasher::new(&SHA256), vec![0; BUFFER], length);
    while left > 0 {
        let part = &mut buffer[..BUFFER.min(usize::try_from(left).unwrap_or(BUFFER))];
        from.read_exact(part)?;
        hasher.update(part);
        to.write_all(part)?;
        left -= part.len() as u64;
    }
    Ok(hasher.finish())
}
