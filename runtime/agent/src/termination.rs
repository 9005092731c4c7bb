//! Termination messages: each container can write a file, which is read when the container exits.
//!
//! Follows <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>. Wasm guests mount whole folders.
//! Therefore the file has a folder of its own, mounted at the parent of `terminationMessagePath`, or is in the volume that is mounted
//! there.

use crate::volumes::tree;
use container::Mount;
use k8s_openapi::api::core::v1::Container;
use rustix::fs::{Mode, OFlags, open, openat};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

/// The default of `terminationMessagePath`.
const DEFAULT_PATH: &str = "/dev/termination-log";
/// The maximum size of a message. Only the end of a larger file is read. The value is upstream's.
const MAX_BYTES: u64 = 4096;
/// Guests can replace the file: never follow a symbolic link, and do not block on a named pipe.
const NOFOLLOW_NONBLOCK: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The file with the termination message of a container.
#[derive(Clone, Debug)]
pub(crate) struct TerminationMessage {
    /// A folder that guests cannot replace.
    root: PathBuf,
    /// The path of the file below `root`.
    path: PathBuf,
    /// Modification time and size of the file when the container started: the message must differ from an earlier one.
    before: Option<(SystemTime, u64)>,
}

impl TerminationMessage {
    fn new(root: PathBuf, path: PathBuf) -> Self {
        let mut this = Self { root, path, before: None };
        this.before = this.open(OFlags::RDONLY).ok().and_then(|file| stamp(&file));
        this
    }

    /// The message, or an empty string if the container wrote none. Blocks on the disk for some microseconds.
    pub(crate) fn read(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = self.open(OFlags::RDONLY)?;
            if stamp(&file).is_none_or(|now| Some(now) == self.before) {
                return Ok(Vec::new());
            }
            let size = file.metadata()?.len();
            file.seek(SeekFrom::Start(size.saturating_sub(MAX_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        // A removed file counts as an empty message.
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }

    /// Opens the file component by component, without following symbolic links.
    fn open(&self, how: OFlags) -> io::Result<File> {
        let folder = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let mut at = open(&self.root, folder, Mode::empty())?;
        let mut parts = self.path.components().peekable();
        while let Some(part) = parts.next() {
            let Component::Normal(part) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
            let how = if parts.peek().is_some() { folder | OFlags::NOFOLLOW } else { how | NOFOLLOW_NONBLOCK };
            at = openat(&at, part, how, Mode::from_raw_mode(0o666))?;
        }
        Ok(at.into())
    }
}

/// Whether a folder is what an earlier start has left, with nothing written: of thousands of pods that return, nearly all.
fn holds_only_empty(folder: &Path, name: &OsStr) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let mut names = entries.map(|entry| entry.is_ok_and(|entry| entry.file_name() == name));
    let is_alone = names.next() == Some(true) && names.next().is_none();
    is_alone && folder.join(name).symlink_metadata().is_ok_and(|known| known.is_file() && known.len() == 0)
}

/// Modification time and size of a regular file.
fn stamp(file: &File) -> Option<(SystemTime, u64)> {
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Creates and mounts the file: by itself with `single_files`. `folder` belongs to the container's termination message and is emptied first.
/// Blocks on the disk.
pub(crate) fn prepare(
    container: &Container,
    mounts: &mut Vec<Mount>,
    folder: &Path,
    single_files: bool,
) -> io::Result<Option<TerminationMessage>> {
    let path = container.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or(DEFAULT_PATH);
    let path = Path::new(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let covering = mounts.iter().filter(|m| parent.starts_with(&m.target)).max_by_key(|m| m.target.len());
    if let Some(mount) = covering {
        let path = mount.below.join(path.strip_prefix(&mount.target).unwrap_or(path));
        let message = TerminationMessage::new(mount.root.clone(), path);
        if !mount.read_only && message.before.is_none() {
            // If the folder is missing or not writable, there is no message.
            drop(message.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL));
        }
        return Ok(Some(TerminationMessage::new(message.root, message.path)));
    }
    if !holds_only_empty(folder, name) {
        tree::remove(folder)?;
        std::fs::create_dir_all(folder)?;
        File::create(folder.join(name))?;
    }
    let mount = if single_files {
        // every user of the container may write it
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o666))?;
        Mount::file(folder, name, path.to_string_lossy(), false)
    } else {
        Mount::new(folder, "", parent.to_string_lossy(), false)
    };
    mounts.push(mount.map_err(io::Error::other)?);
    Ok(Some(TerminationMessage::new(folder.to_owned(), name.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn container(path: Option<&str>) -> Container {
        Container { termination_message_path: path.map(str::to_owned), ..Container::default() }
    }

    fn mount(source: &Path, target: &str) -> Mount {
        Mount::new(source, "", target, false).unwrap()
    }

    #[test]
    fn the_file_is_there_and_each_start_begins_with_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("own");
        for text in ["why", "", "again"] {
            let mut mounts = vec![mount(dir.path(), "/dev/shm")];
            let message = prepare(&container(None), &mut mounts, &folder, false).unwrap().unwrap();
            assert_eq!((mounts.len(), mounts[1].target.as_str()), (2, "/dev"));
            let file = mounts[1].root.join("termination-log");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
            std::fs::write(file, text).unwrap();
            assert_eq!(message.read(), text);
        }
    }

    #[test]
    fn the_end_of_a_long_message_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut mounts = Vec::new();
        let message =
            prepare(&container(Some("/a/b/c")), &mut mounts, &dir.path().join("own"), false).unwrap().unwrap();
        assert_eq!(mounts[0].target, "/a/b");
        std::fs::write(mounts[0].root.join("c"), "x".repeat(5000) + "end").unwrap();
        let text = message.read();
        assert_eq!((text.len(), text.ends_with("xend")), (4096, true));
    }

    #[test]
    fn a_volume_at_its_place_holds_the_file_and_nothing_else_in_it_is_a_message() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("sub")).unwrap();
        std::fs::write(data.join("app.log"), "not written by this container").unwrap();
        let own = dir.path().join("own");
        let at = |path: &str| {
            let mut mounts = vec![mount(&data, "/data")];
            let message = prepare(&container(Some(path)), &mut mounts, &own, false).unwrap().unwrap();
            assert_eq!(mounts.len(), 1);
            message
        };
        assert_eq!(at("/data/app.log").read(), "");
        let message = at("/data/sub/why");
        assert!(data.join("sub/why").is_file(), "it can be opened without making it");
        std::fs::write(data.join("sub/why"), "because").unwrap();
        assert_eq!(message.read(), "because");
        assert_eq!(at("/data/none/why").read(), "");
    }

    #[test]
    fn links_of_the_guest_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (data, secret) = (dir.path().join("data"), dir.path().join("secret"));
        std::fs::create_dir_all(data.join("sub")).unwrap();
        std::fs::create_dir(&secret).unwrap();
        std::fs::write(secret.join("why"), "secret").unwrap();
        let mut mounts = vec![mount(&data, "/data")];
        let message = prepare(&container(Some("/data/sub/why")), &mut mounts, dir.path(), false).unwrap().unwrap();
        std::fs::remove_file(data.join("sub/why")).unwrap();
        symlink(secret.join("why"), data.join("sub/why")).unwrap();
        assert_eq!(message.read(), "");
        std::fs::remove_dir_all(data.join("sub")).unwrap();
        symlink(&secret, data.join("sub")).unwrap();
        assert_eq!(message.read(), "");
        std::fs::remove_file(data.join("sub")).unwrap();
        std::fs::create_dir(data.join("sub")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            data.join("sub/why"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(message.read(), "", "a pipe is not waited for");
    }
}
