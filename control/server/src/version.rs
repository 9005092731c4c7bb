//! `/version`: the version of the server.

use serde_json::{Value, json};

/// The Kubernetes version that is served.
pub const KUBERNETES: &str = "v1.36.0";

/// The commit, if it is given to the build: `SAMPAN_COMMIT=$(git rev-parse HEAD) cargo build --release`.
const COMMIT: Option<&str> = option_env!("SAMPAN_COMMIT");

/// `gitVersion` of server and nodes: the Kubernetes version with our own as build metadata.
pub fn git_version() -> String {
    format!("{KUBERNETES}+sampan{}", env!("CARGO_PKG_VERSION"))
}

/// `version.Info`.
pub fn info() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": git_version(),
        "gitCommit": COMMIT.unwrap_or_default(),
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none (rust)",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    })
}

/// The platform as Go names it.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
