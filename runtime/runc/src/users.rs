//! Users and groups of a container, looked up in its own `/etc/passwd` and `/etc/group`. The files are the image's: no link of them leads out of the
//! root folder, and at most [`MAX_FILE`] bytes are read.

use crate::oci;
use container::User;
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
};
use std::{collections::BTreeSet, fs::File, io::Read, os::fd::AsFd};

/// Most bytes that are read of each file.
const MAX_FILE: u64 = 4 << 20;
/// Most groups of a process (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// Who runs the program, by the files below `root`.
///
/// # Errors
/// The user or group does not exist there, in the words of upstream; or a number is out of range.
pub(crate) fn resolve(user: &User, root: impl AsFd) -> Result<oci::User, String> {
    by_files(user, &|path| file(&root, path))
}

/// The text of a file of the image; empty where it has none.
fn file(root: &impl AsFd, path: &str) -> Result<String, String> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // a FIFO of the image shall not be waited for
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let failed = |error: Errno| format!("open /{path} of the container: {error}");
    let opened = loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
            opened => break opened.map_err(failed)?,
        }
    };
    if FileType::from_raw_mode(fstat(&opened).map_err(failed)?.st_mode) != FileType::RegularFile {
        return Err(format!("/{path} of the container is no file"));
    }
    let mut bytes = Vec::new();
    let read = File::from(opened).take(MAX_FILE).read_to_end(&mut bytes);
    read.map_err(|error| format!("read /{path} of the container: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

type Files<'a> = &'a dyn Fn(&str) -> Result<String, String>;

fn by_files(wanted: &User, files: Files<'_>) -> Result<oci::User, String> {
    let of_pod = wanted.user.map(|uid| uid.to_string());
    let (name, group) = match &of_pod {
        Some(uid) => (uid.as_str(), None),
        None => match wanted.of_image.split_once(':') {
            Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
            None => (wanted.of_image.as_str(), None),
        },
    };
    let passwd = files("etc/passwd")?;
    let entry = entry(&passwd, if name.is_empty() { "0" } else { name })?;
    let (mut gid, groups) = match group {
        Some(group) => (group_id(&files("etc/group")?, group)?, BTreeSet::new()),
        None if wanted.only_these_groups => (entry.gid, BTreeSet::new()),
        None => (entry.gid, groups_of(entry.name, || files("etc/group"))?),
    };
    gid = wanted.group.unwrap_or(gid);
    let mut additional = vec![gid];
    let more = groups.into_iter().filter(|_| !wanted.only_these_groups).chain(wanted.groups.iter().copied());
    for group in more.collect::<BTreeSet<u32>>().into_iter().filter(|group| *group != gid) {
        additional.push(group);
    }
    additional.truncate(MAX_GROUPS);
    Ok(oci::User { uid: entry.uid, gid, additional_gids: additional })
}

struct Entry<'a> {
    name: Option<&'a str>,
    uid: u32,
    gid: u32,
}

/// The line of a user, by name or number. A number needs none.
fn entry<'a>(passwd: &'a str, user: &str) -> Result<Entry<'a>, String> {
    let number = id(user)?;
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (name == user || number == Some(uid)).then_some(Entry { name: Some(name), uid, gid })
    });
    match (found, number) {
        (Some(entry), _) => Ok(entry),
        (None, Some(uid)) => Ok(Entry { name: None, uid, gid: 0 }),
        (None, None) => Err(format!("unable to find user {user}: no matching entries in passwd file")),
    }
}

fn group_id(groups: &str, group: &str) -> Result<u32, String> {
    if let Some(gid) = id(group)? {
        return Ok(gid);
    }
    let found = groups.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| format!("unable to find group {group}: no matching entries in group file"))
}

/// The groups that list a user.
fn groups_of(name: Option<&str>, groups: impl Fn() -> Result<String, String>) -> Result<BTreeSet<u32>, String> {
    let Some(name) = name else { return Ok(BTreeSet::new()) };
    let text = groups()?;
    let listed = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (gid, members) = (fields.nth(2)?, fields.next()?);
        members.split(',').any(|member| member.trim() == name).then(|| gid.parse().ok())?
    });
    Ok(listed.take(MAX_GROUPS).collect())
}

