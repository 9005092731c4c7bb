//! The predecessor of WASI preview 1, `wasi_unstable`, which old programs import.
//!
//! Most functions have the same ABI and are aliases of those that [`crate::limits`] defines. For those with another layout, [`crate::limits`]
//! opens the mount and calls the function of wasmtime-wasi.

use crate::{
    guest::CoreGuest,
    limits,
    preview::{FUNCTIONS, PREVIEW_1, UNSTABLE},
};
use wasmtime::Linker;

/// Functions whose arguments or results have another layout in `wasi_unstable`.
const DIFFERENT: [&str; 4] = ["fd_filestat_get", "fd_seek", "path_filestat_get", "poll_oneoff"];

/// Adds `wasi_unstable` to a linker that has preview 1 with its limits.
pub(crate) fn add_to_linker(mut linker: Linker<CoreGuest>) -> wasmtime::Result<Linker<CoreGuest>> {
    wasmtime_wasi::p0::add_to_linker_async(&mut linker, CoreGuest::wasi)?;
    linker.allow_shadowing(true);
    for name in FUNCTIONS.iter().filter(|name| !DIFFERENT.contains(name)) {
        linker.alias(PREVIEW_1, name, UNSTABLE, name)?;
    }
    limits::unstable(&mut linker)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, guest};

    #[test]
    fn the_names_are_those_of_the_linker() {
        let engine = config::compiler(None).unwrap();
        let mut linker = add_to_linker(limits::modules(guest::modules(&engine).unwrap()).unwrap()).unwrap();
        for module in [PREVIEW_1, UNSTABLE] {
            for name in FUNCTIONS {
                linker.alias(module, name, "there", &format!("{module} {name}")).unwrap();
            }
        }
    }
}
