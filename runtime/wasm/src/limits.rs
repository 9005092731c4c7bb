//! Replacements for WASI's file functions that enforce the node's limits of open files and disk, and open mounts at their first use. Each calls
//! the function of wasmtime-wasi after its checks. A refused call returns an error that programs know (EMFILE, ENOSPC); it does not trap.

use crate::{
    files::{
        Refused,
        budget::ENTRY_BYTES,
        lazy::{Files, HasFiles, error_code},
        p3,
        streams::{FileOutput, in_place},
    },
    guest::{CoreGuest, Guest},
    preview::{PREVIEW_1 as MODULE, UNSTABLE},
    randomness,
};
use tokio::sync::Semaphore;
use wasmtime::{
    Caller, Extern, Memory, StoreContextMut,
    component::{HasData, Linker, LinkerInstance, Resource},
};
use wasmtime_wasi::{
    WasiView,
    filesystem::{Descriptor, WasiFilesystemView},
    p0::wasi_unstable as p0,
    p1::wasi_snapshot_preview1::{self as p1, WasiSnapshotPreview1 as _},
    p2::{
        DynOutputStream, FsResult, IoError,
        bindings::filesystem::{
            preopens,
            types::{self, DescriptorFlags, ErrorCode, HostDescriptor, OpenFlags, PathFlags},
        },
    },
};

/// The replaced interface as wasmtime-wasi 48 names it. The tests of the limits fail if the name is wrong.
const TYPES: &str = "wasi:filesystem/types@0.2.12";

/// As [`TYPES`].
const ERRORS: &str = "wasi:io/error@0.2.12";

/// Error numbers and flags of preview 1.
const MFILE: i32 = 33;
const NOMEM: i32 = 48;
const NOSPC: i32 = 51;
const IO: i32 = 29;
const NOENT: i32 = 44;
const CREATE: i32 = 1;
const TRUNCATE: i32 = 8;
const RIGHT_TO_WRITE: i64 = 1 << 6;
/// Most subscriptions of one poll. A subscription of a file takes two entries of the instance's resource table.
const MAX_SUBSCRIPTIONS: u32 = 1_024;
/// Descriptors up to this one are standard streams, whose output is limited by the log.
const STDERR: i32 = 2;

fn errno(refused: &Refused) -> i32 {
    match refused {
        Refused::Full => MFILE,
        Refused::Root(error) if error.kind() == std::io::ErrorKind::StorageFull => NOSPC,
        Refused::Root(error) if error.kind() == std::io::ErrorKind::NotFound => NOENT,
        Refused::Mount(..) | Refused::Root(_) => IO,
    }
}

fn wasi_result<T>(result: FsResult<T>) -> wasmtime::Result<Result<T, ErrorCode>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => Ok(Err(error.downcast()?)),
    }
}

/// Implements the preopens of components, in place of wasmtime-wasi's list of open folders.
struct Preopens<'a>(&'a mut Guest);

struct HasPreopens;

impl HasData for HasPreopens {
    type Data<'a> = Preopens<'a>;
}

impl preopens::Host for Preopens<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        self.0.preopens()
    }
}

/// Replaces the file functions that components import.
pub(crate) fn components(mut linker: Linker<Guest>) -> wasmtime::Result<Linker<Guest>> {
    linker.allow_shadowing(true);
    randomness::components(&mut linker)?;
    preopens::add_to_linker::<Guest, HasPreopens>(&mut linker, |guest| Preopens(guest))?;
    types::add_to_linker::<Guest, HasFiles>(&mut linker, |guest| Files(guest))?;
    descriptors_of_components(&mut linker)?;
    errors_of_components(&mut linker)?;
    p3::add_to_linker(&mut linker)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// Texts of errors: those of wasmtime-wasi have a backtrace of the host where its environment asks for backtraces.
fn errors_of_components(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(ERRORS)?.func_wrap(
        "[method]error.to-debug-string",
        |mut store: StoreContextMut<'_, Guest>, (error,): (Resource<IoError>,)| -> wasmtime::Result<(String,)> {
            Ok((format!("{:#}", store.data_mut().ctx().table.get(&error)?),))
        },
    )
}

