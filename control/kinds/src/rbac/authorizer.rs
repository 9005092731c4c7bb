//! The authorizer by roles.

use super::{
    index::{Binding, Bindings, RoleRef, Roles, Subject},
    policy,
    rule::{Rule, Word},
    ruleset::{Missing, RuleSet, aggregate},
};
use parking_lot::RwLock;
use server::{
    Indexed, Objects, User,
    authz::{Attributes, Authorizer, Decision, DocumentRule, ResourceRule, Rules},
};
use std::sync::{Arc, OnceLock};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Decides by the roles and bindings that are stored. A clone is the same authorizer.
///
/// Until they are written, the roles and bindings that every cluster has count as if they were stored already, so that a start does not
/// wait for them: what an owner keeps from being reconciled is not among them.
#[derive(Clone)]
pub struct Rbac(Arc<Inner>);

struct Inner {
    cluster_roles: Indexed<Roles>,
    roles: Indexed<Roles>,
    cluster_bindings: Indexed<Bindings>,
    bindings: Indexed<Bindings>,
    /// What is going to be stored.
    unwritten: RwLock<Option<Arc<OnceLock<Unwritten>>>>,
}

/// Roles and bindings that are going to be stored.
#[derive(Default)]
struct Unwritten {
    cluster_roles: Roles,
    roles: Roles,
    cluster_bindings: Bindings,
    bindings: Bindings,
}

impl Default for Rbac {
    fn default() -> Self {
        Self(Arc::new(Inner {
            cluster_roles: Indexed::new(GROUP, "clusterroles"),
            roles: Indexed::new(GROUP, "roles"),
            cluster_bindings: Indexed::new(GROUP, "clusterrolebindings"),
            bindings: Indexed::new(GROUP, "rolebindings"),
            unwritten: RwLock::new(Some(Arc::default())),
        }))
    }
}

impl Unwritten {
    /// Of the policy, what nobody keeps from being reconciled.
    fn beside(stored: RuleSet<'_>) -> Self {
        let mut new = Self::default();
        for entry in policy::roles() {
            let (known, into) = match entry.namespace {
                "" => (stored.cluster_roles, &mut new.cluster_roles),
                _ => (stored.roles, &mut new.roles),
            };
            if known.get(entry.namespace, &entry.name).is_none_or(|role| !role.is_own) {
                into.insert(entry.namespace, &entry.name, entry.rules(), false);
            }
        }
        for entry in policy::bindings() {
            let (known, into) = match entry.namespace {
                "" => (stored.cluster_bindings, &mut new.cluster_bindings),
                _ => (stored.bindings, &mut new.bindings),
            };
            let scope = known.in_namespace(entry.namespace);
            let known = scope.and_then(|scope| scope.bindings.get(&*entry.name));
            if known.is_none_or(|binding| !binding.is_own) {
                let (kind, role) = entry.role();
                let role = Arc::new(RoleRef { kind: kind.into(), name: role.into() });
                let subjects = entry.subjects().map(|(kind, namespace, name)| Subject {
                    kind: kind.into(),
                    namespace: namespace.into(),
                    name: name.into(),
                });
                let binding = Binding { role, subjects: subjects.collect(), is_own: false };
                into.insert(entry.namespace, &entry.name, binding);
            }
        }
        new
    }

    fn set(&self) -> RuleSet<'_> {
        let Self { cluster_roles, roles, cluster_bindings, bindings } = self;
        RuleSet { cluster_roles, roles, cluster_bindings, bindings }
    }
}

impl Rbac {
    /// The roles and bindings that every cluster has are stored: from now on only what is stored counts.
    pub(crate) fn reconciled(&self) {
        *self.0.unwritten.write() = None;
    }

    /// Calls `read` with what is stored, and with what is going to be.
    fn with<T>(&self, objects: &dyn Objects, read: impl FnOnce(&[RuleSet<'_>]) -> T) -> T {
        let unwritten = self.0.unwritten.read().clone();
        // Always in this order, so that nobody waits in a circle.
        let cluster_roles = self.0.cluster_roles.read(objects);
        let roles = self.0.roles.read(objects);
        let cluster_bindings = self.0.cluster_bindings.read(objects);
        let bindings = self.0.bindings.read(objects);
        let stored = RuleSet {
            cluster_roles: &cluster_roles,
            roles: &roles,
            cluster_bindings: &cluster_bindings,
            bindings: &bindings,
        };
        match &unwritten {
            None => read(&[stored]),
            Some(unwritten) => read(&[stored, unwritten.get_or_init(|| Unwritten::beside(stored)).set()]),
        }
    }

    /// Whether the user may do this.
    pub(crate) fn allows(&self, objects: &dyn Objects, user: &User, wanted: &Attributes<'_>) -> bool {
        self.with(objects, |sets| sets.iter().any(|set| set.allows(user, wanted)))
    }

    /// The rules of a user in a namespace and at the cluster scope, and the roles that are not there.
    pub(crate) fn rules(&self, objects: &dyn Objects, user: &User, namespace: &str) -> (Vec<Rule>, Vec<Missing>) {
        self.with(objects, |sets| {
            let rules = sets.iter().flat_map(|set| set.rules(user, namespace)).cloned().collect();
            (rules, sets.iter().flat_map(|set| set.missing(user, namespace)).collect())
        })
    }

    /// The rules of a role that a binding of a namespace names.
    ///
    /// # Errors
    /// There is no such role.
    pub(crate) fn rules_of(
        &self,
        objects: &dyn Objects,
        role: &RoleRef,
        namespace: &str,
    ) -> Result<Box<[Rule]>, Missing> {
        self.with(objects, |sets| {
            let mut found = sets.iter().map(|set| set.role(role, namespace).map(|role| role.rules.clone()));
            let first = found.next().expect("what is stored");
            first.or_else(|missing| found.find_map(Result::ok).ok_or(missing))
        })
    }
}

#[async_trait::async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, objects: &dyn Objects, user: &User, wanted: &Attributes<'_>) -> Decision {
        if self.allows(objects, user, wanted) { Decision::Allow } else { Decision::NoOpinion }
    }

    async fn reason(&self, objects: &dyn Objects, user: &User, wanted: &Attributes<'_>) -> String {
        self.with(objects, |sets| {
            if let Some(why) = sets.iter().find_map(|set| set.explain(user, wanted)) {
                return why;
            }
            let missing: Vec<Missing> = sets.iter().flat_map(|set| set.missing(user, wanted.namespace)).collect();
            if missing.is_empty() { String::new() } else { format!("RBAC: {}", aggregate(&missing, None)) }
        })
    }

    async fn rules_for(&self, objects: &dyn Objects, user: &User, namespace: &str) -> Rules {
        let (rules, missing) = self.rules(objects, user, namespace);
        let error = if missing.is_empty() { String::new() } else { aggregate(&missing, None) };
        Rules { error, ..listed(&rules) }
    }
}

/// Rules as a review lists them.
pub(crate) fn listed(rules: &[Rule]) -> Rules {
    let words = |list: &[Word]| list.to_vec();
    let mut all = Rules::default();
    for rule in rules {
        let verbs = words(&rule.verbs);
        if !rule.resources.is_empty() {
            let (groups, resources, names) = (words(&rule.groups), words(&rule.resources), words(&rule.names));
            all.resources.push(ResourceRule { verbs: verbs.clone(), groups, resources, names });
        }
        if !rule.paths.is_empty() {
            all.documents.push(DocumentRule { verbs, paths: words(&rule.paths) });
        }
    }
    all
}
