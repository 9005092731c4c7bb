//! The environment, clock and randomness: read here and nowhere else, and passed down.
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

/// When this process began to run `main`.
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Raises the limit of open files to what is allowed: each connection and pod log is one.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused only where a sandbox forbids it; the soft limit then stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Whether this process was started with a signal ignored. Where the system does not say, it is not.
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
