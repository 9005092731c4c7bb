//! Properties of this machine for the Node object, and its memory.

use agent::Machine;
use rustix::{
    fs::statvfs,
    system,
    time::{ClockId, clock_gettime},
};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Reads the properties. Unreadable ones are empty.
pub(crate) fn read(data: &Path) -> Machine {
    let uname = system::uname();
    let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    let architecture = match text(uname.machine()).as_str() {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    };
    let disk = statvfs(data).map_or(0, |disk| disk.f_blocks * disk.f_frsize);
    let trimmed = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    Machine {
        operating_system: "linux".to_owned(),
        architecture,
        os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        kernel: text(uname.release()),
        machine_id: trimmed("/etc/machine-id"),
        system_uuid: trimmed("/etc/machine-id"),
        boot_id: trimmed("/proc/sys/kernel/random/boot_id"),
        cpus: cpus(),
        memory: total_memory(),
        storage: disk,
        hostname: text(uname.nodename()),
    }
}

/// The addresses of this machine's interfaces at which others may reach it: all except loopback and link-local ones. Unreadable ones are
/// omitted.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut all: Vec<IpAddr> = local_v4(&text("/proc/net/fib_trie")).into_iter().map(IpAddr::from).collect();
    all.extend(local_v6(&text("/proc/net/if_inet6")).into_iter().map(IpAddr::from));
    all.retain(|address| !address.is_loopback());
    all.sort();
    all.dedup();
    all
}

/// The addresses before `/32 host LOCAL` in the kernel's routing table.
fn local_v4(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut last: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in fib_trie.lines().map(str::trim) {
        match line.strip_prefix("|-- ") {
            Some(address) => last = address.parse().ok(),
            None if line == "/32 host LOCAL" => found.extend(last),
            None => {}
        }
    }
    found
}

/// The first column of the kernel's table, 32 digits. Excludes link-local addresses (fe80::/10), which are meaningless without an
/// interface.
fn local_v6(if_inet6: &str) -> Vec<Ipv6Addr> {
    let digits = if_inet6.lines().filter_map(|line| line.split_whitespace().next()).filter(|d| d.len() == 32);
    let addresses = digits.filter_map(|digits| u128::from_str_radix(digits, 16).ok()).map(Ipv6Addr::from);
    addresses.filter(|address| !address.is_unicast_link_local()).collect()
}

/// The CPUs available to this process.
pub(crate) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// The memory of this machine, or of this process's control group, in bytes. 0 if it cannot be read.
pub(crate) fn total_memory() -> u64 {
    let all = field(&read_text("/proc/meminfo"), "MemTotal:").unwrap_or(0);
    groups().iter().filter_map(Group::limit).fold(all, |least, limit| if least == 0 { limit } else { least.min(limit) })
}

/// The available memory in bytes, of the machine and of the control groups.
pub(crate) fn available_memory() -> u64 {
    let machine = field(&read_text("/proc/meminfo"), "MemAvailable:").unwrap_or(u64::MAX);
    groups().iter().filter_map(Group::available).fold(machine, u64::min)
}

/// The text of the file that says whom this machine asks for names. Where that is a resolver on the machine's own loopback, which pods do not
/// reach, the file of those whom systemd-resolved asks.
pub(crate) fn resolver() -> String {
    let own = read_text("/etc/resolv.conf");
    let behind = if own.contains("127.0.0.53") { read_text("/run/systemd/resolve/resolv.conf") } else { String::new() };
    if behind.is_empty() { own } else { behind }
}

/// The kernel's limit of memory maps per process.
pub(crate) fn memory_maps() -> u64 {
    read_text("/proc/sys/vm/max_map_count").trim().parse().unwrap_or(65_530)
}

/// A function that returns the memory limit of all guests together, on a node with `capacity` bytes of which `reserved` are for the
/// cluster.
pub(crate) fn guest_limit(capacity: u64, reserved: u64) -> wasm::MemoryProbe {
    let own = AtomicU64::new(resident());
    // A margin for the kernel, and for what guests allocate between two checks.
    let margin = (capacity / 16).clamp(32 << 20, 512 << 20);
    Arc::new(move |charged| {
        let resident = resident();
        let now = resident.saturating_sub(charged);
        // With few guests, this is the cluster's own memory. With many, it cannot be distinguished from the guests'.
        let own = match charged.saturating_mul(8) < resident {
            true => {
                own.store(now, Relaxed);
                now
            }
            false => own.fetch_max(now, Relaxed).max(now),
        };
        MemoryUse { capacity, reserved, own, resident, available: available_memory(), margin }.guest_limit()
    })
}

