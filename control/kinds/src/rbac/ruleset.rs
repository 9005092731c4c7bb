//! What the roles and bindings of a cluster allow whom. Follows
//! <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>; the texts are upstream's.

use super::{
    index::{Binding, Bindings, Role, RoleRef, Roles, Scope, Subject},
    rule::Rule,
};
use server::{User, authz::Attributes};
use std::collections::HashSet;

/// The roles and bindings of a cluster.
#[derive(Clone, Copy)]
pub(crate) struct RuleSet<'a> {
    pub(crate) cluster_roles: &'a Roles,
    pub(crate) roles: &'a Roles,
    pub(crate) cluster_bindings: &'a Bindings,
    pub(crate) bindings: &'a Bindings,
}

/// A role that a binding names and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No such role.
    Role(&'static str, String),
    /// No such kind of roles.
    Kind(String),
}

impl Missing {
    /// As an authorizer says it, or as a registry that serves a request for a resource does, whose name it gives to the role too.
    pub(crate) fn text(&self, request: Option<&str>) -> String {
        match self {
            Self::Role(resource, name) => {
                format!("{}.rbac.authorization.k8s.io {name:?} not found", request.unwrap_or(resource))
            }
            Self::Kind(kind) => format!("unsupported role reference kind: {kind:?}"),
        }
    }
}

impl<'a> RuleSet<'a> {
    /// Whether a role of the user allows this.
    pub(crate) fn allows(self, user: &User, wanted: &Attributes<'_>) -> bool {
        self.scopes(wanted.namespace).any(|(namespace, scope)| {
            let mut roles = scope.roles(user).filter_map(|role| self.role(role, namespace).ok());
            roles.any(|role| role.rules.iter().any(|rule| rule.allows(wanted)))
        })
    }

    /// Why it is allowed: the first binding that does, by name.
    pub(crate) fn explain(self, user: &User, wanted: &Attributes<'_>) -> Option<String> {
        self.scopes(wanted.namespace).find_map(|(namespace, scope)| {
            scope.bindings.iter().find_map(|(name, binding)| {
                let subject = binding.subjects.iter().find(|subject| subject.is(user, namespace))?;
                let role = self.role(&binding.role, namespace).ok()?;
                let allowed = role.rules.iter().any(|rule| rule.allows(wanted));
                allowed.then(|| format!("RBAC: allowed by {}", described(namespace, name, binding, subject)))
            })
        })
    }

    /// The rules of a user at the cluster scope and in a namespace: those of each binding, in the order of their names.
    pub(crate) fn rules(self, user: &User, namespace: &str) -> Vec<&'a Rule> {
        let mut all = Vec::new();
        for (namespace, scope) in self.scopes(namespace) {
            let mut known = HashSet::new();
            let own = scope.roles(user).collect::<HashSet<_>>();
            for binding in scope.bindings.values().filter(|binding| own.contains(&*binding.role)) {
                if known.insert(&*binding.role)
                    && let Ok(role) = self.role(&binding.role, namespace)
                {
                    all.extend(&role.rules);
                }
            }
        }
        all
    }

    /// The roles of a user that are not there.
    pub(crate) fn missing(self, user: &User, namespace: &str) -> Vec<Missing> {
        let mut all = Vec::new();
        for (namespace, scope) in self.scopes(namespace) {
            for missing in scope.roles(user).filter_map(|role| self.role(role, namespace).err()) {
                if !all.contains(&missing) {
                    all.push(missing);
                }
            }
        }
        all
    }

    /// A role that a binding of a namespace (or of the cluster) names.
    pub(crate) fn role(self, role: &RoleRef, namespace: &str) -> Result<&'a Role, Missing> {
        let (found, resource) = match &*role.kind {
            "ClusterRole" => (self.cluster_roles.get("", &role.name), "clusterrole"),
            "Role" => (self.roles.get(namespace, &role.name), "role"),
            other => return Err(Missing::Kind(other.to_owned())),
        };
        found.ok_or_else(|| Missing::Role(resource, role.name.to_string()))
    }

    /// The bindings of the cluster, then those of a namespace.
    fn scopes<'n>(self, namespace: &'n str) -> impl Iterator<Item = (&'n str, &'a Scope)> + use<'a, 'n> {
        let own = (!namespace.is_empty()).then(|| self.bindings.in_namespace(namespace)).flatten();
        let cluster = self.cluster_bindings.in_namespace("");
        cluster.map(|scope| ("", scope)).into_iter().chain(own.map(|scope| (namespace, scope)))
    }
}

fn described(namespace: &str, name: &str, binding: &Binding, subject: &Subject) -> String {
    let (kind, name) = match namespace {
        "" => ("ClusterRoleBinding", name.to_owned()),
        namespace => ("RoleBinding", format!("{name}/{namespace}")),
    };
    let who = match &*subject.kind {
        "ServiceAccount" => format!("{}/{}", subject.name, subject.namespace_in(namespace)),
        _ => subject.name.to_string(),
    };
    let role = &binding.role;
    format!("{kind} {name:?} of {} {:?} to {} {who:?}", role.kind, role.name, subject.kind)
}

