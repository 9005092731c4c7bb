//! The cache of compiled code: `<sha256 of the Wasm>.<compatibility>.cwasm`, and a `.mac` file that authenticates it. Beside it, under the hash
//! of a scope's name, the compiled functions of the scope's last artifact ([`crate::functions`]).
//!
//! wasmtime refuses code of another version, configuration or CPU, but does not detect altered code. Code is therefore loaded ([`crate::load`]) only if its
//! HMAC-SHA256 over name and bytes matches; so are functions. The folder has mode 0700, and files are added by rename.

use container::Clock;
use hmac::{Hmac, Mac};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sha2::Sha256;
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// The extension of the code of an artifact.
pub(crate) const CODE: &str = "cwasm";
/// The extension of the functions of a scope's last artifact.
pub(crate) const FUNCTIONS: &str = "functions";

/// The cache of one node.
#[derive(Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
    key: [u8; 32],
    max_bytes: u64,
    clock: Clock,
}

impl Cache {
    pub(crate) fn new(folder: PathBuf, key: [u8; 32], max_bytes: u64, clock: Clock) -> Self {
        Self { folder, key, max_bytes, clock }
    }

    /// Creates the folder, ensures that no other user can write to it, and removes what compilers of an earlier process left.
    pub(crate) fn open(&self) -> io::Result<()> {
        self.create()?;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// Creates the folder, and ensures that no other user can write to it.
    pub(crate) fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let metadata = fs::metadata(&self.folder)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            let text = format!("{}: belongs to somebody else", self.folder.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Creates a folder for the output of one compiler, removed when dropped.
    pub(crate) fn scratch(&self, name: &str) -> io::Result<Scratch> {
        let path = self.folder.join(format!("{name}.tmp"));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Scratch(path))
    }

    /// Returns the MAC of bytes under a name. Copies them to `copy` meanwhile.
    fn mac(&self, name: &str, mut bytes: File, mut copy: impl Write) -> io::Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).map_err(io::Error::other)?;
        mac.update(b"sampan compiled code 1\0");
        mac.update(name.as_bytes());
        mac.update(b"\0");
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = bytes.read(&mut buffer)?;
            let Some(read @ [_, ..]) = buffer.get(..count) else { return Ok(mac) };
            mac.update(read);
            copy.write_all(read)?;
        }
    }

    /// Adds the output of a compiler under `name`, and evicts what was not used for long.
    ///
    /// The output is copied: a process that its compiler left behind may still hold the file open.
    pub(crate) fn insert(&self, name: &str, extension: &str, output: &Path) -> io::Result<()> {
        let (copy, sidecar) = (output.with_extension("copy"), output.with_extension("mac"));
        let mac = self.mac(name, File::open(output)?, File::create(&copy)?)?.finalize().into_bytes();
        fs::write(&sidecar, mac)?;
        fs::rename(copy, self.path(name, extension))?;
        fs::rename(sidecar, self.path(name, "mac"))?;
        self.evict(name)
    }

    /// Whether code exists under `name`, authentic or not.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.path(name, CODE).exists()
    }

    /// The path of what is under `name`, if it exists and is authentic. Removes what is not, so that it is compiled again.
    pub(crate) fn verified(&self, name: &str, extension: &str) -> Option<PathBuf> {
        let path = self.path(name, extension);
        let file = File::open(&path).ok()?;
        let authentic = fs::read(self.path(name, "mac"))
            .and_then(|expected| Ok((self.mac(name, file.try_clone()?, io::sink())?, expected)))
            .is_ok_and(|(mac, expected)| mac.verify_slice(&expected).is_ok());
        if !authentic {
            tracing::warn!(file = %path.display(), "this file of the compile cache is not what was written there; compiling again");
            self.remove(name);
            return None;
        }
        // marks the code as used; on failure, eviction only chooses worse
        let _ = file.set_modified(self.clock.now());
        Some(path)
    }

    /// A copy in memory of the code under `name` that nobody can change any more; `None` if there is none, or none that is authentic.
    pub(crate) fn sealed(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        let Ok(file) = File::open(self.path(name, CODE)) else { return Ok(None) };
        let expected = fs::read(self.path(name, "mac"))?;
        let copy = File::from(memfd_create("code", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        if self.mac(name, file, &copy)?.verify_slice(&expected).is_err() {
            return Ok(None);
        }
        fcntl_add_seals(&copy, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Some(copy.into()))
    }

    pub(crate) fn remove(&self, name: &str) {
        for extension in [CODE, FUNCTIONS, "mac"] {
            let _ = fs::remove_file(self.path(name, extension));
        }
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{name}.{extension}"))
    }

    /// Removes the least recently used code and functions until the rest fits, except `keep`.
    fn evict(&self, keep: &str) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if let (Some(CODE | FUNCTIONS), Ok(metadata)) =
                (path.extension().and_then(|it| it.to_str()), fs::metadata(&path))
            {
                entries.push((metadata.modified()?, metadata.len(), path));
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in entries {
            let Some(name) = path.file_stem().and_then(|it| it.to_str()) else { continue };
            if total <= self.max_bytes {
                break;
            }
            if name != keep {
                self.remove(name);
                total -= size;
            }
        }
        Ok(())
    }
}

/// A temporary folder, removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_compiler_left_behind_changes_no_verified_code() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"), [7; 32], 1 << 20, Clock::new(|| std::time::UNIX_EPOCH));
        cache.open().unwrap();
        let scratch = cache.scratch("x").unwrap();
        let output = scratch.path().join("code");
        let mut left = File::create(&output).unwrap();
        left.write_all(b"code").unwrap();
        cache.insert("x", CODE, &output).unwrap();
        let path = cache.verified("x", CODE).unwrap();
        left.write_all(b" of another kind").unwrap();
        fs::write(&output, "other").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"code");
        assert_eq!(cache.verified("x", CODE), Some(path));
    }
}
