//! What this binary calls itself.

/// sampan's own version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
