//! The file functions of WASI 0.3: those of wasmtime-wasi, with the limits of open files, disk and CPU. Streams are in [`super::p3_streams`].

use super::{
    budget::ENTRY_BYTES,
    lazy::{Files, HasFiles},
    p3_streams::{End, Listing, Position, Reading, Writing},
    refused::Refused,
    streams::in_place,
};
use crate::guest::Guest;
use std::{io, iter, sync::Arc};
use tokio::sync::{Semaphore, oneshot};
use wasmtime::component::{Access, Accessor, FutureReader, Linker, Resource, StreamReader};
use wasmtime_wasi::{
    filesystem::{Descriptor, File, WasiFilesystem, WasiFilesystemView},
    p3::{
        bindings::filesystem::{
            preopens,
            types::{
                self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode, Filesize,
                HostDescriptorWithStore, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
            },
        },
        filesystem::{FilesystemError, FilesystemResult},
    },
};

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    types::add_to_linker::<Guest, HasFiles>(linker, |guest| Files(guest))?;
    preopens::add_to_linker::<Guest, HasFiles>(linker, |guest| Files(guest))
}

/// The error code of WASI 0.3, which has none for too many open files.
fn error_code(refused: &Refused) -> ErrorCode {
    match refused {
        Refused::Full => ErrorCode::InsufficientMemory,
        Refused::Root(error) => error.into(),
        Refused::Mount(..) => ErrorCode::Io,
    }
}

type Store<'a> = &'a Accessor<Guest, HasFiles>;
type Fd = Resource<Descriptor>;
type Told = FutureReader<Result<(), ErrorCode>>;

/// The functions of wasmtime-wasi.
fn original(store: Store<'_>) -> Accessor<Guest, WasiFilesystem> {
    store.with_getter::<WasiFilesystem>(Guest::filesystem)
}

/// Before a call that uses these folders or files. Returns the places for the call.
fn opened(store: Store<'_>, fds: &[&Fd]) -> FilesystemResult<Arc<Semaphore>> {
    store.with(|mut access| {
        let Files(guest) = access.get();
        let opened = fds.iter().try_for_each(|fd| guest.ensure_open(fd.rep()));
        opened.map(|()| guest.blocking()).map_err(|refused| error_code(&refused).into())
    })
}

/// As [`opened`], before a call that changes something in these folders.
async fn writable(store: Store<'_>, fds: &[&Fd]) -> FilesystemResult<Arc<Semaphore>> {
    opened(store, fds)?;
    for fd in fds {
        let copying = store.with(|mut access| access.get().0.root_to_copy(fd.rep()));
        if let Some(shared) = copying {
            shared.copy_root().await.map_err(|refused| error_code(&refused))?;
        }
    }
    opened(store, fds)
}

/// Charges a new entry of a folder.
fn charge(store: Store<'_>) -> FilesystemResult<()> {
    match store.with(|mut access| access.get().0.space().take(ENTRY_BYTES)) {
        true => Ok(()),
        false => Err(ErrorCode::InsufficientSpace.into()),
    }
}

macro_rules! using {
    ($ready:ident: $($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => { $(
        async fn $name(store: Store<'_>, fd: Fd, $($argument: $type),*) -> FilesystemResult<$answer> {
            let places = $ready(store, &[&fd]).await?;
            in_place(&places, WasiFilesystem::$name(&original(store), fd, $($argument),*)).await
        }
    )* };
}

async fn readable(store: Store<'_>, fds: &[&Fd]) -> FilesystemResult<Arc<Semaphore>> {
    opened(store, fds)
}

/// As [`writable`], before a call that makes an entry.
async fn created(store: Store<'_>, fds: &[&Fd]) -> FilesystemResult<Arc<Semaphore>> {
    charge(store)?;
    writable(store, fds).await
}

/// The error of a call that has no error of its own to give but by the result of a stream.
fn failed(store: &mut Access<'_, Guest, HasFiles>, code: ErrorCode) -> wasmtime::Result<Told> {
    FutureReader::new(store, async move { wasmtime::error::Ok(Err(code)) })
}

/// The open file of a stream, which counts as one more.
fn file_of(store: &mut Access<'_, Guest, HasFiles>, fd: &Fd) -> wasmtime::Result<Result<File, ErrorCode>> {
    let Files(guest) = store.get();
    let file = match guest.filesystem().table.get(fd)? {
        Descriptor::File(file) => file.clone(),
        Descriptor::Dir(_) => return Ok(Err(ErrorCode::IsDirectory)),
    };
    Ok(if guest.may_open() { Ok(file) } else { Err(ErrorCode::InsufficientMemory) })
}

fn write(
    mut store: Access<'_, Guest, HasFiles>,
    fd: &Fd,
    mut data: StreamReader<u8>,
    position: Position,
) -> wasmtime::Result<Told> {
    let file = file_of(&mut store, fd)?;
    let file =
        file.and_then(|file| if file.perms.write_not_permitted() { Err(ErrorCode::NotPermitted) } else { Ok(file) });
    match file {
        Ok(file) => {
            let (tell, told) = oneshot::channel();
            let Files(guest) = store.get();
            let (space, places, counted) = (guest.space().clone(), guest.blocking(), guest.counted_stream());
            let writing = Writing::new(file.file, position, space, places, End::new(tell), counted);
            data.pipe(&mut store, writing)?;
            FutureReader::new(&mut store, told)
        }
        Err(code) => {
            data.close(&mut store)?;
            failed(&mut store, code)
        }
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FilesystemError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Fd, String)>> {
        self.0.preopens()
    }
}

impl types::HostDescriptor for Files<'_> {
    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        self.0.forget(fd.rep());
        self.0.filesystem().table.delete(fd)?;
        Ok(())
    }
}

