//! The shim of the tests: a process with one thread, which the test harness is not.

#![allow(clippy::disallowed_methods)] // it runs on the real clock

fn main() -> std::process::ExitCode {
    runc::shim_main(container::Clock::new(std::time::SystemTime::now))
}
