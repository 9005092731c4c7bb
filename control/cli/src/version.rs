//! What this binary calls itself.

use crate::args::Report;
use serde_json::json;

/// sampan's own version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `sampan version` prints.
pub(crate) fn text(form: Report) -> String {
    let kubernetes = server::version::KUBERNETES;
    match form {
        Report::Text => format!("sampan {VERSION} (Kubernetes {kubernetes})"),
        Report::Json => json!({"sampan": VERSION, "kubernetes": kubernetes}).to_string(),
    }
}
