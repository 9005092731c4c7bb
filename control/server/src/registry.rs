//! The table of served resources, and the one place that finds a resource for a path. Replaced as a whole when custom resources come
//! and go, so that readers never wait.

use crate::Resource;
use std::{collections::HashMap, sync::Arc};

/// The served resources.
#[derive(Default)]
pub struct Registry {
    resources: Vec<Arc<Resource>>,
    by_path: HashMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    /// From resources in the order of discovery.
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut made = Self::default();
        for resource in resources {
            let resource = Arc::new(resource);
            let gvr = &resource.gvr;
            made.by_path.insert((gvr.group.clone(), gvr.version.clone(), gvr.resource.clone()), resource.clone());
            made.resources.push(resource);
        }
        made
    }

    /// The resource at group, version and plural name.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), resource.to_owned()))
    }

    /// The resource of a group in any version; the first in discovery order.
    pub fn find(&self, group: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|r| r.gvr.group == group && r.gvr.resource == resource)
    }

    /// The resource of a kind.
    pub fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|r| r.gvr.group == group && r.gvr.version == version && r.kind == kind)
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
