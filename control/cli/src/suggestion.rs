//! Hints about a wrong command line in addition to clap's messages: similar commands, and commands that only kubectl has.

use crate::args::Cli;
use clap::{
    CommandFactory,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::ffi::OsString;

/// Commands that only kubectl has.
const KUBECTLS: [&str; 33] = [
    "annotate",
    "api-resources",
    "api-versions",
    "attach",
    "auth",
    "autoscale",
    "cluster-info",
    "config",
    "cordon",
    "cp",
    "create",
    "debug",
    "describe",
    "diff",
    "drain",
    "edit",
    "events",
    "exec",
    "explain",
    "expose",
    "label",
    "patch",
    "proxy",
    "replace",
    "rollout",
    "run",
    "scale",
    "set",
    "taint",
    "top",
    "uncordon",
    "wait",
    "certificate",
];

/// Synonyms of commands.
const MEANT: [(&str, &str); 8] = [
    ("start", "sampan up"),
    ("stop", "sampan down"),
    ("ps", "sampan get pods"),
    ("status", "sampan ls` or `sampan get all"),
    ("clusters", "sampan ls"),
    ("pull", "sampan image load"),
    ("load", "sampan image load"),
    ("push", "sampan image push"),
];

/// Commands that support a subset of kubectl's flags.
const SMALLER: [&str; 5] = ["apply", "delete", "get", "logs", "port-forward"];

/// The error with better advice.
pub(crate) fn with_suggestion(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return error };
            match instead(word) {
                Some(advice) => Cli::command().error(ErrorKind::InvalidSubcommand, advice),
                None => error,
            }
        }
        ErrorKind::UnknownArgument => {
            let ours = arguments.iter().filter_map(|argument| argument.to_str()).find(|word| SMALLER.contains(word));
            // Here clap advises to pass the flag as a value.
            error.remove(ContextKind::Suggested);
            if let Some(tip) = file_instead(&error, arguments) {
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
                return error;
            }
            if let Some(command) = ours {
                let tip = format!("`kubectl {command}` has more flags than `sampan {command}`");
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
            }
            error
        }
        _ => error,
    }
}

/// An argument that was meant as a file, for commands with -f.
fn file_instead(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let command = arguments.iter().filter_map(|argument| argument.to_str()).find(|word| !word.starts_with('-'))?;
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    let is_meant = ["up", "apply"].contains(&command) && !word.starts_with('-');
    is_meant.then(|| format!("did you mean -f {}?", crate::out::shell(word.as_ref())))
}

fn instead(word: &str) -> Option<String> {
    if KUBECTLS.contains(&word) {
        return Some(format!(
            "sampan has no `{word}`; use `kubectl {word}` (1.32 or newer; `sampan up` prints its KUBECONFIG)"
        ));
    }
    let (_, command) = MEANT.iter().find(|(other, _)| *other == word)?;
    Some(format!("sampan has no `{word}`; use `{command}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn told(arguments: &[&str]) -> (i32, String) {
        let own: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let error = Cli::try_parse_from(["sampan"].iter().chain(arguments)).expect_err("wrong");
        let error = with_suggestion(error, &own);
        (error.exit_code(), error.render().to_string())
    }

    #[test]
    fn commands_of_kubectl_and_of_other_tools_are_told_where_they_are() {
        let (code, text) = told(&["describe", "pod/x"]);
        assert_eq!(code, 2);
        assert!(text.starts_with("error: sampan has no `describe`; use `kubectl describe`"), "{text}");
        assert!(told(&["ps"]).1.contains("use `sampan get pods`"));
        assert!(told(&["gett"]).1.contains("'get'"), "clap's guess of a typing error stays: {}", told(&["gett"]).1);
        assert!(KUBECTLS.iter().all(|verb| Cli::command().find_subcommand(verb).is_none()));
    }

    #[test]
    fn a_flag_that_only_kubectl_has_is_told_so() {
        let (code, text) = told(&["get", "pods", "--sort-by", "x"]);
        assert_eq!(code, 2);
        assert!(text.contains("tip: `kubectl get` has more flags"), "{text}");
        assert!(!text.contains("as a value"), "{text}");
        assert!(!told(&["up", "--sort-by"]).1.contains("as a value"));
    }

    #[test]
    fn a_file_without_its_flag_is_told_the_flag() {
        for command in ["up", "apply"] {
            let (code, text) = told(&[command, "my app.yaml"]);
            assert_eq!(code, 2);
            assert!(text.contains("tip: did you mean -f 'my app.yaml'?"), "{text}");
        }
        assert!(!told(&["up", "--app.yaml"]).1.contains("did you mean"));
        assert!(!told(&["ls", "app.yaml"]).1.contains("did you mean"));
    }
}