fn descriptors_of_components(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    type Opened = Result<Resource<Descriptor>, ErrorCode>;
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, Guest>,
         (fd, follow, path, how, flags): (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags)| {
            Box::new(async move {
                let guest = store.data_mut();
                if how.contains(OpenFlags::CREATE) && !guest.space().take(ENTRY_BYTES) {
                    return Ok((Opened::Err(ErrorCode::InsufficientSpace),));
                }
                let writes = how.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE) || flags.contains(DescriptorFlags::WRITE);
                let ready = if writes { guest.ensure_writable(fd.rep()).await } else { guest.ensure_open(fd.rep()) };
                if let Err(refused) = ready {
                    return Ok((Opened::Err(error_code(&refused)),));
                }
                // WASI 0.2 has no error code for too many open files
                if !guest.may_open() {
                    return Ok((Opened::Err(ErrorCode::InsufficientMemory),));
                }
                let places = guest.blocking();
                let opened = in_place(&places, guest.filesystem().open_at(fd, follow, path, how, flags)).await;
                Ok((wasi_result(opened)?,))
            })
        },
    )?;
    writes_of_components(&mut types)?;
    types.func_wrap_async(
        "[method]descriptor.create-directory-at",
        |mut store: StoreContextMut<'_, Guest>, (fd, path): (Resource<Descriptor>, String)| {
            Box::new(async move {
                let guest = store.data_mut();
                if !guest.space().take(ENTRY_BYTES) {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                Ok((wasi_result(Files(guest).create_directory_at(fd, path).await)?,))
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.symlink-at",
        |mut store: StoreContextMut<'_, Guest>, (fd, target, path): (Resource<Descriptor>, String, String)| {
            Box::new(async move {
                let guest = store.data_mut();
                if !guest.space().take(ENTRY_BYTES) {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                Ok((wasi_result(Files(guest).symlink_at(fd, target, path).await)?,))
            })
        },
    )
}

/// Replaces the functions of components that write to files.
fn writes_of_components(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    types.func_wrap_async(
        "[method]descriptor.write",
        |mut store: StoreContextMut<'_, Guest>, (fd, bytes, at): (Resource<Descriptor>, Vec<u8>, u64)| {
            Box::new(async move {
                let guest = store.data_mut();
                if !guest.space().take(bytes.len() as u64) {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                Ok((wasi_result(Files(guest).write(fd, bytes, at).await)?,))
            })
        },
    )?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: StoreContextMut<'_, Guest>, (fd, at): (Resource<Descriptor>, u64)| {
            if !store.data_mut().may_open() {
                return Ok((Err(ErrorCode::InsufficientMemory),));
            }
            let stream = wasi_result(store.data_mut().filesystem().write_via_stream(fd, at))?;
            Ok((meter(store.data_mut(), stream)?,))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: StoreContextMut<'_, Guest>, (fd,): (Resource<Descriptor>,)| {
            if !store.data_mut().may_open() {
                return Ok((Err(ErrorCode::InsufficientMemory),));
            }
            let stream = wasi_result(store.data_mut().filesystem().append_via_stream(fd))?;
            Ok((meter(store.data_mut(), stream)?,))
        },
    )
}

/// Replaces the stream to a file by one of ours.
fn meter(
    guest: &mut Guest,
    stream: Result<Resource<DynOutputStream>, ErrorCode>,
) -> wasmtime::Result<Result<Resource<DynOutputStream>, ErrorCode>> {
    let Ok(stream) = stream else { return Ok(stream) };
    let (space, places) = (guest.space().clone(), guest.blocking());
    let table = guest.ctx().table;
    let inner = table.delete(stream)?;
    let stream: DynOutputStream = Box::new(FileOutput::new(inner, space, places));
    Ok(Ok(table.push(stream)?))
}

fn memory(caller: &mut Caller<'_, CoreGuest>) -> wasmtime::Result<Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => wasmtime::bail!("missing required memory export"),
    }
}

async fn directly<T>(_: &Semaphore, call: impl Future<Output = T>) -> T {
    call.await
}

