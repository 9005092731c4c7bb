//! How full the machine is: the node's `MemoryPressure` and `DiskPressure`.
//!
//! Thresholds as in <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>, with one difference: upstream calls a
//! disk short at 10 % (of a developer's 1 TB disk: 100 GB). Here 1 GiB is enough on any disk.

use std::path::Path;

const LEAST_MEMORY: u64 = 100 << 20;
const LEAST_DISK_PERCENT: u64 = 10;
const ENOUGH_DISK: u64 = 1 << 30;

/// How full the machine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory is short: less than 100 MiB are available.
    pub memory: bool,
    /// The disk is short: less than 1 GiB and less than 10 % are available.
    pub disk: bool,
}

impl Pressure {
    /// Looks at the disk of a folder; `available` bytes of memory can be had. What cannot be read is not short.
    pub fn read(folder: &Path, available: u64) -> Self {
        let disk = rustix::fs::statvfs(folder).ok();
        let disk = disk.is_some_and(|s| is_short(s.f_frsize, s.f_blocks, s.f_bfree, s.f_bavail));
        Self { memory: available < LEAST_MEMORY, disk }
    }
}

/// Of what may be used at all, as df counts: blocks kept back (for root, by a quota) are neither used nor free.
fn is_short(block: u64, blocks: u64, free: u64, available: u64) -> bool {
    let usable = blocks.saturating_sub(free).saturating_add(available);
    let few = u128::from(available) * 100 < u128::from(usable) * u128::from(LEAST_DISK_PERCENT);
    few && available.saturating_mul(block) < ENOUGH_DISK
}

#[cfg(test)]
mod tests {
    use super::*;

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
