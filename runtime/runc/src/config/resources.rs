//! Limits of a container as the runtime writes them into its cgroup.

use crate::oci::{Cpu, HugePages, Memory, Pids, Resources};
use container::{Limits, LinuxResources};
use std::collections::BTreeMap;

/// Microseconds of a period of the CPU limit.
pub(crate) const PERIOD: u64 = 100_000;
/// The least quota that the kernel takes, microseconds.
const MIN_QUOTA: u64 = 1_000;
/// The least and the greatest weight.
const SHARES: (u64, u64) = (2, 262_144);

/// The weight of thousandths of a CPU, as the kubelet computes it.
pub(crate) fn shares(millis: Option<u64>) -> u64 {
    (millis.unwrap_or(0).saturating_mul(1024) / 1000).clamp(SHARES.0, SHARES.1)
}

/// The microseconds of each period; `None` without a limit.
pub(crate) fn quota(millis: Option<u64>) -> Option<u64> {
    millis.map(|millis| millis.saturating_mul(PERIOD / 1000).max(MIN_QUOTA))
}

/// The limits of a new container, without its devices.
pub(crate) fn resources(limits: &Limits, more: &LinuxResources, cgroup_v2: bool) -> Resources {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let memory = limits.memory_bytes.map(|limit| Memory {
        limit: bytes(limit),
        swap: more.swap_bytes.map(|swap| bytes(limit.saturating_add(swap))),
    });
    let mut unified = BTreeMap::new();
    if cgroup_v2 {
        // one process that is killed for lack of memory ends the container, as the kubelet has it
        unified.insert("memory.oom.group", "1".into());
    }
    let quota = quota(limits.cpu_millis).map(bytes);
    Resources {
        devices: Vec::new(),
        cpu: Cpu {
            shares: shares(limits.cpu_request_millis),
            quota,
            period: quota.map(|_| PERIOD),
            cpus: more.cpus.clone(),
        },
        memory,
        pids: more.pids.map(|limit| Pids { limit }),
        hugepage_limits: more
            .huge_pages
            .iter()
            .map(|(size, limit)| HugePages { page_size: size.clone(), limit: *limit })
            .collect(),
        unified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_divided_as_the_kubelet_does() {
        for (millis, expected) in [(None, 2), (Some(0), 2), (Some(1), 2), (Some(100), 102), (Some(2000), 2048)] {
            assert_eq!(shares(millis), expected, "{millis:?}");
        }
        assert_eq!(shares(Some(u64::MAX)), 262_144);
        for (millis, expected) in
            [(None, None), (Some(1), Some(1000)), (Some(200), Some(20_000)), (Some(1500), Some(150_000))]
        {
            assert_eq!(quota(millis), expected, "{millis:?}");
        }
    }
}
