//! The one binary. Everything is in `cli`.

fn main() -> std::process::ExitCode {
    cli::main()
}