struct MemoryUse {
    capacity: u64,
    reserved: u64,
    /// The memory of this process that does not belong to guests.
    own: u64,
    /// The resident memory of the whole process.
    resident: u64,
    available: u64,
    margin: u64,
}

impl MemoryUse {
    /// The limit: what the cluster does not need, and at most what guests use now plus what is available. Memory that guests have reserved
    /// but not touched counts as available.
    fn guest_limit(&self) -> u64 {
        let theirs = self.capacity.saturating_sub(self.own.max(self.reserved));
        let touched = self.resident.saturating_sub(self.own);
        theirs.min(touched.saturating_add(self.available.saturating_sub(self.margin)))
    }
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    field(&read_text("/proc/self/status"), "VmRSS:").unwrap_or(0)
}

/// The usage of this process: CPU time of its threads, including guests, and resident memory.
pub(crate) fn usage() -> agent::Usage {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = Duration::try_from(cpu).ok().and_then(|cpu| u64::try_from(cpu.as_nanos()).ok());
    agent::Usage { cpu_nanos: nanos, memory_bytes: Some(resident()).filter(|bytes| *bytes > 0) }
}

fn read_text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A memory control group of this process.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    folder: PathBuf,
    unified: bool,
}

fn groups() -> Vec<Group> {
    groups_of(&read_text("/proc/self/cgroup"))
}

/// The groups of `/proc/self/cgroup` and their parents. In a container, the own group may be mounted as the root: missing groups are
/// ignored.
fn groups_of(text: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let roots: &[&str] = match controllers {
            "" => &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
            some if some.split(',').any(|it| it == "memory") => &["/sys/fs/cgroup/memory"],
            _ => continue,
        };
        for root in roots {
            let root = Path::new(root);
            let leaf = root.join(path.trim_start_matches('/'));
            let up = leaf.ancestors().take_while(|folder| folder.starts_with(root));
            groups.extend(up.map(|folder| Group { folder: folder.to_owned(), unified: controllers.is_empty() }));
        }
    }
    groups
}

impl Group {
    fn read(&self, unified: &str, legacy: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(if self.unified { unified } else { legacy })).ok()
    }

    fn limit(&self) -> Option<u64> {
        limit(&self.read("memory.max", "memory.limit_in_bytes")?)
    }

    fn available(&self) -> Option<u64> {
        let limit = self.limit()?;
        let used: u64 = self.read("memory.current", "memory.usage_in_bytes")?.trim().parse().ok()?;
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let reclaimable = field(&stat, if self.unified { "inactive_file " } else { "total_inactive_file " });
        Some(limit.saturating_sub(used.saturating_sub(reclaimable.unwrap_or(0))))
    }
}

/// A limit in bytes. `None` for `max` and the equivalent value of version 1.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 62)
}

/// The address that others use if this machine listens on `wanted`: itself, unless it is unspecified. Then the first address of an
/// interface that others may reach, or the loopback address.
pub(crate) fn address(wanted: IpAddr) -> IpAddr {
    let own: IpAddr = match wanted {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        given => return given,
    };
    addresses().into_iter().find(|address| address.is_ipv4() == own.is_ipv4()).unwrap_or(own)
}

fn os_image(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The number after `name` at the start of a line, converted to bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = rest.split_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    Some(if words.next() == Some("kB") { number << 10 } else { number })
}

