//! The pressure of the machine: the node's `MemoryPressure` and `DiskPressure`.
//!
//! The thresholds are those of <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>, with one difference:
//! upstream reports disk pressure below 10 %, which is 100 GB on a developer's 1 TB disk. Here 1 GiB suffices on any disk.

use std::path::Path;

const MIN_MEMORY: u64 = 100 << 20;
const MIN_DISK_PERCENT: u64 = 10;
const MIN_INODES_PERCENT: u64 = 5;
const AMPLE_DISK: u64 = 1 << 30;

/// The pressure of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Less than 100 MiB of memory are available.
    pub memory: bool,
    /// Less than 1 GiB and less than 10 % of the disk are available.
    pub disk: bool,
    /// Less than 5 % of the disk's inodes are available. False for file systems without a fixed number of inodes.
    pub inodes: bool,
}

impl Pressure {
    /// Reads the pressure of the file system of `folder`. `available` is the available memory in bytes. Unreadable values count as no
    /// pressure.
    pub fn read(folder: &Path, available: u64) -> Self {
        let disk = rustix::fs::statvfs(folder).ok();
        Self {
            memory: available < MIN_MEMORY,
            disk: disk.as_ref().is_some_and(|s| is_short(s.f_frsize, s.f_blocks, s.f_bfree, s.f_bavail)),
            inodes: disk.is_some_and(|s| lacks_inodes(s.f_files, s.f_favail)),
        }
    }

    /// `DiskPressure`: the disk is low on space or inodes.
    pub fn of_disk(self) -> bool {
        self.disk || self.inodes
    }
}

/// Relates the available space to the usable space, like df: reserved blocks (for root, or by a quota) count as neither used nor free.
fn is_short(block: u64, blocks: u64, free: u64, available: u64) -> bool {
    let usable = blocks.saturating_sub(free).saturating_add(available);
    let few = u128::from(available) * 100 < u128::from(usable) * u128::from(MIN_DISK_PERCENT);
    few && available.saturating_mul(block) < AMPLE_DISK
}

/// File systems that allocate inodes on demand report a total of 0.
fn lacks_inodes(all: u64, available: u64) -> bool {
    all > 0 && u128::from(available) * 100 < u128::from(all) * u128::from(MIN_INODES_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_are_short_below_5_percent_where_there_is_a_number_of_them() {
        assert!(lacks_inodes(1000, 49));
        assert!(!lacks_inodes(1000, 50));
        assert!(!lacks_inodes(0, 0));
    }

    #[test]
    fn a_disk_is_short_by_what_may_be_used_of_it() {
        let mib = 1 << 20;
        assert!(is_short(mib, 1000, 99, 99));
        assert!(!is_short(mib, 1000, 100, 100));
        assert!(!is_short(mib, 1000, 800, 50), "200 used and 50 available: 20 % are left of what may be used");
        assert!(!is_short(mib, 100_000, 1024, 1024), "1 % of a large disk, but 1 GiB");
        assert!(is_short(mib, 100_000, 1023, 1023));
    }

    #[test]
    fn memory_is_short_below_100_mebibytes() {
        let here = Path::new("/");
        assert!(Pressure::read(here, (100 << 20) - 1).memory);
        assert!(!Pressure::read(here, 100 << 20).memory);
    }
}
