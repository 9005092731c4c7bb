//! The table of served resources, and the one place that looks up a resource for a path. It is replaced as a whole when custom resources
//! come and go, so that readers never wait.

use crate::{Resource, lazy::Documents};
use std::{collections::HashMap, sync::Arc};

/// The served resources, and the documents built from them.
#[derive(Default)]
pub struct Registry {
    resources: Vec<Arc<Resource>>,
    /// By plural name, which few resources share.
    by_plural: HashMap<String, Vec<Arc<Resource>>>,
    documents: Documents,
}

impl Registry {
    /// From resources in the order of discovery.
    pub fn new(resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut made = Self::default();
        for resource in resources {
            made.by_plural.entry(resource.gvr.resource.clone()).or_default().push(resource.clone());
            made.resources.push(resource);
        }
        made
    }

    /// The resource at group, version and plural name.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.by_plural.get(resource)?.iter().find(|r| r.gvr.group == group && r.gvr.version == version)
    }

    /// The resources with a plural name, of all groups and versions, in the order of discovery.
    pub fn called(&self, resource: &str) -> &[Arc<Resource>] {
        self.by_plural.get(resource).map(Vec::as_slice).unwrap_or_default()
    }

    /// The resource of a group in any version; the first in discovery order.
    pub fn find(&self, group: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.by_plural.get(resource)?.iter().find(|r| r.gvr.group == group)
    }

    /// Discovery and OpenAPI.
    pub(crate) fn documents(&self) -> &Documents {
        &self.documents
    }

    /// All resources in the order of discovery.
    pub fn all(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// Groups with their versions, both in the order of discovery. The core group is the empty name.
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for resource in &self.resources {
            let at = groups.iter().position(|(g, _)| *g == resource.gvr.group).unwrap_or_else(|| {
                groups.push((&resource.gvr.group, Vec::new()));
                groups.len() - 1
            });
            if !groups[at].1.contains(&resource.gvr.version.as_str()) {
                groups[at].1.push(&resource.gvr.version);
            }
        }
        groups
    }

    /// The resources of one group and version.
    pub fn group_version<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.resources.iter().filter(move |r| r.gvr.group == group && r.gvr.version == version)
    }
}
