//! The group of a pod's volumes, `fsGroup`: its Linux containers have it as a supplemental group, and so read and write what they share.
//!
//! Follows <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>. As upstream's, it is given once, when the pod is set up:
//! the setgid bit of folders gives it to what is made later. Modules of WebAssembly have no users, and nothing is done for them. A node that is
//! not root has one user, to whom everything belongs.

use super::tree;
use crate::pod;
use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, chmod, chownat, fstat, openat},
    process::geteuid,
};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

const READ: u32 = 0o440;
const READ_WRITE: u32 = 0o660;
/// Of folders: enter them, and give the group to what is made in them.
const ENTER: u32 = 0o2110;

/// To whom the volumes of a pod belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The group.
    pub group: Option<u32>,
    /// A volume whose root is right is right altogether (`fsGroupChangePolicy: OnRootMismatch`).
    pub on_root_mismatch: bool,
    /// The user of tokens: that of all containers, if they have the same.
    pub user: Option<u32>,
    /// The pod asks for a group, and this process may not give one.
    pub refused: bool,
}

impl Ownership {
    /// Of a pod. `linux` is whether processes run in it.
    pub fn of(pod: &Pod, linux: bool) -> Self {
        if !linux {
            return Self::default();
        }
        let context = pod::spec(pod).security_context.as_ref();
        let group = context.and_then(|context| u32::try_from(context.fs_group?).ok());
        if !geteuid().is_root() {
            return Self { refused: group.is_some(), ..Self::default() };
        }
        let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
        Self { group, on_root_mismatch: policy == Some("OnRootMismatch"), user: user(pod), refused: false }
    }
}

