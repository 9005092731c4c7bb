//! The time slices that threads of this process ask of the kernel.
//!
//! Among threads that have had their share of the CPU time, Linux (EEVDF, since 6.12) runs the one with the shorter slice first, and lets it
//! preempt one with a longer slice when it wakes up. It gets no more time by that, only sooner. Threads that serve ask for short slices, so that
//! they do not wait for those that compute: those of guests here, and those of other programs. Older kernels ignore the length of a slice.

use std::{cell::Cell, io};

/// The shortest slice that the kernel grants, in nanoseconds.
const SHORT: u64 = 100_000;

/// The kernel's own slice, which is some milliseconds.
const USUAL: u64 = 0;

thread_local! {
    /// The nice value of this thread, if it asks for short slices.
    static SERVING: Cell<Option<i32>> = const { Cell::new(None) };
}

/// Asks for short slices for the calling thread. The threads and processes that it starts have them too. Does nothing where the kernel refuses
/// it, or where the process was given another scheduling policy than the usual one.
pub fn serve() {
    if let Ok(nice) = set(None, SHORT) {
        SERVING.set(Some(nice));
    }
}

/// Undoes [`serve`], and what was inherited from a thread that serves.
pub fn compute() {
    SERVING.set(None);
    let _ = set(None, USUAL);
}

/// Does what takes long with usual slices, on a thread that may serve otherwise. What is long within it changes nothing: a guest that computes
/// may call the node many thousand times a second.
pub(crate) fn computing<T>(work: impl FnOnce() -> T) -> T {
    struct Serving(i32);
    impl Drop for Serving {
        fn drop(&mut self) {
            let _ = set(Some(self.0), SHORT);
            SERVING.set(Some(self.0));
        }
    }
    let _serving = SERVING.take().map(|nice| {
        let _ = set(Some(nice), USUAL);
        Serving(nice)
    });
    work()
}

/// Sets the slice of the calling thread. Returns its nice value, which stays: it is read unless it is given.
#[allow(unsafe_code)]
fn set(nice: Option<i32>, slice: u64) -> io::Result<i32> {
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: nice.unwrap_or(0),
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    const CALLER: libc::pid_t = 0;
    const NO_FLAGS: libc::c_uint = 0;
    if nice.is_none() {
        // SAFETY: the kernel writes at most `size` bytes, which is the size of the structure that the pointer is of.
        let result = unsafe { libc::syscall(libc::SYS_sched_getattr, CALLER, &raw mut attributes, size, NO_FLAGS) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        if attributes.sched_policy != libc::SCHED_OTHER as u32 {
            return Err(io::ErrorKind::Unsupported.into());
        }
    }
    attributes.size = size;
    attributes.sched_runtime = slice;
    // SAFETY: the kernel reads `attributes.size` bytes, which is the size of the structure, and changes the calling thread's scheduling only.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, CALLER, &raw const attributes, NO_FLAGS) };
    if result == 0 { Ok(attributes.sched_nice) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slice of this thread in nanoseconds, as the kernel tells it (since 6.12).
    fn slice() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("se.slice"))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn a_thread_that_serves_has_short_slices_except_while_it_computes() {
        let thread = std::thread::spawn(|| {
            let usual = slice();
            serve();
            let (serving, nice) = (slice(), SERVING.get());
            let inherited = std::thread::spawn(slice).join().unwrap();
            let within = computing(|| {
                computing(|| ());
                slice()
            });
            let again = slice();
            compute();
            (usual, serving, nice, inherited, within, again, slice())
        });
        let (usual, serving, nice, inherited, within, again, last) = thread.join().unwrap();
        let Some(usual) = usual.filter(|_| serving != usual) else {
            return eprintln!("SKIPPED: this kernel tells no slices, or knows none");
        };
        assert!(nice.is_some() && usual > SHORT, "{usual}");
        assert_eq!((serving, inherited, again), (Some(SHORT), Some(SHORT), Some(SHORT)));
        assert_eq!((within, last), (Some(usual), Some(usual)));
    }
}
