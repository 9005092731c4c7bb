//! What this machine is, as the Node object tells it.

use agent::Machine;
use rustix::{fs::statvfs, system};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
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

/// CPUs that this process may use.
pub(crate) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// Memory in bytes; 0 if it cannot be read.
pub(crate) fn total_memory() -> u64 {
    memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

/// The address at which this machine answers if it listens on `wanted`: itself, unless that is every address. Then the one that
/// traffic to the world would leave from, by the routing table (nothing is sent), or its own loopback where there is no way out.
pub(crate) fn address(wanted: IpAddr) -> IpAddr {
    let (elsewhere, own): (IpAddr, IpAddr) = match wanted {
        IpAddr::V4(v4) if v4.is_unspecified() => (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(v6) if v6.is_unspecified() => {
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), Ipv6Addr::LOCALHOST.into())
        }
        given => return given,
    };
    let leaves_from = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((wanted, 0))?;
        socket.connect((elsewhere, 9))?;
        Ok(socket.local_addr()?.ip())
    };
    leaves_from().ok().filter(|address| !address.is_unspecified()).unwrap_or(own)
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
    fn the_nodes_address_is_one_of_this_machine() {
        let given: IpAddr = "127.0.0.9".parse().expect("an address");
        assert_eq!(address(given), given);
        for all in ["0.0.0.0", "::"] {
            let found = address(all.parse().expect("an address"));
            assert!(!found.is_unspecified());
            UdpSocket::bind((found, 0)).expect("an address of this machine");
        }
    }

    #[test]
    fn proc_files_are_read() {
        assert_eq!(memory("MemTotal:       24576 kB\nMemFree: 1 kB\n"), 24576 * 1024);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }
}
