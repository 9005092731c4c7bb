//! Closes inherited descriptors: a child that compiles hostile code needs none of them, and a cluster in the background would keep the locks,
//! pipes and terminals of its parent open.

use std::{fs, io, os::fd::RawFd, path::PathBuf};

/// Closes every descriptor above standard error. Must be called first in `main`, while the process has one thread and has opened nothing: it also
/// closes descriptors that other code owns.
///
/// # Errors
/// Where `/proc` cannot be read.
#[allow(unsafe_code)]
pub fn close_inherited() -> io::Result<()> {
    let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok();
    let listed: Vec<RawFd> = fs::read_dir("/proc/self/fd")?.filter_map(name).filter(|fd| *fd > 2).collect();
    for fd in listed {
        // the descriptor of /proc/self/fd itself is closed already
        if PathBuf::from(format!("/proc/self/fd/{fd}")).symlink_metadata().is_ok() {
            // SAFETY: nothing in this process owns it, by the contract above.
            unsafe { rustix::io::close(fd) };
        }
    }
    Ok(())
}