/// Converts a host name to a valid Node name: lower case, and only characters of a DNS-1123 name.
pub(crate) fn node_name(hostname: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c.to_ascii_lowercase() } else { '-' };
    let name: String = hostname.chars().map(plain).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "node".to_owned() } else { name.chars().take(63).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_node_names() {
        for (host, node) in [("My_Laptop.local", "my-laptop.local"), ("--", "node"), ("a", "a")] {
            assert_eq!(node_name(host), node);
        }
    }

    #[test]
    fn the_nodes_address_is_one_of_this_machine() {
        let given: IpAddr = "127.0.0.9".parse().expect("an address");
        assert_eq!(address(given), given);
        for all in ["0.0.0.0", "::"] {
            let found = address(all.parse().expect("an address"));
            assert!(!found.is_unspecified());
            std::net::UdpSocket::bind((found, 0)).expect("an address of this machine");
        }
    }

    #[test]
    fn addresses_are_those_of_interfaces() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /8 universe UNICAST\nLocal:\n     |-- 127.0.0.1\n        /32 host LOCAL\n     \
            |-- 192.168.1.7\n        /32 host LOCAL\n     |-- 192.168.1.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(trie), [Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 168, 1, 7)]);
        let table = "00000000000000000000000000000001 01 80 10 80 lo\n20010db8000000000000000000000007 02 40 00 80 eth0\n\
            fe800000000000000000000000000001 02 40 20 80 eth0\nnonsense\n";
        let wanted: Vec<Ipv6Addr> = ["::1", "2001:db8::7"].map(|a| a.parse().expect("an address")).into();
        assert_eq!(local_v6(table), wanted);
        assert!(local_v4("").is_empty() && local_v6("").is_empty());
    }

    #[test]
    fn proc_files_are_read() {
        assert_eq!(field("MemTotal:       24576 kB\nMemFree: 1 kB\n", "MemTotal:"), Some(24576 * 1024));
        assert_eq!(field("cache 7\ntotal_inactive_file 4096\n", "total_inactive_file "), Some(4096));
        assert_eq!(field("MemTotal: much\n", "MemTotal:"), None);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }

    #[test]
    fn what_this_process_uses_is_read() {
        let own = usage();
        assert!(own.cpu_nanos.is_some_and(|nanos| nanos > 0), "{own:?}");
        assert!(own.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{own:?}");
    }

    #[test]
    fn control_groups_are_found_up_the_tree() {
        let folders = |text: &str| -> Vec<String> {
            groups_of(text)
                .into_iter()
                .map(|it| format!("{}{}", it.folder.display(), ["", " v2"][it.unified as usize]))
                .collect()
        };
        assert_eq!(
            folders("12:cpu:/x\n4:memory,hugetlb:/docker/ab\n"),
            ["/sys/fs/cgroup/memory/docker/ab", "/sys/fs/cgroup/memory/docker", "/sys/fs/cgroup/memory"]
        );
        assert_eq!(
            folders("0::/user.slice\n"),
            [
                "/sys/fs/cgroup/user.slice v2",
                "/sys/fs/cgroup v2",
                "/sys/fs/cgroup/unified/user.slice v2",
                "/sys/fs/cgroup/unified v2"
            ]
        );
        assert_eq!(folders("nonsense\n4:memory\n"), Vec::<String>::new());
        for (text, expected) in
            [("max\n", None), ("9223372036854771712\n", None), ("1073741824\n", Some(1 << 30)), ("", None)]
        {
            assert_eq!(limit(text), expected, "{text}");
        }
    }

    #[test]
    fn a_groups_limit_and_what_is_left_of_it_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let group = |unified| Group { folder: folder.path().to_owned(), unified };
        assert_eq!((group(true).limit(), group(true).available()), (None, None));
        write("memory.max", "1000\n");
        write("memory.current", "900\n");
        write("memory.stat", "anon 500\ninactive_file 300\n");
        assert_eq!((group(true).limit(), group(true).available()), (Some(1000), Some(400)));
        write("memory.limit_in_bytes", "2000\n");
        write("memory.usage_in_bytes", "2500\n");
        assert_eq!((group(false).limit(), group(false).available()), (Some(2000), Some(0)));
    }

    #[test]
    fn guests_have_what_the_cluster_and_others_leave() {
        const GIB: u64 = 1 << 30;
        const MIB: u64 = 1 << 20;
        let idle = MemoryUse {
            capacity: 24 * GIB,
            reserved: 256 * MIB,
            own: 200 * MIB,
            resident: 200 * MIB,
            available: 20 * GIB,
            margin: 512 * MIB,
        };
        for (what, usage, expected) in [
            ("others use 4 GiB", MemoryUse { ..idle }, 20 * GIB - 512 * MIB),
            ("nobody else is there", MemoryUse { available: 24 * GIB, ..idle }, 24 * GIB - 512 * MIB),
            (
                "the cluster uses more than it reserved",
                MemoryUse { own: GIB, resident: GIB, available: 23 * GIB + 600 * MIB, ..idle },
                23 * GIB,
            ),
            (
                "guests have touched 3 GiB",
                MemoryUse { resident: 3 * GIB + 200 * MIB, available: GIB, ..idle },
                4 * GIB - 512 * MIB,
            ),
            ("others have taken all", MemoryUse { resident: GIB + 200 * MIB, available: 100 * MIB, ..idle }, GIB),
        ] {
            assert_eq!(usage.guest_limit(), expected, "{what}");
        }
    }
}
