//! Returns freed memory to the operating system after pods are removed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::runtime::Handle;

/// Delay between a request and the trim: pods are often removed together, and one trim serves all.
const DELAY: Duration = Duration::from_secs(5);

/// Trims the heap once for all requests within [`DELAY`].
#[derive(Clone, Default)]
pub(crate) struct MallocTrim(Arc<AtomicBool>);

impl MallocTrim {
    /// Schedules a trim, if none is scheduled.
    pub(crate) fn schedule(&self, threads: &Handle) {
        if self.0.swap(true, SeqCst) {
            return;
        }
        let scheduled = self.0.clone();
        threads.spawn(async move {
            tokio::time::sleep(DELAY).await;
            scheduled.store(false, SeqCst);
            let _ = tokio::task::spawn_blocking(trim).await;
        });
    }
}

/// Trims the heap: glibc keeps freed memory in one arena per thread and does not return it by itself.
///
/// # Proof of safety
/// `malloc_trim` is glibc's, has this signature, may be called at any time from any thread and touches only memory that is free.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn trim() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    unsafe {
        malloc_trim(0);
    }
}

/// Other allocators return memory by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}
