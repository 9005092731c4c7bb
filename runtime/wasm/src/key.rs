//! The key that authenticates compiled code: 32 random bytes in a file that only its owner may read.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// Reads the key at `path`, or makes it with bytes from `random`.
///
/// # Errors
/// A key that others may read or write, or of the wrong length, is refused.
pub fn load_or_create(path: &Path, random: impl FnOnce(&mut [u8; 32])) -> io::Result<[u8; 32]> {
    match fs::metadata(path) {
        Ok(metadata) => {
            if metadata.mode() & 0o077 != 0 {
                let text = format!("{}: others may read this key; chmod 600 it, or remove it", path.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
            let bytes = fs::read(path)?;
            bytes.try_into().map_err(|_| {
                let text = format!("{}: a key has 32 bytes; remove the file to get a new one", path.display());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            random(&mut key);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&key)?;
            file.sync_all()?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
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
        fs::write(&path, "short").unwrap();
        assert!(load_or_create(&path, |_| ()).unwrap_err().to_string().contains("32 bytes"));
    }
}
