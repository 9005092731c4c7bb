//! The key that authenticates compiled code: 32 random bytes in a file that only its owner may read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// Reads the key at `path`, or creates it with bytes from `random`. A file of another length (after a crash or on a full disk) is replaced:
/// existing compiled code then fails authentication and is compiled again.
///
/// # Errors
/// A key that others may read or write is refused.
pub fn load_or_create(path: &Path, random: impl FnOnce(&mut [u8; 32])) -> io::Result<[u8; 32]> {
    match fs::metadata(path) {
        Ok(metadata) => {
            if metadata.mode() & 0o077 != 0 {
                let text = format!("{}: others may read this key; chmod 600 it, or remove it", path.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
            if let Ok(key) = fs::read(path)?.try_into() {
                return Ok(key);
            }
            tracing::warn!(path = %path.display(), "the key of the compile cache is damaged; a new one is made");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut key = [0; 32];
    random(&mut key);
    write(path, &key)?;
    Ok(key)
}

/// Writes the key atomically, by a temporary file and a rename, also across a power failure.
fn write(path: &Path, key: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = load_or_create(&path, |key| key.fill(7)).unwrap();
        assert_eq!(made, [7; 32]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(load_or_create(&path, |_| panic!("made twice")).unwrap(), made);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load_or_create(&path, |_| ()).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for cut in [&b""[..], b"short"] {
            fs::write(&path, cut).unwrap();
            assert_eq!(load_or_create(&path, |key| key.fill(9)).unwrap(), [9; 32]);
            assert_eq!(load_or_create(&path, |_| panic!("made twice")).unwrap(), [9; 32]);
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
