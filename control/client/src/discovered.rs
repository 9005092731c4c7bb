//! A resource as discovery describes it.

use crate::paths;

/// A kind in the version that its group prefers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// The other versions in which it is served.
    pub others: Vec<String>,
    /// Plural name, as in paths.
    pub resource: String,
    /// Kind.
    pub kind: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// The verbs that it serves.
    pub verbs: Vec<String>,
}

impl Resource {
    /// Whether all of `verbs` are served.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|v| self.verbs.iter().any(|w| w == v))
    }

    /// `group/version`, or the version alone.
    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// `group/version` of every version in which it is served.
    pub fn api_versions(&self) -> impl Iterator<Item = String> {
        std::iter::once(&self.version).chain(&self.others).map(|version| group_version(&self.group, version))
    }

    /// The path of a collection, or of one object; an empty namespace is all of them.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let namespace = if self.namespaced { namespace } else { "" };
        paths::join(&paths::root(&self.group, &self.version), namespace, [&self.resource, name, ""])
    }
}

pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}
