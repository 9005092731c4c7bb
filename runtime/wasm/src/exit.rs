//! Exit codes, reasons and termination messages of guests.

use crate::{dwarf::SourceCall, memory::OutOfMemory};
use container::ExitReason;
use wasmtime::{Error, GcHeapOutOfMemory, Trap, WasmBacktrace, WasmCoreDump};
use wasmtime_wasi::I32Exit;

/// Most bytes of a termination message, as in Kubernetes.
const MAX_MESSAGE: usize = 4 << 10;

/// Most bytes of what the log says of an end.
const MAX_STORY: usize = 16 << 10;

/// The exit code after a trap: 128 + SIGABRT.
const TRAPPED: i32 = 134;

/// How a guest ended, without times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: i32,
    pub(crate) reason: ExitReason,
    /// More than a termination message may hold: see [`termination_message`].
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
        Self { code: 128, reason: ExitReason::ContainerCannotRun, message: bounded(message.into(), MAX_STORY) }
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
        Self { code: 137, reason: ExitReason::OomKilled, message: bounded(message, MAX_STORY) }
    }

    /// Maps the error of a guest's call to an exit. `calls`: of each frame, as far as they are known.
    pub(crate) fn of(error: &Error, calls: &[Vec<SourceCall>]) -> Self {
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Self::exited(exit.0);
        }
        let message = describe_with(error, calls);
        if is_out_of_memory(error) {
            return Self::out_of_memory(message);
        }
        let code = if is_trap(error) { TRAPPED } else { 1 };
        Self { code, reason: ExitReason::Error, message }
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

/// Whether the guest trapped, or a host function failed. An exit is an error with a backtrace too.
pub(crate) fn is_trap(error: &Error) -> bool {
    let failed = error.downcast_ref::<Trap>().is_some() || error.downcast_ref::<WasmBacktrace>().is_some();
    failed && error.downcast_ref::<I32Exit>().is_none()
}

/// The error, its causes and the guest's symbolised backtrace.
pub(crate) fn describe(error: &Error) -> String {
    describe_with(error, &[])
}

/// As [`describe`]. `calls`: of each frame, as far as they are known. The root cause comes first, so that truncation keeps it.
pub(crate) fn describe_with(error: &Error, calls: &[Vec<SourceCall>]) -> String {
    let mut text = match error.downcast_ref::<OutOfMemory>() {
        Some(memory) => memory.to_string(),
        None => error.root_cause().to_string(),
    };
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::to_string);
    let dump = error.downcast_ref::<WasmCoreDump>().map(WasmCoreDump::to_string);
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) && backtrace.as_ref() != Some(&cause) && dump.as_ref() != Some(&cause) {
            text.push('\n');
            text.push_str(&cause);
        }
    }
    if let Some(backtrace) = backtrace {
        text.push('\n');
        with_calls(&mut text, &backtrace, calls);
    }
    bounded(text, MAX_STORY)
}

/// Appends a backtrace as wasmtime writes it, and the calls of each frame as wasmtime does if it knows them.
fn with_calls(text: &mut String, backtrace: &str, calls: &[Vec<SourceCall>]) {
    let mut frames = 0;
    for line in backtrace.lines() {
        let is_frame = line.starts_with(&format!("  {frames:>3}: "));
        let calls = calls.get(frames).filter(|_| is_frame).map_or(&[][..], Vec::as_slice);
        frames += usize::from(is_frame);
        match (calls.first().and_then(|call| call.function.as_ref()), line.split_once(" - ")) {
            (Some(function), Some((offset, _))) => text.push_str(&format!("{offset} - {function}")),
            _ => text.push_str(line),
        }
        for (number, call) in calls.iter().enumerate() {
            if number > 0 {
                let function = call.function.as_deref().unwrap_or("<inlined function>");
                text.push_str(&format!("\n                - {function}"));
            }
            if let Some(file) = &call.file {
                text.push_str(&format!("\n                    at {file}"));
                for number in [call.line, call.column].into_iter().map_while(|number| number) {
                    text.push_str(&format!(":{number}"));
                }
            }
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
}

/// As much of a message as a termination message may hold.
pub(crate) fn termination_message(message: String) -> String {
    bounded(message, MAX_MESSAGE)
}

fn bounded(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most - "…".len();
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
            let end = End::of(&Error::from(I32Exit(code)), &[]);
            assert_eq!((end.code, end.reason), (expected, reason));
        }
    }

    #[test]
    fn frames_have_the_lines_of_their_source() {
        let call = |function: &str, line| SourceCall {
            function: Some(function.into()),
            file: Some("src/main.rs".into()),
            line: Some(line),
            column: None,
        };
        let calls = [vec![call("app::divide", 12), call("app::main", 20)], vec![]];
        let backtrace = "error while executing at wasm backtrace:\n    0:     0x3f - app.wasm!divide\n    1:     0x50 - app.wasm!_start";
        let mut text = String::new();
        with_calls(&mut text, backtrace, &calls);
        let expected = "error while executing at wasm backtrace:\n    0:     0x3f - app::divide\n                    at src/main.rs:12\n                - app::main\n                    at src/main.rs:20\n    1:     0x50 - app.wasm!_start";
        assert_eq!(text, expected);
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let end = End::of(&wasmtime::format_err!("{}", "ä".repeat(5000)), &[]);
        let message = termination_message(end.message);
        assert!(message.len() <= MAX_MESSAGE && message.ends_with('…'));
    }
}
