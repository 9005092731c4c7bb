//! Gives memory that nobody uses back to the system.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::runtime::Handle;

/// Pods go in crowds: once for all of them.
const DELAY: Duration = Duration::from_secs(5);

/// Does so some time after it was asked to, once for all who asked meanwhile.
#[derive(Clone, Default)]
pub(crate) struct GiveBack(Arc<AtomicBool>);

impl GiveBack {
    pub(crate) fn soon(&self, threads: &Handle) {
        if self.0.swap(true, SeqCst) {
            return;
        }
        let asked = self.0.clone();
        threads.spawn(async move {
            tokio::time::sleep(DELAY).await;
            asked.store(false, SeqCst);
            let _ = tokio::task::spawn_blocking(now).await;
        });
    }
}

/// glibc keeps what is freed for later allocations, in as many arenas as there are threads: for ever, without this.
///
/// # Proof of safety
/// `malloc_trim` is glibc's, has this signature, may be called at any time from any thread and touches only memory that is free.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn now() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    unsafe {
        malloc_trim(0);
    }
}

/// Other allocators give memory back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn now() {}
