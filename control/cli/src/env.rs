//! The environment, clock and randomness. They are read only here and passed down.
#![allow(clippy::disallowed_methods, reason = "this is the one place")]

use jiff::Timestamp;
use std::{ffi::OsString, time::SystemTime};

/// An environment variable.
pub(crate) fn var_os(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The wall clock for API objects.
pub(crate) fn clock() -> api::Clock {
    api::Clock::new(Timestamp::now)
}

/// The wall clock for runtimes.
pub(crate) fn system_clock() -> container::Clock {
    container::Clock::new(SystemTime::now)
}

/// When `main` of this process started.
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// With fewer open files, a node with a few pods and clients may run out of them.
const FEW_FILES: u64 = 4096;

/// Raises the limit of open files to the maximum, because each connection and pod log needs one. Returns a warning if the maximum is low.
pub(crate) fn raise_file_limit() -> Option<String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Fails only in a sandbox that forbids it. The soft limit then stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    few_files(getrlimit(Resource::Nofile).current)
}

/// `None` means no limit.
fn few_files(limit: Option<u64>) -> Option<String> {
    let limit = limit.filter(|limit| *limit < FEW_FILES)?;
    Some(format!(
        "warning: this process may have only {limit} files open, connections and pod logs included: raise the hard limit (ulimit -Hn) to \
         {FEW_FILES} or more"
    ))
}

/// The limit of open files of this process.
pub(crate) fn file_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Whether this process was started with a signal ignored. False if the system does not report it.
pub(crate) fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}

/// Random bytes of the operating system.
pub(crate) fn random() -> [u8; 32] {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

/// A seed for generators of names and jitter.
pub(crate) fn seed() -> u64 {
    let bytes = random();
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_are_told() {
        assert_eq!((few_files(None), few_files(Some(4096))), (None, None));
        let told = few_files(Some(256)).expect("256 are few");
        assert!(told.starts_with("warning: this process may have only 256 files open"), "{told}");
    }
}
