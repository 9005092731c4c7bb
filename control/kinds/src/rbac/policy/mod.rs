//! The roles and bindings that every cluster has: upstream's of 1.36, and those of sampan's own controllers. They are reconciled at each start.

mod cluster;
mod controllers;
mod entry;
mod namespaced;
mod own;

use super::rule::Rule;
use entry::{BindingEntry, Holder, RoleEntry};
use std::{borrow::Cow, collections::HashSet, sync::LazyLock};

/// All roles.
pub(crate) fn roles() -> Vec<RoleEntry> {
    let entry = |namespace, name, rules| RoleEntry { namespace, name, collects: false, collected_by: "", rules };
    let cluster = cluster::ROLES
        .iter()
        .map(|(name, collected_by, rules)| RoleEntry { collected_by, ..entry("", Cow::Borrowed(*name), *rules) });
    let collecting = cluster::COLLECTING.iter().map(|(name, collected_by)| RoleEntry {
        collects: true,
        collected_by,
        ..entry("", Cow::Borrowed(*name), &[])
    });
    let controllers = controllers::UPSTREAM.iter().map(|(name, rules)| entry("", controller(name), *rules));
    let namespaced =
        namespaced::ROLES.iter().map(|(namespace, name, rules)| entry(namespace, Cow::Borrowed(*name), *rules));
    let own = own::ROLES.iter().map(|(name, _, rules)| entry("", Cow::Borrowed(*name), *rules));
    cluster.chain(collecting).chain(controllers).chain(namespaced).chain(own).collect()
}

/// All bindings.
pub(crate) fn bindings() -> Vec<BindingEntry> {
    let entry = |namespace, name: Cow<'static, str>, role, holders| BindingEntry { namespace, name, role, holders };
    let same = |name: Cow<'static, str>, holders| entry("", name.clone(), name, holders);
    let cluster = cluster::BINDINGS.iter().map(|(name, holders)| same(Cow::Borrowed(*name), Cow::Borrowed(*holders)));
    let controllers =
        controllers::UPSTREAM.iter().map(|(name, _)| same(controller(name), Cow::Owned(vec![Holder::Account(name)])));
    let namespaced = namespaced::BINDINGS.iter().map(|(namespace, name, role, holders)| {
        entry(namespace, Cow::Borrowed(*name), Cow::Borrowed(*role), Cow::Borrowed(*holders))
    });
    let own = own::ROLES.iter().map(|(name, holders, _)| same(Cow::Borrowed(*name), Cow::Borrowed(*holders)));
    cluster.chain(controllers).chain(namespaced).chain(own).collect()
}

fn controller(name: &str) -> Cow<'static, str> {
    Cow::Owned(format!("system:controller:{name}"))
}

/// What every node may do: upstream's rules, and what sampan's node agent does in addition. Upstream narrows them to the objects that the pods
/// of the node need (node authorizer and NodeRestriction), which is not done here yet.
pub(crate) fn node_rules() -> &'static [Rule] {
    static RULES: LazyLock<Box<[Rule]>> =
        LazyLock::new(|| cluster::NODE_RULES.iter().chain(own::NODE).map(|rule| Rule::parse(rule)).collect());
    &RULES
}

/// A word of the policy, which lives for ever.
pub(crate) fn word(text: &str) -> Option<&'static str> {
    static WORDS: LazyLock<HashSet<&'static str>> = LazyLock::new(words);
    WORDS.get(text).copied()
}

fn words() -> HashSet<&'static str> {
    let mut all = HashSet::from(["User", "Group", "ServiceAccount", "Role", "ClusterRole"]);
    for rule in roles().iter().flat_map(RoleEntry::rules) {
        let Rule { verbs, groups, resources, names, paths } = rule;
        let lists = [verbs, groups, resources, names, paths];
        all.extend(lists.iter().flatten().filter_map(|word| match word {
            Cow::Borrowed(word) => Some(*word),
            Cow::Owned(_) => None,
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rbac,
        testing::{context, valid},
    };
    use api::Object;

    #[test]
    fn every_object_is_valid_and_there_once() {
        let [role, cluster_role] = rbac::roles::resources();
        let [binding, cluster_binding] = rbac::bindings::resources();
        let mut known = HashSet::new();
        let (roles, bindings) = (roles(), bindings());
        let objects = roles.iter().map(|entry| (entry.namespace, true, entry.object()));
        let objects = objects.chain(bindings.iter().map(|entry| (entry.namespace, false, entry.object())));
        for (namespace, is_role, object) in objects {
            let resource = match (namespace.is_empty(), is_role) {
                (true, true) => &cluster_role,
                (false, true) => &role,
                (true, false) => &cluster_binding,
                (false, false) => &binding,
            };
            let mut object = Object::from_value(object).expect("an object");
            let written = object.clone();
            resource.strategy.default(&mut object);
            assert_eq!(object, written, "nothing is left to a default");
            let name = object.name().to_owned();
            assert!(resource.strategy.validate_name(&name, false).is_empty(), "{name}");
            assert_eq!(valid(&*resource.strategy, &object), Ok(()), "{name}");
            assert!(resource.strategy.warnings(&context(), &object, None).is_empty(), "{name}");
            assert!(known.insert((namespace, is_role, name.clone())), "{name} is there twice");
        }
        for entry in &bindings {
            let found = roles.iter().any(|role| role.namespace == entry.namespace && role.name == entry.role);
            assert!(found, "{} names a role that is not there", entry.name);
        }
    }

    #[test]
    fn words_are_those_of_the_rules() {
        assert!(
            ["get", "", "pods", "deployments/scale", "*", "/healthz/*", "User"].iter().all(|text| word(text).is_some())
        );
        assert_eq!(word("read"), None);
        assert_eq!(word("jane"), None);
    }
}