/// The user of all containers of a pod, as upstream's `FsUserFrom`.
fn user(pod: &Pod) -> Option<u32> {
    let of_pod = pod::spec(pod).security_context.as_ref().and_then(|context| context.run_as_user);
    let of = |container: &Container| container.security_context.as_ref().and_then(|own| own.run_as_user).or(of_pod);
    let mut users = pod::all_containers(pod).map(|(container, _)| of(&container));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

/// The mode of what a group may read, and write unless it is read-only.
pub(super) fn with_group(mode: u32, is_folder: bool, read_only: bool) -> u32 {
    let access = if read_only { READ } else { READ_WRITE };
    mode | access | if is_folder { ENTER } else { 0 }
}

/// Gives a group to a folder and all that is in it, beneath the open folder and through no link. As upstream's, the folder comes last, so that one
/// that was not finished is begun again, and what the kernel refuses of single files is left as it is.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn give(root: &OwnedFd, group: u32, on_root_mismatch: bool) -> io::Result<()> {
    if on_root_mismatch && is_given(root, group)? {
        return Ok(());
    }
    let top = openat(root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let all = tree::walk(top, |at, name, _| {
        // A guest may replace it meanwhile: what is open stays the same.
        let opened = openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let _ = opened.map_err(io::Error::from).and_then(|file| give_one(&file, group));
    })?;
    if !all {
        tracing::warn!(group, "a volume changes, or has too many files: not all of them have got the group of the pod");
    }
    give_one(root, group)
}

/// Whether the root of a volume is as [`give`] leaves it.
fn is_given(root: &OwnedFd, group: u32) -> io::Result<bool> {
    let found = fstat(root)?;
    let mode = found.st_mode & 0o7777;
    Ok(found.st_gid == group && with_group(mode, true, false) == mode)
}

/// Gives a group to one file, folder or link.
pub(super) fn give_one(file: &OwnedFd, group: u32) -> io::Result<()> {
    let found = fstat(file)?;
    let moved = found.st_gid != group;
    if moved {
        chownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    }
    let kind = FileType::from_raw_mode(found.st_mode);
    let mode = found.st_mode & 0o7777;
    let wanted = with_group(mode, kind == FileType::Directory, false);
    // the kernel takes setuid and setgid from what has moved
    if kind != FileType::Symlink && (moved || wanted != mode) {
        chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(wanted))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::open;
    use serde_json::{Value, json};
    use std::{
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
        path::Path,
    };

    fn pod(context: Value, containers: Value) -> Pod {
        serde_json::from_value(json!({"spec": {"securityContext": context, "containers": containers}})).unwrap()
    }

    fn runs_as(user: Option<i64>) -> Value {
        json!({"name": "c", "securityContext": {"runAsUser": user}})
    }

    #[test]
    fn the_user_of_tokens_is_that_of_all_containers() {
        for (of_pod, containers, expected) in [
            (None, json!([runs_as(Some(5))]), Some(5)),
            (None, json!([runs_as(Some(5)), runs_as(Some(5))]), Some(5)),
            (Some(7), json!([runs_as(None), runs_as(None)]), Some(7)),
            (Some(7), json!([runs_as(None), runs_as(Some(5))]), None),
            (None, json!([runs_as(None), runs_as(Some(5))]), None),
            (None, json!([runs_as(Some(5)), runs_as(None)]), None),
            (None, json!([runs_as(Some(-1))]), None),
        ] {
            assert_eq!(
                user(&pod(json!({"runAsUser": of_pod}), containers.clone())),
                expected,
                "{of_pod:?} {containers}"
            );
        }
    }

    #[test]
    fn only_a_pod_of_processes_has_a_group() {
        let asked = pod(json!({"fsGroup": 9, "fsGroupChangePolicy": "OnRootMismatch"}), json!([runs_as(Some(5))]));
        assert_eq!(Ownership::of(&asked, false), Ownership::default());
        let expected = match geteuid().is_root() {
            true => Ownership { group: Some(9), on_root_mismatch: true, user: Some(5), refused: false },
            false => Ownership { refused: true, ..Ownership::default() },
        };
        assert_eq!(Ownership::of(&asked, true), expected);
    }

    fn shown(path: &Path) -> (u32, u32) {
        let found = path.symlink_metadata().unwrap();
        (found.mode() & 0o7777, found.gid())
    }

    #[test]
    fn everything_in_a_volume_gets_the_group_and_nothing_else_does() {
        if !geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (volume, outside) = (folder.path().join("v"), folder.path().join("outside"));
        std::fs::create_dir_all(volume.join("a/b")).unwrap();
        for (path, mode) in [(volume.join("a/b/f"), 0o600), (volume.join("set"), 0o4711), (outside.clone(), 0o600)] {
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        for path in ["", "a", "a/b"] {
            std::fs::set_permissions(volume.join(path), PermissionsExt::from_mode(0o700)).unwrap();
        }
        symlink("../outside", volume.join("link")).unwrap();
        symlink("..", volume.join("a/up")).unwrap();
        let root = open(&volume, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..2 {
            give(&root, 1001, false).unwrap();
            for path in ["", "a", "a/b"] {
                assert_eq!(shown(&volume.join(path)), (0o2770, 1001), "{path}");
            }
            assert_eq!(shown(&volume.join("a/b/f")), (0o660, 1001));
            assert_eq!(shown(&volume.join("set")), (0o4771, 1001), "the bits of before stay");
            assert_eq!(shown(&volume.join("link")), (0o777, 1001));
            assert_eq!(shown(&outside), (0o600, 0));
            assert_eq!(shown(folder.path()).1, 0);
        }
        std::fs::write(volume.join("later"), "").unwrap();
        assert_eq!(shown(&volume.join("later")).1, 1001, "by the folder");
        std::fs::set_permissions(volume.join("later"), PermissionsExt::from_mode(0o600)).unwrap();
        give(&root, 1001, true).unwrap();
        assert_eq!(shown(&volume.join("later")).0, 0o600, "its root is right");
        for change in [
            |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o770)).unwrap(),
            |path: &Path| std::os::unix::fs::lchown(path, None, Some(0)).unwrap(),
        ] {
            std::fs::set_permissions(volume.join("later"), PermissionsExt::from_mode(0o600)).unwrap();
            change(&volume);
            give(&root, 1001, true).unwrap();
            assert_eq!(shown(&volume.join("later")).0, 0o660);
            assert_eq!(shown(&volume), (0o2770, 1001));
        }
    }
}