/// Several errors as one text, as upstream prints them.
pub(crate) fn aggregate(missing: &[Missing], request: Option<&str>) -> String {
    let texts: Vec<String> = missing.iter().map(|one| one.text(request)).collect();
    if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;
    use server::Index;

    /// Roles and bindings of a test.
    #[derive(Default)]
    struct Cluster {
        cluster_roles: Roles,
        roles: Roles,
        cluster_bindings: Bindings,
        bindings: Bindings,
    }

    impl Cluster {
        fn with(mut self, kind: &str, namespace: &str, name: &str, rest: &str) -> Self {
            let object = parse(&format!("{{metadata: {{name: '{name}', namespace: '{namespace}'}}, {rest}}}"));
            match kind {
                "ClusterRole" => self.cluster_roles.put(namespace, name, Some(&object)),
                "Role" => self.roles.put(namespace, name, Some(&object)),
                "ClusterRoleBinding" => self.cluster_bindings.put(namespace, name, Some(&object)),
                _ => self.bindings.put(namespace, name, Some(&object)),
            }
            self
        }

        fn set(&self) -> RuleSet<'_> {
            let Self { cluster_roles, roles, cluster_bindings, bindings } = self;
            RuleSet { cluster_roles, roles, cluster_bindings, bindings }
        }
    }

    fn cluster() -> Cluster {
        let rule = |verbs: &str, resources: &str| {
            format!("rules: [{{verbs: [{verbs}], apiGroups: [''], resources: [{resources}]}}]")
        };
        let of = |kind: &str, role: &str, subjects: &str| {
            format!("roleRef: {{kind: {kind}, name: {role}}}, subjects: [{subjects}]")
        };
        Cluster::default()
            .with("ClusterRole", "", "reader", &rule("get, list", "pods"))
            .with("ClusterRole", "", "watcher", &rule("watch", "nodes"))
            .with("Role", "a", "writer", &rule("create", "pods"))
            .with("ClusterRoleBinding", "", "b1", &of("ClusterRole", "reader", "{kind: Group, name: devs}"))
            .with("ClusterRoleBinding", "", "b2", &of("ClusterRole", "gone", "{kind: Group, name: devs}"))
            .with("ClusterRoleBinding", "", "b3", &of("Role", "writer", "{kind: User, name: odd}"))
            .with(
                "RoleBinding",
                "a",
                "b",
                &of("Role", "writer", "{kind: ServiceAccount, name: s}, {kind: User, name: jane}"),
            )
            .with("RoleBinding", "a", "c", &of("ClusterRole", "watcher", "{kind: User, name: jane}"))
            .with("RoleBinding", "b", "b", &of("Role", "writer", "{kind: User, name: jane}"))
    }

    #[test]
    fn bindings_give_roles_in_their_scope_and_say_why() {
        let cluster = cluster();
        for (user, groups, verb, resource, namespace, why) in [
            (
                "x",
                &["devs"][..],
                "get",
                "pods",
                "",
                Some(r#"RBAC: allowed by ClusterRoleBinding "b1" of ClusterRole "reader" to Group "devs""#),
            ),
            (
                "x",
                &["devs"],
                "list",
                "pods",
                "any",
                Some(r#"RBAC: allowed by ClusterRoleBinding "b1" of ClusterRole "reader" to Group "devs""#),
            ),
            ("x", &["devs"], "create", "pods", "a", None),
            (
                "jane",
                &[],
                "create",
                "pods",
                "a",
                Some(r#"RBAC: allowed by RoleBinding "b/a" of Role "writer" to User "jane""#),
            ),
            ("jane", &[], "create", "pods", "b", None),
            ("jane", &[], "create", "pods", "", None),
            (
                "jane",
                &[],
                "watch",
                "nodes",
                "a",
                Some(r#"RBAC: allowed by RoleBinding "c/a" of ClusterRole "watcher" to User "jane""#),
            ),
            ("jane", &[], "watch", "nodes", "", None),
            (
                "system:serviceaccount:a:s",
                &[],
                "create",
                "pods",
                "a",
                Some(r#"RBAC: allowed by RoleBinding "b/a" of Role "writer" to ServiceAccount "s/a""#),
            ),
            ("system:serviceaccount:b:s", &[], "create", "pods", "a", None),
        ] {
            let user = User::new(user, groups);
            let wanted = Attributes { verb, resource, namespace, ..Attributes::default() };
            assert_eq!(
                cluster.set().explain(&user, &wanted).as_deref(),
                why,
                "{} {verb} {resource} {namespace}",
                user.name
            );
            assert_eq!(cluster.set().allows(&user, &wanted), why.is_some());
        }
    }

    #[test]
    fn a_role_that_is_not_there_is_named() {
        let cluster = cluster();
        let missing = |user: &str, groups: &[&str], namespace: &str| {
            aggregate(&cluster.set().missing(&User::new(user, groups), namespace), None)
        };
        assert_eq!(missing("x", &["devs"], ""), r#"clusterrole.rbac.authorization.k8s.io "gone" not found"#);
        assert_eq!(missing("odd", &[], ""), r#"role.rbac.authorization.k8s.io "writer" not found"#);
        assert_eq!(
            missing("jane", &["devs"], "b"),
            r#"[clusterrole.rbac.authorization.k8s.io "gone" not found, role.rbac.authorization.k8s.io "writer" not found]"#
        );
        assert!(cluster.set().missing(&User::new("jane", &[]), "a").is_empty());
    }

    #[test]
    fn the_rules_of_a_user_are_those_of_all_its_bindings() {
        let cluster = cluster();
        let rules = |user: &str, groups: &[&str], namespace: &str| {
            let user = User::new(user, groups);
            let rules = cluster.set().rules(&user, namespace);
            rules
                .iter()
                .map(|rule| format!("{} {}", rule.verbs.join(","), rule.resources.join(",")))
                .collect::<Vec<_>>()
        };
        assert_eq!(rules("jane", &["devs"], "a"), ["get,list pods", "create pods", "watch nodes"]);
        assert_eq!(rules("jane", &["devs"], ""), ["get,list pods"]);
        assert!(rules("jane", &[], "b").is_empty());
    }
}
