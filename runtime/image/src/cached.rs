//! What small files of the content store said when they were read last. Thousands of containers start from one image, and each looks it up.
//!
//! Files appear by renames and are never written to, so that a file with the same [`Stamp`] is the same file.

use crate::error::Fault;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::{
    collections::HashMap,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The most files that are remembered; beyond them, all are read again.
const MAX_FILES: usize = 256;

/// Inode, size in bytes, and the time of the last change in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl From<Metadata> for Stamp {
    fn from(known: Metadata) -> Self {
        Self(known.ino(), known.len(), known.ctime(), known.ctime_nsec())
    }
}

/// The content of files of JSON by their paths.
#[derive(Debug)]
pub(crate) struct Cached<T>(Mutex<HashMap<PathBuf, (Stamp, T)>>);

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + DeserializeOwned> Cached<T> {
    /// The content of a file; `None` if there is none.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<T>, Fault> {
        // Before the content: who replaces the file between the two gets it read again.
        let stamp = match fs::metadata(path) {
            Ok(known) => Stamp::from(known),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fault::Store(format!("{}: {error}", path.display()))),
        };
        if let Some((_, value)) = self.0.lock().get(path).filter(|(known, _)| *known == stamp) {
            return Ok(Some(value.clone()));
        }
        let Some(value) = read_json::<T>(path)? else { return Ok(None) };
        let mut files = self.0.lock();
        if files.len() >= MAX_FILES && !files.contains_key(path) {
            files.clear();
        }
        files.insert(path.to_owned(), (stamp, value.clone()));
        Ok(Some(value))
    }
}

/// Reads a file of JSON; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Fault> {
    match fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(Fault::Store(format!("{}: {error}", path.display()))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::Store(format!("{}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_or_removed_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join("a"), folder.path().join("b"));
        let cached = Cached::<Vec<u32>>::default();
        assert_eq!(cached.read(&path).unwrap(), None);
        fs::write(&path, "[1]").unwrap();
        assert_eq!(cached.read(&path).unwrap(), Some(vec![1]));
        assert_eq!(cached.read(&path).unwrap(), Some(vec![1]));
        fs::write(&next, "[2]").unwrap();
        fs::rename(&next, &path).unwrap();
        assert_eq!(cached.read(&path).unwrap(), Some(vec![2]), "of the same size");
        fs::write(&next, "[").unwrap();
        fs::rename(&next, &path).unwrap();
        assert!(cached.read(&path).is_err());
        fs::remove_file(&path).unwrap();
        assert_eq!(cached.read(&path).unwrap(), None);
    }

    #[test]
    fn the_number_of_remembered_files_has_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let cached = Cached::<u32>::default();
        for number in 0..600u32 {
            let path = folder.path().join(number.to_string());
            fs::write(&path, number.to_string()).unwrap();
            assert_eq!(cached.read(&path).unwrap(), Some(number));
            assert!(cached.0.lock().len() <= MAX_FILES);
        }
    }
}
