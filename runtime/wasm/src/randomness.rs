//! Replacements for WASI's functions that return many random bytes: a call is made in pieces, between which the guest yields as at an epoch.
//! wasmtime-wasi makes 16 MiB in one host call of some 100 ms.

use crate::{
    guest::{CoreGuest, Guest, RANDOM_PIECE as PIECE},
    long_polls::yield_within_poll,
    preview::PREVIEW_1,
};
use wasmtime::{
    Caller, Extern, StoreContextMut,
    component::{Linker, LinkerInstance},
};
use wasmtime_wasi::{
    WasiView,
    p2::bindings::random::{insecure::Host as _, random::Host as _},
    random::WasiRandomCtx,
};

/// Most bytes of one call of WASI 0.2. The host holds them during the call.
const MOST: u64 = 16 << 20;

/// The error of preview 1 for memory that the guest does not have.
const FAULT: i32 = 21;

/// The replaced interfaces as wasmtime-wasi 48 names them.
const RANDOM: &str = "wasi:random/random@0.2.12";
const INSECURE: &str = "wasi:random/insecure@0.2.12";

/// Replaces `random_get` of core modules.
pub(crate) fn modules(linker: &mut wasmtime::Linker<CoreGuest>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        PREVIEW_1,
        "random_get",
        |mut caller: Caller<'_, CoreGuest>, (at, length): (i32, i32)| {
            Box::new(async move {
                let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
                    wasmtime::bail!("missing required memory export");
                };
                let (at, length) = (at.cast_unsigned() as usize, length.cast_unsigned() as usize);
                let end = at.saturating_add(length);
                if end > memory.data_size(&caller) {
                    return Ok(FAULT);
                }
                for begin in (at..end).step_by(PIECE as usize) {
                    if begin > at {
                        yield_within_poll().await;
                    }
                    let end = end.min(begin + PIECE as usize);
                    let bytes = caller.data_mut().wasi().ctx().ctx.random().get_random_bytes((end - begin) as u64)?;
                    // A memory does not shrink.
                    memory.data_mut(&mut caller)[begin..end].copy_from_slice(&bytes);
                }
                Ok(0)
            })
        },
    )?;
    Ok(())
}

/// Replaces the functions of components of WASI 0.2.
pub(crate) fn components(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut random = linker.instance(RANDOM)?;
    many(&mut random, "get-random-bytes", |random, length| random.get_random_bytes(length))?;
    let mut insecure = linker.instance(INSECURE)?;
    many(&mut insecure, "get-insecure-random-bytes", |random, length| random.get_insecure_random_bytes(length))
}

type Piece = fn(&mut WasiRandomCtx, u64) -> wasmtime::Result<Vec<u8>>;

fn many(instance: &mut LinkerInstance<'_, Guest>, name: &str, piece: Piece) -> wasmtime::Result<()> {
    instance.func_wrap_async(name, move |mut store: StoreContextMut<'_, Guest>, (length,): (u64,)| {
        Box::new(async move {
            if length > MOST {
                wasmtime::bail!("requested len {length} exceeds limit {MOST}");
            }
            let mut bytes = Vec::new();
            while (bytes.len() as u64) < length {
                if !bytes.is_empty() {
                    yield_within_poll().await;
                }
                let left = length - bytes.len() as u64;
                bytes.append(&mut piece(store.data_mut().ctx().ctx.random(), left.min(PIECE))?);
            }
            Ok((bytes,))
        })
    })
}
