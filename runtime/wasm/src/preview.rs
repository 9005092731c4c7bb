//! WASI preview 1 and its first form, `wasi_unstable`: the names, and what is different in the first form.
//!
//! Old programs import the first form. Most of it is the same to the byte and is an alias of what [`crate::limits`] puts in place; where the
//! layout of an answer differs, wasmtime-wasi's own is called on a folder that is opened before.

use crate::{guest::CoreGuest, limits};
use wasmtime::Linker;

/// The module of preview 1.
pub(crate) const PREVIEW_1: &str = "wasi_snapshot_preview1";

/// The module of its first form.
pub(crate) const UNSTABLE: &str = "wasi_unstable";

/// All functions of both.
pub(crate) const FUNCTIONS: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// Those whose arguments or answers have another layout in the first form.
const DIFFERENT: [&str; 4] = ["fd_filestat_get", "fd_seek", "path_filestat_get", "poll_oneoff"];

/// Adds the first form beside preview 1, which is there with its limits.
pub(crate) fn unstable(mut linker: Linker<CoreGuest>) -> wasmtime::Result<Linker<CoreGuest>> {
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
        let mut linker = unstable(limits::modules(guest::modules(&engine).unwrap()).unwrap()).unwrap();
        for module in [PREVIEW_1, UNSTABLE] {
            for name in FUNCTIONS {
                linker.alias(module, name, "there", &format!("{module} {name}")).unwrap();
            }
        }
    }
}
