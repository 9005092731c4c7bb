//! To whom unpacked files belong.

use crate::{
    error::Fault,
    tree::{io, refused},
};
use rustix::{
    fs::{AtFlags, Gid, Uid, chownat, fchown},
    io::Errno,
    process::geteuid,
};
use std::os::fd::AsFd;

/// Whose files there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owners {
    /// Those that an image says.
    All,
    /// The user of this process, who is the only one of its containers too.
    One,
}

impl Owners {
    /// Root makes files for all, unless it is root of a user namespace that has nobody else.
    pub(crate) fn here() -> Self {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if geteuid().is_root() && ids(&map) != 1 { Self::All } else { Self::One }
    }

    /// Gives an open file to a user and a group.
    pub(crate) fn own(self, file: impl AsFd, owner: (u32, u32), path: &[u8]) -> Result<(), Fault> {
        let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        match self {
            Self::All => fchown(file, Some(user), Some(group)).map_err(|errno| not_owned(errno, owner, path)),
            Self::One => Ok(()),
        }
    }

    /// The same of what has no handle, through no link.
    pub(crate) fn own_at(self, at: impl AsFd, name: &[u8], owner: (u32, u32), path: &[u8]) -> Result<(), Fault> {
        let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        match self {
            Self::All => chownat(at, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| not_owned(errno, owner, path)),
            Self::One => Ok(()),
        }
    }
}

/// How many ids a map of a user namespace has (`user_namespaces(7)`); 0 if there is none to read.
fn ids(map: &str) -> u64 {
    map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

/// In a user namespace not every id exists.
fn not_owned(errno: Errno, (user, group): (u32, u32), path: &[u8]) -> Fault {
    match errno {
        Errno::INVAL => refused(path, &format!("its owner {user}:{group} is no id of this user namespace")),
        errno => io(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_map_are_counted() {
        for (map, want) in [
            ("", 0),
            ("         0          0 4294967295\n", 4_294_967_295),
            ("         0       1000          1\n", 1),
            ("         0       1000          1\n         1     100000      65536\n", 65_537),
        ] {
            assert_eq!(ids(map), want, "{map}");
        }
    }
}