impl HostDescriptorWithStore<Guest> for HasFiles {
    using! { readable:
        advise(offset: Filesize, length: Filesize, advice: Advice) -> ();
        sync_data() -> ();
        get_flags() -> DescriptorFlags;
        set_size(size: Filesize) -> ();
        sync() -> ();
        stat() -> DescriptorStat;
        stat_at(follow: PathFlags, path: String) -> DescriptorStat;
        readlink_at(path: String) -> String;
        metadata_hash() -> MetadataHashValue;
        metadata_hash_at(follow: PathFlags, path: String) -> MetadataHashValue;
    }

    using! { writable:
        set_times(access: NewTimestamp, change: NewTimestamp) -> ();
        set_times_at(follow: PathFlags, path: String, access: NewTimestamp, change: NewTimestamp) -> ();
        remove_directory_at(path: String) -> ();
        unlink_file_at(path: String) -> ();
    }

    using! { created:
        create_directory_at(path: String) -> ();
        symlink_at(target: String, path: String) -> ();
    }

    /// Programs call it for each folder at their start, so that it does not open the folder.
    async fn get_type(store: Store<'_>, fd: Fd) -> FilesystemResult<DescriptorType> {
        WasiFilesystem::get_type(&original(store), fd).await
    }

    async fn open_at(
        store: Store<'_>,
        fd: Fd,
        follow: PathFlags,
        path: String,
        how: OpenFlags,
        flags: DescriptorFlags,
    ) -> FilesystemResult<Fd> {
        if how.contains(OpenFlags::CREATE) {
            charge(store)?;
        }
        let writes = how.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE) || flags.contains(DescriptorFlags::WRITE);
        let places = if writes { writable(store, &[&fd]).await? } else { opened(store, &[&fd])? };
        if !store.with(|mut access| access.get().0.may_open()) {
            return Err(ErrorCode::InsufficientMemory.into());
        }
        in_place(&places, WasiFilesystem::open_at(&original(store), fd, follow, path, how, flags)).await
    }

    async fn link_at(
        store: Store<'_>,
        fd: Fd,
        follow: PathFlags,
        path: String,
        new: Fd,
        new_path: String,
    ) -> FilesystemResult<()> {
        charge(store)?;
        let places = writable(store, &[&fd, &new]).await?;
        in_place(&places, WasiFilesystem::link_at(&original(store), fd, follow, path, new, new_path)).await
    }

    async fn rename_at(store: Store<'_>, fd: Fd, path: String, new: Fd, new_path: String) -> FilesystemResult<()> {
        let places = writable(store, &[&fd, &new]).await?;
        in_place(&places, WasiFilesystem::rename_at(&original(store), fd, path, new, new_path)).await
    }

    async fn is_same_object(store: Store<'_>, a: Fd, b: Fd) -> wasmtime::Result<bool> {
        // a descriptor equals itself even if it cannot be opened; this function cannot return an error otherwise
        if a.rep() == b.rep() {
            return Ok(true);
        }
        let Ok(places) = opened(store, &[&a, &b]) else { return Ok(false) };
        in_place(&places, WasiFilesystem::is_same_object(&original(store), a, b)).await
    }

    fn read_via_stream(
        mut store: Access<'_, Guest, Self>,
        fd: Fd,
        offset: Filesize,
    ) -> wasmtime::Result<(StreamReader<u8>, Told)> {
        match file_of(&mut store, &fd)? {
            Ok(file) => {
                let (tell, told) = oneshot::channel();
                let Files(guest) = store.get();
                let (places, counted) = (guest.blocking(), guest.counted_stream());
                let reading = Reading::new(file.file, offset, places, End::new(tell), counted);
                Ok((StreamReader::new(&mut store, reading)?, FutureReader::new(&mut store, told)?))
            }
            Err(code) => Ok((StreamReader::new(&mut store, iter::empty())?, failed(&mut store, code)?)),
        }
    }

    fn write_via_stream(
        store: Access<'_, Guest, Self>,
        fd: Fd,
        data: StreamReader<u8>,
        offset: Filesize,
    ) -> wasmtime::Result<Told> {
        write(store, &fd, data, Position::At(offset))
    }

    fn append_via_stream(store: Access<'_, Guest, Self>, fd: Fd, data: StreamReader<u8>) -> wasmtime::Result<Told> {
        write(store, &fd, data, Position::End)
    }

    fn read_directory(
        mut store: Access<'_, Guest, Self>,
        fd: Fd,
    ) -> wasmtime::Result<(StreamReader<DirectoryEntry>, Told)> {
        let Files(guest) = store.get();
        let opened = guest.ensure_open(fd.rep()).map_err(|refused| error_code(&refused));
        let folder = match guest.filesystem().table.get(&fd)? {
            Descriptor::Dir(dir) => Ok(dir.dir.clone()),
            Descriptor::File(_) => Err(ErrorCode::NotDirectory),
        };
        let folder = opened.and(folder);
        let folder = folder.and_then(|dir| if guest.may_open() { Ok(dir) } else { Err(ErrorCode::InsufficientMemory) });
        let (places, counted) = (guest.blocking(), guest.counted_stream());
        match folder.and_then(|folder| Ok(Listing::open(&folder).map_err(io::Error::from)?)) {
            Ok(entries) => {
                let (tell, told) = oneshot::channel();
                let listing = Listing::new(entries, places, End::new(tell), counted);
                Ok((StreamReader::new(&mut store, listing)?, FutureReader::new(&mut store, told)?))
            }
            Err(code) => Ok((StreamReader::new(&mut store, iter::empty())?, failed(&mut store, code)?)),
        }
    }
}
