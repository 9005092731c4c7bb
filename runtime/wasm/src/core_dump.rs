//! Core dumps of guests that trapped: the stack, globals and memories, in the format that
//! <https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md> describes.
//!
//! A container keeps at most one, of its first trap, in a file beside its log. The file is therefore counted as the log is, against the
//! limit of ephemeral storage, and removed with it. An end by the memory limit leaves none, as an end by SIGKILL leaves none.

use crate::{
    exit,
    files::budget::DiskSpace,
    long_polls::hand_over,
    memory::{InstanceMemory, MemoryAccount},
};
use container::core_dump_file;
use parking_lot::Mutex;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};
use wasmtime::{Error, Store, WasmCoreDump};

/// Most bytes of the memories of a guest that is dumped: the host holds two copies of what is not zero in them.
const MAX_MEMORY: u64 = 128 << 20;

/// One core dump at a time, in all containers of the node.
#[derive(Default)]
pub(crate) struct CoreDumps(Mutex<()>);

/// Whether a container has its core dump.
#[derive(Default)]
pub(crate) struct Dumped(AtomicBool);

/// Where the core dump of a container goes, and what it is charged to.
pub(crate) struct Destination<'a> {
    pub(crate) dumped: &'a Dumped,
    pub(crate) core_dumps: &'a CoreDumps,
    pub(crate) memory: &'a Arc<MemoryAccount>,
    pub(crate) space: &'a DiskSpace,
    /// The log of the container, beside which the file is.
    pub(crate) log: &'a Path,
    /// The name of the container.
    pub(crate) name: &'a str,
}

/// Keeps a core dump of a trap. Adds to the error where it is, or why there is none. Blocks on the disk.
pub(crate) fn keep<T: Send + 'static>(store: &mut Store<T>, error: Error, destination: &Destination<'_>) -> Error {
    let is_trap = exit::is_trap(&error) && !exit::is_out_of_memory(&error);
    let Some(dump) = error.downcast_ref::<WasmCoreDump>().filter(|_| is_trap) else { return error };
    if destination.dumped.0.swap(true, SeqCst) {
        return error;
    }
    let story =
        hand_over(|| write(store, dump, destination)).unwrap_or_else(|why| format!("there is no core dump: {why}"));
    error.context(story)
}

fn write<T: Send + 'static>(
    store: &mut Store<T>,
    dump: &WasmCoreDump,
    destination: &Destination<'_>,
) -> Result<String, String> {
    let memory: u64 = dump.memories().iter().map(|memory| memory.data_size(&*store) as u64).sum();
    if memory > MAX_MEMORY {
        return Err(format!("the {memory} bytes of memory are more than the {MAX_MEMORY} that one may have"));
    }
    let _turn = destination.core_dumps.0.lock();
    let mut held = InstanceMemory::new(destination.memory.root().clone());
    held.set_host_bytes(2 * memory).map_err(|full| full.to_string())?;
    let bytes = dump.serialize(&mut *store, destination.name);
    if !destination.space.take(bytes.len() as u64) {
        return Err("the disk of the node is short of room".into());
    }
    let file = core_dump_file(destination.log);
    create(&file, &bytes).map_err(|error| {
        let _ = fs::remove_file(&file);
        format!("{}: {error}", file.display())
    })?;
    Ok(format!("a core dump of {} bytes is in {}", bytes.len(), file.display()))
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}
