//! Roles by name, and bindings by who has them, kept up with the stored objects one by one.

use super::rule::{Rule, Word};
use api::Object;
use serde_json::Value;
use server::{Index, User};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// By namespace, then by name; the namespace is empty at the cluster scope.
type Named<T> = HashMap<Box<str>, HashMap<Box<str>, T>>;

/// The rules of roles.
#[derive(Default)]
pub(crate) struct Roles(Named<Role>);

/// What a decision needs of a role.
pub(crate) struct Role {
    pub(crate) rules: Box<[Rule]>,
    /// Whether its owner does not want it to be reconciled.
    pub(crate) is_own: bool,
}

impl Roles {
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Role> {
        self.0.get(namespace)?.get(name)
    }

    pub(crate) fn insert(&mut self, namespace: &str, name: &str, rules: Box<[Rule]>, is_own: bool) {
        self.0.entry(namespace.into()).or_default().insert(name.into(), Role { rules, is_own });
    }
}

impl Index for Roles {
    fn put(&mut self, namespace: &str, name: &str, object: Option<&Object>) {
        match object {
            Some(role) => self.insert(namespace, name, rules(role), is_own(role)),
            None => {
                let Some(names) = self.0.get_mut(namespace) else { return };
                names.remove(name);
                if names.is_empty() {
                    self.0.remove(namespace);
                }
            }
        }
    }
}

/// The rules of a role.
pub(crate) fn rules(role: &Object) -> Box<[Rule]> {
    role.list_at(&["rules"]).iter().map(|rule| Rule::of(rule, word)).collect()
}

/// Whether a role or binding is not to be reconciled.
pub(crate) fn is_own(object: &Object) -> bool {
    object.annotation("rbac.authorization.kubernetes.io/autoupdate") == Some("false")
}

fn word(text: &str) -> Word {
    super::policy::word(text).map_or_else(|| Cow::Owned(text.to_owned()), Cow::Borrowed)
}

/// Which role a binding is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub(crate) kind: Word,
    pub(crate) name: Box<str>,
}

/// Who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// `User`, `Group` or `ServiceAccount`.
    pub(crate) kind: Word,
    /// Of a ServiceAccount; where it is empty, that of the binding.
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
}

impl Subject {
    /// The namespace of a ServiceAccount in a binding of a namespace.
    pub(crate) fn namespace_in<'a>(&'a self, binding: &'a str) -> &'a str {
        if self.namespace.is_empty() { binding } else { &self.namespace }
    }

    /// As whom the subject comes.
    fn holder(&self, binding: &str) -> Option<Holder<'_>> {
        match (&*self.kind, self.namespace_in(binding)) {
            ("User", _) => Some(Holder::User(Cow::Borrowed(&self.name))),
            ("Group", _) => Some(Holder::Group(&self.name)),
            ("ServiceAccount", "") => None,
            ("ServiceAccount", namespace) => {
                Some(Holder::User(format!("system:serviceaccount:{namespace}:{}", self.name).into()))
            }
            _ => None,
        }
    }

    /// Whether the user is meant.
    pub(crate) fn is(&self, user: &User, binding: &str) -> bool {
        match self.holder(binding) {
            Some(Holder::User(name)) => name == user.name,
            Some(Holder::Group(name)) => user.in_group(name),
            None => false,
        }
    }
}

enum Holder<'a> {
    User(Cow<'a, str>),
    Group(&'a str),
}

/// A binding.
pub(crate) struct Binding {
    pub(crate) role: Arc<RoleRef>,
    pub(crate) subjects: Box<[Subject]>,
    /// Whether its owner does not want it to be reconciled.
    pub(crate) is_own: bool,
}

impl Binding {
    fn of(binding: &Object) -> Self {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let role = RoleRef {
            kind: word(binding.str_at(&["roleRef", "kind"]).unwrap_or_default()),
            name: binding.str_at(&["roleRef", "name"]).unwrap_or_default().into(),
        };
        let subjects = binding.list_at(&["subjects"]).iter().map(|subject| Subject {
            kind: word(&text(subject.get("kind"))),
            namespace: text(subject.get("namespace")).into(),
            name: text(subject.get("name")).into(),
        });
        Self { role: Arc::new(role), subjects: subjects.collect(), is_own: is_own(binding) }
    }
}

/// A role that somebody has, and by how many subjects of bindings.
struct Grant {
    role: Arc<RoleRef>,
    times: usize,
}

/// The bindings of a namespace, or those of the cluster.
#[derive(Default)]
pub(crate) struct Scope {
    /// By name.
    pub(crate) bindings: BTreeMap<Box<str>, Binding>,
    users: HashMap<Box<str>, Vec<Grant>>,
    groups: HashMap<Box<str>, Vec<Grant>>,
}

impl Scope {
    /// The roles of a user: one that several groups have comes several times.
    pub(crate) fn roles<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a RoleRef> {
        let own = self.users.get(user.name.as_str());
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group.as_str()));
        own.into_iter().chain(groups).flatten().map(|grant| &*grant.role)
    }

    fn add(&mut self, namespace: &str, name: &str, binding: Binding) {
        for subject in &binding.subjects {
            let grants = match subject.holder(namespace) {
                Some(Holder::User(user)) => self.users.entry((&*user).into()).or_default(),
                Some(Holder::Group(group)) => self.groups.entry(group.into()).or_default(),
                None => continue,
            };
            match grants.iter_mut().find(|grant| grant.role == binding.role) {
                Some(grant) => grant.times += 1,
                None => grants.push(Grant { role: binding.role.clone(), times: 1 }),
            }
        }
        self.bindings.insert(name.into(), binding);
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        let Some(binding) = self.bindings.remove(name) else { return };
        for subject in &binding.subjects {
            match subject.holder(namespace) {
                Some(Holder::User(user)) => revoke(&mut self.users, &user, &binding.role),
                Some(Holder::Group(group)) => revoke(&mut self.groups, group, &binding.role),
                None => {}
            }
        }
    }
}

