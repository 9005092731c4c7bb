//! Small files that are replaced whole.

use serde::{Serialize, de::DeserializeOwned};
use std::{fs, io, os::unix::fs::OpenOptionsExt, path::Path};

/// Writes a file beside its name, then renames it: who reads it sees the former or the new text. It is not synced: after a power cut no process of
/// it is left either.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    let mut buffered = io::BufWriter::new(file);
    serde_json::to_writer(&mut buffered, value)?;
    buffered.into_inner().map_err(|error| error.into_error())?;
    fs::rename(temporary, path)
}

/// Reads what [`write`] wrote.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
