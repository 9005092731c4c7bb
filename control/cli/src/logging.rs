//! Standard error: the log, and messages for the user. Output that cannot be written is lost: a full disk, a closed pipe or a closed
//! terminal ends no task.

use std::{fmt, io::IsTerminal};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// `eprintln!` of the standard library panics if standard error cannot be written, which would end the task. In this crate the line is lost
/// instead.
macro_rules! eprintln {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// The crates of this workspace: their messages are for users, unlike those of libraries.
const OURS: [&str; 18] = [
    "agent",
    "api",
    "cel",
    "cli",
    "client",
    "container",
    "controllers",
    "hollow",
    "image",
    "isolated",
    "kinds",
    "netns",
    "network",
    "runc",
    "scheduler",
    "server",
    "store",
    "wasm",
];

/// Initializes the log: warnings by default, `-v` info, `-vv` debug messages of this workspace. `filter` (`$SAMPAN_LOG`) overrides them.
pub(crate) fn start(verbose: u8, filter: Option<&str>) {
    let given = filter.and_then(|filter| {
        let refused = |error| eprintln!("SAMPAN_LOG is not a filter ({error}); it is ignored");
        EnvFilter::try_new(filter).map_err(refused).ok()
    });
    let filter = given.unwrap_or_else(|| EnvFilter::new(default_filter(verbose)));
    let filter = filter.add_directive("kube_client=off".parse().expect("a valid directive"));
    let colours = std::io::stderr().is_terminal();
    // Internal errors of the logger are write errors, and it would report them with the panicking `eprintln!`.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).log_internal_errors(false);
    let log = log.with_writer(std::io::stderr);
    match verbose == 0 && !is_file() {
        true => log.event_format(Plain).init(),
        false => log.init(),
    }
}

fn default_filter(verbose: u8) -> String {
    let (ours, others) = [("warn", "error"), ("info", "warn"), ("debug", "warn")][usize::from(verbose.min(2))];
    OURS.iter().fold(others.to_owned(), |filter, name| format!("{filter},{name}={ours}"))
}

/// Whether standard error is a file, so that lines need times.
fn is_file() -> bool {
    let status = rustix::fs::fstat(std::io::stderr());
    status.is_ok_and(|status| rustix::fs::FileType::from_raw_mode(status.st_mode).is_file())
}

/// Formats warnings like messages for the user: `warning: what happened: key=value`.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(out, "{}: ", told(event.metadata()))?;
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

fn told(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        Level::ERROR => "error",
        Level::WARN => "warning",
        _ => "note",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    #[test]
    fn every_crate_of_the_workspace_is_ours() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folders = ["control", "runtime"].iter().flat_map(|room| fs::read_dir(root.join(room)).expect("a room"));
        let crates =
            folders.map(|entry| entry.expect("an entry").path()).filter(|path| path.join("Cargo.toml").exists());
        let mut names: Vec<_> = crates.map(|path| path.file_name().expect("a name").display().to_string()).collect();
        names.sort();
        assert_eq!(names, OURS);
    }

    #[test]
    fn each_level_is_a_filter_for_our_crates_and_keeps_libraries_quiet() {
        for verbose in 0..4 {
            let filter = EnvFilter::try_new(default_filter(verbose)).expect("a filter").to_string();
            assert!(!filter.contains("tower") && filter.contains("network="), "{filter}");
        }
        assert!(default_filter(2).starts_with("warn,") && default_filter(2).contains(",store=debug"));
    }
}
