//! What this machine is, as the Node object tells it.

use agent::Machine;
use rustix::{fs::statvfs, system};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// Reads the machine. What cannot be read stays empty.
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

/// The addresses of this machine's interfaces but loopback and link-local ones, by which others may reach it. What the system does not
/// tell is left out.
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

/// The first column of the kernel's table, 32 digits, without link-local addresses (fe80::/10), which say nothing without an interface.
fn local_v6(if_inet6: &str) -> Vec<Ipv6Addr> {
    let digits = if_inet6.lines().filter_map(|line| line.split_whitespace().next()).filter(|d| d.len() == 32);
    let addresses = digits.filter_map(|digits| u128::from_str_radix(digits, 16).ok()).map(Ipv6Addr::from);
    addresses.filter(|address| !address.is_unicast_link_local()).collect()
}

/// CPUs that this process may use.
pub(crate) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// Memory in bytes; 0 if it cannot be read.
pub(crate) fn total_memory() -> u64 {
    memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn os_image(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// A valid Node name from a host name: lower case, and nothing that a DNS-1123 name may not hold.
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
        assert_eq!(memory("MemTotal:       24576 kB\nMemFree: 1 kB\n"), 24576 * 1024);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }
}
