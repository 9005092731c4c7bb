//! Limits of a container as the runtime writes them into its cgroup.

use crate::oci::{Cpu, HugePages, Memory, Pids, Resources};
use container::{Limits, LinuxResources};

/// Microseconds of a period of the CPU limit.
const PERIOD: u64 = 100_000;
/// The least quota that the kernel takes, microseconds.
const MIN_QUOTA: u64 = 1_000;
/// The least and the greatest weight.
const SHARES: (u64, u64) = (2, 262_144);

/// The weight of thousandths of a CPU, as the kubelet computes it.
pub(crate) fn shares(millis: Option<u64>) -> u64 {
    (millis.unwrap_or(0).saturating_mul(1024) / 1000).clamp(SHARES.0, SHARES.1)
}

/// The microseconds of each period; -1 without a limit.
pub(crate) fn quota(millis: Option<u64>) -> i64 {
    let quota = |millis: u64| millis.saturating_mul(PERIOD / 1000).max(MIN_QUOTA);
    millis.map_or(-1, |millis| i64::try_from(quota(millis)).unwrap_or(i64::MAX))
}

/// What can be changed in place: processor and memory. `None` of a limit removes it.
pub(crate) fn of_limits(limits: &Limits, more: &LinuxResources) -> Resources {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let memory = limits.memory_bytes.map_or(-1, bytes);
    let swap = more.swap_bytes.zip(limits.memory_bytes).map(|(swap, memory)| bytes(memory.saturating_add(swap)));
    Resources {
        cpu: Cpu {
            shares: shares(limits.cpu_request_millis),
            quota: quota(limits.cpu_millis),
            period: PERIOD,
            cpus: more.cpus.clone(),
        },
        memory: Some(Memory { limit: memory, swap }),
        ..Resources::default()
    }
}

/// All limits of a new container, without its devices.
pub(crate) fn resources(limits: &Limits, more: &LinuxResources, cgroup_v2: bool) -> Resources {
    let mut made = of_limits(limits, more);
    if limits.memory_bytes.is_none() {
        made.memory = None;
    }
    made.pids = more.pids.map(|limit| Pids { limit });
    made.hugepage_limits =
        more.huge_pages.iter().map(|(size, limit)| HugePages { page_size: size.clone(), limit: *limit }).collect();
    if cgroup_v2 {
        // one process that is killed for lack of memory ends the container, as the kubelet has it
        made.unified.insert("memory.oom.group", "1".into());
    }
    made
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
        for (millis, expected) in [(None, -1), (Some(1), 1000), (Some(200), 20_000), (Some(1500), 150_000)] {
            assert_eq!(quota(millis), expected, "{millis:?}");
        }
    }

    #[test]
    fn what_changes_in_place_says_when_there_is_no_limit() {
        let text = |limits| serde_json::to_value(of_limits(&limits, &LinuxResources::default())).unwrap();
        let none = text(Limits::default());
        assert_eq!((&none["memory"]["limit"], &none["cpu"]["quota"]), (&(-1).into(), &(-1).into()));
        let some = Limits { memory_bytes: Some(7), cpu_millis: Some(500), cpu_request_millis: Some(250) };
        let some = text(some);
        assert_eq!((&some["memory"]["limit"], &some["cpu"]["quota"]), (&7.into(), &50_000.into()));
        assert_eq!(some["cpu"]["shares"], 256);
    }
}
