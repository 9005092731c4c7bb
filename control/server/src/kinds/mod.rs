//! The built-in kinds, one module each, and the one list of them.

use crate::{Resource, Settings, strategy::Plain};
use std::sync::Arc;

/// Every stored built-in resource, in the order of discovery. The self reviews are the core's.
pub fn all(_settings: &Settings) -> Vec<Resource> {
    vec![
        Resource::new("", "v1", "configmaps", "ConfigMap", Arc::new(Plain)).short(&["cm"]),
        Resource::new("", "v1", "namespaces", "Namespace", Arc::new(Plain))
            .short(&["ns"])
            .cluster_scoped()
            .returning_deleted(),
    ]
}
