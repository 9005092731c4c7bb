//! Capabilities by name.

use crate::oci;
use container::Capabilities;

/// All that the kernel has, by number (`linux/capability.h`).
const NAMES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What every container gets, as Docker and containerd give it.
const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The set of bits of all capabilities that have a name here.
#[cfg(test)]
pub(crate) const ALL: u64 = (1 << NAMES.len()) - 1;

fn number(name: &str) -> Result<usize, String> {
    let upper = name.to_ascii_uppercase();
    let known = NAMES.iter().position(|known| *known == upper || known.strip_prefix("CAP_") == Some(&*upper));
    known.ok_or_else(|| format!("unknown capability {name:?}"))
}

/// Whether a process with these may have the kernel prefer others more than it does of itself: `CAP_SYS_RESOURCE`.
pub(crate) fn may_lower_oom_score(bits: u64) -> bool {
    bits & 1 << 24 != 0
}

/// The bits of a container's capabilities, of those that this process may give (`bounding`). `ALL` is taken first, and what is dropped by name stays
/// dropped, as containerd does it.
pub(crate) fn bits(changes: &Capabilities, privileged: bool, bounding: u64) -> Result<u64, String> {
    if privileged {
        return Ok(bounding);
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL");
    let mut bits: u64 = DEFAULT.iter().filter_map(|name| number(name).ok()).map(|number| 1 << number).sum();
    if changes.add.iter().any(is_all) {
        bits = u64::MAX;
    }
    if changes.drop.iter().any(is_all) {
        bits = 0;
    }
    for name in changes.add.iter().filter(|name| !is_all(name)) {
        bits |= 1 << number(name)?;
    }
    for name in changes.drop.iter().filter(|name| !is_all(name)) {
        bits &= !(1 << number(name)?);
    }
    Ok(bits & bounding)
}

/// Whether the bits have the capability of this name.
pub(crate) fn has(bits: u64, name: &str) -> bool {
    number(name).is_ok_and(|number| bits >> number & 1 == 1)
}

/// The capabilities of a process.
pub(crate) fn sets(bits: u64) -> oci::Capabilities {
    let names: Vec<&'static str> = NAMES.iter().copied().filter(|name| has(bits, name)).collect();
    oci::Capabilities { bounding: names.clone(), effective: names.clone(), permitted: names }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(add: &[&str], drop: &[&str], privileged: bool, bounding: u64) -> Result<Vec<&'static str>, String> {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let changes = Capabilities { add: list(add), drop: list(drop) };
        Ok(sets(bits(&changes, privileged, bounding)?).effective)
    }

    #[test]
    fn all_comes_first_and_what_is_dropped_by_name_stays_dropped() {
        let default = names(&[], &[], false, ALL).unwrap();
        assert_eq!(default.len(), DEFAULT.len());
        assert_eq!(names(&["NET_ADMIN"], &[], false, ALL).unwrap().len(), DEFAULT.len() + 1);
        assert_eq!(names(&["cap_net_admin", "CHOWN"], &["ALL"], false, ALL).unwrap(), ["CAP_CHOWN", "CAP_NET_ADMIN"]);
        assert_eq!(names(&["ALL"], &["NET_RAW"], false, ALL).unwrap().len(), NAMES.len() - 1);
        assert_eq!(names(&["NET_RAW"], &["NET_RAW", "all"], false, ALL).unwrap(), [""; 0]);
        assert_eq!(names(&[], &["KILL"], true, ALL).unwrap().len(), NAMES.len(), "privileged");
    }

    #[test]
    fn nothing_is_given_that_this_process_does_not_have() {
        assert_eq!(names(&["SYS_ADMIN"], &[], false, 1 << 21 | 1).unwrap(), ["CAP_CHOWN", "CAP_SYS_ADMIN"]);
        assert_eq!(names(&["ALL"], &[], false, 1).unwrap(), ["CAP_CHOWN"]);
        assert_eq!(names(&[], &[], true, 1).unwrap(), ["CAP_CHOWN"]);
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert_eq!(names(&["FLY"], &[], false, ALL).unwrap_err(), "unknown capability \"FLY\"");
        assert_eq!(names(&[], &["CAP_"], false, ALL).unwrap_err(), "unknown capability \"CAP_\"");
    }
}
