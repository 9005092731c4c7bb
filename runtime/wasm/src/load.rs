//! Loads compiled code from the cache as images.

use crate::{
    cache::{CODE, Cache},
    image::{Code, Image, Kind, Loaded, Target},
    pool::{EngineLinkers, Pool},
    slots::SlotKind,
};
use container::{Artifact, Error, Result};
use rustix::fs::{SealFlags, fcntl_get_seals};
use std::{
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};
use wasmtime::{Engine, Module, Precompiled, component::Component};

/// The result of a cache lookup.
pub(crate) enum Lookup {
    /// No code, or none that is authentic.
    Absent,
    Image(Result<Box<Image>>),
    /// No engine accepts the code; the error says why.
    Incompatible(wasmtime::Error),
}

impl Cache {
    /// Loads the image under `name`: for the pool if it fits the pool's limits, and for single instances if it does not or is a command.
    pub(crate) fn load(&self, pool: &Pool, name: &str, artifact: &Artifact) -> Lookup {
        let Some(path) = self.verified(name, CODE) else { return Lookup::Absent };
        let load = |kind| {
            let side = pool.side(kind)?;
            Some(deserialize(&side.engine, &path).map(|code| Loaded::new(side, &code)))
        };
        let pooled = match load(SlotKind::Pool) {
            Some(Ok(Ok(loaded))) => Some(loaded),
            Some(Ok(Err(error))) => return Lookup::Image(Err(error)),
            Some(Err(error)) => {
                tracing::debug!(file = %path.display(), error = %format_args!("{error:#}"), "not for the pool");
                None
            }
            None => None,
        };
        let single = match pooled.as_ref().map(|loaded| loaded.target.kind()) {
            Some(Kind::Http) => None,
            _ => load(SlotKind::Single),
        };
        let single = match single {
            Some(Ok(Ok(loaded))) => Some(loaded),
            Some(Ok(Err(error))) => return Lookup::Image(Err(error)),
            Some(Err(error)) => {
                self.remove(name);
                return Lookup::Incompatible(error);
            }
            None => None,
        };
        let (cache, name) = (self.clone(), name.to_owned());
        let load = Box::new(move |side: &EngineLinkers| cache.load_on(side, &name));
        Lookup::Image(Image::new(artifact.clone(), load, pooled, single).map(Box::new))
    }

    /// Loads the code under `name` for another engine.
    fn load_on(&self, side: &EngineLinkers, name: &str) -> wasmtime::Result<Target> {
        let path = self
            .verified(name, CODE)
            .ok_or_else(|| wasmtime::format_err!("the compiled code is gone from the cache"))?;
        let code = deserialize(&side.engine, &path)?;
        Ok(Loaded::new(side, &code)?.target)
    }
}

/// An image of the code in an open file, for a process without a cache, a compiler and an instance pool.
///
/// The file must be one of [`Cache::sealed`] of this program, from a process that this one trusts.
pub(crate) fn open(pool: &Pool, artifact: Artifact, file: &File) -> Result<Image> {
    if !fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::WRITE | SealFlags::SHRINK)) {
        return Err(Error::Invalid("the file of its code can still change".into()));
    }
    // leads to the open file, whatever its path names by now
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let loaded = deserialize(&pool.single.engine, &path).map(|code| Loaded::new(&pool.single, &code));
    let loaded = loaded.map_err(|error| Error::Invalid(format!("this node cannot run it: {error:#}")))??;
    let load = Box::new(|_: &EngineLinkers| Err(wasmtime::format_err!("the code was loaded before")));
    Image::new(artifact, load, None, Some(loaded))
}

/// # Proof of safety
/// `deserialize_file` maps the file as native code, so that the bytes must be those that a compiler of this node wrote.
/// [`Cache::verified`] has checked their HMAC under a key that only this user can read; the compiler that wrote them was this program, and
/// checked the digest of its input. No other user can replace the file between check and use: the folder belongs to this user with mode
/// 0700 ([`Cache::open`]), and this process only renames complete files into it or unlinks them, which does not change a mapped file.
///
/// An open file ([`open`]) is a copy of such bytes, which the node checked while it made it ([`Cache::sealed`]). Its seals, which cannot be
/// taken off, forbid any change; it comes over the socket that the node made for this process, from the node only.
#[allow(unsafe_code)]
fn deserialize(engine: &Engine, path: &Path) -> wasmtime::Result<Code> {
    match Engine::detect_precompiled_file(path)? {
        Some(Precompiled::Component) => unsafe { Component::deserialize_file(engine, path) }.map(Code::Component),
        Some(Precompiled::Module) => unsafe { Module::deserialize_file(engine, path) }.map(Code::Module),
        None => Err(wasmtime::format_err!("it is not compiled code")),
    }
}
