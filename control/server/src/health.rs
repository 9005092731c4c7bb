//! `/healthz`, `/livez`, `/readyz`: named checks that components register, with plain and verbose output.

use crate::{reply, request::Query};
use axum::body::Body;
use http::{Response, StatusCode};
use parking_lot::RwLock;
use std::sync::Arc;

/// A check; `Err` is the reason of its failure.
pub(crate) type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The registered checks; `ping` is built in.
#[derive(Default)]
pub struct Checks {
    all: RwLock<Vec<(String, bool, Check)>>,
}

impl Checks {
    /// Registers a check. `readiness`: it counts only for `/readyz`, not for liveness.
    pub fn register(
        &self,
        name: &str,
        readiness: bool,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.all.write().push((name.to_owned(), readiness, Arc::new(check)));
    }

    /// Whether every readiness check passes.
    pub fn ready(&self) -> bool {
        self.all.read().iter().all(|(_, _, check)| check().is_ok())
    }

    /// Answers a health path, or `None` if there is no such check.
    pub(crate) fn answer(&self, path: &str, query: &Query) -> Option<Response<Body>> {
        let mut parts = path.trim_matches('/').splitn(2, '/');
        let endpoint = parts.next()?;
        let ping: (String, bool, Check) = ("ping".to_owned(), false, Arc::new(|| Ok(())));
        let checks: Vec<_> = std::iter::once(ping)
            .chain(self.all.read().iter().cloned())
            .filter(|(_, readiness, _)| endpoint == "readyz" || !readiness)
            .collect();
        if let Some(name) = parts.next().filter(|n| !n.is_empty()) {
            let (_, _, check) = checks.iter().find(|(n, _, _)| n == name)?;
            return Some(match check() {
                Ok(()) => reply::text(StatusCode::OK, "ok"),
                Err(error) => {
                    reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {error}\n"))
                }
            });
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let mut lines = String::new();
        let mut failed = false;
        for (name, _, check) in &checks {
            if excluded.contains(&name.as_str()) {
                lines.push_str(&format!("[+]{name} excluded: ok\n"));
            } else if let Err(reason) = check() {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
            } else {
                lines.push_str(&format!("[+]{name} ok\n"));
            }
        }
        Some(match failed {
            true => reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{endpoint} check failed\n")),
            false if query.flag("verbose") => reply::text(StatusCode::OK, format!("{lines}{endpoint} check passed\n")),
            false => reply::text(StatusCode::OK, "ok"),
        })
    }
}