/// Calls the function of wasmtime-wasi. `file`: a function that uses the disk; `unstable`: the function of `wasi_unstable`.
macro_rules! original {
    (file $($call:tt)*) => { original!(@ p1 in_place $($call)*) };
    (unstable file $($call:tt)*) => { original!(@ p0 in_place $($call)*) };
    (unstable $($call:tt)*) => { original!(@ p0 directly $($call)*) };
    (@ $form:ident $how:ident $caller:ident, $name:ident, $($argument:expr),*) => {{
        let memory = memory(&mut $caller)?;
        let fuel = wasmtime::AsContextMut::as_context_mut(&mut $caller).hostcall_fuel();
        let permits = $caller.data().blocking();
        let (bytes, guest) = memory.data_and_store_mut(&mut $caller);
        let wasi = guest.wasi();
        wasi.set_hostcall_fuel(fuel);
        $how(&permits, $form::$name(wasi, &mut wiggle::GuestMemory::Unshared(bytes), $($argument),*)).await
    }};
    ($($call:tt)*) => { original!(@ p1 directly $($call)*) };
}

/// The bytes that a write of preview 1 writes: it writes only the first non-empty buffer.
fn write_length(caller: &mut Caller<'_, CoreGuest>, buffers: i32, count: i32) -> wasmtime::Result<u64> {
    let memory = memory(caller)?;
    let bytes = memory.data(caller);
    let length = |i: usize| {
        let at = (buffers.cast_unsigned() as usize).checked_add(i.checked_mul(8)?)?.checked_add(4)?;
        bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
    };
    let lengths = (0..count.cast_unsigned() as usize).map_while(length);
    Ok(lengths.into_iter().find(|length| *length > 0).unwrap_or(0).into())
}

/// Replaces the file functions that core modules import.
pub(crate) fn modules(mut linker: wasmtime::Linker<CoreGuest>) -> wasmtime::Result<wasmtime::Linker<CoreGuest>> {
    linker.allow_shadowing(true);
    polls(&mut linker)?;
    randomness::modules(&mut linker)?;
    file_functions(&mut linker)?;
    opens(&mut linker)?;
    writes(&mut linker)?;
    standard_streams(&mut linker)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// Defines functions with one descriptor: they open its mount before the call, if it is not open.
macro_rules! using {
    ($linker:ident: $($name:ident($($argument:ident: $type:ty),*);)*) => { $(
        $linker.func_wrap_async(
            MODULE,
            stringify!($name),
            |mut caller: Caller<'_, CoreGuest>, (fd, $($argument,)*): (i32, $($type,)*)| {
                Box::new(async move {
                    if let Err(refused) = caller.data_mut().ensure_open(fd) {
                        return Ok(errno(&refused));
                    }
                    match caller.data().is_file(fd) {
                        true => original!(file caller, $name, fd $(, $argument)*),
                        false => original!(caller, $name, fd $(, $argument)*),
                    }
                })
            },
        )?;
    )* };
}

/// As `using`, for functions that change something in the folder.
macro_rules! changing {
    ($linker:ident: $($name:ident($($argument:ident: $type:ty),*);)*) => { $(
        $linker.func_wrap_async(
            MODULE,
            stringify!($name),
            |mut caller: Caller<'_, CoreGuest>, (fd, $($argument,)*): (i32, $($type,)*)| {
                Box::new(async move {
                    if let Err(refused) = caller.data_mut().ensure_writable(&[fd]).await {
                        return Ok(errno(&refused));
                    }
                    original!(file caller, $name, fd $(, $argument)*)
                })
            },
        )?;
    )* };
}

/// Defines functions with two descriptors, which change something in their folders.
macro_rules! using_two {
    (@ $a:ident $b:ident $c:ident $d:ident) => { (i32, i32, i32, i32, i32, i32) };
    (@ $a:ident $b:ident $c:ident $d:ident $e:ident) => { (i32, i32, i32, i32, i32, i32, i32) };
    ($linker:ident: $($name:ident($($before:ident),* ; $($after:ident),*);)*) => { $(
        $linker.func_wrap_async(
            MODULE,
            stringify!($name),
            |mut caller: Caller<'_, CoreGuest>, (fd, $($before,)* to, $($after,)*): using_two!(@ $($before)* $($after)*)| {
                Box::new(async move {
                    if let Err(refused) = caller.data_mut().ensure_writable(&[fd, to]).await {
                        return Ok(errno(&refused));
                    }
                    original!(file caller, $name, fd $(, $before)*, to $(, $after)*)
                })
            },
        )?;
    )* };
}

