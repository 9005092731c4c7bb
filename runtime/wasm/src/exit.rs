//! How a guest's end reads for people and for restart policies.

use crate::memory::OutOfMemory;
use container::ExitReason;
use wasmtime::{Error, GcHeapOutOfMemory, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// Bytes of a message, as Kubernetes bounds termination messages.
const MESSAGE: usize = 4096;

/// The end of a guest, without times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: i32,
    pub(crate) reason: ExitReason,
    pub(crate) message: String,
}

impl End {
    pub(crate) fn exited(code: i32) -> Self {
        // As a process's: the low eight bits.
        let code = code & 0xff;
        let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
        Self { code, reason, message: String::new() }
    }

    /// Never started.
    pub(crate) fn cannot_run(message: impl Into<String>) -> Self {
        Self { code: 128, reason: ExitReason::ContainerCannotRun, message: bounded(message.into()) }
    }

    /// Obeyed a stop.
    pub(crate) fn stopped() -> Self {
        Self { code: 143, reason: ExitReason::Error, message: String::new() }
    }

    /// Had to be ended.
    pub(crate) fn killed() -> Self {
        Self { code: 137, reason: ExitReason::Error, message: String::new() }
    }

    pub(crate) fn out_of_memory(message: String) -> Self {
        Self { code: 137, reason: ExitReason::OomKilled, message: bounded(message) }
    }

    /// What an error out of a guest means.
    pub(crate) fn of(error: &Error) -> Self {
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Self::exited(exit.0);
        }
        if is_out_of_memory(error) {
            return Self::out_of_memory(story(error));
        }
        let code = if is_trap(error) { 134 } else { 1 };
        Self { code, reason: ExitReason::Error, message: story(error) }
    }
}

pub(crate) fn is_out_of_memory(error: &Error) -> bool {
    error.downcast_ref::<OutOfMemory>().is_some() || is_full_heap(error)
}

/// The heap of garbage-collected objects could not grow, and collecting freed too little: wasmtime does not pass on why.
pub(crate) fn is_full_heap(error: &Error) -> bool {
    error.downcast_ref::<GcHeapOutOfMemory<()>>().is_some()
}

/// Out of memory only because many instances run beside each other: it is no fault of the one that asked.
pub(crate) fn is_crowded(error: &Error) -> bool {
    error.downcast_ref::<OutOfMemory>().is_some_and(|full| !full.is_hoarder())
}

pub(crate) fn is_trap(error: &Error) -> bool {
    error.downcast_ref::<Trap>().is_some() || error.downcast_ref::<WasmBacktrace>().is_some()
}

/// The error with its causes and the guest's symbolised backtrace, the root cause first: it must survive the cut.
pub(crate) fn story(error: &Error) -> String {
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
    if text.len() > MESSAGE {
        let mut end = MESSAGE - "…".len();
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
        assert!(end.message.len() <= MESSAGE && end.message.ends_with('…'));
    }
}
