//! Sets the rules of ClusterRoles with an `aggregationRule` to those of the ClusterRoles that it selects.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles>.

use crate::{Context, meta};
use client::{Client, Controller, Informer, Key, Next, Patch, Wakeups};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Collects rules. Upstream's `clusterrole-aggregation-controller`.
pub(crate) struct ClusterRoleAggregationController {
    client: Client,
    roles: Informer<ClusterRole>,
}

impl ClusterRoleAggregationController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { client: cx.client.clone(), roles: cx.informers.of() }
    }
}

/// A rule in which no list and an empty one are the same.
fn plain(rule: &PolicyRule) -> PolicyRule {
    let list = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    PolicyRule {
        api_groups: list(&rule.api_groups),
        non_resource_urls: list(&rule.non_resource_urls),
        resource_names: list(&rule.resource_names),
        resources: list(&rule.resources),
        verbs: rule.verbs.clone(),
    }
}

fn rules(role: &ClusterRole) -> impl Iterator<Item = PolicyRule> {
    role.rules.iter().flatten().map(plain)
}

/// A ClusterRole that collects rules.
struct Aggregated<'a> {
    role: &'a ClusterRole,
    /// The roles that each of its selectors selects, by their places in the list, in its order.
    selected: Vec<usize>,
    wanted: Vec<PolicyRule>,
}

/// The rules that roles should have which do not have them: selector by selector, role by role in the order of their names, each rule once.
/// `roles` are sorted by name. What a collected role has itself counts for nothing: roles that collect from each other would otherwise
/// exchange for ever what was written into them once.
///
/// # Errors
/// Those of whom a selector is invalid, beside the others.
fn plan(roles: &[Arc<ClusterRole>]) -> (Vec<(&ClusterRole, Vec<PolicyRule>)>, Vec<String>) {
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for role in roles.iter().filter(|role| role.aggregation_rule.is_some()) {
        match selected(role, roles) {
            Ok(selected) => all.push(Aggregated { role, selected, wanted: Vec::new() }),
            Err(why) => failed.push(format!("ClusterRole {}: {why}", meta::name(&role.metadata))),
        }
    }
    let at: HashMap<&str, usize> =
        all.iter().enumerate().map(|(at, one)| (meta::name(&one.role.metadata), at)).collect();
    // Rules go through one more collecting role each time, and through none twice.
    for _ in 0..all.len() {
        let next: Vec<Vec<PolicyRule>> = all.iter().map(|one| collected(one, roles, &all, &at)).collect();
        let mut changed = false;
        for (one, wanted) in all.iter_mut().zip(next) {
            changed |= one.wanted != wanted;
            one.wanted = wanted;
        }
        if !changed {
            break;
        }
    }
    let differs = |one: &Aggregated<'_>| !rules(one.role).eq(one.wanted.iter().cloned());
    (all.into_iter().filter(differs).map(|one| (one.role, one.wanted)).collect(), failed)
}

/// The places of the roles that a role collects from, once for each of its selectors.
fn selected(role: &ClusterRole, roles: &[Arc<ClusterRole>]) -> Result<Vec<usize>, String> {
    let (mut places, aggregation) = (Vec::new(), role.aggregation_rule.as_ref());
    for selector in aggregation.and_then(|rule| rule.cluster_role_selectors.as_ref()).into_iter().flatten() {
        let selector = meta::selector(selector)?;
        let others = roles.iter().enumerate().filter(|(_, other)| other.metadata.name != role.metadata.name);
        let chosen = others.filter(|(_, other)| meta::matches(&selector, other.metadata.labels.as_ref()));
        places.extend(chosen.map(|(place, _)| place));
    }
    Ok(places)
}

/// The rules of those that a role selects.
fn collected(
    one: &Aggregated<'_>,
    roles: &[Arc<ClusterRole>],
    all: &[Aggregated<'_>],
    at: &HashMap<&str, usize>,
) -> Vec<PolicyRule> {
    let (mut wanted, mut seen) = (Vec::new(), HashSet::new());
    for other in one.selected.iter().filter_map(|place| roles.get(*place)) {
        let collects = at.get(meta::name(&other.metadata)).map(|at| &all[*at].wanted);
        let own: Vec<PolicyRule> = collects.map_or_else(|| rules(other).collect(), Clone::clone);
        wanted.extend(own.into_iter().filter(|rule| seen.insert(json!(rule).to_string())));
    }
    wanted
}

/// What is applied. No rules are none that this controller owns, as upstream.
fn configuration(name: &str, rules: &[PolicyRule]) -> Value {
    let mut config =
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}});
    if !rules.is_empty() {
        config["rules"] = json!(rules);
    }
    config
}