/// Too many subscriptions are an error. Without this check they trap, because the resource table is full.
fn polls(linker: &mut wasmtime::Linker<CoreGuest>) -> wasmtime::Result<()> {
    type Poll = (i32, i32, i32, i32);
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, CoreGuest>, (subscriptions, events, count, to): Poll| {
            Box::new(async move {
                if count.cast_unsigned() > MAX_SUBSCRIPTIONS {
                    return Ok(NOMEM);
                }
                original!(caller, poll_oneoff, subscriptions, events, count, to)
            })
        },
    )?;
    Ok(())
}

/// Functions without limits: they only open their mounts.
fn file_functions(linker: &mut wasmtime::Linker<CoreGuest>) -> wasmtime::Result<()> {
    using!(linker:
        fd_advise(offset: i64, length: i64, advice: i32);
        fd_datasync();
        fd_fdstat_get(to: i32);
        fd_filestat_get(to: i32);
        fd_filestat_set_size(size: i64);
        fd_filestat_set_times(access: i64, change: i64, flags: i32);
        fd_pread(buffers: i32, count: i32, at: i64, to: i32);
        fd_read(buffers: i32, count: i32, to: i32);
        fd_readdir(buffer: i32, length: i32, cookie: i64, to: i32);
        fd_seek(offset: i64, whence: i32, to: i32);
        fd_sync();
        path_filestat_get(follow: i32, path: i32, length: i32, to: i32);
        path_readlink(path: i32, length: i32, buffer: i32, size: i32, to: i32);
    );
    changing!(linker:
        path_filestat_set_times(follow: i32, path: i32, length: i32, access: i64, change: i64, flags: i32);
        path_remove_directory(path: i32, length: i32);
        path_unlink_file(path: i32, length: i32);
    );
    using_two!(linker:
        path_link(follow, path, length; new, new_length);
        path_rename(path, length; new, new_length);
    );
    Ok(())
}

/// The descriptor that an open wrote to the guest's memory.
fn opened_number(caller: &mut Caller<'_, CoreGuest>, to: i32) -> wasmtime::Result<Option<i32>> {
    let at = to.cast_unsigned() as usize;
    let bytes = memory(caller)?.data(&*caller).get(at..at.saturating_add(4)).and_then(|bytes| bytes.try_into().ok());
    Ok(bytes.map(i32::from_le_bytes))
}

fn opens(linker: &mut wasmtime::Linker<CoreGuest>) -> wasmtime::Result<()> {
    type Open = (i32, i32, i32, i32, i32, i64, i64, i32, i32);
    linker.func_wrap_async(
        MODULE,
        "path_open",
        |mut caller: Caller<'_, CoreGuest>, (fd, follow, path, length, how, base, inheriting, flags, to): Open| {
            Box::new(async move {
                let guest = caller.data_mut();
                if how & CREATE != 0 && !guest.space().take(ENTRY_BYTES) {
                    return Ok(NOSPC);
                }
                let writes = how & (CREATE | TRUNCATE) != 0 || base & RIGHT_TO_WRITE != 0;
                let ready = if writes { guest.ensure_writable(&[fd]).await } else { guest.ensure_open(fd) };
                if let Err(refused) = ready {
                    return Ok(errno(&refused));
                }
                if !guest.may_open() {
                    return Ok(MFILE);
                }
                caller.data_mut().set_blocking_files(true);
                let opened =
                    original!(file caller, path_open, fd, follow, path, length, how, base, inheriting, flags, to);
                caller.data_mut().set_blocking_files(false);
                let number = opened_number(&mut caller, to)?;
                if let (Ok(0), Some(number)) = (&opened, number) {
                    caller.data_mut().opened_in(fd, number);
                }
                opened
            })
        },
    )?;
    Ok(())
}

