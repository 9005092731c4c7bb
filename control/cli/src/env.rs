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

/// Open files below which a node with a few pods and clients may already have none left.
const FEW_FILES: u64 = 4096;

/// Raises the limit of open files to what is allowed: each connection and pod log is one. Says what is wrong if that is little.
pub(crate) fn raise_file_limit() -> Option<String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused only where a sandbox forbids it; the soft limit then stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    few_files(getrlimit(Resource::Nofile).current)
}

/// `None` is no limit.
fn few_files(limit: Option<u64>) -> Option<String> {
    let limit = limit.filter(|limit| *limit < FEW_FILES)?;
    Some(format!(
        "warning: this process may have only {limit} files open, connections and pod logs included: raise the hard limit (ulimit -Hn) to \
         {FEW_FILES} or more"
    ))
}

/// How many files this process may have open.
pub(crate) fn file_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
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