#[async_trait::async_trait]
impl Controller for ClusterRoleAggregationController {
    const NAME: &'static str = "clusterrole-aggregation-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        // There are few, and each may be selected by any.
        wakeups.on(&self.roles, |_| vec![Key::default()]);
    }

    async fn reconcile(&self, _: &Key) -> anyhow::Result<Next> {
        let roles = self.roles.list();
        let (changes, invalid) = plan(&roles);
        let mut failed = invalid.into_iter().next().map(anyhow::Error::msg);
        for (role, rules) in changes {
            let name = meta::name(&role.metadata);
            let (config, manager) = (configuration(name, &rules), Self::NAME.to_owned());
            match self.client.patch::<ClusterRole>("", name, Patch::Apply { config, manager, force: true }).await {
                Err(error) if !error.is_not_found() => failed = Some(error.into()),
                _ => {}
            }
        }
        failed.map_or(Ok(Next::Done), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, rules: &[&str], selects: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<Value> =
            rules.iter().map(|what| json!({"verbs": ["get"], "apiGroups": [""], "resources": [what]})).collect();
        let mut value = json!({"metadata": {"name": name, "labels": {"l": label}}, "rules": rules});
        if !selects.is_empty() {
            let selectors: Vec<Value> = selects.iter().map(|l| json!({"matchLabels": {"l": l}})).collect();
            value["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
        }
        Arc::new(serde_json::from_value(value).expect("a ClusterRole"))
    }

    /// The resources of the rules that each role is to get.
    fn planned(roles: &[Arc<ClusterRole>]) -> Vec<(&str, Vec<String>)> {
        let (changes, failed) = plan(roles);
        assert_eq!(failed, Vec::<String>::new());
        let resources =
            |rules: &[PolicyRule]| rules.iter().flat_map(|rule| rule.resources.clone().unwrap_or_default()).collect();
        changes.iter().map(|(role, rules)| (meta::name(&role.metadata), resources(rules))).collect()
    }

    #[test]
    fn rules_come_by_selector_then_name_and_each_once() {
        for (has, selects, expected) in [
            (&["never"][..], &["x"][..], Some(&["pods", "nodes", "leases"][..])),
            (&[], &["y", "x"], Some(&["secrets", "pods", "nodes", "leases"])),
            (&["pods", "nodes", "leases"], &["x"], None),
            (&["leases", "nodes", "pods"], &["x"], Some(&["pods", "nodes", "leases"])),
            (&["pods"], &["z"], Some(&[])),
            (&[], &["z"], None),
            (&["pods"], &[], None),
        ] {
            let roles = [
                role("a", "x", &["pods", "nodes"], &[]),
                role("b", "y", &["secrets", "pods"], &[]),
                role("c", "x", &["leases"], &[]),
                role("self", "x", has, selects),
            ];
            let expected: Vec<_> = expected
                .map(|all| ("self", all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>()))
                .into_iter()
                .collect();
            assert_eq!(planned(&roles), expected, "{has:?} {selects:?}");
        }
    }

    #[test]
    fn roles_that_collect_from_each_other_end_with_the_rules_of_others() {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        // A ring, each with a rule that nobody else has, and one source.
        let roles = [
            role("a", "a", &["x"], &["b", "source"]),
            role("b", "b", &["y"], &["c"]),
            role("c", "c", &["z"], &["a"]),
            role("s", "source", &["pods"], &[]),
        ];
        let expected = [("a", owned(&["pods"])), ("b", owned(&["pods"])), ("c", owned(&["pods"]))];
        assert_eq!(planned(&roles), expected);
        let done = [
            role("a", "a", &["pods"], &["b", "source"]),
            role("b", "b", &["pods"], &["c"]),
            role("c", "c", &["pods"], &["a"]),
            role("s", "source", &["pods"], &[]),
        ];
        assert_eq!(planned(&done), [], "it stays");
        let pair = [role("a", "l", &["x"], &["l"]), role("b", "l", &["y"], &["l"])];
        assert_eq!(planned(&pair), [("a", Vec::new()), ("b", Vec::new())]);
    }

    #[test]
    fn an_empty_list_is_none_and_what_is_wrong_is_said() {
        let with = |text: Value| -> ClusterRole { serde_json::from_value(text).expect("a ClusterRole") };
        let source = with(json!({"metadata": {"name": "a", "labels": {"l": "x"}},
            "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": []}, {"verbs": ["get"], "nonResourceURLs": ["/x"]}]}));
        let roles = [Arc::new(source), role("self", "", &[], &["x"])];
        let (changes, _) = plan(&roles);
        assert_eq!(changes[0].1.len(), 1);
        let odd = with(json!({"metadata": {"name": "self"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "Like"}]}]}}));
        let roles = [role("a", "x", &["pods"], &[]), role("b", "", &[], &["x"]), Arc::new(odd)];
        let (changes, failed) = plan(&roles);
        assert_eq!((changes.len(), failed.len()), (1, 1), "the others get theirs");
        assert_eq!(configuration("self", &[]).get("rules"), None);
    }
}