fn revoke(holders: &mut HashMap<Box<str>, Vec<Grant>>, holder: &str, role: &RoleRef) {
    let Some(grants) = holders.get_mut(holder) else { return };
    if let Some(grant) = grants.iter_mut().find(|grant| *grant.role == *role) {
        grant.times -= 1;
    }
    grants.retain(|grant| grant.times > 0);
    if grants.is_empty() {
        holders.remove(holder);
    }
}

/// Bindings by namespace.
#[derive(Default)]
pub(crate) struct Bindings(HashMap<Box<str>, Scope>);

impl Bindings {
    pub(crate) fn in_namespace(&self, namespace: &str) -> Option<&Scope> {
        self.0.get(namespace)
    }

    pub(crate) fn insert(&mut self, namespace: &str, name: &str, binding: Binding) {
        let scope = self.0.entry(namespace.into()).or_default();
        scope.remove(namespace, name);
        scope.add(namespace, name, binding);
    }
}

impl Index for Bindings {
    fn put(&mut self, namespace: &str, name: &str, object: Option<&Object>) {
        if let Some(binding) = object {
            return self.insert(namespace, name, Binding::of(binding));
        }
        let Some(scope) = self.0.get_mut(namespace) else { return };
        scope.remove(namespace, name);
        if scope.bindings.is_empty() {
            self.0.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    fn binding(name: &str, role: &str, subjects: &str) -> Object {
        parse(&format!(
            "{{metadata: {{name: {name}, namespace: n}}, roleRef: {{kind: Role, name: {role}}}, subjects: [{subjects}]}}"
        ))
    }

    fn roles(bindings: &Bindings, user: &User) -> Vec<String> {
        let scope = bindings.in_namespace("n");
        let mut all: Vec<_> = scope.into_iter().flat_map(|s| s.roles(user)).map(|role| role.name.to_string()).collect();
        all.sort();
        all
    }

    #[test]
    fn who_has_a_role_follows_each_change_of_a_binding() {
        let (jane, group) = (User::new("jane", &[]), User::new("x", &["devs"]));
        let account = User::new("system:serviceaccount:n:s", &[]);
        let other = User::new("system:serviceaccount:m:s", &[]);
        let mut all = Bindings::default();
        let mut put = |name: &str, object: Option<Object>| {
            all.put("n", name, object.as_ref());
            [&jane, &group, &account, &other].map(|user| roles(&all, user).join(" "))
        };
        assert_eq!(put("a", Some(binding("a", "r", "{kind: User, name: jane}"))), ["r", "", "", ""]);
        let more = "{kind: User, name: jane}, {kind: User, name: jane}, {kind: Group, name: devs}";
        assert_eq!(put("b", Some(binding("b", "r", more))), ["r", "r", "", ""], "each role once");
        assert_eq!(put("a", None), ["r", "r", "", ""], "the other binding still gives it");
        let accounts = "{kind: ServiceAccount, name: s}, {kind: ServiceAccount, name: s, namespace: m}";
        assert_eq!(put("c", Some(binding("c", "q", accounts))), ["r", "r", "q", "q"]);
        assert_eq!(put("b", Some(binding("b", "r", "{kind: Group, name: devs}"))), ["", "r", "q", "q"]);
        assert_eq!(put("c", None), ["", "r", "", ""]);
        assert_eq!(put("b", None), ["", "", "", ""]);
        assert_eq!(put("b", None), ["", "", "", ""]);
        assert!(all.in_namespace("n").is_none(), "an empty namespace takes no memory");
    }
}
