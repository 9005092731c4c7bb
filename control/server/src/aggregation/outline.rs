//! The order of discovery: the groups and versions that are served here, and among them, by their priorities, those that others serve. Pure.

use super::registration::{Registered, Registration};
use crate::registry::Registry;
use std::sync::Arc;

/// Groups with their versions, both in the order of discovery; a version with its registration where another server serves it.
#[derive(Default)]
pub(crate) struct Outline(Vec<Group>);

/// A group.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) versions: Vec<Version>,
}

/// A version of a group.
pub(crate) struct Version {
    pub(crate) name: String,
    pub(crate) elsewhere: Option<Arc<Registration>>,
}

impl Outline {
    /// What is served here.
    pub(crate) fn new(registry: &Registry) -> Self {
        let version = |name: &str| Version { name: name.to_owned(), elsewhere: None };
        let groups = registry.groups().into_iter().map(|(group, versions)| Group {
            name: group.to_owned(),
            versions: versions.into_iter().map(version).collect(),
        });
        Self(groups.collect())
    }

    /// Adds what others serve. What is served here stays so. Local groups that are not registered yet come first.
    pub(crate) fn with(mut self, registered: &Registered) -> Self {
        for one in registered.all().iter().filter(|one| one.remote.is_some() && !one.group.is_empty()) {
            let version = Version { name: one.version.clone(), elsewhere: Some(one.clone()) };
            if let Some(group) = self.0.iter_mut().find(|group| group.name == one.group) {
                if group.versions.iter().any(|version| version.name == one.version) {
                    continue;
                }
                let priority = |version: &Version| {
                    registered.find(&one.group, &version.name).map_or(i64::MAX, |known| known.version_priority)
                };
                let after = group.versions.iter().position(|version| priority(version) < one.version_priority);
                group.versions.insert(after.unwrap_or(group.versions.len()), version);
                continue;
            }
            let own = registered.group_priority(&one.group).unwrap_or_default();
            let after = self.0.iter().position(|group| {
                let priority = registered.group_priority(&group.name).unwrap_or(i64::MAX);
                priority < own || (priority == own && group.name > one.group)
            });
            let group = Group { name: one.group.clone(), versions: vec![version] };
            self.0.insert(after.unwrap_or(self.0.len()), group);
        }
        self
    }

    /// The groups; the core group has the empty name.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.0
    }

    /// What others serve.
    pub(crate) fn elsewhere(&self) -> Vec<Arc<Registration>> {
        self.0.iter().flat_map(|group| &group.versions).filter_map(|version| version.elsewhere.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Remote, Resource, strategy::Plain};

    #[test]
    fn what_others_serve_stands_by_its_priority() {
        let resource = |group: &str, version: &str| Arc::new(Resource::new(group, version, "things", "Thing", Plain));
        let registry = Registry::new([
            resource("", "v1"),
            resource("first", "v1"),
            resource("apps", "v1"),
            resource("a.custom", "v1"),
            resource("z.custom", "v1"),
        ]);
        let one = |group: &str, version: &str, group_priority, version_priority, remote: bool| Registration {
            group: group.to_owned(),
            version: version.to_owned(),
            group_priority,
            version_priority,
            remote: remote.then(Remote::default),
        };
        let registered = Registered::new([
            one("", "v1", 18_000, 1, false),
            one("apps", "v1", 17_800, 15, false),
            one("a.custom", "v1", 1_000, 100, false),
            one("z.custom", "v1", 1_000, 100, false),
            one("high", "v1", 18_500, 1, true),
            one("middle", "v1", 1_000, 1, true),
            one("low", "v2", 100, 5, true),
            one("low", "v1", 100, 10, true),
            one("apps", "v1", 17_800, 15, true),
            one("apps", "v2", 1, 20, true),
            one("apps", "v0", 1, 1, true),
            one("", "v2", 1, 1, true),
        ]);
        let outline = Outline::new(&registry).with(&registered);
        let shown = outline.groups().iter().map(|group| {
            let versions = group
                .versions
                .iter()
                .map(|version| format!("{}{}", version.name, if version.elsewhere.is_some() { "*" } else { "" }));
            format!("{}:{}", group.name, versions.collect::<Vec<_>>().join(","))
        });
        assert_eq!(
            shown.collect::<Vec<_>>().join(" "),
            "high:v1* :v1 first:v1 apps:v2*,v1,v0* a.custom:v1 middle:v1* z.custom:v1 low:v1*,v2*"
        );
        assert_eq!(outline.elsewhere().len(), 6);
    }
}
