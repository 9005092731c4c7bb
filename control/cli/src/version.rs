//! The version of this binary.

use crate::args::Report;
use serde_json::json;

/// The version of sampan.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The output of `sampan version`.
pub(crate) fn text(form: Report) -> String {
    let kubernetes = server::version::KUBERNETES;
    match form {
        Report::Text => format!("sampan {VERSION} (Kubernetes {kubernetes})"),
        Report::Json => json!({"sampan": VERSION, "kubernetes": kubernetes}).to_string(),
    }
}
