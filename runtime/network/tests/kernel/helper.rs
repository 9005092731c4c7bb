//! The helper of the tests: a process with one thread, which the test harness is not.

fn main() -> std::process::ExitCode {
    netns::helper::main()
}
