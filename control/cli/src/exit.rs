//! Exit codes of failed commands: 1, unless the error has another. Scripts rely on them: 0 success, 1 failure, 2 usage.

use std::{fmt, io::IsTerminal};

/// The prefix of sampan's own errors, like clap's and kubectl's.
const PREFIX: &str = "error:";
/// The prefix of errors from the server, like kubectl's.
pub(crate) const FROM_SERVER: &str = "Error from server";
/// The exit code of an error without its own.
const FAILED: u8 = 1;
/// The exit code of a usage error, like clap's.
const USAGE: u8 = 2;

/// An error with its own exit code.
#[derive(Debug)]
pub(crate) struct Exit {
    code: u8,
    message: String,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Exit {}

/// A usage error: nothing was started.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    with_code(USAGE, message)
}

fn with_code(code: u8, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Exit { code, message: message.into() })
}

/// A failure that this or another process has already printed.
pub(crate) fn silent(code: u8) -> anyhow::Error {
    with_code(code, "")
}

/// Standard output was closed (`EPIPE`): the command ends with 0 and without a message.
pub(crate) fn closed_output() -> anyhow::Error {
    silent(0)
}

/// The exit code of an error.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Exit>().map_or(FAILED, |exit| exit.code)
}

/// The text of an error: errors of the server in kubectl's form, others with the prefix `error: `.
pub(crate) fn text(error: &anyhow::Error) -> String {
    let text = causes(error.chain());
    if text.starts_with(FROM_SERVER) { text } else { format!("{PREFIX} {text}") }
}

/// Prints a failure that has no error value.
pub(crate) fn print_text(text: &str) {
    print(&anyhow::anyhow!("{text}"));
}

/// Whether an error has already been printed.
pub(crate) fn is_printed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Exit>().is_some_and(|exit| exit.message.is_empty())
}

/// Prints an error, unless it has already been printed. On a terminal in clap's colours.
pub(crate) fn print(error: &anyhow::Error) {
    if is_printed(error) {
        return;
    }
    let colours =
        std::io::stderr().is_terminal() && crate::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = text(error);
    eprintln!("{}", if colours { coloured(&text) } else { text });
}

/// An error with its prefix in red.
fn coloured(text: &str) -> String {
    let beginning = match text.starts_with(FROM_SERVER) {
        // `Error from server (NotFound):`
        true => text.find(':').map_or(0, |colon| colon + 1),
        false => PREFIX.len(),
    };
    let (red, rest) = text.split_at(beginning);
    format!("\x1b[1m\x1b[31m{red}\x1b[0m{rest}")
}

/// An error and its causes in one line. Libraries often repeat a cause in their own text; repetitions are omitted.
pub(crate) fn causes<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut whole = String::new();
    for cause in chain {
        let text = without_numbers(&cause.to_string());
        if whole.is_empty() {
            whole = text;
        } else if !whole.contains(&text) {
            whole = format!("{whole}: {text}");
        }
    }
    whole
}

/// Removes the operating system's error numbers, which follow the texts.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => out.push_str(rest),
            _ => {
                out.push_str(" (os error ");
                out.push_str(part);
            }
        }
    }
    out
}

/// The text of an error of the operating system, without its number.
pub(crate) fn io(error: &std::io::Error) -> String {
    without_numbers(&error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_2_also_with_context_and_all_else_1() {
        assert_eq!(code(&usage("no").context("more")), 2);
        assert_eq!(code(&anyhow::anyhow!("no")), 1);
    }

    #[test]
    fn the_operating_systems_words_are_told_without_its_number() {
        let absent = std::fs::read("/absent").expect_err("absent");
        assert_eq!(io(&absent), "No such file or directory");
        assert_eq!(io(&std::io::Error::other("own words")), "own words");
    }

    #[test]
    fn failures_are_told_as_kubectl_does() {
        let context = anyhow::Error::new(std::fs::read("/absent").expect_err("absent")).context("cannot read /absent");
        assert_eq!(text(&context), "error: cannot read /absent: No such file or directory");
        let twice = anyhow::anyhow!("no key").context("cannot sign: no key").context("cannot start");
        assert_eq!(text(&twice), "error: cannot start: cannot sign: no key");
        let refused = anyhow::anyhow!("Error from server (NotFound): pods \"x\" not found");
        assert_eq!(text(&refused), "Error from server (NotFound): pods \"x\" not found");
        let red = |text: &str| coloured(text).replace("\x1b[1m\x1b[31m", "<").replace("\x1b[0m", ">");
        assert_eq!(red("Error from server (NotFound): pods"), "<Error from server (NotFound):> pods");
        assert_eq!(
            (red("Error from server: no"), red("error: no: no")),
            ("<Error from server:> no".into(), "<error:> no: no".into())
        );
        assert_eq!(without_numbers("a (os error x) b (os error 2): c"), "a (os error x) b: c");
    }
}
