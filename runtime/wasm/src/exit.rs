//! Exit codes, reasons and termination messages of guests.

use crate::memory::OutOfMemory;
use container::ExitReason;
use wasmtime::{Error, GcHeapOutOfMemory, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// Most bytes of a termination message, as in Kubernetes.
const MAX_MESSAGE: usize = 4096;

/// How a guest ended, without times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: i32,
    pub(crate) reason: ExitReason,
    pub(crate) message: String,
}

impl End {
    /// The guest called exit.
    pub(crate) fn exited(code: i32) -> Self {
        // the low eight bits, as for a process
        let code = code & 0xff;
        let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
        Self { code, reason, message: String::new() }
    }

    /// The guest did not start.
    pub(crate) fn cannot_run(message: impl Into<String>) -> Self {
        Self { code: 128, reason: ExitReason::ContainerCannotRun, message: bounded(message.into()) }
    }

    /// The guest ended by SIGTERM.
    pub(crate) fn stopped() -> Self {
        Self { code: 143, reason: ExitReason::Error, message: String::new() }
    }

    /// The guest ended by SIGKILL.
    pub(crate) fn killed() -> Self {
        Self { code: 137, reason: ExitReason::Error, message: String::new() }
    }

    pub(crate) fn out_of_memory(message: String) -> Self {
        Self { code: 137, reason: ExitReason::OomKilled, message: bounded(message) }
    }

    /// Maps the error of a guest's call to an exit.
    pub(crate) fn of(error: &Error) -> Self {
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Self::exited(exit.0);
        }
        if is_out_of_memory(error) {
            return Self::out_of_memory(describe(error));
        }
        let code = if is_trap(error) { 134 } else { 1 };
        Self { code, reason: ExitReason::Error, message: describe(error) }
    }
}

pub(crate) fn is_out_of_memory(error: &Error) -> bool {
    error.downcast_ref::<OutOfMemory>().is_some() || is_full_heap(error)
}

/// Whether the GC heap could not grow. wasmtime hides the cause.
pub(crate) fn is_full_heap(error: &Error) -> bool {
    error.downcast_ref::<GcHeapOutOfMemory<()>>().is_some()
}

/// Whether memory ran out because of many concurrent instances, not because of a large one.
pub(crate) fn is_contention(error: &Error) -> bool {
    error.downcast_ref::<OutOfMemory>().is_some_and(|full| !full.is_oversized())
}

pub(crate) fn is_trap(error: &Error) -> bool {
    error.downcast_ref::<Trap>().is_some() || error.downcast_ref::<WasmBacktrace>().is_some()
}

/// The error, its causes and the guest's symbolised backtrace. The root cause comes first, so that truncation keeps it.
pub(crate) fn describe(error: &Error) -> String {
    let mut text = match error.downcast_ref::<OutOfMemory>() {
        Some(memory) => memory.to_string(),
        None => error.root_cause().to_string(),
    };
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push('\n');
            text.push_str(&cause);
        }
    }
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        let backtrace = backtrace.to_string();
        if !text.contains(backtrace.trim()) {
            text.push('\n');
            text.push_str(&backtrace);
        }
    }
    bounded(text)
}

fn bounded(mut text: String) -> String {
    if text.len() > MAX_MESSAGE {
        let mut end = MAX_MESSAGE - "…".len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_processs() {
        for (code, expected, reason) in [
            (0, 0, ExitReason::Completed),
            (3, 3, ExitReason::Error),
            (256, 0, ExitReason::Completed),
            (-1, 255, ExitReason::Error),
            (127, 127, ExitReason::Error),
            (200, 200, ExitReason::Error),
        ] {
            let end = End::of(&Error::from(I32Exit(code)));
            assert_eq!((end.code, end.reason), (expected, reason));
        }
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let end = End::of(&wasmtime::format_err!("{}", "ä".repeat(5000)));
        assert!(end.message.len() <= MAX_MESSAGE && end.message.ends_with('…'));
    }
}