fn writes(linker: &mut wasmtime::Linker<CoreGuest>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_write",
        |mut caller: Caller<'_, CoreGuest>, (fd, buffers, count, to): (i32, i32, i32, i32)| {
            Box::new(async move {
                if !caller.data().is_file(fd) {
                    return original!(caller, fd_write, fd, buffers, count, to);
                }
                let bytes = write_length(&mut caller, buffers, count)?;
                if !caller.data().space().take(bytes) {
                    return Ok(NOSPC);
                }
                original!(file caller, fd_write, fd, buffers, count, to)
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_pwrite",
        |mut caller: Caller<'_, CoreGuest>, (fd, buffers, count, at, to): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                let bytes = write_length(&mut caller, buffers, count)?;
                if !caller.data().space().take(bytes) {
                    return Ok(NOSPC);
                }
                original!(file caller, fd_pwrite, fd, buffers, count, at, to)
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_create_directory",
        |mut caller: Caller<'_, CoreGuest>, (fd, path, length): (i32, i32, i32)| {
            Box::new(async move {
                if !caller.data().space().take(ENTRY_BYTES) {
                    return Ok(NOSPC);
                }
                if let Err(refused) = caller.data_mut().ensure_writable(&[fd]).await {
                    return Ok(errno(&refused));
                }
                original!(file caller, path_create_directory, fd, path, length)
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_symlink",
        |mut caller: Caller<'_, CoreGuest>, (target, length, fd, path, path_length): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                if !caller.data().space().take(ENTRY_BYTES) {
                    return Ok(NOSPC);
                }
                if let Err(refused) = caller.data_mut().ensure_writable(&[fd]).await {
                    return Ok(errno(&refused));
                }
                original!(file caller, path_symlink, target, length, fd, path, path_length)
            })
        },
    )?;
    Ok(())
}

/// Detects guests that close or replace a standard stream: later, the descriptor may be a file.
fn standard_streams(linker: &mut wasmtime::Linker<CoreGuest>) -> wasmtime::Result<()> {
    linker.func_wrap_async(MODULE, "fd_close", |mut caller: Caller<'_, CoreGuest>, (fd,): (i32,)| {
        Box::new(async move {
            caller.data_mut().stdio_replaced |= fd.cast_unsigned() <= STDERR.cast_unsigned();
            caller.data_mut().forget(fd);
            original!(caller, fd_close, fd)
        })
    })?;
    linker.func_wrap_async(MODULE, "fd_renumber", |mut caller: Caller<'_, CoreGuest>, (fd, to): (i32, i32)| {
        Box::new(async move {
            // both descriptors are opened: the first one moves, the second one is closed
            if let Err(refused) = caller.data_mut().ensure_open(fd).and_then(|()| caller.data_mut().ensure_open(to)) {
                return Ok(errno(&refused));
            }
            caller.data_mut().stdio_replaced |= to.cast_unsigned() <= STDERR.cast_unsigned();
            let renumbered = original!(caller, fd_renumber, fd, to);
            if matches!(renumbered, Ok(0)) {
                caller.data_mut().renumbered(fd, to);
            }
            renumbered
        })
    })?;
    Ok(())
}

/// Replaces the functions of `wasi_unstable` that differ from preview 1.
pub(crate) fn unstable(linker: &mut wasmtime::Linker<CoreGuest>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        UNSTABLE,
        "poll_oneoff",
        |mut caller: Caller<'_, CoreGuest>, (subscriptions, events, count, to): (i32, i32, i32, i32)| {
            Box::new(async move {
                if count.cast_unsigned() > MAX_SUBSCRIPTIONS {
                    return Ok(NOMEM);
                }
                original!(unstable caller, poll_oneoff, subscriptions, events, count, to)
            })
        },
    )?;
    linker.func_wrap_async(
        UNSTABLE,
        "fd_filestat_get",
        |mut caller: Caller<'_, CoreGuest>, (fd, to): (i32, i32)| {
            Box::new(async move {
                if let Err(refused) = caller.data_mut().ensure_open(fd) {
                    return Ok(errno(&refused));
                }
                original!(unstable file caller, fd_filestat_get, fd, to)
            })
        },
    )?;
    linker.func_wrap_async(
        UNSTABLE,
        "path_filestat_get",
        |mut caller: Caller<'_, CoreGuest>, (fd, follow, path, length, to): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                if let Err(refused) = caller.data_mut().ensure_open(fd) {
                    return Ok(errno(&refused));
                }
                original!(unstable file caller, path_filestat_get, fd, follow, path, length, to)
            })
        },
    )?;
    Ok(())
}

impl CoreGuest {
    /// Whether writes to this descriptor may reach a file of a volume.
    fn is_file(&self, fd: i32) -> bool {
        self.stdio_replaced || fd.cast_unsigned() > STDERR.cast_unsigned()
    }
}
