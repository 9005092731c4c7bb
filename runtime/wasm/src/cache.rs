//! Compiled code on disk: `<sha256 of the Wasm>.<compatibility>.cwasm` beside a `.mac` that authenticates it.
//!
//! wasmtime refuses code of another version, configuration or CPU by itself, but runs altered code without noticing: so nothing is
//! loaded whose HMAC-SHA256, over its name and its bytes, does not match. The folder is 0700 and files come into it by rename.

use crate::{
    image::{Code, Image, Kind, Loaded, Target},
    places::Seat,
    pool::Pool,
};
use container::{Artifact, Clock, Result};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use wasmtime::{Engine, Module, Precompiled, component::Component};

/// What is in the cache.
pub(crate) enum Found {
    /// Nothing, or nothing authentic.
    Absent,
    Image(Result<Box<Image>>),
    /// Code that no engine takes, and why.
    Unfit(wasmtime::Error),
}

/// The cache of one node.
#[derive(Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
    key: [u8; 32],
    bytes: u64,
    clock: Clock,
}

impl Cache {
    pub(crate) fn new(folder: PathBuf, key: [u8; 32], bytes: u64, clock: Clock) -> Self {
        Self { folder, key, bytes, clock }
    }

    /// Makes the folder and sees to it that nobody else can write there.
    pub(crate) fn open(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let metadata = fs::metadata(&self.folder)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            let text = format!("{}: belongs to somebody else", self.folder.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700))?;
        }
        // What compilers of an earlier process left.
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// A folder for one compiler to write in, removed when dropped.
    pub(crate) fn scratch(&self, name: &str) -> io::Result<Scratch> {
        let path = self.folder.join(format!("{name}.tmp"));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Scratch(path))
    }

    fn mac(&self, name: &str, mut code: File) -> io::Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).map_err(io::Error::other)?;
        mac.update(b"sampan compiled code 1\0");
        mac.update(name.as_bytes());
        mac.update(b"\0");
        let mut buffer = vec![0; 256 << 10];
        loop {
            match code.read(&mut buffer)? {
                0 => return Ok(mac),
                count => mac.update(&buffer[..count]),
            }
        }
    }

    /// Takes what a compiler wrote, under `name`, and makes room for it.
    pub(crate) fn take(&self, name: &str, code: &Path) -> io::Result<()> {
        let mac = self.mac(name, File::open(code)?)?.finalize().into_bytes();
        let sidecar = code.with_extension("mac");
        fs::write(&sidecar, mac)?;
        fs::rename(code, self.path(name, "cwasm"))?;
        fs::rename(sidecar, self.path(name, "mac"))?;
        self.evict(name)
    }

    /// Whether there is code under `name`; it may not be authentic.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.path(name, "cwasm").exists()
    }

    /// The code under `name`, if it is there and authentic. What is not authentic is removed: it will be compiled again.
    fn authentic(&self, name: &str) -> Option<PathBuf> {
        let path = self.path(name, "cwasm");
        let file = File::open(&path).ok()?;
        let authentic = fs::read(self.path(name, "mac"))
            .and_then(|expected| Ok((self.mac(name, file.try_clone()?)?, expected)))
            .is_ok_and(|(mac, expected)| mac.verify_slice(&expected).is_ok());
        if !authentic {
            tracing::warn!(file = %path.display(), "compiled code is not what was written there; compiling again");
            self.remove(name);
            return None;
        }
        // Marks it as used. A cache that cannot is only less clever about what to remove.
        let _ = file.set_modified(self.clock.now());
        Some(path)
    }

    /// The image under `name`: for the pool if it has its shape, and for single instances if it has not, or is a command.
    pub(crate) fn load(&self, pool: &Pool, name: &str, artifact: &Artifact) -> Found {
        let Some(path) = self.authentic(name) else { return Found::Absent };
        let load = |seat| {
            let side = pool.side(seat)?;
            Some(self.deserialize(&side.engine, &path).map(|code| Loaded::new(side, &code)))
        };
        let pooled = match load(Seat::Pool) {
            Some(Ok(Ok(loaded))) => Some(loaded),
            Some(Ok(Err(error))) => return Found::Image(Err(error)),
            Some(Err(error)) => {
                tracing::debug!(file = %path.display(), error = %format_args!("{error:#}"), "not for the pool");
                None
            }
            None => None,
        };
        let single = match pooled.as_ref().map(|loaded| loaded.target.kind()) {
            Some(Kind::Http) => None,
            _ => load(Seat::Single),
        };
        let single = match single {
            Some(Ok(Ok(loaded))) => Some(loaded),
            Some(Ok(Err(error))) => return Found::Image(Err(error)),
            Some(Err(error)) => {
                self.remove(name);
                return Found::Unfit(error);
            }
            None => None,
        };
        let (cache, name) = (self.clone(), name.to_owned());
        let load = Box::new(move |pool: &Pool| cache.load_single(pool, &name));
        Found::Image(Image::new(artifact.clone(), load, pooled, single).map(Box::new))
    }

    /// The code under `name` for single instances.
    fn load_single(&self, pool: &Pool, name: &str) -> wasmtime::Result<Target> {
        let path =
            self.authentic(name).ok_or_else(|| wasmtime::format_err!("the compiled code is gone from the cache"))?;
        let code = self.deserialize(&pool.single.engine, &path)?;
        Ok(Loaded::new(&pool.single, &code)?.target)
    }

    /// # Proof of safety
    /// `deserialize_file` runs what is in the file as native code, so the bytes must be what a compiler of this node wrote.
    /// [`Cache::authentic`] has just checked their HMAC under a key that only this user can read; the compiler that wrote them had its
    /// input's digest checked and was this program. Between check and use nobody else can replace the file: the folder is this
    /// user's and 0700 ([`Cache::open`]), and this process only ever renames complete files into it or unlinks them, which leaves a
    /// mapped file as it is.
    #[allow(unsafe_code)]
    fn deserialize(&self, engine: &Engine, path: &Path) -> wasmtime::Result<Code> {
        match Engine::detect_precompiled_file(path)? {
            Some(Precompiled::Component) => unsafe { Component::deserialize_file(engine, path) }.map(Code::Component),
            Some(Precompiled::Module) => unsafe { Module::deserialize_file(engine, path) }.map(Code::Module),
            None => Err(wasmtime::format_err!("it is not compiled code")),
        }
    }

    fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.path(name, "cwasm"));
        let _ = fs::remove_file(self.path(name, "mac"));
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{name}.{extension}"))
    }

    /// Removes what was used longest ago until the rest fits; never what was just put in.
    fn evict(&self, keep: &str) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if let (Some("cwasm"), Ok(metadata)) = (path.extension().and_then(|it| it.to_str()), fs::metadata(&path)) {
                entries.push((metadata.modified()?, metadata.len(), path));
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in entries {
            let Some(name) = path.file_stem().and_then(|it| it.to_str()) else { continue };
            if total <= self.bytes {
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

/// A folder that goes away.
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
