//! Signals by name or number.

use rustix::process::Signal;

const NAMES: &[(&str, Signal)] = &[
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ILL", Signal::ILL),
    ("TRAP", Signal::TRAP),
    ("ABRT", Signal::ABORT),
    ("IOT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("SEGV", Signal::SEGV),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("STKFLT", Signal::STKFLT),
    ("CHLD", Signal::CHILD),
    ("CLD", Signal::CHILD),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
    ("URG", Signal::URG),
    ("XCPU", Signal::XCPU),
    ("XFSZ", Signal::XFSZ),
    ("VTALRM", Signal::VTALARM),
    ("PROF", Signal::PROF),
    ("WINCH", Signal::WINCH),
    ("IO", Signal::IO),
    ("POLL", Signal::IO),
    ("PWR", Signal::POWER),
    ("SYS", Signal::SYS),
];
/// The first and the last real-time signal that programs may use (glibc's and musl's differ in one).
const REAL_TIME: (i32, i32) = (34, 64);

/// A signal such as `SIGQUIT`, `quit`, `3` or `SIGRTMIN+3`.
pub(crate) fn parse(text: &str) -> Option<Signal> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, signal)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*signal);
    }
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => REAL_TIME.0 + offset(rest)?,
        (_, Some(rest)) => REAL_TIME.1 + offset(rest)?,
        _ => name.parse().ok()?,
    };
    match number {
        1..REAL_TIME_FIRST => Signal::from_named_raw(number),
        REAL_TIME_FIRST..=64 => Some(real_time(number)),
        _ => None,
    }
}

const REAL_TIME_FIRST: i32 = REAL_TIME.0;

fn offset(text: &str) -> Option<i32> {
    if text.is_empty() { Some(0) } else { text.parse().ok() }
}

fn real_time(number: i32) -> Signal {
    // SAFETY: the number is one of the kernel's, 34 to 64, and is only sent to a process: no handler of this one is installed for it, which is what
    // libc reserves some of them for.
    #[allow(unsafe_code)]
    unsafe {
        Signal::from_raw_unchecked(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_kernels() {
        let table = [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMIN", Some(34)),
            ("RTMAX-14", Some(50)),
            ("SIGWINCH", Some(28)),
            ("", None),
            ("0", None),
            ("65", None),
            ("SIGNOPE", None),
            ("-9", None),
            ("RTMIN+99", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text).map(Signal::as_raw), expected, "{text}");
        }
    }
}
