//! What is different in the first form of WASI preview 1, `wasi_unstable`.
//!
//! Old programs import the first form. Most of it is the same to the byte and is an alias of what [`crate::limits`] puts in place; where the
//! layout of an answer differs, wasmtime-wasi's own is called on a folder that is opened before.

use crate::{
    guest::CoreGuest,
    limits,
    preview::{FUNCTIONS, PREVIEW_1, UNSTABLE},
};
use wasmtime::Linker;

/// Those whose arguments or answers have another layout in the first form.
const DIFFERENT: [&str; 4] = ["fd_filestat_get", "fd_seek", "path_filestat_get", "poll_oneoff"];

/// Adds the first form beside preview 1, which is there with its limits.
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
        let engine = config::compiler().unwrap();
        let mut linker = add_to_linker(limits::modules(guest::modules(&engine).unwrap()).unwrap()).unwrap();
        for module in [PREVIEW_1, UNSTABLE] {
            for name in FUNCTIONS {
                linker.alias(module, name, "there", &format!("{module} {name}")).unwrap();
            }
        }
    }
}
