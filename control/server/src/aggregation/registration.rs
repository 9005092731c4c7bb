//! What is registered: group versions with their priorities, and the Services that serve them.

use crate::{Derived, outbound::Resolve, pki::Pair};
use arc_swap::ArcSwap;
use std::{cmp::Reverse, fmt, sync::Arc};

/// What a server needs to pass requests on to other API servers.
pub struct Aggregation {
    /// What is registered.
    pub registered: Derived<Registered>,
    /// Finds the addresses of Services.
    pub resolve: Resolve,
    /// As whom it speaks for its users.
    pub front_proxy: FrontProxy,
}

/// The client certificate with which the server speaks for its users to other API servers: those believe what it says about users. It may be
/// replaced at any time. Cheap to clone.
#[derive(Clone)]
pub struct FrontProxy {
    authority: Arc<str>,
    pair: Arc<ArcSwap<Pair>>,
}

impl FrontProxy {
    /// With the certificate of its authority, in PEM, which signs for nobody else.
    pub fn new(authority: &str, pair: Pair) -> Self {
        Self { authority: authority.into(), pair: Arc::new(ArcSwap::from_pointee(pair)) }
    }

    /// Replaces the client certificate.
    pub fn replace(&self, pair: Pair) {
        self.pair.store(Arc::new(pair));
    }

    /// The certificate of the authority, in PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn pair(&self) -> Arc<Pair> {
        self.pair.load_full()
    }
}

impl fmt::Debug for FrontProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrontProxy")
    }
}

/// A version of a group, and who serves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The priority of the group: the highest of its versions counts.
    pub group_priority: i64,
    /// The priority of the version in its group.
    pub version_priority: i64,
    /// The Service that serves it; `None`: this server does.
    pub remote: Option<Remote>,
}

/// An API server that a Service leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// The namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// The authorities that may have signed the certificate of the server, in PEM; empty: those of the system.
    pub authorities: Vec<u8>,
    /// Any certificate will do.
    pub insecure: bool,
    /// Whether requests may be passed on.
    pub available: bool,
}

impl Registration {
    /// `v1.GROUP`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.version, self.group)
    }
}

/// All registrations, in upstream's order: groups by their highest priority, then by name; versions by priority, then as versions are ordered.
#[derive(Default)]
pub struct Registered(Vec<Arc<Registration>>);

impl Registered {
    /// Orders registrations.
    pub fn new(all: impl IntoIterator<Item = Registration>) -> Self {
        let mut all: Vec<Arc<Registration>> = all.into_iter().map(Arc::new).collect();
        let highest = |group: &str, all: &[Arc<Registration>]| {
            all.iter().filter(|r| r.group == group).map(|r| r.group_priority).max().unwrap_or_default()
        };
        let priorities: Vec<i64> = all.iter().map(|r| highest(&r.group, &all)).collect();
        let mut keyed: Vec<(i64, Arc<Registration>)> = priorities.into_iter().zip(all).collect();
        keyed.sort_by(|(a_priority, a), (b_priority, b)| {
            let groups = || Reverse(*a_priority).cmp(&Reverse(*b_priority)).then_with(|| a.group.cmp(&b.group));
            let priorities = || Reverse(a.version_priority).cmp(&Reverse(b.version_priority));
            groups().then_with(priorities).then_with(|| api::version::compare(&b.version, &a.version))
        });
        all = keyed.into_iter().map(|(_, registration)| registration).collect();
        Self(all)
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Arc<Registration>] {
        &self.0
    }

    /// That of a group version.
    pub(crate) fn find(&self, group: &str, version: &str) -> Option<&Arc<Registration>> {
        self.0.iter().find(|r| r.group == group && r.version == version)
    }

    /// The priority of a group, if it is registered.
    pub(crate) fn group_priority(&self, group: &str) -> Option<i64> {
        self.0.iter().filter(|r| r.group == group).map(|r| r.group_priority).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_versions_are_in_the_order_of_their_priorities() {
        let one = |group: &str, version: &str, group_priority, version_priority| Registration {
            group: group.to_owned(),
            version: version.to_owned(),
            group_priority,
            version_priority,
            remote: None,
        };
        let all = Registered::new([
            one("low", "v1", 100, 15),
            one("b", "v1beta1", 100, 10),
            one("b", "v2", 2_000, 10),
            one("a", "v1alpha1", 2_000, 100),
            one("a", "v1", 2_000, 100),
            one("b", "v1", 100, 20),
        ]);
        let names: Vec<String> = all.all().iter().map(|r| r.name()).collect();
        assert_eq!(names, ["v1.a", "v1alpha1.a", "v1.b", "v2.b", "v1beta1.b", "v1.low"]);
        assert_eq!((all.group_priority("b"), all.group_priority("none")), (Some(2_000), None));
    }
}
