//! The file functions of components: those of wasmtime-wasi, with mounts that are opened at their first use.

use crate::{
    files::{
        Refused,
        streams::{FileInput, in_place},
    },
    guest::Guest,
};
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::{
    WasiView,
    filesystem::{Descriptor, WasiFilesystemView},
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult,
        bindings::filesystem::types::{
            self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream,
            ErrorCode, Filesize, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags,
            PathFlags,
        },
    },
};

const NOSPC: i32 = rustix::io::Errno::NOSPC.raw_os_error();

/// A guest's files.
pub(crate) struct Files<'a>(pub(crate) &'a mut Guest);

pub(crate) struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = Files<'a>;
}

impl Files<'_> {
    /// Counts a stream as an open file: it keeps its file open.
    fn reserve_stream(&mut self) -> FsResult<()> {
        if self.0.may_open() { Ok(()) } else { Err(error_code(&Refused::Full).into()) }
    }

    fn ensure_open(&mut self, fd: &Resource<Descriptor>) -> FsResult<()> {
        Ok(self.0.ensure_open(fd.rep()).map_err(|refused| error_code(&refused))?)
    }

    /// Before a call that changes something in these folders.
    async fn ensure_writable(&mut self, fds: &[&Resource<Descriptor>]) -> FsResult<()> {
        for fd in fds {
            self.0.ensure_writable(fd.rep()).await.map_err(|refused| error_code(&refused))?;
        }
        // the second may have brought the copy
        fds.iter().try_for_each(|fd| self.ensure_open(fd))
    }
}

/// The error code of WASI 0.2, which has none for too many open files.
pub(crate) fn error_code(refused: &Refused) -> ErrorCode {
    match refused {
        Refused::Full => ErrorCode::InsufficientMemory,
        Refused::Root(error) if error.raw_os_error() == Some(NOSPC) => ErrorCode::InsufficientSpace,
        Refused::Root(error) if error.kind() == std::io::ErrorKind::NotFound => ErrorCode::NoEntry,
        Refused::Mount(..) | Refused::Root(_) => ErrorCode::Io,
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.0.filesystem().convert_error_code(error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        self.0.filesystem().filesystem_error_code(error)
    }
}

macro_rules! changing {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => { $(
        async fn $name(&mut self, fd: Resource<Descriptor>, $($argument: $type),*) -> FsResult<()> {
            self.ensure_writable(&[&fd]).await?;
            let places = self.0.blocking();
            in_place(&places, self.0.filesystem().$name(fd, $($argument),*)).await
        }
    )* };
}

macro_rules! using {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => { $(
        async fn $name(&mut self, fd: Resource<Descriptor>, $($argument: $type),*) -> FsResult<$answer> {
            self.ensure_open(&fd)?;
            let places = self.0.blocking();
            in_place(&places, self.0.filesystem().$name(fd, $($argument),*)).await
        }
    )* };
}

impl HostDescriptor for Files<'_> {
    using! {
        advise(offset: Filesize, length: Filesize, advice: Advice) -> ();
        sync_data() -> ();
        get_flags() -> DescriptorFlags;
        set_size(size: Filesize) -> ();
        read(length: Filesize, offset: Filesize) -> (Vec<u8>, bool);
        write(bytes: Vec<u8>, offset: Filesize) -> Filesize;
        read_directory() -> Resource<DirectoryEntryStream>;
        sync() -> ();
        stat() -> DescriptorStat;
        stat_at(follow: PathFlags, path: String) -> DescriptorStat;
        open_at(follow: PathFlags, path: String, how: OpenFlags, flags: DescriptorFlags) -> Resource<Descriptor>;
        readlink_at(path: String) -> String;
        metadata_hash() -> MetadataHashValue;
        metadata_hash_at(follow: PathFlags, path: String) -> MetadataHashValue;
    }

    changing! {
        set_times(access: NewTimestamp, change: NewTimestamp);
        create_directory_at(path: String);
        set_times_at(follow: PathFlags, path: String, access: NewTimestamp, change: NewTimestamp);
        remove_directory_at(path: String);
        symlink_at(target: String, path: String);
        unlink_file_at(path: String);
    }

    /// Programs call it for each folder at their start, so that it does not open the folder.
    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.0.filesystem().get_type(fd).await
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        follow: PathFlags,
        path: String,
        new: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.ensure_writable(&[&fd, &new]).await?;
        let places = self.0.blocking();
        in_place(&places, self.0.filesystem().link_at(fd, follow, path, new, new_path)).await
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
        new: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.ensure_writable(&[&fd, &new]).await?;
        let places = self.0.blocking();
        in_place(&places, self.0.filesystem().rename_at(fd, path, new, new_path)).await
    }

    async fn is_same_object(&mut self, a: Resource<Descriptor>, b: Resource<Descriptor>) -> wasmtime::Result<bool> {
        // a descriptor equals itself even if it cannot be opened; this function cannot return an error otherwise
        if a.rep() == b.rep() {
            return Ok(true);
        }
        if self.ensure_open(&a).is_err() || self.ensure_open(&b).is_err() {
            return Ok(false);
        }
        let places = self.0.blocking();
        in_place(&places, self.0.filesystem().is_same_object(a, b)).await
    }

    fn read_via_stream(&mut self, fd: Resource<Descriptor>, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        self.reserve_stream()?;
        let stream = self.0.filesystem().read_via_stream(fd, offset)?;
        let (places, table) = (self.0.blocking(), self.0.ctx().table);
        let stream: DynInputStream = Box::new(FileInput::new(table.delete(stream)?, places));
        Ok(table.push(stream)?)
    }

    fn write_via_stream(&mut self, fd: Resource<Descriptor>, offset: Filesize) -> FsResult<Resource<DynOutputStream>> {
        self.0.filesystem().write_via_stream(fd, offset)
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        self.0.filesystem().append_via_stream(fd)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.0.forget(fd.rep());
        HostDescriptor::drop(&mut self.0.filesystem(), fd)
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(&mut self, list: Resource<DirectoryEntryStream>) -> FsResult<Option<DirectoryEntry>> {
        self.0.filesystem().read_directory_entry(list).await
    }

    fn drop(&mut self, list: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.0.filesystem(), list)
    }
}