/// A number; `None` if it is a name.
fn id(text: &str) -> Result<Option<u32>, String> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    // as the kernel and runc hold it
    let number = text.parse::<u32>().ok().filter(|id| i32::try_from(*id).is_ok());
    number.map(Some).ok_or_else(|| format!("uids and gids must be in range 0-{}", i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::{fs, os::unix::fs::symlink};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nweb:x:33:33:www:/var/www:/bin/false\n77:x:5:6::/:\n";
    const GROUP: &str = "root:x:0:\naudio:x:29:root,web\nweb:x:33:\nvideo:x:44: web\ntape:x:26:webb\n";

    fn of(image: &str, change: impl FnOnce(&mut User)) -> Result<(u32, u32, Vec<u32>), String> {
        let mut user = User { of_image: image.into(), ..User::default() };
        change(&mut user);
        let files = |path: &str| Ok(if path == "etc/passwd" { PASSWD.into() } else { GROUP.into() });
        by_files(&user, &files).map(|user| (user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn the_images_user_is_found_by_name_or_number() {
        let table = [
            ("", (0, 0, vec![0, 29])),
            ("root", (0, 0, vec![0, 29])),
            ("web", (33, 33, vec![33, 29, 44])),
            ("33", (33, 33, vec![33, 29, 44])),
            ("web:audio", (33, 29, vec![29])),
            ("web:5", (33, 5, vec![5])),
            ("web:", (33, 33, vec![33, 29, 44])),
            ("1000", (1000, 0, vec![0])),
            ("1000:1000", (1000, 1000, vec![1000])),
            ("77", (5, 6, vec![6])),
            (":audio", (0, 29, vec![29])),
        ];
        for (user, expected) in table {
            assert_eq!(of(user, |_| ()).unwrap(), expected, "{user}");
        }
    }

    #[test]
    fn the_pod_decides_before_the_image() {
        assert_eq!(of("web", |user| user.user = Some(1000)).unwrap(), (1000, 0, vec![0]));
        assert_eq!(of("root:audio", |user| user.user = Some(33)).unwrap(), (33, 33, vec![33, 29, 44]));
        assert_eq!(of("web", |user| user.group = Some(7)).unwrap(), (33, 7, vec![7, 29, 44]));
        let more = |user: &mut User| user.groups = vec![9, 29, 33, 8];
        assert_eq!(of("web", more).unwrap(), (33, 33, vec![33, 8, 9, 29, 44]));
        let only = |user: &mut User| (user.groups, user.only_these_groups) = (vec![9], true);
        assert_eq!(of("web", only).unwrap(), (33, 33, vec![33, 9]));
        assert_eq!(of("web:audio", only).unwrap(), (33, 29, vec![29, 9]));
    }

    #[test]
    fn who_does_not_exist_is_told_as_upstream_does() {
        assert_eq!(of("nobody", |_| ()).unwrap_err(), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(of("web:nope", |_| ()).unwrap_err(), "unable to find group nope: no matching entries in group file");
        assert_eq!(of("4294967295", |_| ()).unwrap_err(), "uids and gids must be in range 0-2147483647");
        assert_eq!(of("0:99999999999", |_| ()).unwrap_err(), "uids and gids must be in range 0-2147483647");
    }

    #[test]
    fn no_link_leads_out_of_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("real")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("passwd"), "web:x:1:1::/:\n").unwrap();
        let open = || rustix::fs::openat(CWD, &root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let uid = || {
            let user = User { of_image: "web".into(), ..User::default() };
            resolve(&user, open()).map(|user| user.uid)
        };
        assert!(uid().is_err(), "there is no file");
        symlink("../../outside/passwd", root.join("etc/passwd")).unwrap();
        assert!(uid().is_err(), "the link ends in the root");
        fs::write(root.join("real/passwd"), "web:x:2:2::/:\n").unwrap();
        for target in ["/real/passwd", "../real/passwd", "../../../real/passwd"] {
            fs::remove_file(root.join("etc/passwd")).unwrap();
            symlink(target, root.join("etc/passwd")).unwrap();
            assert_eq!(uid(), Ok(2), "{target}");
        }
        fs::remove_file(root.join("etc/passwd")).unwrap();
        rustix::fs::mknodat(CWD, root.join("etc/passwd"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(uid().unwrap_err(), "/etc/passwd of the container is no file");
    }
}
